"""The main numbers: to the terminal, to a reference file that is committed, and from there into README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.files import read_json, write_json, write_text
from vixml.reproduce.cost import Missing
from vixml.reproduce.grid import Sources, Table, build_tables
from vixml.reproduce.not_run import missing_cost
from vixml.reproduce.render import NOT_RUN, duration
from vixml.reproduce.results import Results, find, load
from vixml.reproduce.specs import load_summary, load_tables
from vixml.reproduce.verdicts import MIN_SEEDS, STATES, t_quantile

SCHEMA_VERSION = 1
PLACE = "results"  # the default place of a page's table


def summarise(tables: Sequence[Table], results: Results) -> dict[str, Any]:
    """Return the rows measured here as JSON values, with their origin: what a reference file holds.

    Args:
        tables: built tables; only their measured rows are used.
        results: the results behind them.
    """
    rows = []
    for table in tables:
        for section in table.sections:
            rows += (
                []
                if section.published
                else [_row(table, section.title, section.dataset, line) for line in section.lines]
            )
    return {
        "schema_version": SCHEMA_VERSION,
        "metrics": list(dict.fromkeys(metric for table in tables for metric in table.spec.metrics)),
        "rows": rows,
        "origin": origin(results),
    }


def _row(table: Table, title: str, dataset: str, line: Any) -> dict[str, Any]:
    return {
        "table": table.spec.id,
        "block": title,
        "dataset": dataset,
        "run": line.run,
        "label": line.label,
        "note": line.note,
        "verdict": line.cells[0].verdict.state,
        "n": len(line.seeds),
        "seeds": list(line.seeds),
        "metrics": {
            cell.metric: {
                "mean": round(cell.ours.mean, 4),
                "sd": None if cell.ours.sd is None else round(cell.ours.sd, 4),
            }
            for cell in line.cells
            if cell.ours is not None
        },
        "hours": None if line.hours is None else round(line.hours.mean, 6),
    }


def origin(results: Results) -> dict[str, Any]:
    """Return where results come from: commits, machines, versions, days and sizes, each once."""
    manifests = [result.manifest for result in results.all()]
    started = sorted(manifest["started_at"][:10] for manifest in manifests)
    versions: dict[str, set[str]] = {}
    for manifest in manifests:
        for package, version in manifest["versions"].items():
            versions.setdefault(package, set()).add(version)
    return {
        "commits": sorted({_commit(manifest["source"]) for manifest in manifests}),
        "devices": sorted({str(r.training["device"]) for r in results.all() if r.training.get("device")}),
        "precisions": sorted({str(r.training["precision"]) for r in results.all() if r.training.get("precision")}),
        "processors": sorted({str(manifest["machine"]["processor"]) for manifest in manifests}),
        "versions": {package: " ".join(sorted(found)) for package, found in sorted(versions.items())},
        "days": [started[0], started[-1]] if started else [],
        "n_queries": {result.dataset: result.n_queries for result in results.all()},
    }


def _commit(source: dict[str, Any]) -> str:
    if not source.get("commit"):
        return "unknown"
    return source["commit"][:12] + (" with changes" if source.get("modified") else "")


def load_reference(path: Path | str) -> dict[str, Any]:
    """Read a file written by ``vixml summary --write-reference``.

    Raises:
        VixmlError: missing, or of another version.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise VixmlError(
            "not a summary of this version",
            where=path,
            found=value.get("schema_version") if isinstance(value, dict) else type(value).__name__,
            expected=SCHEMA_VERSION,
            hint="write it again: vixml summary --results results --write-reference FILE",
        )
    return value


def number(row: dict[str, Any], metric: str) -> str:
    """Print one cell: mean and sample standard deviation."""
    value = row["metrics"].get(metric)
    if value is None:
        return NOT_RUN if not row["n"] else "–"
    return f"{value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {value['sd']:.2f}")


def interval(row: dict[str, Any], metric: str) -> str:
    """Print the 95 % t interval of a mean over seeds; a dash below three seeds."""
    value = row["metrics"].get(metric)
    if value is None or value["sd"] is None or row["n"] < MIN_SEEDS:
        return "–"
    half = t_quantile(row["n"] - 1) * value["sd"] / math.sqrt(row["n"])
    return f"{value['mean'] - half:.1f} to {value['mean'] + half:.1f}"


def readme_table(summary: dict[str, Any]) -> str:
    """Return the measured rows as Markdown, with n, sd, the first metric's 95 % interval, and their origin below."""
    metrics = summary["metrics"]
    out, block = [], None
    for row in summary["rows"]:
        if row["block"] != block:
            block = row["block"]
            head = [block, *metrics, f"95 % of {metrics[0]}", "training", "seeds"]
            out += ["", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(metrics) + 3)]
        cells = [row["label"], *(number(row, m) for m in metrics), interval(row, metrics[0])]
        cells += [duration(row["hours"]), str(row["n"])]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join([*out[1:], "", origin_sentence(summary)]) + "\n"


