"""The stage ``make-tuning``: validation scores of a grid of runs side by side, from which settings are chosen.

Only scores on queries held out of *train* are read; a test score is refused, so that test data cannot select anything.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from vixml.config.load import validate
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.provenance import MANIFEST, read_manifest, stage
from vixml.report.results import MIN_SEEDS, Aggregate, Result, aggregate, load, mean_sd, metric_over_seeds
from vixml.text import csv_cell, markdown

SPLIT = "validation"
METRICS = ("P@1", "P@5", "PSP@1", "R@100")
# P@1 on the held-out queries after the last epoch, as training.json has it -> by which vectors, as the page says.
DIAGNOSTICS = {"P@1/u": "by u", "P@1/z": "by z", "P@1/centroid": "by centroid", "P@1/knn": "by kNN"}
COLUMNS = {metric: metric for metric in METRICS} | DIAGNOSTICS | {"minutes": "minutes"}
IDENTITY = ("dataset", "run", "seed")

# Runs that differ in which queries are held out, and are called so, share a row.
ON_A_SPLIT = re.compile(r"-split\d+$")

NOTE = (
    "One row per run; mean ± sample standard deviation over seeds and splits (their number), in percent. "
    "P@1 to R@100: the finished run's predictions for queries that it held out. "
    "`by ...`: P@1 on the same queries after the last epoch, by text vector u, prototype z, label centroid, or vote of the "
    "20 nearest training queries. Minutes: training without set-up."
)
DIFFERENCES = "Points, pair by pair of the same held-out queries and seed; in brackets the 95 % t interval of the mean."


class TunedRun:
    """One run of the grid, or one on several splits (``NAME-split0``, ``NAME-split1``, ...).

    Its ``config`` is as resolved when its model was trained; of a run that reuses one, that run's.

    Raises:
        VixmlError: seeds or splits trained with unlike settings, or a training without diagnostics.
    """

    def __init__(self, dataset: str, run: str, results: Sequence[Result]) -> None:
        configs = [_trained_config(result) for result in results]
        for config, result in zip(configs, results, strict=True):
            if _on_any_split(config) != _on_any_split(configs[0]):
                raise VixmlError(
                    "two seeds or splits of one run were trained with unlike settings",
                    where=result.place("train") / MANIFEST,
                    expected=f"the config in {results[0].place('train') / MANIFEST}",
                    hint="one of them is older; snakemake trains it again",
                )
        self.dataset, self.run, self.results, self.config = dataset, run, results, configs[0]
        splits = [config.training.validation_split for config in configs]
        self.cells = [(split, result.seed) for split, result in zip(splits, results, strict=True)]
        # Each of :data:`COLUMNS` over seeds, None where nothing was trained; and the numbers of each result.
        self.summary: dict[str, Aggregate | None] = dict.fromkeys(COLUMNS)
        self.summary |= {metric: metric_over_seeds(results, metric) for metric in METRICS}
        self.numbers = [{metric: result.metrics[metric] for metric in METRICS} for result in results]
        if all(result.hours is not None for result in results):
            for result, numbers in zip(results, self.numbers, strict=True):
                numbers |= {key: _diagnostic(result, key) for key in DIAGNOSTICS} | {"minutes": 60 * result.hours}
            self.summary = {name: aggregate([numbers[name] for numbers in self.numbers]) for name in COLUMNS}

    @property
    def order(self) -> tuple[str, str, float, float, str]:
        """Return the sort key: dataset, modality and learning rates."""
        rates = self.config.optimizer
        return self.dataset, self.config.modality, rates.lr, rates.lr_new, self.run


def make_tuning(scores: Sequence[Path], out: Path) -> None:
    """Write ``tuning.csv`` and ``tuning.md``.

    Raises:
        VixmlError: no score, a test score, a score without its model folder, or seeds trained with unlike settings.
    """
    runs = read_runs(scores)
    config = {"split": SPLIT, "metrics": list(METRICS), "diagnostics": list(DIAGNOSTICS)}
    inputs: dict[str, Path] = {}
    for result in (result for run in runs for result in run.results):
        key = f"{result.dataset}/{result.run}/seed{result.seed}"
        inputs |= {f"score/{key}": result.folder, f"model/{key}": result.place("train")}
    with stage(out, "make-tuning", config=config, inputs=inputs) as work:
        write_text(work / "tuning.csv", to_csv(runs))
        write_text(work / "tuning.md", to_markdown(runs))


def read_runs(scores: Sequence[Path]) -> list[TunedRun]:
    """Read validation scores and the configuration of each training, in the order of the table."""
    if not scores:
        raise VixmlError("no score to compare", expected="validation score folders", hint="name each with --score")
    by_row: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for (dataset, run), results in sorted(load(scores, split=SPLIT).by_run.items()):
        by_row[dataset, ON_A_SPLIT.sub("", run)] += results
    return sorted((TunedRun(*key, results) for key, results in by_row.items()), key=lambda run: run.order)


def _on_any_split(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"validation_split": 0})})


def _trained_config(result: Result) -> RunConfig:
    path = result.place("train") / MANIFEST
    config = dict(read_manifest(path.parent)["config"])
    found = [config.pop(key, None) for key in IDENTITY]
    if found != [result.dataset, result.trained_as, result.seed]:
        found, expected = " ".join(map(str, found)), f"{result.dataset} {result.trained_as} {result.seed}"
        hint = "result folders are not to be moved or renamed; train the run again"
        raise VixmlError("a model folder holds another run", where=path, found=found, expected=expected, hint=hint)
    return validate(RunConfig, config | {"row": {}}, path)


def _diagnostic(result: Result, key: str) -> float:
    last = result.training.get("last_epoch") or {}
    if not isinstance(last.get(key), int | float):
        what, where = f"a training did not measure {key} on held-out queries", result.place("train") / "training.json"
        hint = "train the run again, with training.validation above 0"
        raise VixmlError(what, where=f"{where}: last_epoch", found=", ".join(last) or "nothing", hint=hint)
    return float(last[key])


def first_line(runs: Sequence[TunedRun]) -> str:
    """Return a heading such as ``Scores on 679 held-out train queries of picto; test was not read``."""
    sizes = {run.dataset: run.results[0].n_queries for run in runs}
    queries = ", ".join(f"{n:,} held-out train queries of {dataset}" for dataset, n in sorted(sizes.items()))
    splits = len({split for run in runs for split, _ in run.cells})
    return f"Scores on {queries}{f' in each of {splits} splits' if splits > 1 else ''}; test was not read"


def paired(runs: Sequence[TunedRun]) -> list[tuple[str, str, dict[str, Aggregate]]]:
    """Return the differences of every two runs of one modality, pair by pair of the same split and seed.

    That is the second run's numbers less the first's; only where three pairs or more give an interval.
    """
    found = []
    for first, second in itertools.combinations(runs, 2):
        cells = [cell for cell in first.cells if cell in second.cells]
        if (first.dataset, first.config.modality) != (second.dataset, second.config.modality) or len(cells) < MIN_SEEDS:
            continue
        one, other = (dict(zip(run.cells, run.numbers, strict=True)) for run in (first, second))
        names = [name for name in one[cells[0]] if name in other[cells[0]] and name != "minutes"]
        gaps = {name: aggregate([other[cell][name] - one[cell][name] for cell in cells]) for name in names}
        found.append((first.run, second.run, gaps))
    return found


def to_markdown(runs: Sequence[TunedRun]) -> str:
    """Return the table for people."""
    settings: dict[str, Callable[[TunedRun], str]] = {
        "run": lambda run: run.run,
        "modality": lambda run: run.config.modality,
        "lr": lambda run: f"{run.config.optimizer.lr:g}",
        "lr_new": lambda run: f"{run.config.optimizer.lr_new:g}",
        "warm-up": _warmup,
        "epochs": lambda run: str(run.config.training.epochs),
    }
    rows = []
    for run in runs:
        numbers = [mean_sd(run.summary[name], 1 if name == "minutes" else 2, none="–") for name in COLUMNS]
        rows.append([*(text(run) for text in settings.values()), *numbers])
    out = [f"# {first_line(runs)}", "", NOTE, "", markdown([*settings, *COLUMNS.values()], rows, words={1})]
    if pairs := paired(runs):
        names = list(dict.fromkeys(name for _, _, gaps in pairs for name in gaps))
        rows = [
            [second, first, str(next(iter(gaps.values())).n), *(_gap(gaps.get(name)) for name in names)]
            for first, second, gaps in pairs
        ]
        heads = ["second run", "less first run", "pairs", *(COLUMNS[name] for name in names)]
        out += ["## Differences", "", DIFFERENCES, "", markdown(heads, rows, words={1})]
    return "\n".join(out)


def _gap(gap: Aggregate | None) -> str:
    return "–" if gap is None else f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"


def _warmup(run: TunedRun) -> str:
    optimizer = run.config.optimizer
    new = optimizer.warmup_steps_new
    return str(optimizer.warmup_steps) + ("" if new is None else f" (new parts {new})")


def to_csv(runs: Sequence[TunedRun]) -> str:
    """Return the table for programs: mean and sample standard deviation in separate columns."""
    rows = []
    for run in runs:
        row = {"dataset": run.dataset, "split": SPLIT, "n_queries": run.results[0].n_queries, "run": run.run}
        row["modality"], optimizer = run.config.modality, run.config.optimizer
        row |= {name: getattr(optimizer, name) for name in ("lr", "lr_new", "warmup_steps", "warmup_steps_new")}
        splits, seeds = (" ".join(str(cell[i]) for cell in run.cells) for i in (0, 1))
        row |= {"epochs": run.config.training.epochs, "splits": splits, "seeds": seeds, "n": len(run.results)}
        for name, value in run.summary.items():
            mean, sd = (None, None) if value is None else (value.mean, value.sd)
            row |= {name: None if mean is None else f"{mean:.4f}", f"{name} sd": None if sd is None else f"{sd:.4f}"}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).map(csv_cell).to_csv(index=False, lineterminator="\n")
