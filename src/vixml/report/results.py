"""Results read from score folders, their summary over seeds, and the verdict on a number beside a published one.

Nothing is computed from data here: one :class:`Result` per score folder, read and checked. :class:`Registry` says
whether a run can be repeated here, and whether its data and weights are the paper's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from scipy.special import stdtrit

from vixml import stages
from vixml.config.load import registry_files
from vixml.config.project import Project
from vixml.config.tables import spec_path
from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json
from vixml.manifest import holds, read_manifest, verify, verify_file
from vixml.provenance import MANIFEST
from vixml.stages import PLACES, place

# -- verdicts, and the interval that they rest on ------------------------------------------------------------------------

State = Literal["matches", "consistent", "above", "below", "not-comparable", "stand-in", "not-run", "blocked"]
STATES: tuple[State, ...] = get_args(State)
GREEN: frozenset[State] = frozenset({"matches", "consistent"})

MEANING: dict[State, str] = {
    "matches": "our mean lies within half of the last printed digit",
    "consistent": "the published value lies in the 95 % prediction interval of three or more of our seeds",
    "above": "our seeds lie above the published value, outside that interval",
    "below": "our seeds lie below the published value, outside that interval",
    "not-comparable": "there is a number of ours, but no ground to compare; the note says why",
    "stand-in": "measured here on data or weights that are not the paper's; it confirms nothing",
    "not-run": "nobody has run it here; for a published row the note predicts its cost",
    "blocked": "it cannot be run with this version; the note says what is missing",
}

MIN_SEEDS = 3
NOT_RUN = "not run"  # printed where there is nothing of ours


@dataclass(frozen=True)
class Aggregate:
    """One metric over n seeds of a run, in percent: mean and sample standard deviation (ddof 1), None for one seed."""

    mean: float
    sd: float | None
    n: int

    @property
    def _spread(self) -> float | None:
        """Return the standard deviation times the quantile of an interval, or None below three seeds."""
        return None if self.n < MIN_SEEDS or self.sd is None else t_quantile(self.n - 1) * self.sd

    @property
    def low(self) -> float | None:
        """Return the lower end of the 95 % t interval of the mean; None below three seeds."""
        return None if self._spread is None else self.mean - self._spread / math.sqrt(self.n)

    @property
    def high(self) -> float | None:
        """Return its upper end."""
        return None if self._spread is None else self.mean + self._spread / math.sqrt(self.n)

    def prediction(self) -> tuple[float, float] | None:
        """Return the 95 % interval in which one further run falls, or None below three seeds."""
        if self._spread is None:
            return None
        half = self._spread * math.sqrt(1 + 1 / self.n)
        return self.mean - half, self.mean + half


def mean_sd(value: Aggregate | None, decimals: int = 2, *, count: bool = True, none: str = NOT_RUN) -> str:
    """Print ours: mean, sample standard deviation, number of seeds.

    Example:
        >>> mean_sd(aggregate([49.0, 51.0])), mean_sd(aggregate([50.0]), 1, count=False), mean_sd(None)
        ('50.00 ± 1.41 (2)', '50.0', 'not run')
    """
    if value is None:
        return none
    sd = "" if value.sd is None else f" ± {value.sd:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{sd}" + (f" ({value.n})" if count else "")


def difference(one: Aggregate, other: Aggregate) -> tuple[float, float | None]:
    """Return the difference of two means, and half its 95 % interval (Welch); None below three seeds of either.

    Example:
        >>> gap, half = difference(Aggregate(50.0, 1.0, 3), Aggregate(50.0, 1.0, 3))
        >>> gap, round(half, 2)
        (0.0, 2.27)
    """
    gap = one.mean - other.mean
    if min(one.n, other.n) < MIN_SEEDS or one.sd is None or other.sd is None:
        return gap, None
    u, v = one.sd**2 / one.n, other.sd**2 / other.n
    if u + v == 0:
        return gap, 0.0
    df = (u + v) ** 2 / (u**2 / (one.n - 1) + v**2 / (other.n - 1))
    return gap, t_quantile(max(1, math.floor(df + 1e-9))) * math.sqrt(u + v)


@dataclass(frozen=True)
class Verdict:
    """A state and, where the state alone does not say it, why."""

    state: State
    why: str = ""


def aggregate(values: Sequence[float]) -> Aggregate:
    """Summarise one metric over seeds.

    Example:
        >>> a = aggregate([49.0, 50.0, 51.0])
        >>> a.mean, a.sd, a.n, round(a.low, 2), round(a.high, 2)
        (50.0, 1.0, 3, 47.52, 52.48)
    """
    n = len(values)
    if n == 0:
        raise ValueError("nothing to aggregate")
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return Aggregate(mean, sd, n)


def judge(
    ours: Aggregate | None,
    published: float | None,
    decimals: int = 2,
    *,
    stand_in: str | None = None,
    blocked: str | None = None,
    not_comparable: str | None = None,
    cost: str = "",
) -> Verdict:
    """Compare our number with the published one.

    The order matters: a stand-in is decided before any value is looked at, so no coincidence can turn it green.

    Args:
        ours: our seeds, or None if there are none.
        published: the published value, or None where nothing was published.
        decimals: decimals printed.
        stand_in: why the data or weights are not the paper's, if they are not.
        blocked: what is missing to run it, if anything.
        not_comparable: how the two differ, if they do.
        cost: predicted cost, for a row that was not run.
    """
    if ours is None:
        return Verdict("blocked", "; ".join(filter(None, (blocked, cost)))) if blocked else Verdict("not-run", cost)
    if stand_in:
        return Verdict("stand-in", stand_in)
    if not_comparable:
        return Verdict("not-comparable", not_comparable)
    if published is None:
        return Verdict("not-comparable", "nothing was published for this row")
    # 1e-9: decimal values such as 41.725 have no exact binary form.
    if abs(ours.mean - published) <= 0.5 * 10**-decimals + 1e-9:
        return Verdict("matches")
    interval = ours.prediction()
    if interval is None:
        return Verdict("not-comparable", f"{ours.n} of at least {MIN_SEEDS} seeds: no interval")
    if interval[0] - 1e-9 <= published <= interval[1] + 1e-9:
        return Verdict("consistent")
    return Verdict("above" if ours.mean > published else "below")


def t_quantile(df: int) -> float:
    """Return the 0.975 quantile of Student's t with ``df`` degrees of freedom."""
    if df < 1:
        raise ValueError("an interval needs two seeds or more")
    return float(stdtrit(df, 0.975))


