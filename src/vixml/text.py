"""Format durations, sizes and Markdown tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def size(n: float) -> str:
    """Print bytes, decimal.

    Example:
        >>> size(0), size(3.2e6), size(7.15e10), size(2.4e12)
        ('–', '3 MB', '72 GB', '2.4 TB')
    """
    if n <= 0:
        return "–"
    value, unit = (n / 1e12, "TB") if n >= 1e12 else (n / 1e9, "GB") if n >= 1e9 else (n / 1e6, "MB")
    return f"{value:.1f} {unit}" if value < 10 and unit != "MB" else f"{value:.0f} {unit}"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = ()) -> str:
    """Return a table whose columns but the first, and those of ``words``, stand to the right; pipes are escaped."""
    sides = ["---" if column == 0 or column in words else "---:" for column in range(len(titles))]
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join(sides) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join(lines) + "\n"


def duration(hours: float | None) -> str:
    """Print hours in the unit that reads best.

    Example:
        >>> duration(0.005), duration(0.07), duration(0.5), duration(4.25), duration(None)
        ('18 s', '4.2 min', '30 min', '4.2 h', '–')
    """
    if hours is None:
        return "–"
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    value, unit = (hours * 60, "min") if hours < 1 else (hours, "h")
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
