"""Numbers measured here: one :class:`Result` per score folder, read and checked, never computed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.provenance import MANIFEST, read_manifest
from vixml.reproduce.verdicts import Aggregate, aggregate

SCHEMA_VERSION = 1
KEYS = ("dataset", "run", "seed", "split", "metrics", "n_queries")


@dataclass(frozen=True)
class Result:
    """The score of one run with one seed on one split.

    Attributes:
        metrics: name -> percent.
        trained_as: the run whose trained model was used: itself, or the one that it reuses.
        hours: measured training time of that model without set-up; None for what was never trained.
        training: the rest of its ``training.json`` (device, precision, steps, ...), or empty.
        manifest: of the score folder: commit, versions, machine, time.
        folder: ``.../{dataset}/{run}/seed{seed}/{split}/score``.
    """

    dataset: str
    run: str
    seed: int
    split: str
    metrics: dict[str, float]
    n_queries: int
    trained_as: str
    hours: float | None
    training: dict[str, Any]
    manifest: dict[str, Any]
    folder: Path

    @property
    def seed_folder(self) -> Path:
        """Return ``.../{dataset}/{run}/seed{seed}``."""
        return self.folder.parent.parent

    @property
    def reuses(self) -> bool:
        """Return whether the model is another run's."""
        return self.trained_as != self.run

    @property
    def trained_folder(self) -> Path:
        """Return the seed folder that holds the model and the index used: ``.../{dataset}/{trained_as}/seed{seed}``."""
        return _trained_folder(self.folder, self.trained_as)


