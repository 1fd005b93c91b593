"""What each number rests on: the resolved config and the manifests of every stage of a run, seed by seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.provenance import MANIFEST, read_manifest
from vixml.reproduce.results import Result, Results

STAGES = ("model", "index", "{split}/predictions", "{split}/score")


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
    """One run: how it was set up, and its stages."""

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
    records, first = [], None
    for result in results:
        for stage in STAGES:
            folder = result.seed_folder / stage.format(split=result.split)
            if (folder / MANIFEST).exists():
                manifest = read_manifest(folder)
                first = first or manifest
                records.append(_record(result.seed, manifest))
    versions = results[0].manifest["versions"]
    return RunEvidence(
        dataset,
        run,
        json.dumps((first or results[0].manifest)["config"], indent=2, ensure_ascii=False),
        ", ".join(f"{package} {version}" for package, version in versions.items()),
        tuple(_training(result) for result in results if result.training),
        tuple(records),
    )


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
    return f"seed {result.seed}: " + ", ".join(values)
