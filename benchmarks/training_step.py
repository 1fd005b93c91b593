"""Time a training step: the straightforward way against ours, on the same batches in the same run.

Straightforward: transformers' own BERT on float32 batches padded to their longest text, images as masked positions
in front, one encoding for each query's drawn label however often it occurs, AdamW as torch makes it by default. Ours:
`vixml.training.train`. Both assemble their batches from the same token lists inside the time measured, and use
the same loss and prototype network. They take turns round by round, so that a busy machine slows all alike; what
counts is the ratio within a round.

    python benchmarks/training_step.py --threads 1
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from origin import record
from torch import Tensor, nn
from torch.nn import functional as F

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers

# isort: split
from transformers import AutoModel

from vixml.config.load import load_world
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.packing import Sequences
from vixml.models.siamese import PrototypeNetwork, Siamese, build_model
from vixml.plan.cost import PlannedRun
from vixml.ragged import Ragged
from vixml.runtime import DTYPES, choose_device, choose_precision, dtype_of
from vixml.training.batches import EpochBatches, TrainingSet
from vixml.training.losses import Positives, total_loss
from vixml.training.train import State, Training, new_state, train_step

RESULT = Path("benchmarks/results/training_step.json")


class Straightforward(nn.Module):
    """The same model written the way one would first: padded, float32, labels as often as they are drawn."""

    def __init__(self, network: nn.Module, like: Siamese, data: TrainingSet, config: RunConfig):
        super().__init__()
        self.network = network
        free = like.prototypes.free
        self.projection = nn.Linear(like.projection.in_features, like.backbone.dim) if like.projection else None
        self.prototypes = PrototypeNetwork(free.embedding_dim, free.num_embeddings, config.prototype)
        self.prototypes.load_state_dict(like.prototypes.state_dict())
        if self.projection is not None:
            self.projection.load_state_dict(like.projection.state_dict())
        self.cluster, self.centroid = like.cluster.clone(), like.centroid.clone()
        self.data, self.config = data, config
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.encoder.dropout if config.encoder.dropout is not None else module.p
        self.to(next(like.parameters()).device)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=config.optimizer.lr)

    def encode(self, items: Sequences) -> Tensor:
        """Return (n, dim) vectors of padded sequences, not normalised."""
        device, tokens, images = self.centroid.device, items.tokens, items.images
        ids, mask = _padded(tokens)
        inputs = self.network.get_input_embeddings()(torch.from_numpy(ids).to(device))
        if images is not None:
            there = np.arange(max(int(images.lengths.max()), 1)) < images.lengths[:, None]
            vectors = np.zeros((*there.shape, self.projection.in_features), dtype=np.float32)
            vectors[there] = items.gather(images.values)
            inputs = torch.cat([self.projection(torch.from_numpy(vectors).to(device)), inputs], dim=1)
            mask = np.concatenate([there, mask], axis=1)
        mask = torch.from_numpy(mask).long()
        mask = mask.to(device)
        hidden = self.network(
            inputs_embeds=inputs, attention_mask=mask, position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0)
        ).last_hidden_state
        return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def step(self, queries: np.ndarray, positives: np.ndarray) -> Tensor:
        """Take one optimizer step on ``queries`` and the label drawn for each; return the loss."""
        data, device = self.data, self.centroid.device
        u_queries, u_labels = self.encode(data.queries.take(queries)), self.encode(data.labels.take(positives))
        labels = torch.from_numpy(positives).to(device)
        z = self.prototypes(u_labels, self.cluster[labels], self.centroid[labels])
        is_positive = torch.from_numpy(np.stack([np.isin(positives, data.truth.row(query)) for query in queries])).to(
            device
        )
        drawn = torch.arange(len(queries), device=device)
        loss, _ = total_loss(
            F.normalize(u_queries, dim=1), F.normalize(u_labels, dim=1), z,
            Positives(is_positive, drawn.expand(3, -1), drawn), self.config.loss,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _padded(lists: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Return lists as rows padded to the longest: (n, longest) int64 values, and (n, longest) bool, what is no padding."""
    there = np.arange(int(lists.lengths.max())) < lists.lengths[:, None]
    values = np.zeros(there.shape, dtype=np.int64)
    values[there] = lists.values
    return values, there


Ready = tuple[Training, State]


def open_run(config: RunConfig, inputs: RunInputs, precision: str, device: torch.device) -> Ready:
    """Return a training of a run's inputs, ready to step."""
    data = open_inputs(inputs, config, seed=0)
    truth = data.corpus.labels("train")
    rows = np.flatnonzero(truth.lengths > 0)
    training_set = TrainingSet(data.sequences["train"], data.sequences["label"], truth, rows, np.ones(truth.n_cols))
    return ready_to_step(config, build_model(config, data, 0, device).to(device), training_set, precision)


