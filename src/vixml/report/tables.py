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

from vixml.config.published import PublishedValue, TrainingRun, has_published, load_published, load_training_runs
from vixml.config.tables import FactsSpec, MeasuredBlock, MeasuredRow, TableSpec
from vixml.config.tables import Row as PublishedRow
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
    """One column of one row: the published value, ours, and the verdict.

    Attributes:
        column: its heading; of a score, the metric.
        published: as printed; empty where nothing was published.
        ours: a score over seeds, or a text; None where there is nothing of ours.
        verdict: of the two.
        entry: of a published score, that of reported_results.csv.
    """

    column: str
    published: str
    ours: Aggregate | str | None
    verdict: Verdict
    entry: PublishedValue | None = None


@dataclass(frozen=True)
class Row:
    """One row of a section; all but the first three are of scores alone.

    Attributes:
        label: its heading.
        cells: in the order of the table's columns; some may be missing.
        note: a remark.
        block: the heading of its group of rows.
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
        """Return its note and reasons as one text, without the reasons printed elsewhere."""
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
        """Return what is printed of each cell, each in a separate column."""
        if not self.published:
            return ("ours",)
        return (
            ("paper", "ours", "Δ") if any(cell.entry for row in self.rows for cell in row.cells) else ("paper", "ours")
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
        """Count the verdicts; every state is listed, also with 0."""
        counts = Counter(cell.verdict.state for cell in self.cells(published))
        return {state: counts[state] for state in STATES}


@dataclass(frozen=True)
class Sources:
    """Everything a table reads besides its layout: the configuration's folder, what it holds, and the results."""

    published: list[PublishedValue]
    runs: dict[str, TrainingRun]
    sizes: dict[str, int]
    registry: Registry
    results: Results
    config_dir: Path
    costs: dict[tuple[str, str], str] = field(default_factory=dict)  # what runs would cost, each predicted once

    @classmethod
    def load(cls, config_dir: Path | str, results: Results) -> Sources:
        """Read the published numbers, where the folder has any, and the registry."""
        registry = Registry.load(config_dir)
        if not has_published(config_dir):
            return cls([], {}, {}, registry, results, Path(config_dir))
        published, runs = load_published(config_dir), load_training_runs(config_dir)
        return cls(published, runs, load_train_sizes(config_dir), registry, results, Path(config_dir))


def build_table(spec: TableSpec, sources: Sources) -> Table:
    """Build one table of scores.

    Raises:
        VixmlError: a published cell that no row of the spec selects, or two rows select; a selector that finds nothing.
    """
    published = [one for one in sources.published if (one.source, one.table) == (spec.source, spec.paper_table)]
    placed = _place(spec, published)
    sections = [
        Section(sources.registry.title(dataset), True, rows, dataset)
        for dataset in spec.datasets
        if (rows := _published_rows(spec, dataset, placed, sources))
    ]
    sections += [_measured_section(spec, block, sources) for block in spec.measured]
    return Table(spec, tuple(spec.metrics), tuple(sections), compared=bool(sources.published))


# Heading, row, and its published values by dataset and metric.
Placed = tuple[str, PublishedRow, dict[tuple[str, str], PublishedValue]]


def _place(spec: TableSpec, published: Sequence[PublishedValue]) -> list[Placed]:
    """Return the rows of a table with the published values that each selects; each value exactly once."""
    where, placed, free = f"config/tables/{spec.id}.yaml", [], set(range(len(published)))
    for block in spec.blocks:
        for row in block.rows:
            cells: dict[tuple[str, str], PublishedValue] = {}
            for number, value in enumerate(published):
                if not value.selected_by(row.published):
                    continue
                if (value.dataset, value.metric) in cells or number not in free:
                    raise VixmlError(
                        "a row selects a published cell that already has a place, or two cells for one place",
                        where=f"{where}: row {row.label!r}",
                        found=f"{value.dataset} {value.metric} {value.printed} {value.row['method']}",
                        hint="name more columns under `published`",
                    )
                cells[value.dataset, value.metric] = value
                free.remove(number)
            if not cells:
                raise VixmlError(
                    f"a row selects no published cell of {spec.paper_table}",
                    where=f"{where}: row {row.label!r}",
                    found=row.published,
                    hint="compare with reported/reported_results.csv of this configuration's folder",
                )
            placed.append((block.title, row, cells))
    for number, one in enumerate(published):
        if number in free or one.dataset not in spec.datasets or one.metric not in spec.metrics:
            raise VixmlError(
                "a published cell has no place in the table",
                where=where,
                found=f"{one.dataset} {one.metric} {one.printed}: {one.row['method']}, {one.row['backbone']}",
                hint="add its row, dataset or metric",
            )
    return placed


def _published_rows(spec: TableSpec, dataset: str, placed: Sequence[Placed], sources: Sources) -> tuple[Row, ...]:
    rows = []
    for block, row, cells in placed:
        if values := [cells[dataset, metric] for metric in spec.metrics if (dataset, metric) in cells]:
            results = sources.results.of(dataset, row.run, row.seed)
            found = tuple(_published_cell(value, row, results, sources) for value in values)
            rows.append(_row(row, results, found, block=block, params=values[0].row["params"], paper_run=values[0].run))
    return tuple(rows)


def _published_cell(value: PublishedValue, row: PublishedRow, results: Sequence[Result], sources: Sources) -> Cell:
    registry = sources.registry
    ours = metric_over_seeds(results, value.metric)
    verdict = judge(
        ours,
        value.value,
        value.decimals,
        stand_in=registry.stand_in(value.dataset, row.run) if row.run else None,
        blocked=registry.blocked(value.dataset, row.run),
        not_comparable="the paper quotes this number from others" if value.quoted else None,
        cost=_cost(value, row, sources),
    )
    return Cell(value.metric, value.printed, ours, verdict, value)


def _cost(value: PublishedValue, row: PublishedRow, sources: Sources) -> str:
    """Return the predicted cost of a row: of our run if there is one, else of the paper's as its table describes it."""
    registry, key = sources.registry, (value.dataset, row.run)
    entry, config = registry.world.datasets.get(value.dataset), registry.runs.get(key)
    if entry is not None and entry.expect is not None and config is not None and config.needs_encoder:
        if key not in sources.costs:
            sources.costs[key] = str(predict_run(registry.world, value.dataset, config, HARDWARE["gpu"]))
        return sources.costs[key]
    run = sources.runs.get(value.run) if value.run else None
    return str(predict(run, value.row["params"], sources.sizes)) if run else ""


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
            if ours is not None and not sources.published:
                verdict = Verdict("not-comparable")  # nothing was published at all, so there is nothing to stand in for
            cells.append(Cell(metric, "", ours, verdict))
        rows.append(_row(row, results, tuple(cells), block="measured here", note=row.note))
    return Section(block.title, False, tuple(rows), block.dataset)


def _row(
    spec: PublishedRow | MeasuredRow, results: Sequence[Result], cells: tuple[Cell, ...], **described: str | None
) -> Row:
    seeds = tuple(result.seed for result in results)
    return Row(spec.label, cells, run=spec.run, seeds=seeds, hours=hours_over_seeds(results), **described)