@dataclass(frozen=True)
class Results:
    """All results read, by (dataset, run), seeds ascending."""

    by_run: dict[tuple[str, str], tuple[Result, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_run)

    def all(self) -> list[Result]:
        """Return every result, by dataset, run and seed."""
        return [result for key in sorted(self.by_run) for result in self.by_run[key]]

    def of(self, dataset: str, run: str | None, seed: int | None = None) -> tuple[Result, ...]:
        """Return a run's results, or those of one seed; empty if it was not run."""
        found = self.by_run.get((dataset, run), ()) if run else ()
        return tuple(r for r in found if seed is None or r.seed == seed)


def find(results_dir: Path | str, split: str = "test") -> list[Path]:
    """Return every finished score folder below ``results_dir``, sorted."""
    pattern = f"runs/*/*/seed*/{split}/score/{MANIFEST}"
    return sorted(path.parent for path in Path(results_dir).glob(pattern))


def load(folders: Iterable[Path | str], split: str = "test") -> Results:
    """Read score folders.

    Raises:
        VixmlError: two results for one cell, a validation score where test is asked for, or what :func:`read_one`
            refuses.
    """
    seen: dict[tuple[str, str, int], Result] = {}
    sizes: dict[str, Result] = {}
    for folder in folders:
        result = read_one(folder)
        if result.split != split:
            raise VixmlError(
                f"a score of the {result.split} split, where {split} is wanted",
                where=result.folder,
                hint="tables read test scores only, and tuning reads validation scores only: test selects nothing",
            )
        key = (result.dataset, result.run, result.seed)
        if key in seen:
            raise VixmlError(
                "two results for one run and seed",
                where=result.folder / "scores.json",
                found=f"also in {seen[key].folder / 'scores.json'}",
                hint="name each score folder once",
            )
        seen[key] = result
        _same_corpus(result, sizes)
    by_run: dict[tuple[str, str], list[Result]] = {}
    for key in sorted(seen):
        by_run.setdefault(key[:2], []).append(seen[key])
    return Results({key: tuple(results) for key, results in by_run.items()})


def _same_corpus(result: Result, first: dict[str, Result]) -> None:
    other = first.setdefault(result.dataset, result)
    if other.n_queries != result.n_queries:
        raise VixmlError(
            "two results of one dataset were scored on different queries",
            where=result.folder / "scores.json",
            found=f"{result.n_queries} queries",
            expected=f"{other.n_queries}, as in {other.folder}",
            hint="one of them belongs to an older corpus; snakemake runs it again",
        )


def read_one(folder: Path | str) -> Result:
    """Read one score folder, its manifest and, if a model was trained, its ``training.json``.

    A score written before runs could reuse a model has no ``trained_as``: its run had a model of its own.

    Raises:
        VixmlError: missing files, another schema version, a metric that is no percentage, or a folder whose name and
            content disagree.
    """
    folder = Path(folder)
    path = folder / "scores.json"
    manifest = read_manifest(folder)
    scores = read_json(path)
    _check_version(scores, path)
    missing = [key for key in KEYS if key not in scores]
    if missing:
        raise VixmlError("a score lacks a key", where=path, found=f"no {', '.join(missing)}", expected=", ".join(KEYS))
    for name, value in scores["metrics"].items():
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
            raise VixmlError(
                "a metric is not a percentage",
                where=f"{path}: metrics.{name}",
                found=value,
                expected="a number from 0 to 100",
                hint="score the run again",
            )
    says = (str(scores["dataset"]), str(scores["run"]), f"seed{scores['seed']}", str(scores["split"]))
    lies = folder.absolute().parts[-5:-1]
    if lies != says:
        raise VixmlError(
            "a score folder holds the score of something else",
            where=folder,
            found="/".join(says),
            expected="/".join(lies),
            hint="score folders are not to be moved or renamed; score the run again",
        )
    trained_as = str(scores.get("trained_as", says[1]))
    training_path = _trained_folder(folder, trained_as) / "model" / "training.json"
    training = _read_training(training_path)
    return Result(
        dataset=says[0],
        run=says[1],
        seed=int(scores["seed"]),
        split=says[3],
        metrics={name: float(value) for name, value in scores["metrics"].items()},
        n_queries=int(scores["n_queries"]),
        trained_as=trained_as,
        hours=_hours(training, training_path),
        training=training,
        manifest=manifest,
        folder=folder,
    )


def _trained_folder(folder: Path, trained_as: str) -> Path:
    # Not `parent`: of a relative path there may be too few.
    seed = folder.absolute().parent.parent.name
    return Path(os.path.normpath(folder / "../../../.." / trained_as / seed))


def _check_version(value: dict[str, Any], path: Path) -> None:
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise VixmlError(
            "a result of another schema version",
            where=path,
            found=value.get("schema_version") if isinstance(value, dict) else type(value).__name__,
            expected=SCHEMA_VERSION,
            hint="run its stage again with this version of vixml",
        )


def _read_training(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    training = read_json(path)
    _check_version(training, path)
    return training


def _hours(training: dict[str, Any], path: Path) -> float | None:
    # A run of 0 epochs has a model folder too, but nothing was trained and no time is to be plotted.
    if not training.get("steps"):
        return None
    seconds = training.get("seconds")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise VixmlError(
            "a training took no time that can be",
            where=f"{path}: seconds",
            found=seconds,
            expected="seconds of training, above 0",
            hint="train the run again",
        )
    return float(seconds) / 3600


def metric_over_seeds(results: Sequence[Result], metric: str) -> Aggregate | None:
    """Summarise one metric over a run's seeds; None if there are none.

    Raises:
        VixmlError: a result without that metric (it never turns into a shorter table).
    """
    if not results:
        return None
    for result in results:
        if metric not in result.metrics:
            raise VixmlError(
                f"a score has no {metric}, which a table needs",
                where=result.folder / "scores.json",
                found=", ".join(result.metrics),
                hint="score the run again with this metric",
            )
    return aggregate([result.metrics[metric] for result in results])


def hours_over_seeds(results: Sequence[Result]) -> Aggregate | None:
    """Summarise training hours over seeds; None where nothing was trained."""
    hours = [result.hours for result in results if result.hours is not None]
    return aggregate(hours) if hours else None
