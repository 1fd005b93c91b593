"""Print one table of all benchmarks: path, size, ours, straightforward, ratio, limit, share of the limit, device.

It reads benchmarks/results/*.json; what still wants a GPU is listed with the command that would measure it.

    python benchmarks/table.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
HEAD = ["path", "size", "ours", "straightforward", "ratio", "limit", "of limit", "device"]
# Paths that were never timed on a GPU: the command that would do it, and the file that it would write.
OWED = [
    (
        "balanced 2-means",
        "2,250,000 x 768, groups of 16",
        "clustering-gpu.json",
        "python benchmarks/clustering.py --points 2250000 --dim 768 --device cuda --rounds 3",
    ),
]


def number(value: float | None) -> str:
    """Print three digits.

    Example:
        >>> number(0.01234), number(12345.6), number(None)
        ('0.0123', '12,346', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one row."""
    unit = row["unit"]
    plain, ratio = row["straightforward"], row["ratio"]
    device = row["device"] if row["device"] != "cpu" else f"cpu, {row['threads']} thread{'s'[: row['threads'] > 1]}"
    limit = row.get("limit")
    share = row.get("share_of_limit")
    return [
        row["path"],
        row["size"],
        f"{number(row['ours']['median'])} {unit}",
        f"{number(plain['median'])} {unit}" if plain else "–",
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "–",
        f"{number(limit)} {unit}" if limit else "–",
        f"{share:.0%}" if share else "–",
        device,
    ]


def show(rows: list[dict[str, Any]], owed: list[list[str]] | None = None) -> None:
    """Print rows as a table in Markdown."""
    lines = [HEAD, *(cells(row) for row in rows), *(owed or [])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    for place, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if not place:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
