"""Pages with generated parts: the main numbers in README.md and docs/results.md (``summary``), and docs/reproduction.md (``reproduction``).

The main numbers go to the terminal, to a reference file that is committed, and from there into a page. The page on
reproduction lists the parts of the paper, the claims that PICTO can show, and the predicted cost of the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vixml.config.load import read_yaml
from vixml.config.published import PublishedValue, select_one
from vixml.config.tables import (
    Comparison,
    TableSpec,
    load_any_tables,
    load_comparisons,
    load_summary,
    load_tables,
    named_runs,
)
from vixml.errors import VixmlError
from vixml.files import write_json, write_text
from vixml.report.results import (
    MIN_SEEDS,
    NOT_RUN,
    STATES,
    Aggregate,
    Results,
    difference,
    find_scores,
    load,
    mean_sd,
    read_versioned,
)
from vixml.report.tables import Missing, Row, Section, Sources, Table, build_tables, missing_cost
from vixml.text import duration, markdown, milliseconds, one_line, plain, size

# -- the main numbers ----------------------------------------------------------------------------------------------------

PLACE = "results"  # markers of a page's table, unless others are named


def summarise(tables: Sequence[Table], results: Results) -> dict[str, Any]:
    """Return the rows measured here as JSON values, with their origin: the content of a reference file."""
    tables = [table for table in tables if table.scored]
    return {
        "schema_version": 1,
        "metrics": list(dict.fromkeys(metric for table in tables for metric in table.columns)),
        "rows": [_row(table, *found) for table in tables for found in table.rows(published=False)],
        "origin": origin(results),
    }


def _row(table: Table, section: Section, row: Row) -> dict[str, Any]:
    def rounded(value: float | None, decimals: int) -> float | None:
        return None if value is None else round(value, decimals)

    return {
        "table": table.spec.id,
        "block": section.title,
        "dataset": section.dataset,
        "run": row.run,
        "label": row.label,
        "note": row.note,
        "verdict": row.cells[0].verdict.state,
        "n": len(row.seeds),
        "seeds": list(row.seeds),
        "metrics": {
            cell.column: {"mean": rounded(cell.ours.mean, 4), "sd": rounded(cell.ours.sd, 4)}
            for cell in row.cells
            if cell.ours is not None
        },
        "hours": rounded(row.hours and row.hours.mean, 6),
        "query_ms": rounded(row.query_ms and row.query_ms.mean, 4),
    }


def origin(results: Results) -> dict[str, Any]:
    """Return where results come from: commits, machines, versions, days and sizes, each once."""
    manifests = [result.manifest for result in results.all()]

    def trained_with(key: str) -> list[str]:
        return sorted({str(result.training[key]) for result in results.all() if result.training.get(key)})

    started = sorted(manifest["started_at"][:10] for manifest in manifests)
    versions: dict[str, set[str]] = {}
    for manifest in manifests:
        for package, version in manifest["versions"].items():
            versions.setdefault(package, set()).add(version)
    return {
        "commits": sorted({_commit(manifest["source"]) for manifest in manifests}),
        "devices": trained_with("device"),
        "precisions": trained_with("precision"),
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
    """Read a file written by ``vixml summary --write-reference``."""
    return read_versioned(path, "write it again: vixml summary --results results --write-reference FILE")


def metric_of(row: dict[str, Any], metric: str) -> Aggregate | None:
    """Return a metric of a row, if it has it."""
    value = row["metrics"].get(metric)
    return Aggregate(**value, n=row["n"]) if value else None


def number(row: dict[str, Any], metric: str) -> str:
    """Print one cell: mean and sample standard deviation."""
    return mean_sd(metric_of(row, metric), count=False, none="–" if row["n"] else NOT_RUN)


def interval(row: dict[str, Any], metric: str) -> str:
    """Print the 95 % t interval of a mean over seeds; a dash below three seeds."""
    found = metric_of(row, metric)
    return "–" if found is None or found.low is None else f"{found.low:.1f} to {found.high:.1f}"


def select_rows(summary: dict[str, Any], layout: TableSpec) -> dict[str, Any]:
    """Return a reference file's content with the rows that a layout of ``config/summaries`` names; it must have them all."""
    found = {(row["dataset"], row["run"]): row for row in summary["rows"]}
    rows = []
    for block in layout.measured:
        for one in block.rows:
            if (block.dataset, one.run) not in found:
                what, where = "a layout names a run that the reference file lacks", f"config/summaries/{layout.id}.yaml"
                known = sorted(run for dataset, run in found if dataset == block.dataset)
                raise VixmlError(what, where=where, found=f"{one.run} on {block.dataset}", expected=known)
            rows.append({**found[block.dataset, one.run], "block": block.title, "label": one.label, "note": one.note})
    return {**summary, "metrics": list(layout.metrics), "rows": rows}


