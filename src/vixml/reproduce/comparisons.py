"""Claims of the paper as differences of two scores: what it printed of each, and which two runs of PICTO show its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vixml.errors import VixmlError
from vixml.reproduce.claims import PAPER, Claim
from vixml.reproduce.verdicts import MIN_SEEDS, t_quantile

TITLES, PICTURED = "LF-AmazonTitles-131K", "MM-AmazonTitles-300K"
METRIC = "P@1"


@dataclass(frozen=True)
class Printed:
    """A published score.

    Attributes:
        table: e.g. ``Table 1``.
        row: columns of reported_results.csv that single it out.
        dataset: the paper's.
    """

    table: str
    row: dict[str, str]
    dataset: str = TITLES


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper as PICTO can show it: one run less another.

    Attributes:
        says: the paper's claim, in few words.
        run: ours that should be ahead.
        other: ours that it is compared with.
        printed: the paper's two scores, in that order; None where it has no such row.
        control: whether the first should *not* be ahead.
    """

    says: str
    run: str
    other: str
    printed: tuple[Printed, Printed] | None = None
    control: bool = False


def _backbones(table: str, other: str, first: str, second: str) -> tuple[Printed, Printed]:
    return Printed(table, {"backbone": first}), Printed(other, {"backbone": second})


def _of_table_5(first: tuple[str, str], second: tuple[str, str]) -> tuple[Printed, Printed]:
    one, two = ({"base_method": method, "modality": modality} for method, modality in (first, second))
    return Printed("Table 5", one), Printed("Table 5", two)


# The smallest backbone of each kind; where a table has DistilBERT alone, that.
ENCODER, DECODER, TEXT, IMAGES = "MiniLM-L3", "Qwen2.5-0.5B-I", "text", "text+image"
COMPARISONS = (
    Comparison(
        "images help an encoder", "vixml-minilm-l3", "text-minilm-l3",
        _backbones("Table 3", "Table 1", ENCODER, ENCODER),
    ),
    Comparison(
        "control: another item's images do not", "vixml-minilm-l3--shuffled", "text-minilm-l3", control=True
    ),
    Comparison(
        "images help a decoder", "vixml-smollm2", "text-smollm2", _backbones("Table 3", "Table 1", DECODER, DECODER)
    ),
    Comparison("control: another item's images do not", "vixml-smollm2--shuffled", "text-smollm2", control=True),
    Comparison(
        "a decoder is ahead of an encoder, text", "text-smollm2", "text-minilm-l3",
        _backbones("Table 1", "Table 1", DECODER, ENCODER),
    ),
    Comparison(
        "a decoder is ahead of an encoder, images", "vixml-smollm2", "vixml-minilm-l3",
        _backbones("Table 3", "Table 3", DECODER, ENCODER),
    ),
    Comparison(
        "early fusion is ahead of late", "vixml-minilm-l3", "vixml-minilm-l3--late-fusion",
        (
            Printed("Table 4", {"method": "ViXML", "vision_encoder": "SigLIP2"}, PICTURED),
            Printed("Table 4", {"method": "MUFIN", "vision_encoder": "SigLIP2"}, PICTURED),
        ),
    ),
    Comparison("... both centred", "vixml-minilm-l3--centred", "vixml-minilm-l3--late-fusion"),
    Comparison(
        "PRIME is ahead of DEXA", "text-minilm-l3", "text-minilm-l3--dexa",
        _of_table_5(("PRIME", TEXT), ("DEXA", TEXT)),
    ),
    Comparison(
        "DEXA is ahead of NGAME", "text-minilm-l3--dexa", "text-minilm-l3--ngame",
        _of_table_5(("DEXA", TEXT), ("NGAME", TEXT)),
    ),
    Comparison(
        "images help NGAME", "vixml-minilm-l3--ngame", "text-minilm-l3--ngame",
        _of_table_5(("NGAME", IMAGES), ("NGAME", TEXT)),
    ),
    Comparison(
        "images help DEXA", "vixml-minilm-l3--dexa", "text-minilm-l3--dexa",
        _of_table_5(("DEXA", IMAGES), ("DEXA", TEXT)),
    ),
    Comparison(
        "three images are ahead of one", "vixml-minilm-l3", "vixml-minilm-l3--1-image",
        (Printed("Table 10", {"n_images": "3"}, PICTURED), Printed("Table 10", {"n_images": "1"}, PICTURED)),
    ),
    Comparison(
        "retrieval-augmented inference helps", "vixml-minilm-l3--augmented", "vixml-minilm-l3",
        (Printed("Table 13", {"method": "ViXML (DEL+R)"}), Printed("Table 13", {"method": "ViXML (DEL)"})),
    ),
    Comparison(
        "images help beside it", "vixml-minilm-l3--augmented", "text-minilm-l3--augmented",
        (Printed("Table 13", {"method": "ViXML (DEL+R)"}), Printed("Table 13", {"method": "DEL+R"})),
    ),
)  # fmt: skip


