"""The generated parts of docs/reproduction.md: what of the paper is here, what was measured, what the rest would take.

Made from committed files only (config, results/reference), so that continuous integration can tell whether the page is in step.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.config.load import read_yaml
from vixml.errors import VixmlError
from vixml.reproduce.claims import read_csv
from vixml.reproduce.facts_build import build_any_tables
from vixml.reproduce.grid import Sources
from vixml.reproduce.not_run import missing_hours
from vixml.reproduce.plan_page import markdown
from vixml.reproduce.render import duration
from vixml.reproduce.results import Results
from vixml.reproduce.specs import load_any_tables
from vixml.reproduce.summary import load_reference, update_page
from vixml.reproduce.verdicts import MIN_SEEDS, t_quantile

REFERENCES = (Path("results/reference/picto-summary.json"), Path("results/reference/picto-methods-summary.json"))
CONFIGFILE = "config/paper.yaml"


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper as PICTO can show it: one run less another.

    Attributes:
        says: the paper's claim, in few words.
        place: where it says so.
        run: ours that should be ahead.
        other: ours that it is compared with.
        control: whether the first should *not* be ahead.
    """

    says: str
    place: str
    run: str
    other: str
    control: bool = False


COMPARISONS = (
    Comparison("images help an encoder", "Tables 1 and 3", "vixml-minilm-l3", "text-minilm-l3"),
    Comparison("control: another item's images do not", "–", "vixml-minilm-l3--shuffled", "text-minilm-l3", True),
    Comparison("images help a decoder", "Tables 1 and 3", "vixml-smollm2", "text-smollm2"),
    Comparison("control: another item's images do not", "–", "vixml-smollm2--shuffled", "text-smollm2", True),
    Comparison("a decoder is ahead of an encoder, text", "Table 1", "text-smollm2", "text-minilm-l3"),
    Comparison("a decoder is ahead of an encoder, images", "Table 3", "vixml-smollm2", "vixml-minilm-l3"),
    Comparison("early fusion is ahead of late", "Table 4", "vixml-minilm-l3", "vixml-minilm-l3--late-fusion"),
    Comparison("... both centred", "–", "vixml-minilm-l3--centred", "vixml-minilm-l3--late-fusion"),
    Comparison("PRIME is ahead of DEXA", "Table 5", "text-minilm-l3", "text-minilm-l3--dexa"),
    Comparison("DEXA is ahead of NGAME", "Table 5", "text-minilm-l3--dexa", "text-minilm-l3--ngame"),
    Comparison("images help NGAME", "Table 5", "vixml-minilm-l3--ngame", "text-minilm-l3--ngame"),
    Comparison("images help DEXA", "Table 5", "vixml-minilm-l3--dexa", "text-minilm-l3--dexa"),
    Comparison("three images are ahead of one", "Table 10", "vixml-minilm-l3", "vixml-minilm-l3--1-image"),
    Comparison("retrieval-augmented inference helps", "Table 13", "vixml-minilm-l3--augmented", "vixml-minilm-l3"),
    Comparison("images help beside it", "Table 13", "vixml-minilm-l3--augmented", "text-minilm-l3--augmented"),
)


def pages(config_dir: Path | str, references: tuple[Path, ...] = REFERENCES) -> dict[str, str]:
    """Return the page's generated parts by their place."""
    config_dir = Path(config_dir)
    sources = Sources.load(config_dir, Results())
    return {
        "parts": _parts(config_dir, sources),
        "shape": _shape(references),
        "discrepancies": _discrepancies(config_dir),
    }


