"""Labels as users write them: a list in a cell, several names in one, a column of 0 and 1 for each; and what looks like these."""

from __future__ import annotations

import ast
import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vixml.errors import VixmlError
from vixml.progress import warn

SEPARATORS = ("||", "|", ";", "\n", "\t", ",", " > ", " / ", "/")
NUMBER = re.compile(r"[-+]?[€$£]?\s?\d{1,3}(?:[.,'\s]?\d{3})*(?:[.,]\d+)?\s?[€$£%]?$|[-+]?\d+(?:[.,]\d+)?$")
TRUE, FALSE = {"1", "true", "yes", "y", "x", "t"}, {"0", "false", "no", "n", "f", ""}
_QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_CALL = re.compile(r"(?:array|frozenset|set|list|tuple|Index|Series)\((.*)\)", re.DOTALL)
# Stack Exchange: <c#><.net>; a closing tag or an address is no name.
_ANGLED = re.compile(r"(?:<[^<>\s/]+>)+")
_VECTOR = re.compile(r"[01](?:\.0*)?(?:[ ,;|\t]+[01](?:\.0*)?){2,}")
_NO_WIDTH = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # joiners are left: they change how a word reads
# What a name is looked at for: beyond this, a share of them says as much.
SAMPLE = 20_000


def folded(name: str) -> str:
    """Return a label's name without case, repeated spaces and what has no width (soft hyphens, marks of byte order)."""
    return " ".join(unicodedata.normalize("NFC", name).translate(_NO_WIDTH).casefold().split())


def parse_list(cell: str) -> list[Any] | None:
    """Return the list that a cell holds in the notation of JSON, Python, numpy, PostgreSQL or Stack Exchange, or None.

    Example:
        >>> parse_list('["a", "b"]'), parse_list("{'a', 'b'}"), parse_list("['a' 'b c']"), parse_list('{a,"b, c"}')
        (['a', 'b'], ['a', 'b'], ['a', 'b c'], ['a', 'b, c'])
        >>> parse_list("<c#><.net>"), parse_list("array(['a'], dtype=object)")
        (['c#', '.net'], ['a'])
        >>> parse_list("[sic] a"), parse_list("(new)"), parse_list('{"a": 1}'), parse_list("<b>a</b>")
        (None, None, None, None)
    """
    cell = cell.strip()
    if _ANGLED.fullmatch(cell):
        return cell[1:-1].split("><")
    if call := _CALL.fullmatch(cell):
        values, dtype, name = call[1].rpartition("dtype=")  # a pattern would look at the rest again for each comma
        is_typed = dtype and values.rstrip().endswith(",") and not set(name) & set("()")
        cell = (values.rstrip()[:-1] if is_typed else call[1]).strip()
    if cell[:1] + cell[-1:] not in ("[]", "()", "{}"):
        return None
    if cell[0] == "[" and _parts(cell[1:-1]):  # Python joins such texts into one
        return _parts(cell[1:-1])
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (set, frozenset)):
            return sorted(found, key=cell.find if all(isinstance(part, str) for part in found) else str)
        return list(found) if isinstance(found, (list, tuple)) else None
    inner = cell[1:-1]
    if cell[0] == "{" and inner and not set(inner) & set("{}:'\n"):
        return next(csv.reader([inner], skipinitialspace=True))
    return None


def _parts(inner: str) -> list[str] | None:
    """Return the texts of ``'a' 'b'``, as numpy prints an array: separated by blanks alone."""
    found, position = [], 0
    while match := _QUOTED.match(inner, position):
        found.append(ast.literal_eval(match[1]))
        position = match.end()
    return found if len(found) > 1 and not inner[position:].strip() else None


def guess_separator(cells: Sequence[str]) -> tuple[str, str, bool]:
    """Return the separator of values in cells (``""``: one value each), the reason, and whether it is doubtful.

    A separator cuts cells into values that other cells have, too; one that cuts prose gives values seen once. Equal cells
    count once: a name that many items have says nothing about its parts.

    Example:
        >>> guess_separator(["a|b", "b|c, d", "c, d|a"])[0], guess_separator(["Smith, J", "Lee, K"])[0]
        ('|', '')
        >>> guess_separator(["Toys", "Sports, Outdoors", "Sports, Outdoors"])[0], guess_separator(["a > b", "c"])[0]
        ('', ' > ')
    """
    found, different = [], set(cells)
    for separator in SEPARATORS:
        # A comma inside a number is a decimal sign.
        several = [
            cell for cell in cells if separator in cell.strip(separator + " ") and not NUMBER.match(cell.strip())
        ]
        if not several:
            continue
        uses = Counter(part for cell in different for part in {part.strip() for part in cell.split(separator)})
        parts = [part.strip() for cell in set(several) for part in cell.split(separator) if part.strip()]
        again = sum(uses[part] > 1 for part in parts) / max(len(parts), 1)
        found.append((again, len(several), separator))
        sure = separator in ("||", "|", ";", "\n", "\t", " > ") and len(several) >= 0.05 * len(cells)
        if sure or again >= 0.6:
            words = f"{len(several)} of {len(cells)} cells have it, and {again:.0%} of the parts occur in other cells"
            return separator, words, again < 0.2
    doubtful = max(found, default=(0.0, 0, ""))
    return "", "no character divides the cells into values that recur", doubtful[0] >= 0.3


