"""Where a published row was printed, what the paper trained for it, and what it would take to run it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vixml.reproduce.claims import Claim, TrainingRun
from vixml.reproduce.commands import Commands
from vixml.reproduce.evidence import run_key
from vixml.reproduce.grid import Line, Section, Sources, Table

# Columns of reported_results.csv that describe a row, with what a reader calls them.
DESCRIBED = {
    "method": "method",
    "backbone": "backbone",
    "params": "parameters",
    "modality": "modality",
    "base_method": "base method",
    "vision_encoder": "vision encoder",
    "n_images": "images",
    "inference": "inference",
}


@dataclass(frozen=True)
class PrintedRow:
    """One published row of one table.

    Attributes:
        key: its anchor in the page.
        title: table, dataset and row.
        source: who printed it.
        values: (metric, as printed, what had to be inferred).
        described: (word, value) of what the table says of the row.
        training: the paper's training run behind it, or why there is none.
        run: our run that repeats it, or None.
        verdicts: each verdict with its metric, and why.
        command: what runs it here, or None where it cannot be run.
        measured: anchor of the evidence of our run, if it was run.
    """

    key: str
    title: str
    source: str
    values: tuple[tuple[str, str, str], ...]
    described: tuple[tuple[str, str], ...]
    training: str
    run: str | None
    verdicts: tuple[tuple[str, str], ...]
    command: str | None
    measured: str | None


def row_key(table: Table, section: Section, line: Line) -> str:
    """Return the anchor of a published row: its table, section and place."""
    return f"printed-{table.spec.id}-{table.sections.index(section) + 1}-{section.lines.index(line) + 1}"


def printed_rows(tables: Sequence[Table], sources: Sources, commands: Commands) -> list[PrintedRow]:
    """Return every published row of the tables, in order."""
    return [
        _row(table, section, line, sources, commands)
        for table in tables
        for section in table.sections
        if section.published
        for line in section.lines
    ]


def _row(table: Table, section: Section, line: Line, sources: Sources, commands: Commands) -> PrintedRow:
    claims = [cell.claim for cell in line.cells if cell.claim is not None]
    first, dataset = claims[0], section.dataset
    runnable = line.run is not None and sources.registry.blocked(dataset, line.run) is None
    return PrintedRow(
        key=row_key(table, section, line),
        title=f"{table.spec.name}, {section.title}: {line.label}",
        source=first.source,
        values=tuple((claim.metric, claim.printed, claim.note) for claim in claims),
        described=tuple((word, first.row[column]) for column, word in DESCRIBED.items() if first.row[column]),
        training=_training(first, sources.runs),
        run=line.run,
        verdicts=tuple(dict.fromkeys((cell.verdict.state, cell.verdict.why) for cell in line.cells)),
        command=commands.planned(dataset, line.run, _seed(table, line)) if runnable and line.run else None,
        measured=run_key(dataset, line.run) if line.seeds and line.run else None,
    )


def _seed(table: Table, line: Line) -> int | None:
    """Return the seed of a row that stands for one seed of a run."""
    rows = [row for block in table.spec.blocks for row in block.rows if (row.label, row.run) == (line.label, line.run)]
    return rows[0].seed if rows else None


def _training(claim: Claim, runs: dict[str, TrainingRun]) -> str:
    if claim.quoted:
        return "none: the paper quotes this row from other authors"
    if not claim.run:
        return "none: nothing was trained for this row"
    run = runs.get(claim.run)
    if run is None:
        return claim.run
    images = f", {run.n_images} images" if run.n_images else ""
    return (
        f"{claim.run}: {run.backbone} on {run.modality} of {run.dataset}{images}, {run.epochs} epochs, "
        f"{run.max_len} tokens; used in {' '.join(run.used_in)}"
    )
