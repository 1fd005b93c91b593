"""Tables, ready to print: published values in the paper's shape, ours beside them, a verdict for each.

:func:`build_table` lays out scores as ``config/tables`` says: every published cell of the paper's table must find its place
exactly once, and no cell can appear that was not published. :mod:`vixml.report.facts` lays out the other tables, and
:mod:`vixml.report.write_tables` prints both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vixml.config.published import Claim, TrainingRun, has_published, load_claims, load_training_runs
from vixml.config.tables import FactsSpec, MeasuredBlock, MeasuredRow, TableSpec
from vixml.config.tables import Row as PrintedRow
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import load_train_sizes, predict, predict_run
from vixml.report.results import (
    STATES,
    Aggregate,
    Registry,
    Result,
    Results,
    Verdict,
    hours_over_seeds,
    judge,
    metric_over_seeds,
)

NOT_RUN = "not run"  # printed where there is nothing of ours


@dataclass(frozen=True)
class Cell:
    """One column of one row: what was published, what is ours, and what may be said of the two.

    Attributes:
        column: its heading; of a score, the metric.
        published: as printed; empty where nothing was published.
        ours: a score over seeds, or a text; None where there is nothing of ours.
        verdict: of the two.
        claim: of a published score, the entry of reported_results.csv.
    """

    column: str
    published: str
    ours: Aggregate | str | None
    verdict: Verdict
    claim: Claim | None = None


@dataclass(frozen=True)
class Row:
    """One row of a section; all but the first three are of scores alone.

    Attributes:
        label: its heading.
        cells: in the order of the table's columns; some may be missing.
        note: a remark.
        block: the heading that it stands under, with other rows.
        params: size of the language model, as printed.
        run: our run, or None where no run repeats the row.
        paper_run: the paper's training run.
        seeds: of the results.
        hours: of training, over seeds.
    """

    label: str
    cells: tuple[Cell, ...]
    note: str = ""
    block: str = ""
    params: str = ""
    run: str | None = None
    paper_run: str | None = None
    seeds: tuple[int, ...] = ()
    hours: Aggregate | None = None

    @property
    def verdict(self) -> str:
        """Return one state if all cells share it, else each with its column."""
        states = [cell.verdict.state for cell in self.cells]
        if len(set(states)) == 1:
            return states[0]
        return ", ".join(f"{cell.column} {cell.verdict.state}" for cell in self.cells)

    @property
    def reasons(self) -> list[str]:
        """Return the reasons of its verdicts, each once."""
        return list(dict.fromkeys(part for cell in self.cells for part in cell.verdict.why.split("; ") if part))

    def remarks(self, without: Sequence[str] = ()) -> str:
        """Return its note and reasons as one text, less the reasons printed elsewhere."""
        return "; ".join(filter(None, (self.note, *(why for why in self.reasons if why not in without))))

    def in_order(self, columns: Sequence[str]) -> list[Cell | None]:
        """Return its cells by the table's columns; None where the paper left a blank."""
        cells = {cell.column: cell for cell in self.cells}
        return [cells.get(column) for column in columns]


