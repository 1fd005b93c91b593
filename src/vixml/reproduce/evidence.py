"""What each number rests on: values seed by seed, the resolved config, the manifests of every stage, and one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.provenance import MANIFEST, read_manifest
from vixml.reproduce.commands import Commands
from vixml.reproduce.results import Result, Results
from vixml.reproduce.verdicts import Aggregate, aggregate

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
class MetricRecord:
    """One metric: its value with each seed, in percent, and their summary."""

    metric: str
    values: tuple[float, ...]
    summary: Aggregate


@dataclass(frozen=True)
class IndexRecord:
    """One approximate index that a prediction searched.

    Attributes:
        about: a sentence: of what, how built, how large.
        curve: how far it looked, what share of the exact best it found, milliseconds a query.
    """

    seed: int
    about: str
    curve: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class RunEvidence:
    """One run, told once however many cells rest on it; model and index may be those of a run that it reuses.

    Attributes:
        key: its anchor in the page.
        seeds: of the results, ascending.
        metrics: those that a table shows.
        more_metrics: the others.
        command: what makes exactly these scores again.
        config: resolved, as JSON.
        versions: of the packages that the scores depend on.
        training: a sentence a seed on how long the training took, where there was one.
        inputs: (path, SHA-256) of everything that its stages read, each once.
        stages: its finished stages, seed by seed.
        indexes: what it searched approximately, if anything.
    """

    key: str
    dataset: str
    run: str
    seeds: tuple[int, ...]
    metrics: tuple[MetricRecord, ...]
    more_metrics: tuple[MetricRecord, ...]
    command: str
    config: str
    versions: str
    training: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]
    stages: tuple[StageRecord, ...]
    indexes: tuple[IndexRecord, ...] = ()

    @property
    def last(self) -> StageRecord:
        """Return the stage that wrote the first seed's score."""
        return next(record for record in reversed(self.stages) if record.seed == self.seeds[0])


def run_key(dataset: str, run: str) -> str:
    """Return the anchor of a run's evidence.

    Example:
        >>> run_key("picto", "vixml-minilm-l3--shuffled")
        'run-picto-vixml-minilm-l3--shuffled'
    """
    return f"run-{dataset}-{run}"


def evidence(results: Results, commands: Commands, metrics: Sequence[str] = ()) -> dict[str, RunEvidence]:
    """Return the evidence of every run by its anchor, in order.

    Args:
        results: what was measured.
        commands: how each is made again.
        metrics: those that the tables show; the others stand apart.
    """
    runs = [
        _run(dataset, run, results.by_run[dataset, run], commands, metrics) for dataset, run in sorted(results.by_run)
    ]
    return {run.key: run for run in runs}


def _run(dataset: str, run: str, results: Sequence[Result], commands: Commands, metrics: Sequence[str]) -> RunEvidence:
    manifests = [(result, stage, manifest) for result in results for stage, manifest in _manifests(result)]
    config = manifests[0][2]["config"]
    for result, stage, manifest in manifests:
        if result is results[0] and result.reuses and stage == PREDICTIONS:
            # The model's, and on top of it what this run does otherwise.
            config = config | manifest["config"]
    versions = results[0].manifest["versions"]
    inputs = {one["path"]: one["sha256"] for _, _, manifest in manifests for one in manifest["inputs"].values()}
    # A metric that some seeds lack has no summary over them; tables refuse it, here it is left out.
    measured = [name for name in results[0].metrics if all(name in result.metrics for result in results)]
    shown = [name for name in metrics if name in measured]
    return RunEvidence(
        run_key(dataset, run),
        dataset,
        run,
        tuple(result.seed for result in results),
        tuple(_metric(name, results) for name in shown),
        tuple(_metric(name, results) for name in measured if name not in shown),
        commands.measured([result.folder for result in results]),
        json.dumps(config, indent=2, ensure_ascii=False),
        ", ".join(f"{package} {version}" for package, version in versions.items()),
        tuple(_training(result) for result in results if result.training),
        tuple(sorted(inputs.items())),
        tuple(_record(result.seed, manifest) for result, _, manifest in manifests),
        tuple(
            _index(result.seed, index)
            for result, stage, manifest in manifests
            if stage == PREDICTIONS
            for index in manifest["facts"].get("indexes", [])
        ),
    )


def _metric(name: str, results: Sequence[Result]) -> MetricRecord:
    values = tuple(result.metrics[name] for result in results)
    return MetricRecord(name, values, aggregate(values))


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


def _index(seed: int, index: dict[str, Any]) -> IndexRecord:
    about = (
        f"{index['kind']} over {index['n']:,} vectors of {index['dim']}, built in {index['build_seconds']:.1f} s, "
        f"{index['bytes'] / 1e6:,.0f} MB, {index['k']} sought"
    )
    return IndexRecord(seed, about, tuple((step["effort"], step["recall"], step["ms"]) for step in index["curve"]))


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
