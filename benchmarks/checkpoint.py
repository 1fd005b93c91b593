"""A checkpoint of a decoder with adapters at the paper's size: bytes, seconds, and the share of training that saving takes.

Ours keeps what is trained (adapters, image projection, prototype network, free vectors), the optimizer's state and what the next
step needs; the frozen language model stays in its own folder. Straightforward: every tensor of the model and the optimizer.
Weights are random, sizes those of Qwen2.5-0.5B with LoRA of rank 256 on LF-AmazonTitles-131K (config/runs).

    python benchmarks/checkpoint.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import bandwidth, ratios, row, spread, take_turns, write

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers

# isort: split
from transformers import AutoConfig, AutoModel

from vixml.config.load import load_world
from vixml.config.project import Project
from vixml.models.prompt import IMAGES, TEXT, Prompt
from vixml.models.siamese import Siamese
from vixml.training.checkpoint import SHARE, Checkpoint
from vixml.training.train import make_optimizer

SIZE = "Qwen2.5-0.5B, LoRA, LF-AmazonTitles-131K"
RESULT = Path("benchmarks/results/checkpoint.json")
DATASET, RUN, N_TRAIN = "LF-AmazonTitles-131K", "vixml-qwen2.5-0.5b", 294_805


def to_disk(path: Path, put: Callable[[Path], object]) -> None:
    """Write a file and flush it, as ours is: what the system still holds in memory is no checkpoint yet."""
    put(path)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    world, config = load_world("config"), Project("config").run(DATASET, RUN)
    n_labels = world.datasets[DATASET].expect.n_labels
    # No GPU is needed to save: kernels that want one are left out, the tensors are the same.
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update={"kernels": "plain"})})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = AutoConfig.for_model(**world.text_models[config.encoder.model].architecture)
        AutoModel.from_config(settings, dtype=torch.bfloat16).save_pretrained(folder / "model")
        dim = world.vision_models[config.images.vision].dim
        prompt = Prompt(((1, 2), TEXT, (3,), IMAGES, (4,)), causal=True)  # words change nothing that is saved
        model = Siamese(config, folder / "model", n_labels, dim, prompt)
        optimizer = make_optimizer(model, config.optimizer)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stored = torch.zeros(N_TRAIN, model.backbone.dim, dtype=torch.float32)
        state = {"model": model.learned_state(), "optimizer": optimizer.state_dict(), "stored": stored}
        whole = state | {"model": model.state_dict()}
        # What must be kept: each trained number with its two moments, the stored vectors, which go on changing, and each
        # label's cluster and centroid, which are older than they. As one block no way of writing it is quicker.
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        needed = 12 * trained + stored.nbytes + n_labels * (8 + 4 * model.backbone.dim)
        bare = np.ones(needed, np.uint8)
        checkpoint = Checkpoint(folder / "ours", {}, 0.0)
        ways: dict[str, Callable[[], Any]] = {
            "ours": lambda: checkpoint.save(state),
            "straightforward": lambda: to_disk(folder / "whole.pt", lambda path: torch.save(whole, path)),
            "disk": lambda: to_disk(folder / "block", bare.tofile),
        }
        seconds, _ = take_turns(ways, given.rounds)
        reading, _ = take_turns({"ours": checkpoint.load}, given.rounds)
        sizes = {
            "ours": (folder / "ours" / "state.pt").stat().st_size,
            "straightforward": (folder / "whole.pt").stat().st_size,
        }
    # Never more often than Checkpoint.due allows, inside epochs no more often than every so many minutes either.
    cost = statistics.median(seconds["ours"])
    between = max(60 * config.training.checkpoint_minutes, cost / SHARE)
    ours, plain = spread(seconds["ours"]), spread(seconds["straightforward"])
    device = {"threads": torch.get_num_threads(), "size": SIZE}
    rows = [
        row(
            "checkpoint, written", ours=ours, plain=plain, ratio=ratios(seconds["straightforward"], seconds["ours"]),
            limit=min(seconds["disk"]), limit_by="the bytes that must be kept as one block, flushed to this disk",
            disk=spread(seconds["disk"]), share_by_round=ratios(seconds["disk"], seconds["ours"]),
            share_of_training=cost / between, between_seconds=between, **device,
        ),
        row(
            "checkpoint, bytes", ours=spread([sizes["ours"]]), plain=spread([sizes["straightforward"]]),
            ratio=ratios([sizes["straightforward"]], [sizes["ours"]]), unit="bytes",
            limit=needed, limit_by="what is trained with two moments each, stored vectors, clusters and centroids",
            trained_parameters=trained, **device,
        ),
        row(
            "checkpoint, read from the system's cache", ours=spread(reading["ours"]), plain=None, ratio=None,
            limit=2 * needed / bandwidth(), limit_by="bytes over the memory's bandwidth, read and written", **device,
        ),
    ]  # fmt: skip
    print(f"saving: {100 * cost / between:.2f} % of training, every {between / 60:.0f} minutes")
    write("checkpoint", rows, given.out)


if __name__ == "__main__":
    main()
