"""A checkpoint of a decoder with adapters at the paper's size: bytes, seconds, and the share of training that saving takes.

Ours keeps what is trained (adapters, image projection, prototype network, free vectors), the optimizer's state and what the next
step needs; the frozen language model stays in its own folder. Straightforward: every tensor of the model and the optimizer.
Weights are random, sizes those of Qwen2.5-0.5B with LoRA of rank 256 on LF-AmazonTitles-131K (config/runs).

    python benchmarks/checkpoint.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import record

from vixml import whole_torchvision as _first  # noqa: F401 -- before transformers

# isort: split
from transformers import AutoConfig, AutoModel

from vixml.config.load import load_world
from vixml.config.runs import get_run
from vixml.models.prompt import IMAGES, TEXT, Prompt
from vixml.training.model_file import build_model
from vixml.training.optimizer import make_optimizer
from vixml.training.state import SaveClock, load_checkpoint, save_checkpoint

SIZE = "Qwen2.5-0.5B, LoRA, LF-AmazonTitles-131K"
RESULT = Path("benchmarks/results/checkpoint.json")
DATASET, RUN, N_TRAIN = "LF-AmazonTitles-131K", "vixml-qwen2.5-0.5b", 294_805


def seconds_of(action: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each round."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    world, config = load_world("config"), get_run("config", DATASET, RUN)
    n_labels = world.datasets[DATASET].expect.n_labels
    # No GPU is needed to save: kernels that want one are left out, the tensors are the same.
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update={"kernels": "plain"})})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = AutoConfig.for_model(**world.text_models[config.encoder.model].architecture)
        AutoModel.from_config(settings, dtype=torch.bfloat16).save_pretrained(folder / "model")
        dim = world.vision_models[config.images.vision].dim
        prompt = Prompt(((1, 2), TEXT, (3,), IMAGES, (4,)), causal=True)  # words change nothing that is saved
        model = build_model(config, folder / "model", n_labels, dim, 0, prompt)
        optimizer = make_optimizer(model, config.optimizer)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stored = torch.zeros(N_TRAIN, model.backbone.dim, dtype=torch.float32)
        state = {"model": model.learned_state(), "optimizer": optimizer.state_dict(), "stored": stored}
        ours = seconds_of(lambda: save_checkpoint(folder / "ours", "benchmark", state), given.rounds)
        reading = seconds_of(lambda: load_checkpoint(folder / "ours", "benchmark"), given.rounds)
        whole = state | {"model": model.state_dict()}
        plain = seconds_of(lambda: torch.save(whole, folder / "whole.pt"), given.rounds)
        size = (folder / "ours" / "state.pt").stat().st_size
        result = {
            "run": f"{DATASET}/{RUN}",
            "bytes": {"ours": size, "straightforward": (folder / "whole.pt").stat().st_size},
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "seconds": {"ours": ours, "ours, read": reading, "straightforward": plain},
        }
    cost = statistics.median(ours)
    # Never more often than SaveClock allows, inside epochs no more often than every so many minutes either.
    between = max(60 * config.training.checkpoint_minutes, cost / SaveClock.SHARE)
    result["share_of_training"] = cost / between
    for way, value in result["bytes"].items():
        print(f"{way:20}{value / 2**30:8.2f} GiB {statistics.median(result['seconds'][way]):8.1f} s")
    print(f"saving: {100 * result['share_of_training']:.2f} % of training, every {between / 60:.0f} minutes")
    about = {"rounds": given.rounds}
    record(given.out, {"benchmark": "checkpoint", "size": SIZE, **about, **result})


if __name__ == "__main__":
    main()
