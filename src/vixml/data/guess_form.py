"""Guess how a user's tables are written: encoding, delimiter, quotes, sheet; each guess has a reason and an option."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from vixml.config.load import validate
from vixml.config.registry import TableForm
from vixml.data.label_names import NUMBER, is_object
from vixml.data.table_files import csv_rows, kind_of, open_bytes, read_rows, sheets_of
from vixml.errors import VixmlError

SAMPLE_BYTES = 1 << 18
TEXT_KINDS = ("csv", "lines", "json")  # those with an encoding
UTF8 = ("utf-8", "utf8", "utf-8-sig")
WHY_ENCODING = {
    "ascii": "ASCII only", "utf-8": "all bytes are valid UTF-8",
    "cp1252": "not UTF-8; read as Western European, accents fall inside words",
}  # fmt: skip
ONE_COLUMN = "a CSV file has one column only, or an unknown delimiter"
FORM_OPTIONS = "--encoding, --delimiter, --quote, --sheet, --records, --no-header"
_NOT_WESTERN = re.compile(
    r"\w[^\w\s’'´`.–—-]\w|\ufffd|[^\W\d_a-zA-Zàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿœßªº\u00c0-\u00d6\u00d8-\u00dd]"
)
# From the start of a word only: a long one in ASCII (an image in base64) would be searched from each of its bytes.
_HIGH_WORD = re.compile(rb"(?<![^\s,;|])[^\s,;|]*[\x80-\xff][^\s,;|]*")
URL = re.compile(r"https?://\S+$", re.IGNORECASE)


@dataclass
class Report:
    """Guesses to be printed, each (subject, guess, reason, option that changes it), and warnings; ``n_rows`` of the table."""

    guesses: list[tuple[str, str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    n_rows: int = 0

    def guess(self, subject: str, found: object, reason: str, option: str) -> None:
        """Add a guess."""
        self.guesses.append((subject, str(found), reason, option))

    def warn(self, sentence: str) -> None:
        """Add a doubt."""
        self.warnings.append(sentence)


def undecided(what: str, path: object, found: object, option: str) -> VixmlError:
    """Return the error for what cannot be guessed."""
    return VixmlError(what, where=path, found=found, hint=f"say so: {option}")


def guess_form(
    paths: Sequence[Path], given: Mapping[str, Any], report: Report, beside: Sequence[Path] = ()
) -> TableForm:
    """Guess how files of one table are written: the first decides, but for the encoding and the sheet.

    ``given`` has the keys that the user set. Files ``beside``, of another table, must have the same encoding and sheet.

    Raises:
        VixmlError: empty, of different kinds, or what cannot be told.
    """
    path, found = paths[0], dict(given)
    validate(TableForm, found, "vixml new")
    if len(kinds := {kind_of(one) for one in paths}) > 1:
        raise undecided("the files are of different kinds", path, ", ".join(sorted(kinds)), "save them in one kind")
    for one in paths:
        with open_bytes(one) as stream:
            if not stream.read(1):
                raise VixmlError("a table is empty", where=one, hint="is the export finished?")
    kind = kinds.pop()
    if kind in TEXT_KINDS and "encoding" not in found:
        texts = [*paths, *(one for one in beside if kind_of(one) in TEXT_KINDS)]
        encodings = {guess_encoding(one): one for one in texts[::-1]}
        if len(encodings) > 1:
            encodings.pop("ascii", None)
        if len(encodings) > 1:
            raise VixmlError(
                "the files have different encodings", where=path,
                found=", ".join(f"{one.name}: {encoding}" for encoding, one in sorted(encodings.items())),
                expected="one encoding", hint="save them in one; or --encoding NAME, if one of these is guessed wrong",
            )  # fmt: skip
        found["encoding"] = {"ascii": "utf-8"}.get(encoding := next(iter(encodings)), encoding)
        report.guess("encoding", found["encoding"], WHY_ENCODING.get(encoding, "by its first bytes"), "--encoding")
    if kind == "csv":
        _guess_csv(path, found, given, report)
    elif kind == "excel" and "sheet" not in found:
        sheets = {one: sheets_of(one) for one in [*paths, *beside] if kind_of(one) == "excel"}
        names = list(dict.fromkeys(first for first, *_ in sheets.values()))
        found["sheet"] = names[0] if len(names) == 1 else None  # the first of each
        report.guess("sheet", ", ".join(names)[:200], "the first" + " of each" * (len(names) > 1), "--sheet")
        for one, (_, *others) in sheets.items():
            if others:
                report.warn(f"{one.name} has other sheets, which are not read: {', '.join(others)} (--sheet)")
    elif kind == "json" and "records" not in found:
        text = _sample(path, TableForm(**found).encoding).lstrip()
        nested = re.search(r'"([^"\\]+)"\s*:\s*\[\s*\{', text)
        first, _, rest = text.partition("\n")
        if text.startswith("{") and nested and not (rest.strip() and is_object(first)):
            found["records"] = nested[1]
            report.guess("records", nested[1], "the first array of objects", "--records")
    return TableForm(**found)


def common_form(files: Sequence[Path], test: Sequence[Path], given: Mapping[str, Any], report: Report) -> TableForm:
    """Guess how the files of training items, and those of test items if any, are written, which is one form.

    Raises:
        VixmlError: as :func:`guess_form`, or two forms.
    """
    form = guess_form(files, given, report, test)
    if not test:
        return form
    alike = {"encoding": form.encoding} if kind_of(files[0]) in TEXT_KINDS else {"sheet": form.sheet}
    other = guess_form(test, alike | dict(given), Report())
    differ = [key for key, value in form.model_dump().items() if value != getattr(other, key)]
    if differ == ["escape"] and None in (form.escape, other.escape):
        # A table without a quote inside a cell does not show how one would be written.
        paths, plain, escaped = (files, form, other) if form.escape is None else (test, other, form)
        if _reads_alike(paths, plain, escaped):
            report.guess("escape", escaped.escape, "one table has it before quotes, the other has no quotes", "--quote")
            return escaped
    if differ:
        raise VixmlError(
            "train and test are written differently", where=test[0], found=f"another {', '.join(differ)}",
            expected=f"as {files[0]}", hint="export both in one form, or one table without --test",
        )  # fmt: skip
    return form


def _reads_alike(paths: Sequence[Path], plain: TableForm, escaped: TableForm) -> bool:
    """Return whether a CSV table gives the same rows in a form with an escape character, which escapes itself, too."""
    mark, nothing = str(escaped.escape), ("", None)
    with suppress(VixmlError):
        for (_, one), (_, other) in zip_longest(read_rows(paths, plain), read_rows(paths, escaped), fillvalue=nothing):
            if not isinstance(one, dict) or {name: cell.replace(mark * 2, mark) for name, cell in one.items()} != other:
                return False
        return True
    return False


def form_like(
    paths: Sequence[Path], given: Mapping[str, Any], earlier: TableForm, columns: set[str], report: Report
) -> TableForm:
    """Return how a further table is written: like an earlier one if that fits, else as is guessed.

    A few rows of another encoding do not decide: who reads the table puts them aside.

    Args:
        given: keys of :class:`TableForm` that the user set; then all others are guessed.
        columns: names of which one is looked for; a form with which none is found does not fit.

    Raises:
        VixmlError: as :func:`guess_form`, if the usual form does not fit either.
    """
    validate(TableForm, dict(given), "the options")
    known = [earlier] if not given and earlier != TableForm() else []
    if known and _fits(paths, earlier, columns):
        report.guess("form", "that of the training table", "its columns are found", FORM_OPTIONS)
        return earlier
    good, bad, _ = _encoded(paths, "utf-8")
    if "encoding" not in given and good >= bad > 0:
        given = {**given, "encoding": "utf-8"}
        report.guess("encoding", "utf-8", "most lines with accents are; rows that are not cannot be read", "--encoding")
    tried = Report()
    try:
        found = guess_form(paths, given, tried)
    except VixmlError as error:
        tab = {"delimiter": "\t"} if re.search(r"\.tsv\b|\.tab\b", paths[0].name.lower()) else {}
        known.append(TableForm(**{**tab, **given}))
        with suppress(VixmlError):
            known.append(guess_form(paths, {"encoding": "utf-8", **given}, Report()))
        for form in known:
            if _fits(paths, form, columns, few=True):
                shown = f"{form.encoding}, delimiter {separator_name(form.delimiter)}"
                report.guess("form", shown, "its columns are found", FORM_OPTIONS)
                return form
        if error.what != ONE_COLUMN:
            raise
        what, names = "no column of the table is known", ", ".join(sorted(columns))
        hint = f"name the column: --text; or how it is written: {FORM_OPTIONS}"
        raise VixmlError(what, where=error.where, found=error.found, expected=names, hint=hint) from error
    report.guesses += tried.guesses
    report.warnings += tried.warnings
    return found


def _fits(paths: Sequence[Path], form: TableForm, columns: set[str], few: bool = False) -> bool:
    """Return whether a form fits: of the lines with accents most are in its encoding, or, with ``few``, a fifth of all are
    not; and the first row that can be read has one of the columns.
    """
    good, bad, n = _encoded(paths, form.encoding)
    plain, broken, _ = _encoded(paths, "utf-8")
    if (bad > good and not (few and bad <= n / 5)) or (plain > broken == 0 and form.encoding.lower() not in UTF8):
        return False
    try:
        first = next((record for _, record in islice(read_rows(paths, form), 20) if isinstance(record, dict)), {})
    except VixmlError:
        return False
    return bool(columns & first.keys())


def _encoded(paths: Sequence[Path], encoding: str) -> tuple[int, int, int]:
    """Return how many lines of a sample with other characters than ASCII are in an encoding, how many are not, and all lines."""
    good = bad = n = 0
    for path in paths if kind_of(paths[0]) in TEXT_KINDS else ():
        with open_bytes(path) as stream:
            lines = stream.read(SAMPLE_BYTES).splitlines(keepends=True)
        wide = encoding.lower().startswith(("utf-16", "utf16", "utf-32", "utf32"))
        lines = [b"".join(lines)] if wide else lines
        n += len(lines)
        for line in (line for line in lines if wide or not line.isascii() or b"\0" in line):
            try:
                codecs.getincrementaldecoder(encoding)().decode(line)  # the last one may be cut
                found = wide or b"\0" not in line
            except UnicodeError:
                found = False
            good, bad = good + found, bad + (not found)
    return good, bad, n


def _sample(path: Path, encoding: str) -> str:
    with open_bytes(path) as stream:
        return codecs.getincrementaldecoder(encoding)("replace").decode(stream.read(SAMPLE_BYTES)).lstrip("\ufeff")


def guess_encoding(path: Path) -> str:
    """Return ``ascii``, ``utf-8``, ``utf-16``, ``utf-32``, ``cp1252``, or UTF-16 of one byte order.

    Raises:
        VixmlError: it cannot be told; the same words are shown in the likely encodings.
    """
    utf8, high, ascii_only = codecs.getincrementaldecoder("utf-8")(), bytearray(), True
    with open_bytes(path) as stream:
        first = stream.read(1 << 20)
        for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
                           (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
            if first.startswith(mark):
                return name
        if (zeros := first[:4096].count(0)) > len(first[:4096]) / 4:
            return "utf-16-le" if first[1:4096:2].count(0) > zeros / 2 else "utf-16-be"
        chunk, valid = first, True
        while chunk:
            ascii_only = ascii_only and chunk.isascii()
            if valid:
                try:
                    utf8.decode(chunk)
                except UnicodeDecodeError:
                    valid = False
            if not chunk.isascii() and len(high) < 1 << 16:
                high += b"\n".join(_HIGH_WORD.findall(chunk)[:2000]) + b"\n"
            chunk = stream.read(1 << 20)
    if ascii_only:
        return "ascii"
    try:
        utf8.decode(b"", final=True)
    except UnicodeDecodeError:
        valid = False
    if valid:
        return "utf-8"
    odd = _NOT_WESTERN.findall(bytes(high).decode("cp1252", "replace"))
    accents, runs = (re.findall(pattern, bytes(high)) for pattern in (rb"[\x80-\xff]", rb"[\x80-\xff]{3,}"))
    if len(odd) <= 0.05 * len(accents) and sum(map(len, runs)) <= 0.1 * len(accents):
        return "cp1252"
    words = b" ".join(bytes(high).split(b"\n")[:3])
    likely = ("cp1252", "cp1250", "cp1251", "mac-roman", "cp850", "gb18030", "shift_jis", "euc-kr")
    shown = "; ".join(f"{name}: {words.decode(name, 'replace')[:60]}" for name in likely)
    raise undecided("the encoding cannot be told", path, shown, "--encoding NAME, as of the right one of these")


def _guess_csv(path: Path, found: dict[str, Any], given: Mapping[str, Any], report: Report) -> None:
    """Guess delimiter, quotes and header."""
    text = _sample(path, found["encoding"])
    lines = text.splitlines(keepends=True)
    lines = lines[:-1] if len(text) > SAMPLE_BYTES // 5 and len(lines) > 1 else lines
    styles = [('"', None), ('"', "\\"), ("'", None), ("", None)]
    tried = []
    for order, (quote, escape) in enumerate(styles):
        if escape and escape + quote not in text:  # this style takes more rows for sound
            continue
        for delimiter in (",", ";", "\t", "|"):
            if any(given.get(key, value) != value for key, value in (("delimiter", delimiter), ("quote", quote))):
                continue
            form = TableForm(delimiter=delimiter, quote=quote, escape=escape)
            rows, broken, reader = [], 0, csv_rows(iter(lines), form)
            while len(rows) + broken < 1000:
                try:
                    rows += [row] if (row := next(reader)) else []
                except StopIteration:
                    break
                except csv.Error as error:  # the next row may be in order
                    broken += "unexpected end" not in str(error)
            if rows and len(rows[0]) > 1:
                share = sum(len(row) == len(rows[0]) for row in rows) / (len(rows) + broken)
                tried.append((round(share, 3), -order, len(rows[0]), form, rows))
    if not tried:
        if "delimiter" in given:
            return
        raise undecided(ONE_COLUMN, path, repr(text[:80]), "--delimiter CHARACTER")
    share, order, width, form, rows = max(tried, key=lambda one: one[:3])
    found |= {"delimiter": form.delimiter, "quote": form.quote, "escape": form.escape} | dict(given)
    why = f"{width} columns in {share:.0%} of the first {len(rows)} rows"
    report.guess("delimiter", separator_name(form.delimiter), why, "--delimiter")
    why = f"escaped by {form.escape}" if form.escape else "doubled inside"
    report.guess("quotes", form.quote or "none", why, "--quote")
    rivals = [one for one in tried if one[:2] == (1.0, order) and one[3].delimiter != form.delimiter]
    if rivals and share == 1.0:
        _, _, width, form, _ = rivals[0]
        report.warn(f"the delimiter could also be {separator_name(form.delimiter)}, with {width} columns (--delimiter)")
    if found.get("header") is None:
        first = [cell.strip() for cell in rows[0]]
        named = [cell for cell in first if cell]
        if any(NUMBER.match(cell) or URL.match(cell) or len(cell) > 100 for cell in named) or not named:
            what = "the first row of a CSV file looks like data"
            raise undecided(what, path, ", ".join(first)[:200], "--no-header, or add one")
        found["header"] = True


def separator_name(separator: str) -> str:
    """Return how a separator is shown."""
    return {"\t": "tab", "\n": "line break", "": "none"}.get(separator, f"`{separator}`")
