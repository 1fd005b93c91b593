"""The stage ``make-tables``: each table as CSV for programs, Markdown for people, LaTeX for papers; verdicts counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vixml.config.tables import load_any_tables
from vixml.files import write_json, write_text
from vixml.provenance import stage
from vixml.report.results import MEANING, STATES, Aggregate, Results, load, mean_sd, stage_inputs
from vixml.report.tables import Cell, Measured, Missing, Section, Sources, Table, build_tables, missing_cost
from vixml.text import csv_cell, duration, markdown, milliseconds, one_line, plain


def make_tables(
    scores: Sequence[Path], config_dir: Path, tables: Sequence[str], out: Path, measured: Measured = Measured()
) -> None:
    """Write ``{table}.csv``, ``{table}.md`` and ``{table}.tex`` for each table, ``summary.json`` and ``metrics.json``."""
    results, specs = load(scores), load_any_tables(config_dir, tables)
    inputs = stage_inputs(results, config_dir, "table", tables) | measured.named()
    with stage(out, "make-tables", config={"tables": list(tables)}, inputs=inputs) as work:
        sources = Sources.load(config_dir, results, measured)
        built = build_tables(specs, sources)
        for table in built:
            for ending, printer in {"csv": to_csv, "md": to_markdown, "tex": to_latex}.items():
                write_text(work / f"{table.spec.id}.{ending}", printer(table))
        write_json(work / "summary.json", states_summary(built, missing_cost(specs, sources)))
        write_json(work / "metrics.json", metrics(results, built))


# -- one cell as text -------------------------------------------------------------------------------------------------


def delta(cell: Cell) -> str:
    """Print ours less the paper's; a dash where one of them is missing."""
    if not isinstance(cell.ours, Aggregate) or cell.entry is None:
        return "–"
    return f"{cell.ours.mean - cell.entry.value:+.{cell.entry.decimals}f}"


def text(cell: Cell | None, part: str) -> str:
    """Print a part of a cell (``paper``, ``ours`` or ``Δ``); a dash where the paper left a blank."""
    if cell is None:
        return "–"
    if part == "ours":
        return cell.ours if isinstance(cell.ours, str) else mean_sd(cell.ours)
    return cell.published if part == "paper" else delta(cell)


# -- one table in each form -------------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Return the table as CSV, one line per row: for each column the published value, ours and a verdict."""
    lines = []
    for section in table.sections:
        for row in section.rows:
            line = {"table": table.spec.id, "section": section.title}
            if table.scored:
                line |= {"dataset": section.dataset, "block": row.block, "row": row.label, "params": row.params}
                line |= {"paper_run": row.paper_run or "", "run": row.run or "", "seeds": " ".join(map(str, row.seeds))}
                line |= {"n": str(len(row.seeds)), "hours": _number(row.hours.mean if row.hours else None)}
                line["query_ms"] = _number(row.query_ms.mean if row.query_ms else None)
            else:
                line["row"] = row.label
            for column, cell in zip(table.columns, row.in_order(table.columns), strict=True):
                line |= {f"{column} {part}": value for part, value in _values(cell, table.scored).items()}
            lines.append(line | {"note": row.remarks()})
    return pd.DataFrame(lines).rename(columns=csv_cell).map(csv_cell).to_csv(index=False, lineterminator="\n")


