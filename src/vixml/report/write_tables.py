"""Print tables: numbers as text, Markdown for people, CSV for programs, and the count of verdicts as JSON values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from vixml.plan.cost import Missing
from vixml.report.results import MEANING, STATES, Aggregate
from vixml.report.tables import Cell, FactTable, Line, Section, Table
from vixml.text import duration

NOT_RUN = "not run"


def mean_sd(value: Aggregate | None, decimals: int = 2) -> str:
    """Print ours: mean, sample standard deviation, number of seeds.

    Example:
        >>> from vixml.report.results import aggregate
        >>> mean_sd(aggregate([49.0, 51.0])), mean_sd(aggregate([50.0])), mean_sd(None)
        ('50.00 ± 1.41 (2)', '50.00 (1)', 'not run')
    """
    if value is None:
        return NOT_RUN
    sd = "" if value.sd is None else f" ± {value.sd:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{sd} ({value.n})"


def paper(cell: Cell) -> str:
    """Print the published value exactly as it was printed."""
    return cell.claim.printed if cell.claim else ""


def verdict(line: Line) -> str:
    """Print a row's verdicts: one state if all cells share it, else each with its metric."""
    states = [cell.verdict.state for cell in line.cells]
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(f"{cell.metric} {cell.verdict.state}" for cell in line.cells)


def whys(line: Line) -> list[str]:
    """Return the reasons of a row's verdicts, each once."""
    return list(dict.fromkeys(part for cell in line.cells for part in cell.verdict.why.split("; ") if part))


def shared_whys(section: Section) -> list[str]:
    """Return the reasons that every row of a section gives: printed once above it instead of in each row."""
    first, *others = [whys(line) for line in section.lines]
    return [why for why in first if all(why in other for other in others)]


def note(line: Line, without: Sequence[str] = ()) -> str:
    """Print a row's note and its reasons, less those printed elsewhere."""
    return "; ".join(filter(None, (line.note, *(why for why in whys(line) if why not in without))))


def delta(cell: Cell) -> str:
    """Print ours less the paper's; a dash where one of them is missing."""
    if cell.ours is None or cell.claim is None:
        return "–"
    return f"{cell.ours.mean - cell.claim.value:+.{cell.claim.decimals}f}"


def by_metric(line: Line, metrics: Sequence[str]) -> list[Cell | None]:
    """Return a row's cells in the table's column order; None where the paper left a blank."""
    cells = {cell.metric: cell for cell in line.cells}
    return [cells.get(metric) for metric in metrics]


def to_csv(table: Table) -> str:
    """Return the table as CSV: a line a row, for each metric the published value and ours in separate columns."""
    spec, stream = table.spec, io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    per_metric = ("paper", "ours", "sd", "low", "high", "delta", "verdict")
    writer.writerow(
        ["table", "dataset", "block", "row", "params", "paper_run", "run", "seeds", "n", "hours"]
        + [f"{metric} {part}" for metric in spec.metrics for part in per_metric]
        + ["note"]
    )
    for section in table.sections:
        for line in section.lines:
            row = [spec.id, section.dataset, line.block, line.label, line.params, line.paper_run or "", line.run or ""]
            row += [" ".join(map(str, line.seeds)), len(line.seeds), _number(line.hours.mean if line.hours else None)]
            for cell in by_metric(line, spec.metrics):
                row += _csv_cell(cell)
            writer.writerow([*row, note(line)])
    return stream.getvalue()


