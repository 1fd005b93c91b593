"""How a published record becomes an item's id and text: stated rules, each counted, nothing dropped.

======================================  =============================================================================
a field is absent or null               it counts as empty
line breaks inside a text               each run of them, with the blanks around it, becomes one blank
blanks at the ends                      taken off
half of a surrogate pair (broken JSON)  becomes U+FFFD
several fields (``title + content``)    joined by one blank, empty ones left out
an empty text                           is kept: row numbers carry the labels
an id is absent or null                 the row becomes its id, ``#12``
an id seen before in the split          the row is added to it, ``B001#12``
======================================  =============================================================================

No other character is touched: what is not Latin stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vixml.errors import VixmlError

_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_BROKEN = re.compile(r"[\ud800-\udfff]")


class TextRules:
    """Make texts of one split's records; :attr:`counts` says how often a rule was needed.

    Args:
        fields: names of the fields that make the text, in order.

    Example:
        >>> rules = TextRules(["title", "content"])
        >>> rules.text({"title": " Fish\\n hooks ", "content": None}, "trn:1"), dict(rules.counts)
        ('Fish hooks', {'texts_with_line_breaks': 1, 'without_content': 1})
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.counts: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._absent = set(self.fields)
        self._rows = 0

    def text(self, record: Mapping[str, Any], where: str) -> str:
        """Return a record's text.

        Raises:
            VixmlError: a field that is neither text nor null.
        """
        parts = []
        if self._absent:
            self._absent -= record.keys()
        for field in self.fields:
            value = record.get(field)
            if value is None:
                self.counts[f"without_{field}"] += 1
                continue
            if not isinstance(value, str):
                raise VixmlError(
                    "a field of a record is not text",
                    where=f"{where}: {field}",
                    found=f"{type(value).__name__} {str(value)[:80]!r}",
                    expected="a string, or null where there is none",
                )
            parts.append(self._clean(value))
        text = " ".join(filter(None, parts))
        if not text:
            self.counts["texts_empty"] += 1
        return text

    def identify(self, value: object, where: str) -> str:
        """Return a record's id, made unique within the split; call it once a row, in order.

        Raises:
            VixmlError: an id that is neither text nor a whole number.
        """
        row, self._rows = self._rows, self._rows + 1
        if value is None or value == "":
            self.counts["ids_missing"] += 1
            value = f"#{row}"
        elif type(value) is int:
            value = str(value)
        elif not isinstance(value, str):
            raise VixmlError("an id is neither text nor a whole number", where=where, found=repr(value)[:80])
        name = _BROKEN.sub("\ufffd", value)
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
                found=f"{self._rows} records without {field!r}",
                expected=" + ".join(self.fields),
                hint="correct `text` of the dataset in config/datasets.yaml",
            )

    def _clean(self, value: str) -> str:
        if not value.isprintable():  # printable texts, nearly all, need no search
            if _BREAKS.search(value.strip()):
                self.counts["texts_with_line_breaks"] += 1
                value = _BREAKS.sub(" ", value)
            if _BROKEN.search(value):
                self.counts["texts_with_broken_characters"] += 1
                value = _BROKEN.sub("\ufffd", value)
        return value.strip()
