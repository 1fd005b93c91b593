"""Format durations, sizes and Markdown tables."""

from __future__ import annotations

import re
import unicodedata
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


# Controls, and marks that turn the direction of what follows; a terminal, a page and LaTeX would obey or refuse them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]"
)
_BLOCK = re.compile(r"#{1,6}(?=\s|$)|>|[-+*](?=\s|$)|[-*_=~`]{3}|\d+(?=[.)](\s|$))")


def one_line(text: str) -> str:
    """Return text on one line, without invisible characters that would change how the rest is read."""
    return " ".join(_INVISIBLE.sub("", text).split())


def shown(text: str) -> str:
    """Return lines for a terminal, without characters that it would obey: colours, titles, the cursor, the direction of reading.

    Example:
        >>> shown("a \\x1b[2Jb\\n\\u202ec\\rd")
        'a [2Jb\\nc d'
    """
    return _INVISIBLE.sub("", text.replace("\r", " "))


def plain(text: str) -> str:
    r"""Return text from a configuration or a user's data on one line of Markdown: no live HTML, images, links or headings.

    Example:
        >>> plain("a <script>\n# b ![c](d)"), plain("# x"), plain("1. x"), plain("https://x")
        ('a &lt;script> # b !\\[c](d)', '\\# x', '1\\. x', 'https:&#8203;//x')
    """
    text = one_line(text)
    if block := _BLOCK.match(text):
        at = block.end() if text[0].isdigit() else 0
        before, text = text[:at], text[at:]
    # A backslash before the one that we add would turn it into a character.
    text = text.replace("\\", "\\\\").replace("[", "\\[")
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    text = re.sub(
        r"(?i)(?<=http:|ttps:)(?=//)|(?<=\bftp:)(?=//)|(?<=www)(?=\.)|(?<=[\w.+-])(?=@[\w-]+\.\w)", "&#8203;", text
    )
    return f"{before}\\{text}" if block else text


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


def csv_cell(value: object) -> object:
    """Return a cell that a spreadsheet reads as text or a number, never as a formula; :func:`cell_text` is the inverse.

    Example:
        >>> csv_cell("=HYPERLINK(1)"), csv_cell("-0.50"), csv_cell("+1.2"), csv_cell("-x"), csv_cell("'=a")
        ("'=HYPERLINK(1)", '-0.50', '+1.2', "'-x", "''=a")
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) and not _NUMBER.fullmatch(value) else value


def cell_text(cell: str) -> str:
    """Return the text of a CSV cell: without the apostrophe that keeps it from being a formula.

    Example:
        >>> cell_text("'=HYPERLINK(1)"), cell_text("''=a"), cell_text("'tis"), cell_text("=a")
        ('=HYPERLINK(1)', "'=a", "'tis", '=a')
    """
    return cell[1:] if cell[:1] == "'" and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet may take a text for a formula, perhaps after apostrophes: to these another one is added.

    Spreadsheets also take full-width signs, and skip blanks and what is invisible.
    """
    text = text.lstrip("'")
    seen = next((sign for sign in text if unicodedata.category(sign) not in ("Cc", "Cf", "Zs", "Zl", "Zp")), "")
    return text[:1] in ("\t", "\r") or unicodedata.normalize("NFKC", seen) in ("=", "+", "-", "@")


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = ()) -> str:
    """Return a table whose columns but the first, and those of ``words``, stand to the right; pipes are escaped."""
    sides = ["---" if column == 0 or column in words else "---:" for column in range(len(titles))]
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join(sides) + "|"]
    lines += ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join(lines) + "\n"


def milliseconds(value: float | None) -> str:
    """Print milliseconds with about two digits.

    Example:
        >>> milliseconds(0.0003), milliseconds(0.0312), milliseconds(1.04), milliseconds(260.4), milliseconds(None)
        ('< 0.001 ms', '0.031 ms', '1.0 ms', '260 ms', '–')
    """
    if value is None:
        return "–"
    if value < 0.0005:
        return "< 0.001 ms"
    decimals = sum(value < limit for limit in (9.95, 0.995, 0.0995))
    return f"{value:.{decimals}f} ms"


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