# -- results ------------------------------------------------------------------------------------------------------------

SCHEMA_VERSION = 1  # of scores, trainings, latencies and summaries
STALE = "run its stage again with this version of vixml"
OLDER = "one of them belongs to an older corpus; snakemake runs it again"
KEYS = ("dataset", "run", "seed", "split", "metrics", "n_queries")
TRAINED = ("train", "build-index")  # stages whose folders a run that reuses a model shares with the run that trained it


@dataclass(frozen=True)
class Result:
    """The score of one run with one seed on one split."""

    dataset: str
    run: str
    seed: int
    split: str
    metrics: dict[str, float]  # name -> percent
    n_queries: int
    trained_as: str  # the run whose trained model was used: itself, or the one that it reuses
    # Measured training time without set-up, of that model and of other trainings that inference was chosen on, or of a
    # model that prediction fitted; None without training
    hours: float | None
    training: dict[str, Any]  # the rest of its ``training.json`` (device, precision, steps, ...), or empty
    manifest: dict[str, Any]  # of the score folder: commit, versions, machine, time
    folder: Path  # of the score
    scores: dict[str, Any] = field(default_factory=dict)  # the whole of its ``scores.json``
    # Measured milliseconds that a test query takes in bulk, from tokens and image embeddings to ranked labels; None
    # where it was not measured
    query_ms: float | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Return dataset, run and seed."""
        return self.dataset, self.run, self.seed

    @property
    def reuses(self) -> bool:
        """Return whether the model is another run's."""
        return self.trained_as != self.run

    def half_interval(self, metric: str) -> float | None:
        """Return half the 95 % interval over queries of a metric; None where its error was not computed."""
        error = (self.scores.get("standard_errors") or {}).get(metric)
        return None if error is None else t_quantile(max(self.n_queries - 1, 1)) * error

    def place(self, stage: str) -> Path:
        """Return the folder of a stage behind this score; model and index may be those of the run that it reuses."""
        run = self.trained_as if stage in TRAINED else self.run
        return place(stage, _root(self.folder), dataset=self.dataset, run=run, seed=self.seed, split=self.split)


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


def find_scores(results_dir: Path | str, runs: Collection[tuple[str, str]]) -> list[Path]:
    """Return the finished folders of test scores of ``runs``, by dataset and name, below ``results_dir``, sorted."""
    found = [(path, names) for path, names in stages.find("score", results_dir) if names["split"] == "test"]
    return [path for path, names in found if (names["dataset"], names["run"]) in runs and (path / MANIFEST).exists()]


