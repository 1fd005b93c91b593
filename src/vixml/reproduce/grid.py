"""Build a table: published cells in the paper's shape, ours beside them in columns of their own, a verdict for each.

The shape comes from ``config/tables``; every published cell of the paper's table must find its place exactly once, and
no cell can appear that was not published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vixml.errors import VixmlError
from vixml.reproduce.assumptions import HARDWARE
from vixml.reproduce.claims import Claim, TrainingRun, has_published, load_claims, load_training_runs
from vixml.reproduce.cost import load_train_sizes, predict, predict_run
from vixml.reproduce.registry import Registry
from vixml.reproduce.results import Result, Results, hours_over_seeds, metric_over_seeds
from vixml.reproduce.specs import MeasuredBlock, Row, TableSpec
from vixml.reproduce.verdicts import STATES, Aggregate, Verdict, judge


@dataclass(frozen=True)
class Cell:
    """One metric of one row: what was published, what was measured here, and what may be said of the two."""

    metric: str
    claim: Claim | None
    ours: Aggregate | None
    verdict: Verdict


@dataclass(frozen=True)
class Line:
    """One row of a section."""

    block: str
    label: str
    params: str
    run: str | None
    paper_run: str | None
    note: str
    seeds: tuple[int, ...]
    hours: Aggregate | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """The rows of one dataset; ``published`` says whether the paper has them."""

    dataset: str
    title: str
    published: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """One table, ready to print."""

    spec: TableSpec
    sections: tuple[Section, ...]

    def cells(self, published: bool) -> list[Cell]:
        """Return the published cells, or the rows measured here."""
        return [c for s in self.sections if s.published == published for line in s.lines for c in line.cells]

    def states(self, published: bool) -> dict[str, int]:
        """Count the verdicts; every state is there, also with 0."""
        counts = Counter(cell.verdict.state for cell in self.cells(published))
        return {state: counts[state] for state in STATES}


@dataclass(frozen=True)
class Sources:
    """Everything a table reads besides its own shape."""

    claims: list[Claim]
    runs: dict[str, TrainingRun]
    sizes: dict[str, int]
    registry: Registry
    results: Results
    costs: dict[tuple[str, str], str] = field(default_factory=dict)  # what runs would cost, each counted once

    @classmethod
    def load(cls, config_dir: Path | str, results: Results) -> Sources:
        """Read the published numbers, where the folder has any, and the registry."""
        registry = Registry.load(config_dir)
        if not has_published(config_dir):
            return cls([], {}, {}, registry, results)
        claims, runs = load_claims(config_dir), load_training_runs(config_dir)
        return cls(claims, runs, load_train_sizes(config_dir), registry, results)


def build_table(spec: TableSpec, sources: Sources) -> Table:
    """Build one table.

    Raises:
        VixmlError: a published cell that no row of the spec selects, or two rows select; a selector that finds nothing.
    """
    where = f"config/tables/{spec.id}.yaml"
    published = [c for c in sources.claims if c.source == spec.source and c.table == spec.paper_table]
    by_cell = _place(spec, published, where)
    sections = [
        Section(dataset, sources.registry.title(dataset), True, lines)
        for dataset in spec.datasets
        if (lines := _published_lines(spec, dataset, by_cell, sources))
    ]
    sections += [_measured_section(spec, block, sources) for block in spec.measured]
    return Table(spec, tuple(sections))


def build_tables(specs: Sequence[TableSpec], sources: Sources) -> list[Table]:
    """Build several tables."""
    return [build_table(spec, sources) for spec in specs]


def _rows(spec: TableSpec) -> list[tuple[str, int, Row]]:
    rows = [(block.title, row) for block in spec.blocks for row in block.rows]
    return [(title, index, row) for index, (title, row) in enumerate(rows)]


def _place(spec: TableSpec, published: list[Claim], where: str) -> dict[tuple[int, str, str], Claim]:
    """Return {(row, dataset, metric): claim}; each claim exactly once."""
    placed: dict[tuple[int, str, str], Claim] = {}
    used: Counter[int] = Counter()
    for _, index, row in _rows(spec):
        found = False
        for number, claim in enumerate(published):
            if not claim.selected_by(row.claim):
                continue
            key = (index, claim.dataset, claim.metric)
            if key in placed or used[number]:
                raise VixmlError(
                    "a row selects a published cell that already has a place, or two cells for one place",
                    where=f"{where}: row {row.label!r}",
                    found=f"{claim.dataset} {claim.metric} {claim.printed} {claim.row['method']}",
                    hint="name more columns under `claim`",
                )
            placed[key], found = claim, True
            used[number] += 1
        if not found:
            raise VixmlError(
                f"a row selects no published cell of {spec.paper_table}",
                where=f"{where}: row {row.label!r}",
                found=row.claim,
                hint="compare with reported/reported_results.csv of this configuration's folder",
            )
    for number, claim in enumerate(published):
        shown = used[number] and claim.dataset in spec.datasets and claim.metric in spec.metrics
        if not shown:
            raise VixmlError(
                "a published cell has no place in the table",
                where=where,
                found=f"{claim.dataset} {claim.metric} {claim.printed}: {claim.row['method']}, {claim.row['backbone']}",
                hint="add its row, dataset or metric",
            )
    return placed


def _published_lines(
    spec: TableSpec, dataset: str, by_cell: dict[tuple[int, str, str], Claim], sources: Sources
) -> tuple[Line, ...]:
    lines = []
    for block, index, row in _rows(spec):
        claims = [by_cell.get((index, dataset, metric)) for metric in spec.metrics]
        first = next((c for c in claims if c is not None), None)
        if first is None:
            continue
        results = sources.results.of(dataset, row.run, row.seed)
        cells = tuple(
            _published_cell(metric, claim, row, dataset, results, sources)
            for metric, claim in zip(spec.metrics, claims, strict=True)
            if claim is not None
        )
        params = first.row["params"]
        lines.append(_line(block, row.label, row.run, results, cells, params=params, paper_run=first.run))
    return tuple(lines)


def _published_cell(
    metric: str, claim: Claim, row: Row, dataset: str, results: Sequence[Result], sources: Sources
) -> Cell:
    registry = sources.registry
    ours = metric_over_seeds(results, metric)
    verdict = judge(
        ours,
        claim.value,
        claim.decimals,
        stand_in=registry.stand_in(dataset, row.run) if row.run else None,
        blocked=registry.blocked(dataset, row.run),
        not_comparable="the paper quotes this number from others" if claim.quoted else None,
        cost=_cost(claim, row, dataset, sources),
    )
    return Cell(metric, claim, ours, verdict)


def _cost(claim: Claim, row: Row, dataset: str, sources: Sources) -> str:
    """Return what a row would cost: of our run if there is one, else of the paper's as its table describes it."""
    registry = sources.registry
    entry = registry.world.datasets.get(dataset)
    config = registry.runs.get((dataset, row.run)) if row.run else None
    if entry is not None and entry.expect is not None and config is not None and config.needs_encoder:
        if (dataset, row.run) not in sources.costs:
            cost = predict_run(registry.world, dataset, config, HARDWARE["gpu"])
            sources.costs[dataset, row.run] = str(cost)
        return sources.costs[dataset, row.run]
    run = sources.runs.get(claim.run) if claim.run else None
    return str(predict(run, claim.row["params"], sources.sizes)) if run else ""


def _measured_section(spec: TableSpec, block: MeasuredBlock, sources: Sources) -> Section:
    lines = []
    for row in block.rows:
        results = sources.results.of(block.dataset, row.run, row.seed)
        reason, blocked = (ask(block.dataset, row.run) for ask in (sources.registry.stand_in, sources.registry.blocked))
        cells = []
        for metric in spec.metrics:
            ours = metric_over_seeds(results, metric)
            cells.append(Cell(metric, None, ours, judge(ours, None, stand_in=reason, blocked=blocked)))
        lines.append(_line("measured here", row.label, row.run, results, tuple(cells), note=row.note))
    return Section(block.dataset, block.title, False, tuple(lines))


def _line(
    block: str,
    label: str,
    run: str | None,
    results: Sequence[Result],
    cells: tuple[Cell, ...],
    *,
    params: str = "",
    paper_run: str | None = None,
    note: str = "",
) -> Line:
    seeds = tuple(result.seed for result in results)
    return Line(block, label, params, run, paper_run, note, seeds, hours_over_seeds(results), cells)