def readme_table(summary: dict[str, Any]) -> str:
    """Return the measured rows as Markdown, with n, sd, the first metric's 95 % interval, and their origin below."""
    metrics, out = summary["metrics"], []
    timed = any(row.get("query_ms") for row in summary["rows"])
    for block, rows in groupby(summary["rows"], key=lambda row: row["block"]):
        cells = []
        for row in rows:
            about = [interval(row, metrics[0]), duration(row["hours"])]
            about += [milliseconds(row.get("query_ms"))] * timed + [str(row["n"])]
            cells.append([plain(row["label"]), *(number(row, metric) for metric in metrics), *about])
        heads = [plain(block), *metrics, f"95 % of {metrics[0]} over seeds", "training", *["query"] * timed, "seeds"]
        out.append(markdown(heads, cells))
    return "\n".join([*out, origin_sentence(summary, intervals=True)]) + "\n"


def origin_sentence(summary: dict[str, Any], *, intervals: bool = False) -> str:
    """Return one paragraph on the meaning and the origin of the numbers, with ``intervals`` also of those over seeds."""
    where = summary["origin"]
    queries = ", ".join(f"{n:,} test queries of {dataset}" for dataset, n in sorted(where["n_queries"].items()))
    seeds = max((row["n"] for row in summary["rows"]), default=0)
    over = "; mean ± sample standard deviation over seeds" if seeds > 1 else ""
    sentences = [f"Percent on {queries or 'nothing yet'}{over}."]
    if intervals and seeds >= MIN_SEEDS:
        sentences.append("The 95 % intervals are over seeds; the draw of test queries is not in them.")
    if any(row["verdict"] == "stand-in" for row in summary["rows"]):
        sentences.append("Stand-in data: none of these numbers confirms or refutes a number in the paper.")
    if where["commits"]:
        days = " to ".join(dict.fromkeys(where["days"]))
        device = ", ".join(where["devices"] or where["processors"])
        precision = f" ({', '.join(where['precisions'])})" if where["precisions"] else ""
        sentences.append(f"Measured {days} on {device}{precision}, commit {', '.join(where['commits'])}.")
    return " ".join(sentences)


def fill(text: str, content: str, where: object, place: str = PLACE) -> str:
    """Return ``text`` with ``content`` between the markers of ``place``; VixmlError unless each is there once."""
    begin, end = (f"<!-- {place}:{side} -->" for side in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        what, expected = "no place for the results table", f"one line {begin} and below it one line {end}"
        raise VixmlError(what, where=where, expected=expected, hint="add both lines where the table belongs")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}{end}{rest.split(end)[1]}"


def update_page(page: Path, contents: Mapping[str, str], what: str, check: bool) -> None:
    """Put each content between the markers of its place in a page; with ``check``, a change is a VixmlError."""
    text = wanted = page.read_text(encoding="utf-8")
    for place, content in contents.items():
        wanted = fill(wanted, content, page, place)
    if check and wanted != text:
        hint = "write it again with the same command without --check"
        raise VixmlError(f"{what} is out of date", where=page, hint=hint)
    if not check:
        write_text(page, wanted)


def published_sentence(tables: Sequence[Table], missing: Missing) -> str:
    """Return one sentence on the tables' published cells: counts by state, and the cost of those that were not run."""
    counts = {state: sum(table.states(True)[state] for table in tables) for state in STATES}
    total, names = sum(counts.values()), ", ".join(table.spec.name for table in tables)
    counted = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    hours = f"; those not run would take {duration(missing.total.hours)} of one H100, as predicted"
    return f"Of {total:,} published cells of {names}: {counted}{hours if counts['not-run'] else ''}."


