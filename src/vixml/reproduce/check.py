"""Check finished results in stages, from data to scores: a failure names its stage, and later stages are not looked at.

A number can only be right if everything in front of it is. So nothing is said of a score before the data, the tokens, the
image vectors, the models, the indexes and the predictions behind it were found in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from vixml.config.load import load_world, unknown_key
from vixml.config.world import World
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.provenance import MANIFEST
from vixml.reproduce import data_probes, model_probes, ranking_probes
from vixml.reproduce.sealed import Failed, NotThere, Ok, Outcome, Sealed, attempt

STAGES = ("data", "tokens", "images", "model", "index", "predictions", "scores")
SHOWN = 5  # failures, and things not there, that are printed of a stage

Check = Callable[[], Outcome]


@dataclass(frozen=True)
class StageReport:
    """What was found of one stage.

    Attributes:
        stage: one of :data:`STAGES`.
        n_folders: finished folders.
        said: what the checks had to say, each with how often.
        failed: every failure.
        not_there: what could not be looked at.
        unfinished: folders without a manifest.
    """

    stage: str
    n_folders: int
    said: dict[str, int]
    failed: list[Failed]
    not_there: list[str]
    unfinished: list[str]


@dataclass(frozen=True)
class Results:
    """The finished folders to look at.

    Attributes:
        folder: of all results.
        world: the registry.
        dataset: this one only; None for all.
        run: this one only, with the run whose model it uses; None for all.
        quick: take large files by their size.
    """

    folder: Path
    world: World
    dataset: str | None = None
    run: str | None = None
    quick: bool = False

    @cached_property
    def runs(self) -> list[tuple[str, str]]:
        """Return dataset and run of everything to look at."""
        there = [p.relative_to(self.folder / "runs").parts for p in sorted(self.folder.glob("runs/*/*")) if p.is_dir()]
        wanted = [(d, r) for d, r in there if self.dataset in (None, d) and self.run in (None, r)]
        used = {(d, model) for d, r in wanted for model in self._models_of(d, r)}
        return sorted({*wanted, *used})

    def _models_of(self, dataset: str, run: str) -> set[str]:
        """Return the runs whose models a run's predictions were made with."""
        folders = [p.parent for p in self.folder.glob(f"runs/{dataset}/{run}/seed*/*/predictions/{MANIFEST}")]
        whole = [
            f for f in (Sealed(path, self.folder) for path in folders) if isinstance(attempt(f.whole_manifest), Ok)
        ]
        return {f.config.get("trained_as", run) for f in whole}

    @cached_property
    def datasets(self) -> list[str]:
        """Return the datasets to look at."""
        if self.run is not None:
            return sorted({dataset for dataset, _ in self.runs})
        there = sorted(path.name for path in self.folder.glob("data/*") if path.is_dir())
        return [name for name in there if self.dataset in (None, name)]

    def folders(self, stage: str) -> list[Path]:
        """Return the folders of a stage, finished or not."""
        data = [self.folder / "data" / dataset for dataset in self.datasets]
        seeds = [p for d, r in self.runs for p in sorted((self.folder / "runs" / d / r).glob("seed*"))]
        # What a run of another name reads is looked at as far as its index.
        own = [p for p in seeds if self.run in (None, p.parent.name)]
        found = {
            "data": [p / "corpus" for p in data],
            "tokens": [q for p in data for q in sorted(p.glob("tokens/*"))],
            "images": [q for p in data for q in (p / "images", *sorted(p.glob("bank/*")))],
            "model": [*sorted(self.folder.glob("models/*")), *(p / "model" for p in seeds)],
            "index": [p / "index" for p in seeds],
            "predictions": [p / split / "predictions" for p in own for split in ("test", "validation")],
            "scores": [p / split / "score" for p in own for split in ("test", "validation")],
        }[stage]
        return [path for path in found if path.is_dir()]

    def corpus(self, dataset: str) -> Corpus | None:
        """Return a dataset's corpus; None if it is not finished."""
        folder = self.folder / "data" / dataset / "corpus"
        return Corpus.load(folder) if (folder / MANIFEST).exists() else None

    def checks(self, stage: str, folder: Sealed) -> list[Check]:
        """Return the checks of what lies in one folder, behind those of its manifest."""
        parts = folder.path.relative_to(self.folder).parts
        if parts[0] == "models":
            return []
        dataset = parts[1]
        if stage == "data":
            return [lambda: data_probes.counts(folder, dataset, self.world)]
        if parts[0] == "data":
            probes = {"tokens": data_probes.token_rows, "images": data_probes.coverage, "bank": data_probes.bank_norms}
            return [self._with_corpus(dataset, partial(probes[parts[2]], folder))]
        identity: dict[str, object] = {"dataset": dataset, "run": parts[2], "seed": int(parts[3].removeprefix("seed"))}
        if stage in ("predictions", "scores"):
            identity["split"] = parts[4]
        looked_at = {
            "index": [model_probes.unit_rows],
            "predictions": [ranking_probes.rankings, ranking_probes.exact_recall],
            "scores": [ranking_probes.same_scores],
        }.get(stage, [])
        checks: list[Check] = [lambda: folder.identity(**identity)]
        if stage == "model":
            checks.append(lambda: model_probes.training_record(folder, identity))
            if not self.quick:
                checks.append(lambda: model_probes.finite_weights(folder))
        return checks + [self._with_corpus(dataset, partial(probe, folder)) for probe in looked_at]

    def _with_corpus(self, dataset: str, probe: Callable[[Corpus], Outcome]) -> Check:
        def check() -> Outcome:
            corpus = self.corpus(dataset)
            return NotThere(f"the corpus of {dataset}") if corpus is None else probe(corpus)

        return check