def ready_to_step(config: RunConfig, model: Siamese, data: TrainingSet, precision: str) -> Ready:
    """Return a training ready to step: as in `fit`, without the first pass over all items.

    Args:
        config: the run.
        model: already on its device.
        data: what training reads.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    n_labels = len(model.cluster)
    model.cluster.copy_(torch.arange(n_labels) % model.prototypes.free.num_embeddings)
    generator = torch.Generator().manual_seed(0)
    model.centroid.copy_(F.normalize(torch.randn(model.centroid.shape, generator=generator), dim=1))
    model.has_centroid.fill_(True)
    training = Training(config, model, data, data.rows[:0], precision, 0)
    state = new_state(training)
    model.train()
    return training, state


def same_vectors(plain: Straightforward, model: Siamese, batch: Any) -> float:
    """Return the largest difference between the two ways' query vectors, so that like is compared with like."""
    plain.eval(), model.eval()
    with torch.no_grad():
        ours = model.encode(batch.parts[0])[: len(batch.queries)]
        theirs = plain.encode(plain.data.queries.take(batch.queries))
    plain.train(), model.train()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(config: RunConfig, inputs: RunInputs, device: torch.device, steps: int, rounds: int) -> dict[str, Any]:
    """Return speeds and ratios of one modality."""
    precision = choose_precision(config.training.precision, device)
    ours = {f"ours, {p}": open_run(config, inputs, p, device) for p in dict.fromkeys(("fp32", precision))}
    first, _ = next(iter(ours.values()))
    network = AutoModel.from_pretrained(inputs.model_dir, dtype=torch.float32, add_pooling_layer=False)
    plain = Straightforward(network, first.model, first.data, config)
    data, size = first.data, config.training.batch_size
    runs: dict[str, list[float]] = {name: [] for name in ("straightforward", *ours)}
    difference = math.nan
    for turn in range(-1, rounds):  # round -1 warms up
        batches = EpochBatches(data, config, 0, turn + 1)
        order, positives = batches.order, batches.positives
        if turn < 0:
            difference = same_vectors(plain, first.model, batches[0])

        def plain_steps(order: np.ndarray = order, positives: np.ndarray = positives) -> None:
            for i in range(steps):
                queries = order[i * size : (i + 1) * size]
                plain.step(queries, positives[queries])

        def our_steps(ready: Ready, batches: EpochBatches = batches) -> None:
            for i in range(steps):
                train_step(*ready, batches[i])

        ways: dict[str, Callable[[], None]] = {"straightforward": plain_steps}
        ways |= {name: lambda r=ready: our_steps(r) for name, ready in ours.items()}
        for name in (list(ways), list(reversed(ways)))[turn % 2]:
            speed = steps * size / _seconds(ways[name], device)
            if turn >= 0:
                runs[name].append(speed)
                print(f"  round {turn + 1}: {name:<16} {speed:8.1f} samples/s", flush=True)
    return {
        "relative_difference_of_vectors": difference,
        "samples_per_second": {name: _spread(speeds) for name, speeds in runs.items()},
        "ratio_to_straightforward": {
            name: _spread([a / b for a, b in zip(runs[name], runs["straightforward"], strict=True)]) for name in ours
        },
    }


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    clock = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - clock


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def main() -> None:
    """Time both modalities, print a table and write the result with the machine's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("results/data/picto/corpus"))
    parser.add_argument("--tokens", type=Path, default=Path("results/data/picto/tokens/minilm-l3-32"))
    parser.add_argument("--embeddings", type=Path, default=Path("results/data/picto/embeddings/efficientnet-lite0"))
    parser.add_argument("--model-dir", type=Path, default=Path("results/models/minilm-l3"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision",
        choices=["auto", *DTYPES],
        default="auto",
        help="auto: as VIXML_PRECISION says, else what the hardware has",
    )
    for name, value in (("threads", 1), ("batch-size", 256), ("steps", 8), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    device = choose_device(chosen.device, chosen.threads)
    cases = {}
    for case, modality in (("text", "text"), ("images", "text+image")):
        print(case, flush=True)
        config = RunConfig.model_validate(
            {
                "modality": modality,
                "encoder": {"dropout": 0.0},
                "prototype": {"free_vectors": 2048},
                "mining": None,
                "optimizer": {"lr": 2e-4, "lr_new": 2e-3, "warmup_steps": 0},
                "training": {"batch_size": chosen.batch_size, "epochs": 1, "precision": chosen.precision},
            }
        )
        embeddings = chosen.embeddings if config.uses_images else None
        inputs = RunInputs(chosen.corpus, chosen.tokens, embeddings, chosen.model_dir)
        try:
            cases[case] = compare(config, inputs, device, chosen.steps, chosen.rounds)
            # The step's operations (docs/cost.md) at the speed of one large product.
            job = PlannedRun.of(load_world("config"), "picto", config)
            dtype = dtype_of(choose_precision(chosen.precision, device))
            peak = measure.product_speed(4096, 4096, 4096, dtype, device.type)
            cases[case]["limit"] = peak * job.trained_queries / job.step_flop
        except VixmlError as error:
            sys.exit(f"{error}\nbenchmarks/README.md says how to build the inputs")
    settings = {"batch_size": chosen.batch_size, "steps_per_round": chosen.steps, "device": device.type}
    record(chosen.out, {"benchmark": "training_step", **settings, "cases": cases})
    print(f"\n{'':<10}{'':<18}{'samples/s':>10}{'min':>9}{'max':>9}{'ratio':>8}{'min':>7}{'max':>7}")
    for case, result in cases.items():
        for name, speed in result["samples_per_second"].items():
            ratio = result["ratio_to_straightforward"].get(name, {"median": 1.0, "min": 1.0, "max": 1.0})
            numbers = "".join(f"{speed[k]:{w}.1f}" for k, w in (("median", 10), ("min", 9), ("max", 9)))
            numbers += "".join(f"{ratio[k]:{w}.2f}" for k, w in (("median", 8), ("min", 7), ("max", 7)))
            print(f"{case:<10}{name:<18}{numbers}")
    print(f"\nwritten to {chosen.out}")


if __name__ == "__main__":
    main()