def flag(value: Any) -> bool | None:
    """Return whether a cell means yes; None: it means neither yes nor no.

    Example:
        >>> flag(1.0), flag("No"), flag(None), flag("maybe")
        (True, False, False, None)
    """
    if value is None or value != value:
        return False
    text = str(value).strip().casefold().removesuffix(".0")
    return True if text in TRUE else False if text in FALSE else None


def set_flags(record: Mapping[str, Any], columns: Iterable[str], where: str) -> list[str]:
    """Return the columns in which a record has a 1.

    Raises:
        VixmlError: a cell that is neither 0 nor 1.
    """
    found = []
    for name in columns:
        if (value := flag(record.get(name))) is None:
            raise VixmlError(
                "a column of a label holds something else than 0 and 1",
                where=f"{where}: {name}",
                found=repr(record.get(name))[:80],
                expected="0 or 1, true or false, yes or no, x or nothing",
                hint="with labels_are: columns, each column of catalogue.labels is a label",
            )
        if value:
            found.append(name)
    return found


def expect_single_names(
    uses: Counter[str], most: int, several_columns: bool, whole: bool, where: object
) -> dict[str, int]:
    """Look for several labels written as one, which would train a model of nonsense.

    Args:
        uses: name -> how many items have it.
        most: labels of the item that has the most.
        several_columns: whether labels come from several columns.
        whole: whether the registry says that a cell is one label (``separator: ""``).

    Returns:
        Counts for ``counts.json``: names that look like lists, names that look like several, names alike but for case and spaces.

    Raises:
        VixmlError: most names are lists, numbers of a multi-hot vector, or several names in one cell.
    """
    total, hint = uses.total(), "`vixml new` writes the entry for such a table; docs/dataset.md"
    if uses and all(flag(name) is not None for name in uses) and (several_columns or most > 2):
        what, expected = "the labels are 0 and 1: a vector or columns with one place per label", "names of labels"
        hint = "set catalogue.labels_are: columns" if several_columns else "give each label a column, or write names"
        raise VixmlError(what, where=where, found=", ".join(map(repr, sorted(uses))), expected=expected, hint=hint)
    like_lists = [name for name in uses if _is_like_a_list(name)]
    share = sum(uses[name] for name in like_lists) / max(total, 1)
    if share >= 0.5:
        what, hint = "labels are written as lists in text", f"set catalogue.lists: true; {hint}"
        raise VixmlError(what, where=where, found=repr(like_lists[0])[:120], expected="one name each", hint=hint)
    if like_lists:
        warn(f"{where}: {len(like_lists)} labels look like lists, e.g. {like_lists[0][:80]!r} (catalogue.lists)")
    several, separator = [], ""
    if not whole:
        sample = [name for name, _ in uses.most_common(SAMPLE)]
        separator, _, doubtful = guess_separator(sample)
        separator = "" if doubtful or ">" in separator or "/" in separator else separator
        several = [name for name in sample if separator and separator in name]
    if several and most < 2 and sum(uses[name] for name in several) >= 0.3 * total:
        raise VixmlError(
            "several labels are written in one cell",
            where=where,
            found=f"{len(several)} names like {several[0][:80]!r}, and no item with two labels",
            expected="one name each",
            hint=f"set catalogue.separator: {separator!r} and separator_in: all; or separator: '' if these are single names",
        )
    if several:
        warn(f"{where}: {len(several)} labels hold {separator!r}, e.g. {several[0][:80]!r} (catalogue.separator)")
    alike = len(uses) - len({folded(name) for name in uses})
    counts = {"labels_like_lists": len(like_lists), "labels_like_several": len(several), "labels_alike": alike}
    return {key: count for key, count in counts.items() if count}


def _is_like_a_list(name: str) -> bool:
    return bool(_VECTOR.fullmatch(name)) or parse_list(name) is not None or (name[:1] == "{" and is_object(name))


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