def load(folders: Iterable[Path | str], split: str = "test") -> Results:
    """Read score folders.

    Raises:
        VixmlError: two results for one cell, a validation score where test is asked for, results of one dataset scored on
            different queries; errors of :func:`read_one`.
    """
    paths: dict[tuple[str, str, int], Path] = {}
    first: dict[str, Result] = {}  # of each dataset
    results = [read_one(folder) for folder in folders]
    for result in results:
        path = result.folder / "scores.json"
        if result.split != split:
            raise VixmlError(
                f"a score of the {result.split} split, where {split} is wanted",
                where=result.folder,
                hint="tables read test scores only, and tuning reads validation scores only: test selects nothing",
            )
        add_once(paths, result.key, path, "two results for one run and seed", "name each score folder once")
        other = first.setdefault(result.dataset, result)
        if other.n_queries != result.n_queries:
            what = "two results of one dataset were scored on different queries"
            found, expected = f"{result.n_queries} queries", f"{other.n_queries}, as in {other.folder}"
            raise VixmlError(what, where=path, found=found, expected=expected, hint=OLDER)
    results.sort(key=lambda result: result.key)
    return Results({key: tuple(found) for key, found in groupby(results, key=lambda result: result.key[:2])})


def add_once(paths: dict[Any, Path], key: object, path: Path, problem: str, hint: str) -> None:
    """Add a path under a key that must be new."""
    if key in paths:
        raise VixmlError(problem, where=path, found=f"also {paths[key]}", hint=hint)
    paths[key] = path


def read_one(folder: Path | str) -> Result:
    """Read one score folder, its manifest and, if a model was trained, its ``training.json``.

    A score written before runs could reuse a model has no ``trained_as``: it belongs to its run's model.

    Raises:
        VixmlError: missing files, another schema version, a metric that is no percentage, or a folder whose name and
            content disagree.
    """
    folder = Path(folder)
    path = folder / "scores.json"
    manifest = verify(folder)
    scores = read_versioned(path, STALE)
    missing = [key for key in KEYS if key not in scores]
    if missing:
        raise VixmlError("a score lacks a key", where=path, found=f"no {', '.join(missing)}", expected=", ".join(KEYS))
    for name, value in scores["metrics"].items():
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
            what, where, hint = "a metric is not a percentage", f"{path}: metrics.{name}", "score the run again"
            raise VixmlError(what, where=where, found=value, expected="a number from 0 to 100", hint=hint)
    content = place("score", "", **{key: scores[key] for key in ("dataset", "run", "seed", "split")})
    actual = Path(*folder.absolute().parts[-len(content.parts) :])
    what = "a score folder holds the score of something else"
    hint = "score folders are not to be moved or renamed; score the run again"
    expect_equal(content.as_posix(), actual.as_posix(), what, where=folder, hint=hint)
    result = Result(
        dataset=str(scores["dataset"]),
        run=str(scores["run"]),
        seed=int(scores["seed"]),
        split=str(scores["split"]),
        metrics={name: float(value) for name, value in scores["metrics"].items()},
        n_queries=int(scores["n_queries"]),
        trained_as=str(scores.get("trained_as", scores["run"])),
        hours=None,
        training={},
        manifest=manifest,
        folder=folder,
        scores=scores,
    )
    training, hours = _training(result)
    predicted = _manifest(result.place("predict"))
    if (seconds := predicted.get("facts", {}).get("training_seconds")) is not None:
        hours = seconds / 3600
    others = [run for run in scores.get("choice", {}).get("held_out_by", ()) if run != result.trained_as]
    spent = [hours, *(_training(replace(result, trained_as=run))[1] for run in others)]
    total = None if None in spent else sum(spent)
    return replace(result, training=training, hours=total, query_ms=_query_ms(result, predicted))


def _training(result: Result) -> tuple[dict[str, Any], float | None]:
    """Return the ``training.json`` of a result's model, and the hours that it took; nothing where nothing was trained."""
    path = result.place("train") / "training.json"
    if not holds(path.parent, path.name):
        return {}, None
    verify_file(path)
    training = read_versioned(path, STALE)
    # A run of 0 epochs has a model folder too, but nothing was trained and no time is to be plotted.
    if not training.get("steps"):
        return training, None
    seconds = training.get("seconds")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        what, expected = "a training has no valid time", "seconds of training, above 0"
        raise VixmlError(what, where=f"{path}: seconds", found=seconds, expected=expected, hint="train the run again")
    return training, float(seconds) / 3600


def _query_ms(result: Result, predicted: dict[str, Any]) -> float | None:
    """Return what encoding and ranking a query took, or ranking alone where nothing is encoded."""
    found = [predicted]
    if "index" in predicted.get("inputs", {}):
        found.append(_manifest(result.place("build-index")))
    taken = [made.get("facts", {}).get("milliseconds_per_query") for made in found]
    return None if None in taken else sum(taken)