def _csv_cell(cell: Cell | None) -> list[str]:
    if cell is None:
        return [""] * 7
    ours = cell.ours
    if ours is None:
        return [paper(cell), NOT_RUN, "", "", "", "", cell.verdict.state]
    numbers = [_number(value) for value in (ours.mean, ours.sd, ours.low, ours.high)]
    return [paper(cell), *numbers, delta(cell) if cell.claim else "", cell.verdict.state]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, a section a dataset, as the paper groups it."""
    spec = table.spec
    out = [
        f"# {spec.heading}",
        "",
        *([spec.note, ""] if spec.note else []),
        (f"`paper`: as printed in {spec.source}. " if spec.paper_table else "")
        + "`ours`: measured here, mean ± sample standard deviation over seeds (number of seeds), in percent."
        + (" The two never share a column." if spec.paper_table else ""),
    ]
    for section in table.sections:
        out += ["", f"## {section.title}", "", *_markdown_section(section, spec.metrics, spec.row_title)]
    out += ["", "## Verdicts", "", "| verdict | published cells | measured here | meaning |", "|---|---:|---:|---|"]
    published, measured = table.states(True), table.states(False)
    out += [f"| {state} | {published[state]} | {measured[state]} | {MEANING[state]} |" for state in STATES]
    return "\n".join(out) + "\n"


def _markdown_section(section: Section, metrics: Sequence[str], row_title: str) -> list[str]:
    if section.published:
        head = [row_title, "params", *(f"paper {m}" for m in metrics), *(f"ours {m}" for m in metrics)]
        head += [f"Δ {m}" for m in metrics]
        align = ["---", "---:"] + ["---:"] * 3 * len(metrics)
    else:
        head = ["run", *(f"ours {m}" for m in metrics), "training"]
        align = ["---"] + ["---:"] * (len(metrics) + 1)
    shared = shared_whys(section)
    out = [f"Every row is {', '.join(shared)}.", ""] if shared else []
    out += [_pipe([*head, "verdict", "note"]), "|" + "|".join([*align, "---", "---"]) + "|"]
    for line in section.lines:
        cells = by_metric(line, metrics)
        ours = [mean_sd(cell.ours) if cell else "–" for cell in cells]
        if section.published:
            row = [line.label, line.params, *(paper(cell) if cell else "–" for cell in cells), *ours]
            row += [delta(cell) if cell else "–" for cell in cells]
        else:
            row = [line.label, *ours, duration(line.hours.mean if line.hours else None)]
        out.append(_pipe([*row, verdict(line), note(line, shared)]))
    return out


def _pipe(fields: Sequence[str]) -> str:
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"


def states_summary(tables: Sequence[Table | FactTable], missing: Missing | None = None) -> dict[str, Any]:
    """Return the content of ``summary.json``: how many cells are in which state, per table and in all.

    With ``missing``, the predicted GPU hours of what was not run, too: per table, and in all (what tables share counts once).
    """
    total = {state: sum(t.states(True)[state] + t.states(False)[state] for t in tables) for state in STATES}
    return {
        "schema_version": 1,
        "tables": {
            table.spec.id: {
                "title": table.spec.heading,
                "published_cells": len(table.cells(True)),
                "published": table.states(True),
                "measured_cells": len(table.cells(False)),
                "measured": table.states(False),
            }
            | ({} if missing is None else {"gpu_hours_not_run": round(missing.by_table[table.spec.id].hours, 3)})
            for table in tables
        },
        "states": total,
    } | ({} if missing is None else {"gpu_hours_not_run": round(missing.total.hours, 3)})


# --- Print a table as LaTeX with booktabs: to be read with ``\input`` in a paper, one tabular a dataset.


# What a printed text may hold that LaTeX reads as a command, or that is no ASCII.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "Δ": r"$\Delta$",
}


def escape(text: str) -> str:
    """Return ``text`` as LaTeX prints it.

    Example:
        >>> escape("R@100 & 50 %_x"), escape("<|endoftext|>")
        ('R@100 \\\\& 50 \\\\%\\\\_x', '\\\\textless{}\\\\textbar{}endoftext\\\\textbar{}\\\\textgreater{}')
    """
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def to_latex(table: Table) -> str:
    """Return the table: for each metric the published value, ours, their difference; a verdict a row."""
    spec = table.spec
    out = [
        f"% {spec.heading}. Generated by vixml make-tables; needs \\usepackage{{booktabs}}.",
        "% paper: as printed. ours: measured here, mean and sample standard deviation over seeds (n).",
    ]
    for section in table.sections:
        out += ["", *_section(section, spec.metrics, spec.row_title)]
    return "\n".join(out) + "\n"


def _section(section: Section, metrics: Sequence[str], row_title: str) -> list[str]:
    parts = ("paper", "ours", "Δ") if section.published else ("ours",)
    width = 1 + len(parts) * len(metrics) + 1
    heads = [""] + [rf"\multicolumn{{{len(parts)}}}{{c}}{{{escape(metric)}}}" for metric in metrics] + [""]
    rules = [rf"\cmidrule(lr){{{2 + i * len(parts)}-{1 + (i + 1) * len(parts)}}}" for i in range(len(metrics))]
    out = [
        rf"\begin{{tabular}}{{l{'r' * (width - 2)}l}}",
        r"\toprule",
        rf"\multicolumn{{{width}}}{{l}}{{{escape(section.title)}}} \\",
        _row(heads),
        " ".join(rules),
        _row([escape(row_title), *(escape(part) for _ in metrics for part in parts), "verdict"]),
        r"\midrule",
    ]
    block = None
    for line in section.lines:
        if section.published and line.block != block:
            if block is not None:
                out.append(r"\midrule")
            block = line.block
            if block:
                out.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape(block)}}}}} \\")
        cells = [_cell(cell, part) for cell in by_metric(line, metrics) for part in parts]
        out.append(_row([escape(line.label), *cells, escape(verdict(line))]))
    return [*out, r"\bottomrule", r"\end{tabular}"]


def _cell(cell: Cell | None, part: str) -> str:
    if cell is None:
        return "--"
    if part == "paper":
        return escape(paper(cell))
    if part == "Δ":
        return escape(delta(cell))
    return NOT_RUN if cell.ours is None else escape(mean_sd(cell.ours))


def _row(fields: Sequence[str]) -> str:
    return " & ".join(fields) + r" \\"