@dataclass(frozen=True)
class Section:
    """Rows under one heading; ``published`` says whether the paper has them, ``dataset`` whose scores they are."""

    title: str
    published: bool
    rows: tuple[Row, ...]
    dataset: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Return what is printed of each cell, in columns of their own."""
        if not self.published:
            return ("ours",)
        return (
            ("paper", "ours", "Δ") if any(cell.claim for row in self.rows for cell in row.cells) else ("paper", "ours")
        )

    @property
    def of_runs(self) -> bool:
        """Return whether its rows are runs of ours, which have a training time."""
        return not self.published and any(row.run for row in self.rows)

    @property
    def has_params(self) -> bool:
        """Return whether a row has a size of its language model."""
        return any(row.params for row in self.rows)

    @property
    def shared_reasons(self) -> list[str]:
        """Return the reasons that every row gives: printed once above the section."""
        first, *others = [row.reasons for row in self.rows]
        return [why for why in first if all(why in other for other in others)]

    @property
    def ran(self) -> bool:
        """Return whether a cell holds something of ours."""
        return any(cell.ours is not None for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class Table:
    """One table, ready to print.

    Attributes:
        spec: its shape.
        columns: headings of the cells; of scores, metrics.
        sections: rows under their headings.
        compared: whether there are published values at all; a user's own data has none.
    """

    spec: TableSpec | FactsSpec
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    compared: bool = True

    @property
    def scored(self) -> bool:
        """Return whether its cells are scores."""
        return isinstance(self.spec, TableSpec)

    @property
    def ran(self) -> bool:
        """Return whether a cell holds something of ours."""
        return any(section.ran for section in self.sections)

    def cells(self, published: bool) -> list[Cell]:
        """Return the published cells, or those of rows measured here."""
        return [c for s in self.sections if s.published == published for row in s.rows for c in row.cells]

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
    costs: dict[tuple[str, str], str] = field(default_factory=dict)  # what runs would cost, each predicted once

    @classmethod
    def load(cls, config_dir: Path | str, results: Results) -> Sources:
        """Read the published numbers, where the folder has any, and the registry."""
        registry = Registry.load(config_dir)
        if not has_published(config_dir):
            return cls([], {}, {}, registry, results)
        claims, runs = load_claims(config_dir), load_training_runs(config_dir)
        return cls(claims, runs, load_train_sizes(config_dir), registry, results)


def build_table(spec: TableSpec, sources: Sources) -> Table:
    """Build one table of scores.

    Raises:
        VixmlError: a published cell that no row of the spec selects, or two rows select; a selector that finds nothing.
    """
    where = f"config/tables/{spec.id}.yaml"
    published = [c for c in sources.claims if c.source == spec.source and c.table == spec.paper_table]
    by_cell = _place(spec, published, where)
    sections = [
        Section(sources.registry.title(dataset), True, rows, dataset)
        for dataset in spec.datasets
        if (rows := _published_rows(spec, dataset, by_cell, sources))
    ]
    sections += [_measured_section(spec, block, sources) for block in spec.measured]
    return Table(spec, tuple(spec.metrics), tuple(sections), compared=bool(sources.claims))


def _rows(spec: TableSpec) -> list[tuple[str, int, PrintedRow]]:
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


def _published_rows(
    spec: TableSpec, dataset: str, by_cell: dict[tuple[int, str, str], Claim], sources: Sources
) -> tuple[Row, ...]:
    rows = []
    for block, index, row in _rows(spec):
        claims = [claim for metric in spec.metrics if (claim := by_cell.get((index, dataset, metric))) is not None]
        if not claims:
            continue
        results = sources.results.of(dataset, row.run, row.seed)
        cells = tuple(_published_cell(claim, row, results, sources) for claim in claims)
        rows.append(_row(row, results, cells, block=block, params=claims[0].row["params"], paper_run=claims[0].run))
    return tuple(rows)


def _published_cell(claim: Claim, row: PrintedRow, results: Sequence[Result], sources: Sources) -> Cell:
    registry = sources.registry
    ours = metric_over_seeds(results, claim.metric)
    verdict = judge(
        ours,
        claim.value,
        claim.decimals,
        stand_in=registry.stand_in(claim.dataset, row.run) if row.run else None,
        blocked=registry.blocked(claim.dataset, row.run),
        not_comparable="the paper quotes this number from others" if claim.quoted else None,
        cost=_cost(claim, row, claim.dataset, sources),
    )
    return Cell(claim.metric, claim.printed, ours, verdict, claim)


def _cost(claim: Claim, row: PrintedRow, dataset: str, sources: Sources) -> str:
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
    rows = []
    for row in block.rows:
        results = sources.results.of(block.dataset, row.run, row.seed)
        stand_in, blocked = (
            ask(block.dataset, row.run) for ask in (sources.registry.stand_in, sources.registry.blocked)
        )
        cells = []
        for metric in spec.metrics:
            ours = metric_over_seeds(results, metric)
            verdict = judge(ours, None, stand_in=stand_in, blocked=blocked)
            if ours is not None and not sources.claims:
                verdict = Verdict("not-comparable")  # nothing was published at all, so there is nothing to stand in for
            cells.append(Cell(metric, "", ours, verdict))
        rows.append(_row(row, results, tuple(cells), block="measured here", note=row.note))
    return Section(block.title, False, tuple(rows), block.dataset)


def _row(
    spec: PrintedRow | MeasuredRow, results: Sequence[Result], cells: tuple[Cell, ...], **described: str | None
) -> Row:
    seeds = tuple(result.seed for result in results)
    return Row(spec.label, cells, run=spec.run, seeds=seeds, hours=hours_over_seeds(results), **described)
