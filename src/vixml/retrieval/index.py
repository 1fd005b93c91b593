"""The stage ``build-index``: encode every query and label of a run into unit vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.files import save_array
from vixml.memory import enough_memory
from vixml.models.encode import all_prototypes, encode_items, fewer_items
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import build_model, load_model
from vixml.progress import bar
from vixml.provenance import stage
from vixml.runtime import choose_precision


def build_index(
    dataset: str,
    run: str,
    seed: int,
    config: RunConfig,
    inputs: RunInputs,
    trained: Path,
    out: Path,
    device: torch.device,
) -> None:
    """Write ``train.npy``, ``test.npy``, ``label_u.npy`` and, with a prototype network, ``label_z.npy``.

    Args:
        dataset: for the record.
        run: for the record.
        seed: of the run (shuffled-image control, weights without pretraining).
        config: the resolved run.
        inputs: where the inputs lie.
        trained: the run's model folder.
        out: folder to write.
        device: where to encode.
    """
    facts: dict[str, Any] = {}
    resolved = {"dataset": dataset, "run": run, "seed": seed, **config.model_dump()}
    named = {**inputs.named(), "trained": trained}
    with stage(out, "build-index", config=resolved, inputs=named, facts=facts) as work:
        precision = choose_precision(config.training.precision, device, config.encoder.weights)
        config = config.at_precision(precision)
        data = open_inputs(inputs, config, seed)
        model = build_model(config, data, seed, device)
        load_model(trained, model)
        total = sum(data.corpus.n(split) for split in ("train", "test", "label"))
        name = f"{run} seed {seed}"
        with (
            bar(f"encode {name}", total) as advance,
            enough_memory(lambda: f"build-index {name}", lambda: fewer_items(config, model.encoding)),
        ):
            model = model.to(device).eval()
            for split in ("train", "test", "label"):
                u = encode_items(model, data.sequences[split], precision, config.training.items_at_once, advance)
                unit = F.normalize(u, dim=1)
                save_array(work / ("label_u.npy" if split == "label" else f"{split}.npy"), unit.numpy())
                if split == "label" and model.prototypes is not None:
                    save_array(work / "label_z.npy", all_prototypes(model, u).numpy())
        facts |= {"precision": precision, "device": str(device), "kernels": model.backbone.kernels}
