"""Measure how far each key of the official form moves the gradient of a batch (docs/deviations.md).

Trains a run of PICTO in the official form for some epochs, then takes the gradient of all trained parameters on the
next batches: in that form, with one key at a time as this project has it by default, and with all of them. Nothing is
timed; the figure is the distance from the official gradient as a share of its length.

    python benchmarks/official_form.py
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import measure
import torch
from torch import Tensor

from vixml.config.load import load_runs, load_world, merge
from vixml.config.run import RunConfig, SeededRun
from vixml.models.inputs import RunInputs
from vixml.models.packing import Sequences
from vixml.progress import Quiet
from vixml.runtime import choose_device
from vixml.training.batches import EpochBatches
from vixml.training.checkpoint import Checkpoint
from vixml.training.train import State, Training, TrainingView, fit, new_state, open_training, train_step

# What a batch's gradient obeys; curriculum, schedule, decay and last centroids act elsewhere.
KEYS = {
    "loss": ("ties", "weight_gradient", "regulariser_negatives", "regulariser_gradient", "regulariser_halves", "draws"),
    "training": ("label_copies",),
    "encoder": ("text_position",),
}


def variants(official: RunConfig) -> dict[str, RunConfig]:
    """Return the official form, each key at its default, and all of them."""
    default = RunConfig().model_dump()
    changes = {f"{part}.{key}": {part: {key: default[part][key]}} for part, keys in KEYS.items() for key in keys}
    changes = {"official": {}} | changes
    every: dict = {}
    for change in changes.values():
        every = merge(every, change)
    changes["all of them"] = every
    return {name: RunConfig.model_validate(merge(official.model_dump(), change)) for name, change in changes.items()}


def gradient(training: Training, state: State, config: RunConfig, index: int) -> Tensor:
    """Return the gradient of every trained parameter on one batch, in the form of ``config``."""
    fixed = config.images.per_item if config.uses_images and config.encoder.text_position == "fixed" else 0

    def laid_out(items: Sequences) -> Sequences:
        return replace(items, prompt=replace(items.prompt, image_positions=fixed))

    data = replace(training.data, queries=laid_out(training.data.queries), labels=laid_out(training.data.labels))
    epoch = config.training.epochs
    batch = EpochBatches(data, config, training.seed, epoch)[index]
    state.epoch, state.step_in_epoch = epoch, index
    train_step(replace(training, config=config), state, batch)
    learning = [p for p in training.model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning])


def main() -> None:
    """Measure both modalities and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where PICTO was built")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "official_form.json")
    for name, value in (("epochs", 3), ("batches", 8), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    device, data = choose_device("cpu", given.threads), given.results / "data/picto"
    found: dict[str, dict[str, float]] = {}
    for modality in ("text", "vixml"):
        config = load_runs("config")["picto", f"form-{modality}-official-split0"]
        training = config.training.model_copy(update={"epochs": given.epochs, "precision": "fp32"})
        config = config.model_copy(update={"training": training})
        embeddings = data / "embeddings/efficientnet-lite0" if config.uses_images else None
        inputs = RunInputs(
            data / "corpus", data / "tokens/minilm-l3-32", embeddings, given.results / "models/minilm-l3"
        )
        propensity = load_world("config").datasets["picto"].propensity
        with tempfile.TemporaryDirectory() as folder:
            training = open_training(SeededRun("picto", modality, 0, config), propensity, inputs, device)
            state, checkpoint = new_state(training), Checkpoint(Path(folder), {}, config.training.checkpoint_minutes)
            fit(training, state, checkpoint, TrainingView(Quiet(), modality, given.epochs))
        training.model.train()
        state.optimizer.step = lambda *_, **__: None  # the gradient is all that is wanted
        forms = variants(config)
        shares: dict[str, list[float]] = {name: [] for name in forms}
        for index in range(given.batches):
            official = gradient(training, state, forms["official"], index)
            for name, form in forms.items():
                shares[name].append(float((gradient(training, state, form, index) - official).norm() / official.norm()))
        found[modality] = {name: sum(values) / len(values) for name, values in shares.items()}
        for name, share in found[modality].items():
            print(f"{modality:<7}{name:<30}{share:6.2f}")
    settings = {"benchmark": "official_form", "epochs": given.epochs, "batches": given.batches, "rows": []}
    measure.record(given.out, settings | {"distance_from_official_gradient": found})


if __name__ == "__main__":
    main()
