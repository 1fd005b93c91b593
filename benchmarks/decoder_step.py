"""Time a training step of a decoder with adapters and images: the straightforward way against ours, on the same batches.

Straightforward: transformers' network with eager attention and peft's own adapters; every sequence padded to the longest,
its image positions inside; gradient checkpointing always; in parts where the device cannot hold the batch. Ours:
`vixml.training.train`, with the settings of a run of config/runs. Both share every parameter, the loss and the
optimizer, and take turns round by round; before that their vectors and gradients are compared. Dropout is 0.

    python benchmarks/decoder_step.py                                   # 6 layers of SmolLM2-135M, rank 32, batch 64
    python benchmarks/decoder_step.py --device cuda --size qwen2.5-3b --batch-size 2048

**Inputs** are made up (`made_up.py`): weights at random, of the published architecture; 131,073 labels.

**Operations.** A product with a weight takes 2 for each weight and token. `P` weights of a layer's projections, `A` of its
adapters, `t` tokens computed (words in front of all sequences once), `p` pairs of a token and one that it sees:

    forward    n layers x (2 P t + 2 A t + 4 heads x width of a head x p), and the projection of the images
    backward   once the forward for P: gradients of activations, none of frozen weights; twice for the rest
    top        the labels' prototypes and the tables of scores, forward and backward

That is what the step needs (`useful_flop`). Gradient checkpointing and parts encode again (`done_flop`). The utilisation
(`of limit`) divides what is useful by time and by the speed of one large product.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import torch
from made_up import made_up, narrow
from made_up import make_ready as make_training
from padded_decoder import Straightforward, items_of
from training_step import Ready

from vixml.config.load import load_world
from vixml.config.project import Project
from vixml.config.run import RunConfig
from vixml.models.siamese import at_precision
from vixml.plan.assumptions import ARCHITECTURES
from vixml.plan.cost import PlannedRun
from vixml.runtime import DTYPES, choose_device, choose_precision, dtype_of
from vixml.training.batches import Batch, EpochBatches
from vixml.training.train import Training, train_step

SIZES = {  # the run whose settings are taken
    "smollm2-6-layers": ("picto", "vixml-smollm2"),
    "smollm2-135m": ("picto", "vixml-smollm2--all-layers"),
    "qwen2.5-0.5b": ("LF-AmazonTitles-131K", "vixml-qwen2.5-0.5b"),
    "qwen2.5-3b": ("LF-AmazonTitles-131K", "vixml-qwen2.5-3b"),
}
LABELS, TINY_LABELS, VECTORS = 131_073, 300, 5000


def settings_of(chosen: argparse.Namespace, device: torch.device) -> RunConfig:
    """Return the run's settings at the size asked for."""
    run = Project("config").run(*SIZES[chosen.size])
    wanted = chosen.precision or ("auto" if device.type == "cpu" else run.training.precision)
    precision = choose_precision(wanted, device, run.encoder.weights)
    changes = {
        "mining": None,
        "encoder": {"kernels": chosen.kernels, "gradient_checkpointing": chosen.checkpointing},
        "prototype": {"dropout": 0.0},
        "training": {
            "batch_size": chosen.batch_size, "precision": precision, "epochs": 1, "items_at_once": chosen.items_at_once
        },
    }  # fmt: skip
    if chosen.checkpointing is None:
        del changes["encoder"]["gradient_checkpointing"]
    given = run.model_dump(exclude={"row"})
    for key, value in changes.items():
        given[key] = value and {**given[key], **value}
    return at_precision(RunConfig.model_validate(given), precision)


def make_ready(chosen: argparse.Namespace, device: torch.device, tiny: bool = False) -> tuple[Ready, PlannedRun]:
    """Return a training of made-up inputs, ready to step, and the job that counts its operations."""
    world, config = load_world("config"), settings_of(chosen, device)
    name = config.encoder.model
    architecture = world.text_models[name].architecture or ARCHITECTURES[name]
    if tiny:
        architecture = narrow(architecture)
        world.text_models[name] = world.text_models[name].model_copy(update={"architecture": architecture})
    job = PlannedRun.of(world, SIZES[chosen.size][0], config)
    architecture = architecture | {"num_hidden_layers": job.shape.layers}
    n, dim = chosen.batch_size * (chosen.rounds + 1), job.image_dim
    labels = TINY_LABELS if tiny else LABELS
    data = made_up(config, architecture["vocab_size"], n, labels=labels, dim=dim, vectors=VECTORS, causal=True)
    return make_training(config, architecture, data, dim, device), job


def operations(training: Training, job: PlannedRun, batch: Batch) -> tuple[float, float]:
    """Return what a step needs, and what ours carries out."""
    data, shape, encoder = training.data, job.shape, training.config.encoder
    items = items_of(data, batch)
    lead, own = len(items.prompt.leading), items.lengths
    t, pairs = own.sum() + lead, (own * lead + own * (own + 1) / 2).sum()
    frozen = 2.0 * shape.layers * shape.linear * t
    rest = 2.0 * shape.layers * shape.adapters(job.rank) * t + shape.layers * shape.attention(1, pairs)
    projection = 2.0 * job.image_dim * shape.hidden * len(items.images.values)
    n, m = len(batch.queries), len(batch.labels)
    top = 3 * job.prototype * m + 12.0 * n * m * shape.hidden
    useful = 2 * frozen + 3 * rest + 2 * projection + top
    forward, sizes = frozen + rest, [len(part.gather) for part in batch.parts]
    return useful, useful + forward * (bool(encoder.gradient_checkpointing) + sum(sizes[:-1]) / sum(sizes))


