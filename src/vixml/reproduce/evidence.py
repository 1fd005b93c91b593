"""What each number rests on: the resolved config and the manifests of every stage of a run, seed by seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.provenance import MANIFEST, read_manifest
from vixml.reproduce.results import Result, Results

TRAINED, PREDICTIONS = ("model", "index"), "{split}/predictions"
STAGES = (*TRAINED, PREDICTIONS, "{split}/score")


@dataclass(frozen=True)
class StageRecord:
    """One finished stage of one seed."""

    seed: int
    stage: str
    commit: str
    modified: bool
    device: str
    started: str
    seconds: float
    memory_mb: float
    command: str


@dataclass(frozen=True)
class RunEvidence:
    """One run: how it was set up, and its stages; model and index may be those of a run that it reuses."""

    dataset: str
    run: str
    config: str
    versions: str
    training: tuple[str, ...]
    stages: tuple[StageRecord, ...]


def evidence(results: Results) -> list[RunEvidence]:
    """Return the evidence of every run, in order."""
    return [_run(dataset, run, results.by_run[dataset, run]) for dataset, run in sorted(results.by_run)]


def _run(dataset: str, run: str, results: Sequence[Result]) -> RunEvidence:
    manifests = [(result, stage, manifest) for result in results for stage, manifest in _manifests(result)]
    config = manifests[0][2]["config"]
    for result, stage, manifest in manifests:
        if result is results[0] and result.reuses and stage == PREDICTIONS:
            # The model's, and on top of it what this run does otherwise.
            config = config | manifest["config"]
    versions = results[0].manifest["versions"]
    return RunEvidence(
        dataset,
        run,
        json.dumps(config, indent=2, ensure_ascii=False),
        ", ".join(f"{package} {version}" for package, version in versions.items()),
        tuple(_training(result) for result in results if result.training),
        tuple(_record(result.seed, manifest) for result, _, manifest in manifests),
    )


def _manifests(result: Result) -> list[tuple[str, dict[str, Any]]]:
    """Return the manifests of the stages that led to a score, those that are there."""
    found = []
    for stage in STAGES:
        base = result.trained_folder if stage in TRAINED else result.seed_folder
        folder = base / stage.format(split=result.split)
        if (folder / MANIFEST).exists():
            found.append((stage, read_manifest(folder)))
    return found


def _record(seed: int, manifest: dict[str, Any]) -> StageRecord:
    source, machine = manifest["source"], manifest["machine"]
    return StageRecord(
        seed=seed,
        stage=manifest["stage"],
        commit=(source.get("commit") or "unknown")[:12],
        modified=bool(source.get("modified")),
        device=machine.get("gpu") or f"{machine['processor']}, {machine.get('cores')} cores",
        started=manifest["started_at"],
        seconds=manifest["wall_seconds"],
        memory_mb=manifest["peak_memory_mb"],
        command=_short(manifest["command"]),
    )


def _short(command: str) -> str:
    # The program's own folder says nothing and differs between machines.
    program, _, arguments = command.partition(" ")
    return f"{Path(program).name} {arguments}".strip()


def _training(result: Result) -> str:
    shown = ("epochs", "steps", "seconds", "samples_per_second", "device", "threads", "precision")
    values = [
        f"{key.replace('_', ' ')} {result.training[key]}" for key in shown if result.training.get(key) is not None
    ]
    whose = f", model of {result.trained_as}" if result.reuses else ""
    return f"seed {result.seed}{whose}: " + ", ".join(values)