def open_results(
    folder: Path, config_dir: Path, dataset: str | None = None, run: str | None = None, *, quick: bool = False
) -> Results:
    """Return the results to look at.

    Raises:
        VixmlError: a dataset or run without any result, or nothing finished at all: that nothing failed would say nothing.
    """
    everything = Results(folder, load_world(config_dir), quick=quick)
    known = sorted({*everything.datasets, *(d for d, _ in everything.runs)})
    if dataset is not None and dataset not in known:
        raise unknown_key(dataset, known, f"--dataset: {folder}")
    runs = sorted({r for d, r in everything.runs if dataset in (None, d)})
    if run is not None and run not in runs:
        raise unknown_key(run, runs, f"--run: {folder}/runs")
    chosen = Results(folder, everything.world, dataset, run, quick)
    if not any((path / MANIFEST).exists() for stage in STAGES for path in chosen.folders(stage)):
        raise VixmlError(
            "there is nothing to check",
            where=folder,
            found="no finished stage",
            hint="make some results, e.g. `make demo`",
        )
    return chosen


def inspect(results: Results) -> Iterator[StageReport]:
    """Yield what was found of each stage, in order; the one that fails is the last."""
    for stage in STAGES:
        report = inspect_stage(results, stage)
        yield report
        if report.failed:
            return


def inspect_stage(results: Results, stage: str) -> StageReport:
    """Look at all folders of one stage; a folder's first failure ends the look at that folder only."""
    folders = results.folders(stage)
    finished = [path for path in folders if (path / MANIFEST).exists()]
    outcomes: list[Outcome] = []
    if stage == "data":
        outcomes.append(
            attempt(lambda: data_probes.raw_files(results.folder, results.world, results.quick), results.folder / "raw")
        )
    for path in finished:
        outcomes += _look(results, stage, Sealed(path, results.folder))
    return StageReport(
        stage=stage,
        n_folders=len(finished),
        said=dict(Counter(o.said for o in outcomes if isinstance(o, Ok) and o.said)),
        failed=[o for o in outcomes if isinstance(o, Failed)],
        not_there=list(dict.fromkeys(o.what for o in outcomes if isinstance(o, NotThere))),
        unfinished=[str(path) for path in folders if path not in finished],
    )


def _look(results: Results, stage: str, folder: Sealed) -> Iterator[Outcome]:
    checks = folder.checks(results.quick)
    yield (whole := attempt(checks[0], folder.path))
    if isinstance(whole, Failed):
        return
    # The stage's own checks say more than that a hash differs, so they come before it.
    for check in [*results.checks(stage, folder), *checks[1:]]:
        yield (outcome := attempt(check, folder.path))
        if isinstance(outcome, Failed):
            return


def line(report: StageReport) -> str:
    """Return the line of one stage, and below it every failure."""
    word = "FAILED" if report.failed else "ok" if report.n_folders else "not there"
    folders = f"{report.n_folders} folder{'' if report.n_folders == 1 else 's'}" if report.n_folders else ""
    said = [f"{text} ({n} times)" if n > 1 else text for text, n in report.said.items()]
    parts = [folders, *([] if report.failed else said)]
    if report.unfinished:
        parts.append(f"{len(report.unfinished)} unfinished")
    if report.not_there:
        parts.append("not compared: " + _some(report.not_there))
    lines = [f"{report.stage:<12} {word:<10} {'; '.join(filter(None, parts))}".rstrip()]
    for failure in report.failed[:SHOWN]:
        lines += [f"  {text}" for text in str(failure).splitlines()]
    if len(report.failed) > SHOWN:
        lines.append(f"  and {len(report.failed) - SHOWN} more")
    return "\n".join(lines)


def last_line(reports: Sequence[StageReport]) -> str:
    """Return what it comes to."""
    failed = next((report.stage for report in reports if report.failed), None)
    if failed is None:
        return "every stage that is there is in order"
    later = STAGES[STAGES.index(failed) + 1 :]
    rest = f"; not looked at: {', '.join(later)}" if later else ""
    return f"the stage {failed} failed{rest}. Run snakemake again; if it finds nothing to do, delete the folder first"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