def relative_differences(ready: Ready, plain: Straightforward, batch: Batch) -> dict[str, float]:
    """Return the largest differences of vectors and of gradients, relative to the largest entry of each tensor."""
    training, state = ready
    groups = state.optimizer.param_groups
    peaks = [group["peak"] for group in groups]
    for group in groups:
        group["peak"] = 0.0  # steps that change nothing
    found = {}
    with torch.no_grad(), training.autocast():
        ours = torch.cat([training.model.encode(part) for part in batch.parts])
    theirs = plain.encode_items(items_of(training.data, batch))[0].detach()
    found["vectors"] = float((ours - theirs).abs().max() / theirs.abs().max())
    train_step(training, state, batch)
    learned = [p for p in training.model.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in learned]
    plain.step(batch)
    pairs = zip(gradients, (p.grad for p in learned), strict=True)
    found["gradients"] = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
    for group, peak in zip(groups, peaks, strict=True):
        group["peak"] = peak
    state.optimizer.zero_grad()
    return found


def timed(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Return seconds, and the peak of memory in bytes: the device's, or what this process holds on a processor."""
    gc.collect()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with measure.Memory() as memory:
        clock = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - clock
    return seconds, float(torch.cuda.max_memory_allocated() if cuda else memory.largest)


def first_peak(step: Callable[[], None], device: torch.device) -> float | None:
    """Return the peak of memory of one step, or None where it does not fit; what it held is free again then."""
    try:
        return timed(step, device)[1]
    except torch.OutOfMemoryError:
        pass  # the error holds the frames, and they the tensors
    gc.collect()
    torch.cuda.empty_cache()
    return None


def main() -> None:
    """Compare, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="smollm2-6-layers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=["auto", *DTYPES], help="default: auto on a processor, the run's own on a GPU"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kernels", choices=["plain", "liger"], default="plain", help="liger must be installed")
    parser.add_argument(
        "--items-at-once", type=int, help="training.items_at_once: a batch in parts, all but one encoded twice"
    )
    parser.add_argument(
        "--checkpointing", action=argparse.BooleanOptionalAction, help="encoder.gradient_checkpointing; else the run's"
    )
    for name, value in (("threads", 1), ("batch-size", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    device = choose_device(chosen.device, chosen.threads)
    ready, job = make_ready(chosen, device)
    training, _ = ready
    config, data, precision = training.config, training.data, training.precision
    plain, at_once = Straightforward(*ready), config.training.items_at_once
    batches, without = EpochBatches(data, config, 0, 0), EpochBatches(data, config, 0, 0, with_text=False)
    seconds: dict[str, list[float]] = {"ours": [], "straightforward": []}
    memory = dict.fromkeys(seconds, 0.0)
    ways = {"ours": lambda i: train_step(*ready, batches[i]), "straightforward": lambda i: plain.step(without[i])}
    for name, way in ways.items():  # warm up; ours first, while nothing else was in memory
        while (peak := first_peak(lambda w=way: w(0), device)) is None:
            if name == "ours":
                raise SystemExit("the device cannot hold this step: --checkpointing, or --items-at-once 1024")
            plain.at_once = (plain.at_once or 2 * chosen.batch_size) // 2
        memory[name] = peak
    found = relative_differences(ready, plain, batches[0])
    for i in range(1, chosen.rounds + 1):
        for name in list(ways)[:: 1 if i % 2 else -1]:
            took, peak = timed(lambda n=name, i=i: ways[n](i), device)
            seconds[name].append(took)
            memory[name] = max(memory[name], peak) if device.type == "cuda" else memory[name]
            print(f"  round {i}: {name:<16} {chosen.batch_size / took:8.1f} samples/s", flush=True)
    useful, done = np.mean(
        [operations(training, job, batches[i]) for i in range(1, chosen.rounds + 1)], axis=0
    ).tolist()
    side = 8192 if device.type == "cuda" else 2048
    peak = measure.product_speed(side, side, side, dtype_of(precision), device.type)
    speeds = {name: measure.spread([chosen.batch_size / s for s in took]) for name, took in seconds.items()}
    about = (
        f"{load_world('config').text_models[config.encoder.model].title}, {job.shape.layers} layers, rank {job.rank}"
    )
    row = measure.row(
        "training step, decoder + LoRA + images", f"{about}, batch {chosen.batch_size}, {precision}", speeds["ours"],
        speeds["straightforward"], measure.ratios(seconds["straightforward"], seconds["ours"]),
        limit=chosen.batch_size * peak / useful, threads=chosen.threads, device=device.type, unit="samples/s",
        limit_by=f"useful operations at the speed of a product of {side} x {side} x {side} in {precision}",
        useful_flop=useful, done_flop=done, product_flop_per_second=peak,
        done_share_of_product=done * speeds["ours"]["median"] / chosen.batch_size / peak,
        peak_memory_gb={name: value / 1e9 for name, value in memory.items()}, relative_difference_of_vectors=found["vectors"],
        relative_difference_of_gradients=found["gradients"], items_at_once=at_once, straightforward_at_once=plain.at_once,
        gradient_checkpointing=config.encoder.gradient_checkpointing, kernels=config.encoder.kernels,
    )  # fmt: skip
    measure.write("decoder_step", [row], chosen.out)


if __name__ == "__main__":
    main()
