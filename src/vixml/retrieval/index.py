"""The stage ``build-index``: encode every query and label of a run into unit vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vixml.config.run import RunConfig, SeededRun
from vixml.data.corpus import SPLITS
from vixml.files import save_array
from vixml.manifest import check_run
from vixml.memory import enough_memory
from vixml.models.encode import all_prototypes, encode_items, expect_direction, fewer_items
from vixml.models.inputs import RunData, RunInputs, open_inputs
from vixml.models.siamese import Siamese, at_precision, build_model, load_model
from vixml.progress import bar
from vixml.provenance import stage
from vixml.runtime import choose_precision


@dataclass(frozen=True)
class Trained:
    """A trained run, ready to encode.

    Attributes:
        config: as computed with at this precision.
        model: on the CPU.
    """

    config: RunConfig
    precision: str
    data: RunData
    model: Siamese

    @classmethod
    def open(cls, run: SeededRun, inputs: RunInputs, folder: Path, device: torch.device) -> Trained:
        """Open the inputs and the model folder of a run, for computing on a device."""
        precision = choose_precision(run.config.training.precision, device, run.config.encoder.frozen_weights)
        config = at_precision(run.config, precision)
        data = open_inputs(inputs, config, run.seed)
        model = build_model(config, data, run.seed, device)
        load_model(folder, model)
        return cls(config, precision, data, model)

    def facts(self, device: torch.device) -> dict[str, Any]:
        """Return precision, device and kernels, for a manifest."""
        return {"precision": self.precision, "device": str(device), "kernels": self.model.backbone.kernels}


def build_index(run: SeededRun, inputs: RunInputs, trained: Path, out: Path, device: torch.device) -> None:
    """Write ``train.npy``, ``test.npy``, ``label_u.npy`` and, with a prototype network, ``label_z.npy``.

    The run's seed draws the shuffled-image control and weights without pretraining; ``trained`` is its model folder.
    """
    facts: dict[str, Any] = {}
    named = {**inputs.named(), "trained": trained}
    with stage(out, "build-index", config=run.resolved, inputs=named, facts=facts) as work:
        check_run(trained, run.names, "--trained")
        opened = Trained.open(run, inputs, trained, device)
        config, data, model = opened.config, opened.data, opened.model
        total = sum(data.corpus.n(split) for split in SPLITS)
        with (
            bar(f"encode {run}", total) as advance,
            enough_memory(lambda: f"build-index {run}", lambda: fewer_items(config, model.encoding)),
        ):
            model.to(device).eval()
            for split in SPLITS:
                begun = time.perf_counter()
                u = encode_items(model, data.sequences[split], opened.precision, config.training.items_at_once, advance)
                expect_direction(u, f"{run}, {split}")
                unit = F.normalize(u, dim=1)
                save_array(work / ("label_u.npy" if split == "label" else f"{split}.npy"), unit.numpy())
                if split == "test":
                    facts["milliseconds_per_query"] = 1000 * (time.perf_counter() - begun) / max(len(u), 1)
                if split == "label" and model.has_prototypes:
                    z = all_prototypes(model, u)
                    expect_direction(z, f"{run}, prototypes")
                    save_array(work / "label_z.npy", z.numpy())
        facts |= opened.facts(device)