def print_summary(summary: dict[str, Any], pages: Path | None = None, published: str = "") -> None:
    """Print the main numbers to the terminal, ``published`` below them, and where tables, figures and report lie."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False, markup=False, emoji=False)
    run = [row for row in summary["rows"] if row["n"]]
    for block, rows in groupby(run, key=lambda row: row["block"]):
        table = RichTable(title=one_line(block), title_justify="left", box=SIMPLE_HEAD, padding=0)
        table.add_column("run", min_width=18, overflow="fold")
        for metric in [*summary["metrics"], "training", "seeds"]:
            table.add_column(metric, justify="right", no_wrap=True)
        for row in rows:
            # Without blanks around ±, four metrics fit on a terminal of 80 columns.
            cells = [number(row, metric).replace(" ± ", "±") for metric in summary["metrics"]]
            table.add_row(one_line(row["label"]), *cells, duration(row["hours"]), str(row["n"]))
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


@dataclass(frozen=True)
class SummaryOptions:
    """Options of ``vixml summary``, which its help describes."""

    results: Path
    scores: Sequence[Path] | None
    reference: Path | None
    tables: Sequence[str]
    config_dir: Path
    layout: str | None = None
    write_reference: Path | None = None
    readme: Path | None = None
    place: str = PLACE
    check: bool = False
    pages: Path | None = None


def summary(options: SummaryOptions) -> None:
    """Print the main numbers, and write them where the options say.

    Raises:
        VixmlError: nothing to summarise; with ``check``, a page that is out of date.
    """
    published, config_dir = "", options.config_dir
    layout = load_summary(config_dir, options.layout) if options.layout else None
    if options.reference is not None:
        found = load_reference(options.reference)
        if layout:
            found = select_rows(found, layout)
    else:
        specs = [layout] if layout else load_tables(config_dir, options.tables)
        # Results of other runs may be of an older corpus.
        named = {(dataset, run) for spec in specs for dataset, run, _ in named_runs(spec.model_dump())}
        results = load(options.scores or find_scores(options.results, named))
        if not results:
            raise VixmlError("no finished scores", where=options.results, hint="run the workflow first: make demo")
        sources = Sources.load(config_dir, results)
        built = build_tables(specs, sources)
        found = summarise(built, results)
        if any(table.cells(published=True) for table in built):
            published = published_sentence(built, missing_cost(specs, sources))
    if options.write_reference is not None and not options.check:
        write_json(options.write_reference, found)
    if options.readme is not None:
        contents = {options.place: readme_table(found)}
        update_page(options.readme, contents, "the results table of a page", options.check)
    print_summary(found, None if options.reference else options.pages or options.results, published)


# -- claims of the paper as differences of two scores, beside two runs of PICTO ------------------------------------------

METRIC = "P@1"


def in_the_paper(one: Comparison, values: Sequence[PublishedValue]) -> list[str]:
    """Return where the paper makes the claim, and the difference of its two scores with their backbones; dashes if it does not.

    Raises:
        VixmlError: columns that select no published score, or several.
    """
    if one.published is None:
        return ["–", "–"]
    where = f"config/reported/comparisons.yaml: {one.says}"
    first, second = (select_one(values, {"metric": METRIC, **columns}, where) for columns in one.published)
    tables = " and ".join(sorted({first.table, second.table})).replace(" and Table", " and")
    backbones = ", ".join(dict.fromkeys((first.row["backbone"], second.row["backbone"])))
    return [
        tables.replace("Table", "Tables") if " and " in tables else tables,
        f"{first.value - second.value:+.{first.decimals}f} ({backbones})",
    ]


def on_picto(one: Comparison, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return both runs' P@1, their difference with its 95 % interval, and whether it has the sign that the paper claims."""
    if missing := ", ".join(run for run in one.runs if run not in rows):
        return ["–", "–", "–", f"not run: `{missing}`"]
    ahead, behind = (metric_of(rows[run], METRIC) for run in one.runs)
    gap, half = difference(ahead, behind)
    word = f"too few seeds ({ahead.n} and {behind.n})" if half is None else _word(gap, half, one.control)
    interval = "–" if half is None else f"{gap - half:+.1f} to {gap + half:+.1f}"
    return [mean_sd(ahead, 1), mean_sd(behind, 1), f"{gap:+.1f} ({interval})", word]


def _word(gap: float, half: float, control: bool) -> str:
    if control:
        return "part of the gain remains" if gap > half else "no gain remains"
    return "yes" if gap > half else "the other way" if gap < -half else "not settled"


# -- docs/reproduction.md -------------------------------------------------------------------------------------------------