def origin_sentence(summary: dict[str, Any]) -> str:
    """Return one paragraph on what the numbers are and where they come from."""
    where = summary["origin"]
    queries = ", ".join(f"{n:,} test queries of {dataset}" for dataset, n in sorted(where["n_queries"].items()))
    sentences = [f"Percent on {queries or 'nothing yet'}; mean ± sample standard deviation over seeds."]
    if any(row["verdict"] == "stand-in" for row in summary["rows"]):
        sentences.append("Stand-in data, so none of these numbers confirms or refutes one of the paper.")
    if where["commits"]:
        days = " to ".join(dict.fromkeys(where["days"]))
        device = ", ".join(where["devices"] or where["processors"])
        precision = f" ({', '.join(where['precisions'])})" if where["precisions"] else ""
        sentences.append(f"Measured {days} on {device}{precision}, commit {', '.join(where['commits'])}.")
    return " ".join(sentences)


def fill_readme(text: str, table: str, where: object, place: str = PLACE) -> str:
    """Return ``text`` with what stands between the markers of ``place`` replaced by ``table``.

    Raises:
        VixmlError: a marker that is missing, or stands more than once.
    """
    begin, end = (f"<!-- {place}:{side} -->" for side in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise VixmlError(
            "no place for the results table",
            where=where,
            expected=f"one line {begin} and below it one line {end}",
            hint="add both lines where the table is to stand",
        )
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}{end}{rest.split(end)[1]}"


def update_page(page: Path, contents: Mapping[str, str], what: str, check: bool) -> None:
    """Put each content between the markers of its place in a page; with ``check``, only say whether it stands there.

    Args:
        page: the page.
        contents: place -> what is to stand there.
        what: of which the page is out of date, if it is.
        check: change nothing.

    Raises:
        VixmlError: a marker is missing; with ``check``, a page that is out of date.
    """
    text = wanted = page.read_text(encoding="utf-8")
    for place, content in contents.items():
        wanted = fill_readme(wanted, content, page, place)
    if check and wanted != text:
        raise VixmlError(
            f"{what} is out of date", where=page, hint="write it again with the same command without --check"
        )
    if not check:
        write_text(page, wanted)


def published_sentence(tables: Sequence[Table], missing: Missing) -> str:
    """Return one sentence on the tables' published cells: how many are in which state, and what the rest would take."""
    counts = {state: sum(table.states(True)[state] for table in tables) for state in STATES}
    total, names = sum(counts.values()), ", ".join(table.spec.name for table in tables)
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    hours = f"; those not run would take {duration(missing.total.hours)} of one H100, as predicted"
    return f"Of {total:,} published cells of {names}: {said}{hours if counts['not-run'] else ''}."


def print_summary(summary: dict[str, Any], pages: Path | None = None, published: str = "") -> None:
    """Print the main numbers to the terminal, ``published`` below them, and where tables, figures and report lie."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    block, table = None, None
    run = [row for row in summary["rows"] if row["n"]]
    for row in run:
        if row["block"] != block:
            if table is not None:
                console.print(table)
            block = row["block"]
            table = RichTable(title=block, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            table.add_column("run", min_width=18, overflow="fold")
            for metric in [*summary["metrics"], "time", "n"]:
                table.add_column(metric, justify="right", no_wrap=True)
        # Without blanks around ±, four metrics fit on a terminal of 80 columns.
        cells = [number(row, metric).replace(" ± ", "±") for metric in summary["metrics"]]
        table.add_row(row["label"], *cells, duration(row["hours"]), str(row["n"]))
    if table is not None:
        console.print(table)
    if left := len(summary["rows"]) - len(run):
        console.print(f"{left} more rows of these tables were not run by this configuration.")
    console.print(origin_sentence(summary))
    if published:
        console.print(published)
    if pages is not None:
        for name, path in (("tables", "tables"), ("figures", "figures"), ("report", "report.html")):
            place = Path(pages) / path
            console.print(f"{name + ':':<9}{place if place.exists() else 'not made yet'}", soft_wrap=True)


def summary(
    results_dir: Path,
    scores: Sequence[Path] | None,
    reference: Path | None,
    tables: Sequence[str],
    config_dir: Path,
    *,
    layout: str | None = None,
    write_reference: Path | None = None,
    readme: Path | None = None,
    place: str = PLACE,
    check: bool = False,
    pages: Path | None = None,
) -> None:
    """Do what the verb ``summary`` offers.

    Raises:
        VixmlError: nothing to summarise; with ``check``, a page that is out of date.
    """
    published = ""
    if reference is not None:
        found = load_reference(reference)
    else:
        results = load(scores or find(results_dir))
        if not results:
            raise VixmlError("no finished scores", where=results_dir, hint="run the workflow first: make demo")
        shapes = [load_summary(config_dir, layout)] if layout else load_tables(config_dir, tables)
        sources = Sources.load(config_dir, results)
        built = build_tables(shapes, sources)
        found = summarise(built, results)
        if any(table.cells(published=True) for table in built):
            published = published_sentence(built, missing_cost(shapes, sources, config_dir))
    if write_reference is not None and not check:
        write_json(write_reference, found)
    if readme is not None:
        update_page(readme, {place: readme_table(found)}, "the results table of a page", check)
    print_summary(found, None if reference is not None else pages or results_dir, published)