def _parts(config_dir: Path, sources: Sources) -> str:
    names = sorted(path.stem for path in (config_dir / "tables").glob("*.yaml"))
    specs = load_any_tables(config_dir, names)
    tables = {
        spec.paper_table: table for spec, table in zip(specs, build_any_tables(specs, sources, config_dir), strict=True)
    }
    missing = missing_hours(specs, sources)
    rows = []
    for _, part in read_csv(config_dir / "reported" / "inventory.csv"):
        name = f"{part['kind']} {part['id']}"
        table = tables.get({"Text latency": "Appendix G", "Text time": "Text"}.get(name, name))
        if table is None:
            rows.append([name, part["content"].split(";")[0], "–", "drawn", "–", "in every report"])
            continue
        states = Counter(table.states(True))
        said = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        hours = missing.by_table[table.spec.id]
        command = f"`tables=[{table.spec.id}]`"
        rows.append([name, table.spec.title, str(len(table.cells(True))), said, duration(hours or None), command])
    heads = ["part", "what", "published cells", "without a run", "GPU time (H100)", "key"]
    total = f"All together {missing.total:,.0f} hours of one H100, as predicted; what tables share is counted once."
    return markdown(heads, rows, words=(1, 3, 5)) + f"\n{total}\n"


def _shape(references: tuple[Path, ...]) -> str:
    found: dict[str, dict[str, Any]] = {}
    for path in references:  # of a run in both, the first one's: it has more seeds
        for row in load_reference(path)["rows"]:
            if row["n"] and (row["run"] not in found):
                found[row["run"]] = row
    rows = []
    for one in COMPARISONS:
        ahead, behind = found.get(one.run), found.get(one.other)
        if ahead is None or behind is None:
            missing = ", ".join(run for run, row in ((one.run, ahead), (one.other, behind)) if row is None)
            rows.append([one.says, one.place, "–", "–", "–", f"not run: `{missing}`"])
            continue
        gap, half = _difference(ahead, behind)
        word = f"too few seeds ({ahead['n']} and {behind['n']})" if half is None else _word(gap, half, one.control)
        interval = "–" if half is None else f"{gap - half:+.1f} to {gap + half:+.1f}"
        rows.append([one.says, one.place, _value(ahead), _value(behind), f"{gap:+.1f} ({interval})", word])
    heads = ["the paper says", "where", "P@1 of the first", "of the second", "difference (95 %)", "on PICTO"]
    return markdown(heads, rows, words=(1, 5))


def _word(gap: float, half: float, control: bool) -> str:
    if control:
        return "a part of the gain stays" if gap > half else "no gain is left"
    return "yes" if gap > half else "the other way" if gap < -half else "not settled"


def _value(row: dict[str, Any]) -> str:
    value = row["metrics"]["P@1"]
    sd = "" if value["sd"] is None else f" ± {value['sd']:.1f}"
    return f"{value['mean']:.1f}{sd} ({row['n']})"


def _difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float | None]:
    """Return the difference of two means, and half its 95 % interval (Welch); None below three seeds of either.

    Example:
        >>> row = {"n": 3, "metrics": {"P@1": {"mean": 50.0, "sd": 1.0}}}
        >>> gap, half = _difference(row, row)
        >>> gap, round(half, 2)
        (0.0, 2.27)
    """
    one, other = a["metrics"]["P@1"], b["metrics"]["P@1"]
    gap = one["mean"] - other["mean"]
    if min(a["n"], b["n"]) < MIN_SEEDS or one["sd"] is None or other["sd"] is None:
        return gap, None
    u, v = one["sd"] ** 2 / a["n"], other["sd"] ** 2 / b["n"]
    if u + v == 0:
        return gap, 0.0
    df = (u + v) ** 2 / (u**2 / (a["n"] - 1) + v**2 / (b["n"] - 1))
    return gap, t_quantile(max(1, math.floor(df + 1e-9))) * math.sqrt(u + v)


def _discrepancies(config_dir: Path) -> str:
    rows = [
        [row["where"], row["what"], row["action"]] for _, row in read_csv(config_dir / "reported" / "discrepancies.csv")
    ]
    return markdown(["where", "what the sources say", "what is done here"], rows, words=(1, 2))


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
