"""Parts of the GPU kit that train: steps of decoders and encoders, and the memory of a step (benchmarks/gpu_kit.py)."""

from __future__ import annotations

import argparse
import copy
import gc
from collections.abc import Callable
from typing import Any

import decoder_step
import made_up
import measure
import numpy as np
import torch
import training_step
from measure import Kit
from padded_decoder import Straightforward, items_of
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from vixml.config.project import Project
from vixml.config.registry import World
from vixml.config.run import RunConfig
from vixml.models.backbone import without_pooler
from vixml.models.packing import MULTIPLE, Sequences
from vixml.models.siamese import at_precision
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import PlannedRun, train_cost
from vixml.runtime import autocast, choose_precision, dtype_of
from vixml.training.batches import EpochBatches
from vixml.training.train import train_step

ROUNDS, VECTORS = 3, 5000
COMPARED = 24  # queries whose gradients are compared with float32, and as many labels
# Errors beside those of padded eager in the same precision: other kernels round in other places.
WORSE, ROUNDING = 2.0, 1e-4

Encode = Callable[[Sequences], Tensor]


def error(found: Tensor, true: Tensor) -> float:
    """Return the relative error of a tensor by its Euclidean norm."""
    return float((found - true).norm() / true.norm())


def vectors_and_gradient(encode: Encode, items: Sequences, learned: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Return the vectors of items, and the gradient of the learned parameters for a fixed gradient of the vectors."""
    for parameter in learned:
        parameter.grad = None
    vectors = encode(items).float()
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).to(vectors.device)
    vectors.backward(weights)
    gradient = torch.cat([parameter.grad.float().flatten() for parameter in learned])
    for parameter in learned:
        parameter.grad = None
    return vectors.detach(), gradient


def largest_batch(step: Callable[[int], object], size: int) -> int:
    """Return the largest batch, ``size`` or a power of two less, with which a step fits in memory."""
    while size > 1:
        try:
            step(size)
            return size
        except torch.OutOfMemoryError:
            pass  # outside of this block the frames of the error are free
        gc.collect()
        torch.cuda.empty_cache()
        size //= 2
    raise torch.OutOfMemoryError("the straightforward step does not fit with two queries")


def speeds(kit: Kit, ways: dict[str, tuple[Callable[[int], object], int]]) -> dict[str, list[float]]:
    """Return samples per second by round of ``{way: (step, samples of a step)}``; round 0 has warmed up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(1, (1 if kit.tiny else ROUNDS) + 1):
        for name, (step, samples) in ways.items():
            seconds, _ = decoder_step.timed(lambda s=step, i=i: s(i), kit.device)
            found[name].append(samples / seconds)
    return found


def decoder(kit: Kit, size: str, kernels: str, reach: float) -> list[dict[str, Any]]:
    """Time steps of a decoder with adapters and images against padded eager transformers, and compare both with float32."""
    batch_size, rounds = (8, 1) if kit.tiny else (2048, ROUNDS)
    chosen = argparse.Namespace(
        size=size, precision=None, kernels=kernels, checkpointing=None, items_at_once=None, batch_size=batch_size, rounds=rounds
    )  # fmt: skip
    ready, job = decoder_step.make_ready(chosen, kit.device, kit.tiny)
    training, _ = ready
    data, config, precision = training.data, training.config, training.precision
    batches, plain = EpochBatches(data, config, 0, 0), Straightforward(*ready)
    compared = compare_decoder(ready, plain, items_of(data, batches[0]))
    peak, small = 0.0, {}

    def straightforward(i: int, queries: int) -> None:
        if queries not in small:
            settings = config.model_copy(
                update={"training": config.training.model_copy(update={"batch_size": queries})}
            )
            small[queries] = EpochBatches(data, settings, 0, 0, with_text=False)
        plain.step(small[queries][i])

    _, peak = decoder_step.timed(lambda: train_step(*ready, batches[0]), kit.device)
    # A quarter of the batch takes a quarter of the time: speed is compared, and padding takes more memory.
    queries = largest_batch(lambda n: straightforward(0, n), max(2, batch_size // 4))
    ways = {
        "ours": (lambda i: train_step(*ready, batches[i]), batch_size),
        "straightforward": (lambda i: straightforward(i, queries), queries),
    }
    found = speeds(kit, ways)
    counted = [decoder_step.operations(training, job, batches[i]) for i in range(1, rounds + 1)]
    useful, done = np.mean(counted, axis=0).tolist()
    product = kit.product_speed(dtype_of(precision))
    ours = measure.spread(found["ours"])
    used = training.model.backbone.kernels  # a processor has no fused ones
    bf16, share_of = kit.peak(product), done * ours["median"] / batch_size
    row = measure.row(
        f"training step, decoder, {used} kernels", f"{config.encoder.model}, batch {batch_size}, {precision}", ours,
        measure.spread(found["straightforward"]), measure.ratios(found["ours"], found["straightforward"]),
        limit=batch_size * product / done, threads=torch.get_num_threads(), device=kit.device.type, unit="samples/s",
        limit_by="all operations at the speed of a large product", useful_flop=useful, done_flop=done, queries=batch_size,
        product_flop_per_second=product, peak_memory_gb=peak / 1e9, straightforward_batch=queries,
        kernels=used, gradient_checkpointing=config.encoder.gradient_checkpointing,
    )  # fmt: skip
    passed = all(
        compared["ours"][what] <= max(WORSE * compared["padded eager"][what], ROUNDING)
        for what in ("vectors", "gradient")
    )
    passed = passed and (used == kernels or kit.device.type == "cpu")
    what = f"{kernels} kernels; errors against padded eager in float32 at most {WORSE:g} times those of padded eager in {precision}"
    row = measure.checked(row, passed, what, compared)
    return [measure.to_reach(row, "all operations, share of the bf16 peak", share_of / bf16, reach)]


def compare_decoder(ready: made_up.Ready, plain: Straightforward, items: Sequences) -> dict[str, dict[str, float]]:
    """Return the errors of vectors and gradient, ours and padded eager's, against padded eager in float32."""
    training, _ = ready
    items, model = items.take(np.r_[:COMPARED, len(items) - COMPARED : len(items)] % len(items)), training.model
    exact = copy.copy(plain)
    exact.network = copy.deepcopy(plain.network).float()

    def ours(items: Sequences) -> Tensor:
        with training.autocast():
            return model.encode(items.pack(MULTIPLE))

    def padded(items: Sequences) -> Tensor:
        with training.autocast():
            return plain.encode(items)

    def learned(network: nn.Module) -> list[nn.Parameter]:
        named = sorted((name, p) for name, p in network.named_parameters() if p.requires_grad)
        return [*(p for _, p in named), *model.projection.parameters()]

    own = learned(plain.network)  # the same parameters as ours
    true = vectors_and_gradient(exact.encode, items, learned(exact.network))
    found = {}
    for name, encode in (("ours", ours), ("padded eager", padded)):
        vectors, gradient = vectors_and_gradient(encode, items, own)
        found[name] = {"vectors": error(vectors, true[0]), "gradient": error(gradient, true[1])}
    return found


def settled(kit: Kit, dataset: str, name: str, **training: Any) -> tuple[World, RunConfig, dict[str, Any]]:
    """Return the registry, a run of the paper as trained on this device, and its network's architecture."""
    project = Project("config")
    world, run = project.world, project.run(dataset, name)
    precision = choose_precision(
        "auto" if kit.device.type == "cpu" else run.training.precision, kit.device, run.encoder.weights
    )
    batch = {"batch_size": 6} if kit.tiny else {}
    given = run.model_dump(exclude={"row"})
    given["training"] |= {"precision": precision, "epochs": 1} | batch | training
    given |= {"mining": None}
    if kit.tiny:
        given["prototype"]["free_vectors"] = 64
    config = at_precision(RunConfig.model_validate(given), precision)
    architecture = {"model_type": "bert"} | world.text_models[config.encoder.model].architecture
    if kit.tiny:
        architecture = made_up.narrow(architecture)
        model = world.text_models[config.encoder.model].model_copy(update={"architecture": architecture})
        world.text_models[config.encoder.model] = model
    return world, config, architecture


def memory(kit: Kit, name: str) -> list[dict[str, Any]]:
    """Measure the memory of a step with texts at full length, beside what the plan counts."""
    dataset = "LF-AmazonTitles-131K"
    world, config, architecture = settled(kit, dataset, name)
    job = PlannedRun.of(world, dataset, config)
    counted = train_cost(job, HARDWARE["gpu"]).gpu_memory_bytes
    labels, n = 300 if kit.tiny else job.counts.n_labels, config.training.batch_size
    data = made_up.made_up(
        config, architecture["vocab_size"], 2 * n, labels=labels, dim=job.image_dim, vectors=VECTORS, causal=job.causal,
        full=True,
    )  # fmt: skip
    before = kit.used()
    ready = made_up.make_ready(config, architecture, data, job.image_dim, kit.device)
    training, _ = ready
    batches = EpochBatches(data, config, 0, 0)
    found = {"loss": 0.0}

    def steps() -> None:  # the second has the optimizer's state as well
        for i in range(2):
            found["loss"] = float(train_step(*ready, batches[i]))

    seconds, allocated = decoder_step.timed(steps, kit.device)
    # On a processor, what this process has grown by.
    measured = allocated + kit.context() if kit.device.type == "cuda" else max(kit.used() - before, 1)
    row = measure.row(
        "memory of a training step", f"{config.encoder.model}, batch {n}, {training.precision}, full length",
        {"median": measured / 1e9}, None, None, limit=counted / 1e9, limit_by="what the plan counts", unit="GB",
        threads=torch.get_num_threads(), device=kit.device.type, kernels=training.model.backbone.kernels,
        allocated_gb=allocated / 1e9, reserved_gb=kit.reserved() / 1e9, seconds=seconds,
    )  # fmt: skip
    row["share_of_limit"] = measured / counted
    finite = bool(np.isfinite(found["loss"]))
    return [measure.checked(row, measured <= counted and finite, "a step takes no more than the plan counts", found)]


def encoder(kit: Kit, name: str, reach: float) -> list[dict[str, Any]]:
    """Time steps of an encoder with images against the straightforward padded loop in float32; compare both in float32."""
    dataset = "LF-AmazonTitles-1.3M"
    world, config, architecture = settled(kit, dataset, name)
    config = config.model_copy(
        update={
            "encoder": config.encoder.model_copy(update={"dropout": 0.0}),
            "prototype": config.prototype.model_copy(update={"dropout": 0.0}),
        }
    )
    job = PlannedRun.of(world, dataset, config)
    batch_size, labels = config.training.batch_size, 300 if kit.tiny else 131_073
    data = made_up.made_up(
        config, architecture["vocab_size"], batch_size * (ROUNDS + 1), labels=labels, dim=job.image_dim, vectors=VECTORS,
        causal=False,
    )  # fmt: skip
    ready = made_up.make_ready(config, architecture, data, job.image_dim, kit.device)
    training, _ = ready
    model, precision = training.model, training.precision
    settings = AutoConfig.for_model(**architecture)
    with torch.device(kit.device):
        network = AutoModel.from_config(settings, dtype=torch.float32, **without_pooler(settings))
    network.load_state_dict(model.backbone.network.state_dict())
    plain = training_step.Straightforward(network, model, data, config)
    model.train(), plain.train()
    batches = EpochBatches(data, config, 0, 0)
    items = items_of(data, batches[0])
    items = items.take(np.arange(min(len(items), 4 * COMPARED)))

    def ours(items: Sequences, precision: str = "fp32") -> Tensor:
        with autocast(precision, kit.device):
            return model.encode(items.pack(MULTIPLE))

    names = sorted(name for name, _ in network.named_parameters())
    true = vectors_and_gradient(
        plain.encode, items, [*map(network.get_parameter, names), *plain.projection.parameters()]
    )
    own = [*map(model.backbone.network.get_parameter, names), *model.projection.parameters()]
    found = vectors_and_gradient(ours, items, own)
    with torch.no_grad():
        half = ours(items, precision)
    compared = {
        "vectors": error(found[0], true[0]), "gradient": error(found[1], true[1]), f"vectors in {precision}": error(half, true[0]),
    }  # fmt: skip
    passed = compared["vectors"] < 1e-4 and compared["gradient"] < 1e-3 and compared[f"vectors in {precision}"] < 0.03

    def straightforward(i: int, n: int) -> None:
        rows = batches.order[i * n : (i + 1) * n]
        plain.step(rows, batches.positives[rows])

    _, peak = decoder_step.timed(lambda: train_step(*ready, batches[0]), kit.device)
    queries = largest_batch(lambda n: straightforward(0, n), batch_size)
    ways = {
        "ours": (lambda i: train_step(*ready, batches[i]), batch_size),
        "straightforward": (lambda i: straightforward(i, queries), queries),
    }
    timed = speeds(kit, ways)
    product, counted = (
        kit.product_speed(dtype_of(precision)),
        made_up.step_flop(job, items_of(data, batches[1]), batch_size),
    )
    ratio = measure.ratios(timed["ours"], timed["straightforward"])
    row = measure.row(
        "training step, encoder", f"{config.encoder.model}, batch {batch_size}, {precision}", measure.spread(timed["ours"]),
        measure.spread(timed["straightforward"]), ratio, limit=batch_size * product / counted, unit="samples/s",
        limit_by="the step's operations at the speed of a large product", threads=torch.get_num_threads(),
        device=kit.device.type, peak_memory_gb=peak / 1e9, straightforward_batch=queries,
    )  # fmt: skip
    what = "vectors and gradient equal those of the padded network in float32 up to rounding"
    row = measure.checked(row, passed, what, compared)
    return [measure.to_reach(row, "times the straightforward speed", ratio["median"], reach)]