def in_the_paper(one: Comparison, claims: Sequence[Claim]) -> list[str]:
    """Return where the paper says it, and the difference of its two scores with their backbones; dashes if it does not.

    Raises:
        VixmlError: columns that single out no published score, or several.
    """
    if one.printed is None:
        return ["–", "–"]
    first, second = (_claim(printed, claims) for printed in one.printed)
    tables = " and ".join(sorted({first.table, second.table})).replace(" and Table", " and")
    backbones = ", ".join(dict.fromkeys((first.row["backbone"], second.row["backbone"])))
    return [tables.replace("Table", "Tables") if " and " in tables else tables,
            f"{first.value - second.value:+.{first.decimals}f} ({backbones})"]  # fmt: skip


def _claim(printed: Printed, claims: Sequence[Claim]) -> Claim:
    found = [
        claim
        for claim in claims
        if (claim.source, claim.table, claim.dataset, claim.metric) == (PAPER, printed.table, printed.dataset, METRIC)
        and claim.selected_by(printed.row)
    ]
    if len(found) != 1:
        raise VixmlError(
            "a comparison stands on one published score",
            where="COMPARISONS of src/vixml/reproduce/comparisons.py",
            found=f"{len(found)} of {printed.table}, {printed.dataset}, with {printed.row}",
            hint="name more columns of config/reported/reported_results.csv",
        )
    return found[0]


def on_picto(one: Comparison, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return both runs' P@1, their difference with its 95 % interval, and what that says of the claim's shape.

    Args:
        one: the comparison.
        rows: run -> its row in a reference file.
    """
    ahead, behind = rows.get(one.run), rows.get(one.other)
    if ahead is None or behind is None:
        missing = ", ".join(run for run, row in ((one.run, ahead), (one.other, behind)) if row is None)
        return ["–", "–", "–", f"not run: `{missing}`"]
    gap, half = difference(ahead, behind)
    word = f"too few seeds ({ahead['n']} and {behind['n']})" if half is None else _word(gap, half, one.control)
    interval = "–" if half is None else f"{gap - half:+.1f} to {gap + half:+.1f}"
    return [_value(ahead), _value(behind), f"{gap:+.1f} ({interval})", word]


def _word(gap: float, half: float, control: bool) -> str:
    if control:
        return "a part of the gain stays" if gap > half else "no gain is left"
    return "yes" if gap > half else "the other way" if gap < -half else "not settled"


def _value(row: dict[str, Any]) -> str:
    value = row["metrics"][METRIC]
    sd = "" if value["sd"] is None else f" ± {value['sd']:.1f}"
    return f"{value['mean']:.1f}{sd} ({row['n']})"


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float | None]:
    """Return the difference of two means, and half its 95 % interval (Welch); None below three seeds of either.

    Example:
        >>> row = {"n": 3, "metrics": {"P@1": {"mean": 50.0, "sd": 1.0}}}
        >>> gap, half = difference(row, row)
        >>> gap, round(half, 2)
        (0.0, 2.27)
    """
    one, other = a["metrics"][METRIC], b["metrics"][METRIC]
    gap = one["mean"] - other["mean"]
    if min(a["n"], b["n"]) < MIN_SEEDS or one["sd"] is None or other["sd"] is None:
        return gap, None
    u, v = one["sd"] ** 2 / a["n"], other["sd"] ** 2 / b["n"]
    if u + v == 0:
        return gap, 0.0
    df = (u + v) ** 2 / (u**2 / (a["n"] - 1) + v**2 / (b["n"] - 1))
    return gap, t_quantile(max(1, math.floor(df + 1e-9))) * math.sqrt(u + v)