def _manifest(folder: Path) -> dict[str, Any]:
    return read_manifest(folder) if (folder / MANIFEST).exists() else {}


def _root(score: Path) -> Path:
    """Return the folder of results that holds a score folder."""
    # Not `parents`: a relative path may have too few.
    return Path(os.path.normpath(score / "/".join([".."] * len(Path(PLACES["score"]).parts))))


def read_versioned(path: Path | str, hint: str) -> dict[str, Any]:
    """Read a JSON file of results.

    Raises:
        VixmlError: missing, or of another schema version; ``hint`` says how to make it again.
    """
    value = read_json(path)
    found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
    expect_equal(found, SCHEMA_VERSION, "a result of another schema version", where=path, hint=hint)
    return value


def metric_over_seeds(results: Sequence[Result], metric: str) -> Aggregate | None:
    """Summarise one metric over a run's seeds; None if there are none.

    Raises:
        VixmlError: a result without that metric (it never turns into a shorter table).
    """
    if not results:
        return None
    for result in results:
        if metric not in result.metrics:
            what, hint = f"a score has no {metric}, which a table needs", "score the run again with this metric"
            raise VixmlError(what, where=result.folder / "scores.json", found=", ".join(result.metrics), hint=hint)
    return aggregate([result.metrics[metric] for result in results])


def over_seeds(results: Sequence[Result], value: Literal["hours", "query_ms"]) -> Aggregate | None:
    """Summarise a measured time over seeds; None where there is none."""
    found = [getattr(result, value) for result in results if getattr(result, value) is not None]
    return aggregate(found) if found else None


# -- the registry: whether a run can be repeated, and whether it is a stand-in ---------------------------------


class Registry(Project):
    """A configuration that says of its runs and datasets whether they can repeat the paper's, or only stand in for them."""

    def blocked(self, dataset: str, run: str | None) -> str | None:
        """Return what is missing to run a published row here, or None."""
        if dataset not in self.world.datasets:
            return f"blocked on: {dataset} has no entry in config/datasets.yaml"
        if run is None:
            return "blocked on: no run here repeats this row"
        if (dataset, run) not in self.runs:
            return f"blocked on: no run {run} of {dataset} in config/runs"
        return None

    def stand_in(self, dataset: str, run: str) -> str | None:
        """Return why a run's data or weights are not the paper's, or None if they are."""
        world, reasons = self.world, []
        # Nobody vouches for data that are not registered.
        if dataset not in world.datasets or world.datasets[dataset].stand_in:
            reasons.append(f"dataset {self.title(dataset)}")
        config = self.runs.get((dataset, run))
        if config is None:
            return "stand-in: " + (reasons[0] if reasons else f"run {run} is in no file of config/runs")
        if config.needs_encoder:
            text = world.text_models.get(config.encoder.model)
            if text is None or not text.exact:
                reasons.append(f"altered weights of {text.title if text else config.encoder.model}")
            vision = world.vision_models.get(config.images.vision)
            if config.needs_embeddings and (vision is None or vision.stand_in):
                reasons.append(f"vision encoder {vision.title if vision else config.images.vision}")
        return "stand-in: " + ", ".join(reasons) if reasons else None

    def own_data(self, dataset: str) -> str | None:
        """Return that a dataset was read from a user's tables, or None: it is not the paper's, and stands in for nothing."""
        entry = self.world.datasets.get(dataset)
        return f"{entry.title} is your own data" if entry is not None and entry.builder == "catalogue" else None

    def title(self, dataset: str) -> str:
        """Return a dataset's title."""
        entry = self.world.datasets.get(dataset)
        return entry.title if entry else dataset


# -- inputs of the stages of this package, named for a manifest ---------------------------------------------------------


def stage_inputs(results: Results, config_dir: Path, kind: str, names: Sequence[str]) -> dict[str, Path]:
    """Return the inputs of a stage of this package: scores and trainings, the configuration, layouts of one kind."""
    config_dir, named = Path(config_dir), {}
    for result in results.all():
        key = f"{result.dataset}/{result.run}/seed{result.seed}/{result.split}"
        named[f"score/{key}"] = result.folder
        if holds(result.place("train"), "training.json"):
            named[f"training/{key}"] = result.place("train") / "training.json"
    reported, runs = (sorted(config_dir.glob(pattern)) for pattern in ("reported/*.csv", "runs/*.yaml"))
    files = [*reported, *registry_files(config_dir), *runs]
    folder = config_dir.parent if config_dir.is_file() else config_dir
    named |= {f"config/{os.path.relpath(path, folder)}": path for path in files}
    return named | {f"{kind}/{name}": spec_path(config_dir, f"{kind}s", name) for name in names}
