"""The stage ``train``: a run's configuration and inputs in, a model folder out."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vixml.config.run import CARRIED_OUT, RunConfig
from vixml.config.world import Propensity
from vixml.data.propensity import inverse_propensity
from vixml.digest import stage_digest
from vixml.files import save_array, sha256_json, write_json, write_text
from vixml.memory import enough_memory
from vixml.progress import Quiet, bar
from vixml.provenance import describe_input, stage
from vixml.runtime import choose_precision
from vixml.training.batches import TrainingSet
from vixml.training.device import fewer_items
from vixml.training.inputs import RunInputs, open_inputs
from vixml.training.loop import Trainer
from vixml.training.model_file import build_model, save_model
from vixml.training.progress import TrainingView
from vixml.training.team import Team, all_of, join, leave

SCHEMA_VERSION = 1
VALIDATION_SEED = 20251117  # one held-out set for all runs and seeds, so that tuning compares like with like


def validation_rows(n_train: int, share: float, split: int = 0) -> np.ndarray:
    """Return the rows of train held out: (n,) int64, ascending; the same for every run of a data set with that split."""
    rng = np.random.default_rng(VALIDATION_SEED + split)
    return np.sort(rng.permutation(n_train)[: round(share * n_train)]).astype(np.int64)


def run_identity(config: RunConfig, seed: int, inputs: RunInputs, precision: str, propensity: Propensity) -> str:
    """Return the digest that a checkpoint must share to be resumed."""
    described = {name: describe_input(path)["sha256"] for name, path in inputs.named().items()}
    # Another way to the same result does not part a run from its past, the less so where it is the way out of an error:
    # after running out of memory with smaller parts, after a machine without liger-kernel with it. Workers and saving lead
    # to the same bytes; parts and kernels to the same gradient up to rounding, and parts draw their own dropout masks.
    settings = config.model_dump(exclude={"row": True, "inference": True, **CARRIED_OUT})
    # The propensities shape what is drawn, and the code what is learned: another of either leads elsewhere.
    return sha256_json(
        {
            "config": settings,
            "seed": seed,
            "inputs": described,
            "precision": precision,
            "propensity": propensity.model_dump(),
            "code": stage_digest("train"),
        }
    )


def train(
    dataset: str,
    run: str,
    seed: int,
    config: RunConfig,
    propensity: Propensity,
    inputs: RunInputs,
    out: Path,
    device: torch.device,
) -> None:
    """Train one run and publish its model; resumes from ``checkpoint/`` beside ``out`` if a former try was cut short.

    Args:
        dataset: for the record.
        run: for the record.
        seed: of everything random.
        config: the resolved run.
        propensity: constants of the data set, for drawing positives.
        inputs: where the inputs lie.
        out: folder to publish.
        device: where to train.
    """
    facts: dict[str, Any] = {}
    resolved = {"dataset": dataset, "run": run, "seed": seed, **config.model_dump()}
    team = join(device)
    if not team.leads:  # its files would be those of the first
        _fit(run, seed, config, propensity, inputs, out, device, team)
        leave()
        return
    with stage(out, "train", config=resolved, inputs=inputs.named(), facts=facts) as work:
        trainer = _fit(run, seed, config, propensity, inputs, out, device, team)
        leave()
        config, model, held, rows = trainer.config, trainer.model, trainer.validation_rows, trainer.data.rows
        precision = trainer.precision
        last = trainer.history[-1] if trainer.history else {}
        facts |= {"precision": precision, "device": str(device), "kernels": model.backbone.kernels, "last_epoch": last}
        save_model(work, model)
        save_array(work / "validation_rows.npy", held)
        write_text(work / "log.jsonl", "".join(json.dumps(line) + "\n" for line in trainer.history))
        write_json(
            work / "training.json",
            {
                "schema_version": SCHEMA_VERSION,
                "dataset": dataset,
                "run": run,
                "seed": seed,
                "epochs": config.training.epochs,
                "steps": trainer.total_steps,
                "seconds": round(trainer.seconds, 3),
                "hours": trainer.seconds / 3600,
                "samples_per_second": last.get("samples_per_second"),
                "device": _device_name(device),
                "processes": team.size,
                "threads": torch.get_num_threads(),
                "precision": precision,
                "kernels": model.backbone.kernels,
                "n_train": len(rows),
                "n_validation": len(held),
                "parameters": sum(p.numel() for p in model.parameters()) + model.backbone.left_out,
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "last_epoch": last,
            },
        )
    # The checkpoint has done its work once the model stands.
    checkpoint = out.parent / "checkpoint"
    for leftover in sorted(checkpoint.glob("*")):
        leftover.unlink()
    if checkpoint.exists():
        checkpoint.rmdir()


def _fit(
    run: str,
    seed: int,
    config: RunConfig,
    propensity: Propensity,
    inputs: RunInputs,
    out: Path,
    device: torch.device,
    team: Team,
) -> Trainer:
    """Train to the last epoch and return the trainer."""
    precision = choose_precision(config.training.precision, device, config.encoder.weights)
    config = config.at_precision(precision)
    data = open_inputs(inputs, config, seed)
    held = validation_rows(data.corpus.n("train"), config.training.validation, config.training.validation_split)
    rows = np.setdiff1d(np.arange(data.corpus.n("train")), held)
    truth = data.corpus.labels("train")
    rows = rows[truth.lengths[rows] > 0]
    weights = np.ones(truth.n_cols)
    if config.training.positives == "inverse-propensity":
        weights = inverse_propensity(truth.counts(), len(truth), propensity.a, propensity.b)
    training_set = TrainingSet(
        data.tokens["train"], data.tokens["label"], data.images["train"], data.images["label"], truth, rows, weights,
        data.prompts["train"],
    )  # fmt: skip
    model = build_model(
        config, inputs.model_dir, truth.n_cols, data.image_dim, seed, data.prompts["train"], data.words(), device
    )
    name, epochs = f"{run} seed {seed}", config.training.epochs
    with bar(name, len(rows) * epochs) if team.leads else nullcontext(Quiet()) as advance:
        view = TrainingView(advance, name, epochs)
        with enough_memory(lambda: f"train {name}: the model does not fit", lambda: fewer_items(config, 0)):
            model = model.to(device)
        trainer = Trainer(
            config, model, training_set, held, data.gather, precision, seed, out.parent / "checkpoint",
            run_identity(config, seed, inputs, precision, propensity), view.epoch, view.step, view.warn, view.resume,
            team,
        )  # fmt: skip
        with (
            all_of(team),
            enough_memory(
                lambda: f"train {name}, {trainer.place()}", lambda: fewer_items(config, model.encoding, model.training)
            ),
        ):
            trainer.fit()
    return trainer


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    from vixml.provenance import machine

    return machine()["processor"]