def _values(cell: Cell | None, scored: bool) -> dict[str, str]:
    """Return a cell's parts for programs: numbers of ours by themselves, four decimals each."""
    parts = ("paper", "ours", "sd", "low", "high", "delta", "verdict") if scored else ("paper", "ours", "verdict")
    if cell is None:
        return dict.fromkeys(parts, "")
    found = {"paper": cell.published, "ours": text(cell, "ours"), "verdict": cell.verdict.state}
    if isinstance(ours := cell.ours, Aggregate):
        found |= {"ours": _number(ours.mean)} | {name: _number(getattr(ours, name)) for name in ("sd", "low", "high")}
        found["delta"] = delta(cell) if cell.entry else ""
    return {part: found.get(part, "") for part in parts}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, section by section; published values and ours in separate columns."""
    spec = table.spec
    out = [f"# {plain(spec.heading)}", ""] + ([plain(spec.note), ""] if spec.note else [])
    if table.scored:
        printed = f"`paper`: as printed in {plain(spec.source)}. " if spec.paper_table else ""
        ours = "`ours`: measured here, mean ± sample standard deviation over seeds (number of seeds), in percent."
        out += [printed + ours + (" The two never share a column." if printed else ""), ""]
    for section in table.sections:
        out += [f"## {plain(section.title)}", "", _markdown_section(table, section)]
    if table.compared:
        published, measured = table.states(True), table.states(False)
        counts = [[state, str(published[state]), str(measured[state]), MEANING[state]] for state in STATES]
        heads = ["verdict", "published cells", "measured here", "meaning"]
        out += ["## Verdicts", "", markdown(heads, counts, words={3})]
    return "\n".join(out).rstrip("\n") + "\n"


def _markdown_section(table: Table, section: Section) -> str:
    shared = section.shared_reasons
    before = ["run" if section.of_runs else plain(table.spec.row_title)] + ["params"] * section.has_params
    numbers = [f"{part} {column}" for part in section.parts for column in table.columns]
    numbers += ["training", "query"] * section.of_runs
    rows = []
    for row in section.rows:
        cells = row.in_order(table.columns)
        line = [plain(row.label)] + [plain(row.params)] * section.has_params
        line += [text(cell, part) for part in section.parts for cell in cells]
        line += [
            duration(row.hours and row.hours.mean),
            milliseconds(row.query_ms and row.query_ms.mean),
        ] * section.of_runs
        rows.append([*line, *([row.verdict] if table.compared else []), plain(row.remarks(shared))])
    after = ["verdict", "note"] if table.compared else ["note"]
    width = len(before) + len(numbers)
    reasons = f"Every row: {', '.join(map(plain, shared))}.\n\n" if shared else ""
    return reasons + markdown([*before, *numbers, *after], rows, words=range(width, width + len(after)))


# Characters that LaTeX reads as a command, or that are not ASCII.
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
    """Return ``text`` as LaTeX prints it, on one line.

    Example:
        >>> escape("R@100 & 50 %_x"), escape("<|endoftext|>")
        ('R@100 \\\\& 50 \\\\%\\\\_x', '\\\\textless{}\\\\textbar{}endoftext\\\\textbar{}\\\\textgreater{}')
    """
    return "".join(_ESCAPES.get(sign, sign) for sign in one_line(text))


def to_latex(table: Table) -> str:
    r"""Return the table with booktabs, one tabular per section, to be read with ``\input``.

    Under each column's heading: the published value, ours and, of scores, their difference; a verdict ends the row.
    """
    out = [
        f"% {one_line(table.spec.heading)}. Generated by vixml make-tables; needs \\usepackage{{booktabs}}.",
        *(["% paper: as printed. ours: measured here."] if table.compared else []),
    ]
    if table.scored:
        out.append("% Scores: mean and sample standard deviation over seeds (number of seeds), percent.")
    for section in table.sections:
        out += ["", *_latex_section(table, section)]
    return "\n".join(out) + "\n"


def _latex_section(table: Table, section: Section) -> list[str]:
    n, last = len(section.parts), ["verdict"] if table.compared else []
    width = 1 + n * len(table.columns) + len(last)

    def line(fields: Sequence[str]) -> str:
        return " & ".join(fields) + r" \\"

    def across(words: str, span: int = width, side: str = "l") -> str:
        return rf"\multicolumn{{{span}}}{{{side}}}{{{words}}}"

    starts = range(2, 2 + n * len(table.columns), n)
    out = [
        rf"\begin{{tabular}}{{l{'r' * n * len(table.columns)}{'l' * len(last)}}}",
        r"\toprule",
        line([across(escape(section.title))]),
        line(["", *(across(escape(column), n, "c") for column in table.columns), *("" for _ in last)]),
        " ".join(rf"\cmidrule(lr){{{start}-{start + n - 1}}}" for start in starts),
        line([escape(table.spec.row_title), *(escape(part) for _ in table.columns for part in section.parts), *last]),
        r"\midrule",
    ]
    block = None
    for row in section.rows:
        if section.published and row.block != block:
            out += [r"\midrule"] if block is not None else []
            block = row.block
            out += [line([across(rf"\textit{{{escape(block)}}}")])] if block else []
        cells = [text(cell, part) for cell in row.in_order(table.columns) for part in section.parts]
        out.append(line([escape(one) for one in (row.label, *cells, *([row.verdict] if last else []))]))
    return [*out, r"\bottomrule", r"\end{tabular}"]


# -- all tables together ----------------------------------------------------------------------------------------------


def states_summary(tables: Sequence[Table], missing: Missing) -> dict[str, Any]:
    """Return the content of ``summary.json``: how many cells are in which state, per table and in all.

    Beside them the predicted GPU hours of rows without a result, per table and in all (shared parts count once).
    """
    return {
        "schema_version": 1,
        "tables": {
            table.spec.id: {
                "title": table.spec.heading,
                "published_cells": len(table.cells(True)),
                "published": table.states(True),
                "measured_cells": len(table.cells(False)),
                "measured": table.states(False),
                "gpu_hours_not_run": round(missing.by_table[table.spec.id].hours, 3),
            }
            for table in tables
        },
        "states": {state: sum(t.states(True)[state] + t.states(False)[state] for t in tables) for state in STATES},
        "gpu_hours_not_run": round(missing.total.hours, 3),
    }


def metrics(results: Results, tables: Sequence[Table]) -> dict[str, Any]:
    """Return ``{dataset: {run: {metric: mean over seeds, seeds: n}}}`` of every run, for `dvc metrics diff`.

    In percent; of the metrics that any of the tables of scores shows.
    """
    shown = dict.fromkeys(metric for table in tables if table.scored for metric in table.columns)
    found: dict[str, Any] = {}
    for (dataset, run), seeds in results.by_run.items():
        means = {
            name: round(math.fsum(result.metrics[name] for result in seeds) / len(seeds), 4)
            for name in shown
            if all(name in result.metrics for result in seeds)
        }
        found.setdefault(dataset, {})[run] = means | {"seeds": len(seeds)}
    return found