REFERENCES = (Path("results/reference/picto-summary.json"), Path("results/reference/picto-methods-summary.json"))
DEVIATIONS = Path("docs/deviations.md")
# Parts of config/reported/inventory.csv that are no table of the paper -> `paper_table` of the table that shows them.
IN_THE_TEXT = {"Text latency": "Appendix G", "Text time": "Text", "Text PRIME": "Appendix A text"}


def pages(
    config_dir: Path | str, references: Sequence[Path] = REFERENCES, deviations: Path = DEVIATIONS
) -> dict[str, str]:
    """Return the page's generated parts by their place."""
    sources = Sources.load(config_dir, Results())
    discrepancies = [[row["where"], row["what"], row["action"]] for row in sources.reported("discrepancies")]
    return {
        "parts": _parts(sources),
        "shape": _shape(references, sources),
        "discrepancies": markdown(["where", "what the sources say", "what is done here"], discrepancies, words=(1, 2)),
        "deviations": _deviations(deviations),
    }


def _parts(sources: Sources) -> str:
    specs = load_any_tables(sources.registry.config_dir)
    tables = {spec.paper_table: table for spec, table in zip(specs, build_tables(specs, sources), strict=True)}
    missing = missing_cost(specs, sources)
    rows = []
    for part in sources.reported("inventory"):
        name = f"{part['kind']} {part['id']}"
        table = tables.get(IN_THE_TEXT.get(name, name))
        if table is None:
            drawn = f"drawn; {part['knowledge'].removesuffix(': draw')}"
            rows.append([name, part["content"].split(";")[0], "–", drawn, "–", "–", "in every report"])
            continue
        states = Counter(table.states(True))
        counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        cost = missing.by_table[table.spec.id]
        figures = [str(len(table.cells(True))), counted, duration(cost.hours or None), size(cost.disk_bytes)]
        rows.append([name, plain(table.spec.title), *figures, f"`{table.spec.id}`"])
    heads = ["part", "what", "published cells", "without a run", "GPU time (H100)", "disk", "key"]
    total = missing.total
    in_all = (
        f"In total, {total.hours:,.0f} hours of one H100 with 80 GB and {size(total.disk_bytes)} of disk (predicted); what "
        f"several tables share counts once. No stage needs more than {size(total.gpu_memory_bytes)} on the GPU and "
        f"{size(total.host_memory_bytes)} of main memory. While a model trains, its checkpoint takes up to "
        f"{size(total.scratch_bytes)} of additional disk space."
    )
    return markdown(heads, rows, words=(1, 3, 6)) + f"\n{in_all}\n"


def _shape(references: Sequence[Path], sources: Sources) -> str:
    found: dict[str, dict[str, Any]] = {}
    for path in references:  # of a run in both, the first one's: it has more seeds
        for row in load_reference(path)["rows"]:
            if row["n"] and (row["run"] not in found):
                found[row["run"]] = row
    compared = load_comparisons(sources.registry.config_dir)
    rows = [[one.says, *in_the_paper(one, sources.published), *on_picto(one, found)] for one in compared]
    paper, picto = ["the paper says", "where", "paper: difference"], ["PICTO: the first", "the second"]
    return markdown([*paper, *picto, "difference (95 % over seeds)", "on PICTO"], rows, words=(1, 6))


def _deviations(page: Path) -> str:
    found = re.findall(r"^\| (D\d+) \| (PICTO|ours)?", page.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise VixmlError("a page of deviations lists none", where=page, expected="rows `| D1 | what we do | ...`")
    whose = {
        "": "In the paper's runs and PICTO's",
        "PICTO": "In PICTO's runs only",
        "ours": "In no row of the paper's tables",
    }
    lines = [(says, [name for name, kind in found if kind == of]) for of, says in whose.items()]
    return "".join(f"- {says}: {', '.join(names) or 'none'}.\n" for says, names in lines)


def reproduction(config_dir: Path, write: Path, check: bool) -> None:
    """Write the generated parts of docs/reproduction.md; with ``check``, only compare.

    Raises:
        VixmlError: a comparison of a run that nobody configured; with ``check``, a page that is out of date.
    """
    known = {run for path in (config_dir / "runs").glob("picto*.yaml") for run in read_yaml(path)["runs"]}
    for one in load_comparisons(config_dir):
        if unknown := [run for run in one.runs if run not in known]:
            where = f"config/reported/comparisons.yaml: {one.says}"
            raise VixmlError("a comparison names a run that nobody configured", where=where, found=unknown[0])
    update_page(write, pages(config_dir), "the page on what is reproduced", check)
