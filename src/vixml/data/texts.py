"""The rules for texts and ids of any table's records: on one line, storable, unique; and the names of columns in errors."""

from __future__ import annotations

import difflib
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vixml.errors import VixmlError

# From the start of a run of blanks only: else each blank of a long run would begin a search of its own.
_BREAKS = re.compile(r"(?<!\s)\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_BROKEN = re.compile(r"[\ud800-\udfff]")
_OPENING = re.compile(r"<(?:(script)|(style))\b|<!--", re.IGNORECASE)
# By the group of the opening.
_CLOSING = {
    group: re.compile(end, re.IGNORECASE) for group, end in ((1, r"</script\s*>"), (2, r"</style\s*>"), (None, "-->"))
}
_LONG_NUMBER = re.compile(r"&#[0-9]{100,};?")  # of a character that does not exist; Python refuses to read it
_INLINE = re.compile(r"</?(?:a|b|i|u|em|strong|span|font|small|sub|sup|mark|wbr)\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z][a-z0-9:-]*(?:\s[^<>]*)?/?>|<![a-z][^<>]*>", re.IGNORECASE)


def without_html(text: str) -> str:
    """Return a text without tags, comments and scripts, its entities resolved.

    Example:
        >>> without_html("<p>Nuts &amp; <b>bo</b>lts<br>M8 &lt; M10</p>")
        'Nuts & bolts M8 < M10'
    """
    if "<" not in text and "&" not in text:
        return text
    text = _without_markup(text)
    if TAG.search(text):  # tags that were written as entities
        text = _without_markup(text)
    return " ".join(text.split())


def _without_markup(text: str) -> str:
    text = TAG.sub(" ", _INLINE.sub("", _without_hidden(text)))
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text))


def _without_hidden(text: str) -> str:
    """Replace scripts, styles and comments by a space each; what is not closed stays, and is looked for once."""
    parts, at, unclosed = [], 0, set()
    for opening in _OPENING.finditer(text):
        kind = opening.lastindex
        if opening.start() < at or kind in unclosed:
            continue
        if closing := _CLOSING[kind].search(text, opening.end()):
            parts += [text[at : opening.start()], " "]
            at = closing.end()
        else:
            unclosed.add(kind)
    return "".join([*parts, text[at:]])


def repaired(value: str) -> str:
    """Return a text on one line, without half a surrogate pair, which cannot be stored, and without blanks around it."""
    if not value.isprintable():  # printable texts, nearly all, need no search
        value = _BROKEN.sub("\ufffd", _BREAKS.sub(" ", value.strip()))
    return value.strip()


class TextRules:
    """Form the texts and ids of one split's records; :attr:`counts` says how often each rule was needed.

    ``html``: remove tags and entities.

    Example:
        >>> rules = TextRules(["title", "content"])
        >>> rules.text({"title": " Fish\\n hooks ", "content": None}, "trn:1"), dict(rules.counts)
        ('Fish hooks', {'texts_with_line_breaks': 1, 'without_content': 1})
    """

    def __init__(self, fields: Sequence[str], *, html: bool = False) -> None:
        self.fields, self.html = tuple(fields), html
        self.counts: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._absent = set(self.fields)
        self._columns: tuple[str, ...] = ()
        self._rows = 0

    def text(self, record: Mapping[str, Any], where: str) -> str:
        """Return a record's text.

        Raises:
            VixmlError: a field that is neither text nor null.
        """
        parts = []
        self._absent -= record.keys()
        if not self._columns:
            self._columns = tuple(map(str, record))
        for field in self.fields:
            value = record.get(field)
            if value is None:
                self.counts[f"without_{field}"] += 1
                continue
            if not isinstance(value, str):
                what, found = "a field of a record is not text", f"{type(value).__name__} {str(value)[:80]!r}"
                raise VixmlError(what, where=f"{where}: {field}", found=found, expected="a string, or null")
            parts.append(self._clean(without_html(value) if self.html else value))
        text = " ".join(filter(None, parts))
        if not text:
            self.counts["texts_empty"] += 1
        return text

    def identify(self, value: object, where: str) -> str:
        """Return a record's id, made unique within the split; call it once per row, in order.

        Raises:
            VixmlError: an id that is neither text nor a whole number.
        """
        row, self._rows = self._rows, self._rows + 1
        if value is None or (isinstance(value, str) and not value.strip()):
            self.counts["ids_missing"] += 1
            value = f"#{row}"
        elif type(value) is int:
            value = str(value)
        elif not isinstance(value, str):
            raise VixmlError("an id is neither text nor a whole number", where=where, found=repr(value)[:80])
        name = repaired(value)
        if name != value.strip():
            self.counts["ids_repaired"] += 1
        if name in self._ids:
            self.counts["ids_repeated"] += 1
            while name in self._ids:
                name += f"#{row}"
        self._ids.add(name)
        return name

    def check_fields(self, where: object) -> None:
        """Refuse a split of which no record has one of the fields: the registry names another format.

        Raises:
            VixmlError: such a field.
        """
        for field in sorted(self._absent):
            raise VixmlError(
                "no record has a field that makes the text",
                where=where,
                found=f"{self._rows} records without {field!r}; {named(self._columns)}",
                expected=" + ".join(self.fields),
                hint=nearest(field, self._columns) or "correct `text` of the dataset in config/datasets.yaml",
            )

    def _clean(self, value: str) -> str:
        if not value.isprintable():
            if _BREAKS.search(value.strip()):
                self.counts["texts_with_line_breaks"] += 1
            if _BROKEN.search(value):
                self.counts["texts_with_broken_characters"] += 1
        return repaired(value)


def named(columns: Iterable[str]) -> str:
    """Return the names of a table's columns for an error, those that hold odd characters in quotes."""
    shown = [name if name.isprintable() and name == name.strip() else repr(name) for name in map(str, columns)]
    return f"columns {', '.join(shown) or 'none'}"[:500]


def nearest(wanted: str, columns: Sequence[str]) -> str | None:
    """Return advice where a column is missing: another spelling, another delimiter, a byte order mark; None if nothing is near."""
    first = columns[0] if columns else ""
    for mark, encoding in (("\ufeff", "utf-16 or utf-8"), ("ï»¿", "utf-8"), ("ÿþ", "utf-16"), ("þÿ", "utf-16")):
        if first.startswith(mark):
            return f"the header begins with a byte order mark, {mark!r}: set catalogue.form.encoding: {encoding}"
    if len(columns) == 1:
        for delimiter in (";", "\t", ",", "|"):
            if delimiter in first:
                return f"the header has one cell, divided by {delimiter!r}: set catalogue.form.delimiter: {json.dumps(delimiter)}"
    spellings = {" ".join(name.casefold().replace("_", " ").split()): name for name in reversed(columns)}
    near = difflib.get_close_matches(" ".join(wanted.casefold().replace("_", " ").split()), spellings, n=1)
    return f"did you mean the column {spellings[near[0]]!r}? Correct the name in config/datasets.yaml" if near else None
