"""The generated parts of docs/reproduction.md: what of the paper is here, what was measured, what the rest would take.

Made from committed files only (config, results/reference), so that continuous integration can tell whether the page is in step.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vixml.config.load import read_yaml
from vixml.errors import VixmlError
from vixml.reproduce.claims import read_csv
from vixml.reproduce.comparisons import COMPARISONS, in_the_paper, on_picto
from vixml.reproduce.facts_build import build_any_tables
from vixml.reproduce.grid import Sources
from vixml.reproduce.not_run import missing_cost
from vixml.reproduce.plan_page import markdown, size
from vixml.reproduce.render import duration
from vixml.reproduce.results import Results
from vixml.reproduce.specs import load_any_tables
from vixml.reproduce.summary import load_reference, update_page

REFERENCES = (Path("results/reference/picto-summary.json"), Path("results/reference/picto-methods-summary.json"))
DEVIATIONS = Path("docs/deviations.md")
# Parts of config/reported/inventory.csv that are no table of the paper -> `paper_table` of the table that shows them.
IN_THE_TEXT = {"Text latency": "Appendix G", "Text time": "Text", "Text PRIME": "Appendix A text"}


def pages(
    config_dir: Path | str, references: Sequence[Path] = REFERENCES, deviations: Path = DEVIATIONS
) -> dict[str, str]:
    """Return the page's generated parts by their place."""
    config_dir = Path(config_dir)
    sources = Sources.load(config_dir, Results())
    return {
        "parts": _parts(config_dir, sources),
        "shape": _shape(references, sources),
        "discrepancies": _discrepancies(config_dir),
        "deviations": _deviations(deviations),
    }


def _parts(config_dir: Path, sources: Sources) -> str:
    names = sorted(path.stem for path in (config_dir / "tables").glob("*.yaml"))
    specs = load_any_tables(config_dir, names)
    tables = {
        spec.paper_table: table for spec, table in zip(specs, build_any_tables(specs, sources, config_dir), strict=True)
    }
    missing = missing_cost(specs, sources, config_dir)
    rows = []
    for _, part in read_csv(config_dir / "reported" / "inventory.csv"):
        name = f"{part['kind']} {part['id']}"
        table = tables.get(IN_THE_TEXT.get(name, name))
        if table is None:
            drawn = f"drawn; {part['knowledge'].removesuffix(': draw')}"
            rows.append([name, part["content"].split(";")[0], "–", drawn, "–", "–", "in every report"])
            continue
        states = Counter(table.states(True))
        said = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        cost = missing.by_table[table.spec.id]
        figures = [duration(cost.hours or None), size(cost.disk_bytes)]
        rows.append([name, table.spec.title, str(len(table.cells(True))), said, *figures, f"`{table.spec.id}`"])
    heads = ["part", "what", "published cells", "without a run", "GPU time (H100)", "disk", "key"]
    total = missing.total
    said = (
        f"All together {total.hours:,.0f} hours of one H100 with 80 GB and {size(total.disk_bytes)} of disk, as predicted; what "
        f"tables share counts once. No stage needs more than {size(total.gpu_memory_bytes)} on the GPU and "
        f"{size(total.host_memory_bytes)} of main memory; a checkpoint takes up to {size(total.scratch_bytes)} of disk "
        "more while a model trains."
    )
    return markdown(heads, rows, words=(1, 3, 6)) + f"\n{said}\n"


def _shape(references: Sequence[Path], sources: Sources) -> str:
    found: dict[str, dict[str, Any]] = {}
    for path in references:  # of a run in both, the first one's: it has more seeds
        for row in load_reference(path)["rows"]:
            if row["n"] and (row["run"] not in found):
                found[row["run"]] = row
    rows = [[one.says, *in_the_paper(one, sources.claims), *on_picto(one, found)] for one in COMPARISONS]
    heads = ["the paper says", "where", "paper: difference", "PICTO: the first", "the second", "difference (95 %)", "on PICTO"]  # fmt: skip
    return markdown(heads, rows, words=(1, 6))


def _discrepancies(config_dir: Path) -> str:
    rows = [
        [row["where"], row["what"], row["action"]] for _, row in read_csv(config_dir / "reported" / "discrepancies.csv")
    ]
    return markdown(["where", "what the sources say", "what is done here"], rows, words=(1, 2))


def _deviations(page: Path) -> str:
    found = re.findall(r"^\| (D\d+) \| (PICTO)?", page.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise VixmlError("a page of departures names none", where=page, expected="rows `| D1 | what we do | ...`")
    every, own = (
        ", ".join(name for name, picto in found if bool(picto) == of_picto) or "none" for of_picto in (False, True)
    )
    return f"- Of the paper's runs as of PICTO's: {every}.\n- Of PICTO's runs alone: {own}.\n"


def reproduction(config_dir: Path, write: Path, check: bool) -> None:
    """Do what the verb ``reproduction`` offers.

    Raises:
        VixmlError: a comparison of a run that nobody configured; with ``check``, a page that is out of date.
    """
    known = {run for path in (config_dir / "runs").glob("picto*.yaml") for run in read_yaml(path)["runs"]}
    for one in COMPARISONS:
        for run in (one.run, one.other):
            if run not in known:
                raise VixmlError("a comparison names a run that nobody configured", where="COMPARISONS", found=run)
    update_page(write, pages(config_dir), "the page on what is reproduced", check)
