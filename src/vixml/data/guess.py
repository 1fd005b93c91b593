"""Guess how a user's tables are written and what their columns hold; each guess has a reason and the option that changes it."""

from __future__ import annotations

import codecs
import csv
import html
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vixml.config.load import validate
from vixml.config.registry import Catalogue, TableForm
from vixml.data.catalogue import IMAGE, images_by_id
from vixml.data.label_names import NUMBER, flag, guess_separator, parse_list
from vixml.data.table_files import csv_rows, kind_of, open_bytes, read_parts, read_rows, sheets_of
from vixml.data.xc_repository import TAG
from vixml.errors import VixmlError

SAMPLED, SAMPLE_BYTES = 3000, 1 << 18
UTF8 = ("utf-8", "utf8", "utf-8-sig")
WHY_ENCODING = {
    "ascii": "ASCII only", "utf-8": "all bytes are valid UTF-8",
    "cp1252": "not UTF-8; read as Western European, accents fall inside words",
}  # fmt: skip
ONE_COLUMN = "a CSV file has one column only, or an unknown delimiter"
FORM_OPTIONS = "--encoding, --delimiter, --quote, --sheet, --records, --no-header"
NAMES = {
    "id": "id|sku|asin|ean|gtin|isbn|uid|uuid|key|nr|no|code|item_?id|product_?id|article_?(id|no|number)|artikel(nr|nummer)|"
    "ticket_?(id|no|number)|item_?(no|number)",
    "text": "title|titel|titre|name|product_?(name|title)|item_?name|subject|betreff|headline|question|bezeichnung|nom|"
    "produktname|artikelname|text|description|desc|beschreibung|descripcion|content|body|summary|abstract|details|plot|message",
    "labels": "labels?|tags?|keywords?|categor(y|ies)|kategorien?|schlagworte?|genres?|topics?|subjects|classes|targets?|"
    "themes?|etiquetas?|stichworte?",
    "images": "images?|pictures?|photos?|img|bilder|bild|fotos?|thumb(nail)?|covers?|poster|image_?(urls?|links?|paths?|files?)|"
    "img_?url|picture_?(urls?|files?)|main_?image",
}  # fmt: skip
PREFIX = "(?:[a-z]{1,2}:)|(?:product|item|article|produkt|artikel|short|long|main)[ _-]?"
TITLES = "title|titel|titre|name|nom|subject|betreff|headline|question|bezeichnung"
EMPTY = ("null", "none", "nan", "n/a", "#n/a", "na", "-", "\\n")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|[a-z]{2}uml|#\d+|#x[0-9a-f]+);", re.IGNORECASE)
_NOT_WESTERN = re.compile(
    r"\w[^\w\s’'´`.–—-]\w|\ufffd|[^\W\d_a-zA-Zàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿœßªº\u00c0-\u00d6\u00d8-\u00dd]"
)
_URL = re.compile(r"https?://\S+$", re.IGNORECASE)


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


# -- the form of a file -----------------------------------------------------------------------------------------------


def guess_form(paths: Sequence[Path], given: Mapping[str, Any], report: Report) -> TableForm:
    """Guess how files of one table are written: the first decides, but for the encoding; ``given`` are keys that the user set.

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
    if kind in ("csv", "lines", "json") and "encoding" not in found:
        encodings = {guess_encoding(one) for one in paths}
        encodings -= {"ascii"} if len(encodings) > 1 else set()
        if len(encodings) > 1:
            raise undecided("the files have different encodings", path, ", ".join(sorted(encodings)), "--encoding NAME")
        found["encoding"] = {"ascii": "utf-8"}.get(encoding := encodings.pop(), encoding)
        report.guess("encoding", found["encoding"], WHY_ENCODING.get(encoding, "by its first bytes"), "--encoding")
    if kind == "csv":
        _guess_csv(path, found, given, report)
    elif kind == "excel" and "sheet" not in found:
        found["sheet"], *others = sheets_of(path)
        report.guess("sheet", found["sheet"], "the first", "--sheet")
        if others:
            report.warn(f"{path.name} has other sheets, which are not read: {', '.join(others)} (--sheet)")
    elif kind == "json" and "records" not in found:
        text = _sample(path, TableForm(**found).encoding).lstrip()
        nested = re.search(r'"([^"\\]+)"\s*:\s*\[\s*\{', text)
        first, _, rest = text.partition("\n")
        if text.startswith("{") and nested and not (rest.strip() and _is_object(first)):
            found["records"] = nested[1]
            report.guess("records", nested[1], "the first array of objects", "--records")
    return TableForm(**found)


def form_like(
    paths: Sequence[Path], given: Mapping[str, Any], earlier: TableForm, columns: set[str], report: Report
) -> TableForm:
    """Return how a further table is written: like an earlier one if that fits, else as is guessed.

    A few rows of another encoding do not decide: who reads the table puts them aside.

    Args:
        paths: its files.
        given: keys of :class:`TableForm` that the user set; then all others are guessed.
        earlier: form of the earlier table.
        columns: names of which one is looked for; a form with which none is found does not fit.
        report: gets the guesses.

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
                shown = f"{form.encoding}, delimiter {_show(form.delimiter)}"
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
    for path in paths if kind_of(paths[0]) in ("csv", "lines", "json") else ():
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


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


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
                high += b"\n".join(re.findall(rb"[^\s,;|]*[\x80-\xff][^\s,;|]*", chunk)[:2000]) + b"\n"
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
    report.guess("delimiter", _show(form.delimiter), why, "--delimiter")
    why = f"escaped by {form.escape}" if form.escape else "doubled inside"
    report.guess("quotes", form.quote or "none", why, "--quote")
    rivals = [one for one in tried if one[:2] == (1.0, order) and one[3].delimiter != form.delimiter]
    if rivals and share == 1.0:
        _, _, width, form, _ = rivals[0]
        report.warn(f"the delimiter could also be {_show(form.delimiter)}, with {width} columns (--delimiter)")
    if found.get("header") is None:
        first = [cell.strip() for cell in rows[0]]
        named = [cell for cell in first if cell]
        if any(NUMBER.match(cell) or _URL.match(cell) or len(cell) > 100 for cell in named) or not named:
            what = "the first row of a CSV file looks like data"
            raise undecided(what, path, ", ".join(first)[:200], "--no-header, or add one")
        found["header"] = True


def _show(separator: str) -> str:
    return {"\t": "tab", "\n": "line break", "": "none"}.get(separator, f"`{separator}`")


# -- columns ----------------------------------------------------------------------------------------------------------


@dataclass
class Column:
    """A column of the sample: its cells that are not empty, and the share of records with such a cell."""

    name: str
    cells: list[Any]
    filled: float

    @property
    def texts(self) -> list[str]:
        """Return the cells as texts; those of lists, one by one."""
        return [str(value) for cell in self.cells for value in (cell if isinstance(cell, list) else [cell])]

    def share(self, test: Any) -> float:
        """Return the share of its values of which something is true."""
        return sum(bool(test(text.strip())) for text in self.texts) / max(len(self.texts), 1)

    @property
    def distinct(self) -> float:
        """Return the share of different cells."""
        return len(set(map(str, self.cells))) / max(len(self.cells), 1)

    @property
    def recurs(self) -> bool:
        """Return whether its values are shared between items, as labels are: most cells have a part that others have, too."""
        parts = [set(filter(None, re.split(r"[|;,>\n]\s*", text))) for text in map(str, self.cells)]
        often = Counter(part for some in parts for part in some)
        return sum(any(often[part] > 1 for part in some) for some in parts) >= 0.5 * len(parts)

    def called(self, role: str, before: str = f"(?:{PREFIX})?") -> bool:
        """Return whether its name is one that a role usually has, perhaps with a number (`image_2`)."""
        return re.fullmatch(f"{before}(?:{NAMES[role]})[ _-]?\\d*", self.name.strip(), re.IGNORECASE) is not None


@dataclass
class Sample:
    """Rows of a table, and which of its columns have a role.

    Attributes:
        path: the table's first file.
        records: rows drawn at random, always the same ones.
        given: what the user set: keys of :class:`Catalogue`, and `text`.
        report: gets the guesses.
    """

    path: Path
    records: list[dict[str, Any]]
    given: Mapping[str, Any]
    report: Report

    def __post_init__(self) -> None:
        self.columns, self._taken = [], set[str]()
        for name in dict.fromkeys(name for record in self.records for name in record):
            cells = [record.get(name) for record in self.records]
            cells = [cell for cell in cells if cell not in (None, [], "") and str(cell).strip().lower() not in EMPTY]
            self.columns.append(Column(name, cells, len(cells) / len(self.records)))

    @classmethod
    def draw(cls, paths: Sequence[Path], form: TableForm, given: Mapping[str, Any], report: Report) -> Sample:
        """Read a table, which has a row or more, and count its rows in the report."""
        kept: list[dict[str, Any]] = []
        draw = random.Random(0)
        for report.n_rows, (_, record) in enumerate(read_parts(paths, form), start=1):
            if len(kept) < SAMPLED:
                kept.append(record)
            elif (place := draw.randrange(report.n_rows)) < SAMPLED:
                kept[place] = record
        if not kept:
            raise VixmlError("a table has a header and no row", where=paths[0], hint="is the export finished?")
        return cls(paths[0], kept, given, report)

    @property
    def names(self) -> str:
        """Return the names of its columns, for an error."""
        return f"columns {', '.join(column.name for column in self.columns)}"[:2000]

    @property
    def free(self) -> list[Column]:
        """Return the columns without a role."""
        return [column for column in self.columns if column.name not in self._taken]

    def take(self, columns: list[Column]) -> list[Column]:
        """Give these columns a role."""
        self._taken.update(column.name for column in columns)
        return columns

    def chosen(self, role: str) -> list[Column] | None:
        """Take the columns that the user named for a role, which must exist; None if the user named none."""
        if (value := self.given.get(role)) is None or (value == "none" and role == "images"):
            return None if value is None else []
        by_name = {column.name: column for column in self.columns}
        names = [value] if value in by_name else [name.strip() for name in value.split("+")]
        for name in names:
            if name not in by_name:
                raise VixmlError(f"no column {name!r}", where=self.path, found=self.names, hint=f"--{role}")
        return self.take([by_name[name] for name in names])


def guess_catalogue(
    paths: Mapping[str, Sequence[Path]],
    form: TableForm,
    given: Mapping[str, Any],
    pictures: Path | None,
    report: Report,
) -> tuple[Catalogue, str]:
    """Guess the columns of a table; return the entry `catalogue` and the text columns (``title + content``).

    Args:
        paths: table -> files; `items` or `train` decides.
        form: how they are written.
        given: what the user set: keys of :class:`Catalogue`, and `text`.
        pictures: the folder of pictures, if there is one.
        report: gets the guesses.

    Raises:
        VixmlError: a column that is not there, or a role for which there are several columns or none.
    """
    sample = Sample.draw(paths.get("items") or paths["train"], form, given, report)
    text, labels, ids, images = (sample.chosen(role) for role in ("text", "labels", "id", "images"))
    if images is None:
        images = sample.take(_guess_images(sample.free))
    if ids is None:
        ids = sample.take(_guess_ids(sample))
    if labels is None:
        labels = sample.take(_guess_labels(sample))
    if text is None:
        text = sample.take(_guess_texts(sample))

    named, columns = " + ".join(c.name for c in text), sample.columns
    report.guess("text", named, f"e.g. {_example(text[0])}", "--text")
    entry: dict[str, Any] = {"labels": " + ".join(c.name for c in labels), "separator_in": "all", "form": form}
    entry["labels_are"] = given.get("labels_are") or ("columns" if _is_multi_hot(labels) else "values")
    if entry["labels_are"] == "columns":
        names = f"{len(labels)} columns: {', '.join(c.name for c in labels)}"
        report.guess("labels", names[:80] + "..." * (len(names) > 80), "each is a label where it is 1", "--labels")
        report.guess("labels are", "columns", "they hold 0 and 1 only", "--labels-are values")
    else:
        report.guess("labels", entry["labels"], f"e.g. {_example(labels[0])}", "--labels")
    entry["id"] = ids[0].name if ids else "#row"
    zeros = next((v for v in (ids[0].texts if ids else []) if re.fullmatch(r"0\d+", v)), None)
    kept = f"; leading zeros are kept, e.g. {zeros}" if zeros else ""
    why = f"unique{kept}" if ids else "no column of ids that differ"
    report.guess("id", ids[0].name if ids else "number of the row", why, "--id")
    _guess_separator(entry, labels, sample)
    _find_pictures(entry, images, ids, pictures, sample)

    numbers = [c for c in columns if c.cells and c.share(NUMBER.match) >= 0.9]
    comma, point = (
        [v for c in numbers for v in c.texts if re.search(rf"\d{sign}\d{{1,2}}\b(?!\d)", v)] for sign in (",", r"\.")
    )
    if comma or point:
        sign = given.get("decimal") or ("," if len(comma) > len(point) else ".")
        shown = (comma if sign == "," else point) or comma or point
        report.guess("decimal sign", sign, f"e.g. {shown[0]}; columns of numbers are not used", "--text, --labels")
    values = [value for c in [*text, *labels] for value in c.texts]
    has_html = sum(bool(TAG.search(v) or _ENTITY.search(v)) for v in values)
    strip = given["strip_html"] if given.get("strip_html") is not None else has_html > 0
    if unused := [c.name for c in sample.free]:
        report.guess("not used", ", ".join(unused)[:80], f"{len(unused)} of {len(columns)} columns", "--text, --labels")
    why = f"{has_html} of {len(values)} sampled values have tags or entities"
    report.guess("HTML", "removed" if strip else "kept", why, "--keep-html" if strip else "--strip-html")
    used = [str(record.get(c.name)) for c in [*text, *labels] for record in sample.records]
    empty = sorted({value for value in used if value.strip().lower() in EMPTY and value != "None"})
    if empty:
        report.guess("empty values", ", ".join(empty), "they mean nothing", "catalogue.empty in the file")
    entry |= {"strip_html": strip, "empty": empty, "fold_case": bool(given.get("fold_case"))}
    entry["unlabelled"] = given.get("unlabelled", "skip")
    for column in text if entry["labels_are"] == "values" else ():
        _doubt_text(column, labels, entry["separator"], sample)
    return Catalogue(folder=entry.pop("folder", str(sample.path.resolve().parent)), **entry), named


def _example(column: Column) -> str:
    return repr(str(column.cells[0])[:60]) if column.cells else "nothing"


def _is_multi_hot(columns: Sequence[Column]) -> bool:
    """Return whether several columns hold 0 and 1 (true and false, yes and no, x and nothing) only, and each kind occurs."""
    found = {flag(value) for column in columns for value in column.texts}
    empty = any(column.filled < 1 for column in columns)
    return len(columns) > 1 and None not in found and True in found and (False in found or empty)


def _guess_images(columns: list[Column]) -> list[Column]:
    def is_image(value: str) -> bool:
        return bool(IMAGE.search(re.split("[?;|,]", value)[0]))

    return [c for c in columns if c.cells and "+" not in c.name and (
        c.share(is_image) >= 0.5 or (c.called("images") and c.share(lambda v: v.startswith(("http", "["))) >= 0.5)
    )]  # fmt: skip


def _guess_ids(sample: Sample) -> list[Column]:
    """Return the column of ids, by its name, else a first column of single words that all differ; none otherwise."""
    unique = [
        c for c in sample.free
        if c.filled >= 0.9 and c.distinct >= 0.9 and max(map(len, c.texts)) <= 64
        and not any(isinstance(v, list | dict) for v in c.cells)
    ]  # fmt: skip
    if called := [c for c in unique if c.called("id")]:
        return sorted(called, key=lambda c: c.name.strip().lower() != "id")[:1]
    first = [c for c in unique if c is sample.columns[0] and not (c.called("text") or c.called("labels"))]
    return [c for c in first if c.filled == c.distinct == 1 and not c.share(lambda v: len(v.split()) > 1)]


def _guess_labels(sample: Sample) -> list[Column]:
    usable = [c for c in sample.free if c.cells]
    called = [c for c in usable if c.called("labels")] or [c for c in usable if c.called("labels", ".*") and c.recurs]
    # `label` is also what a title is called.
    called = [c for c in called if c.recurs] or called
    stems = {re.sub(r"[ _-]?\d+$", "", c.name.strip().lower()) for c in called}
    exact = [c for c in called if re.fullmatch(r"labels?", c.name.strip(), re.IGNORECASE)]
    if exact or len(stems) == 1:
        return exact[:1] or called
    if called:
        names = [c.name for c in called]
        option = f"--labels NAME, or --labels '{' + '.join(names)}'"
        raise undecided("several columns may hold the labels", sample.path, ", ".join(names), option)
    flags = [c for c in usable if "+" not in c.name and all(flag(value) is not None for value in c.texts)]
    prefixed = [c for c in flags if re.match(rf"(?:{NAMES['labels']}|is|has)[ _.:-]", c.name.strip(), re.IGNORECASE)]
    for group in (prefixed, flags):
        if len(group) > 2 and _is_multi_hot(group):
            return group
    likely = [c.name for c in usable if c.recurs and c.distinct > 0.01 and c.share(NUMBER.match) < 0.5]
    hint = "--labels NAME" + (f"; values recur in {', '.join(likely)}" if likely else "")
    raise undecided("no column is known to hold the labels", sample.path, sample.names, hint)


def _guess_texts(sample: Sample) -> list[Column]:
    usable = [
        c for c in sample.free if c.cells and "+" not in c.name and all(isinstance(cell, str) for cell in c.cells)
    ]
    called = [c for c in usable if c.called("text")] or [c for c in usable if c.called("labels") and not c.recurs]
    chosen = called or [c for c in usable if c.distinct >= 0.5 and c.share(lambda v: len(v.split()) > 1) >= 0.7]
    if not chosen or (len(chosen) > 3 and not called):
        raise undecided("no column is known to hold the text", sample.path, sample.names, "--text 'NAME + NAME'")
    return sorted(chosen, key=lambda c: not re.fullmatch(f"(?:{PREFIX})?(?:{TITLES})", c.name.strip(), re.IGNORECASE))


def _guess_separator(entry: dict[str, Any], labels: list[Column], sample: Sample) -> None:
    """Guess how labels are written in a cell: as a list, or with a separator."""
    values, report = entry["labels_are"] == "values", sample.report
    cells = [str(cell) for column in labels for cell in column.cells if not isinstance(cell, list) and values]
    entry["lists"] = sum(parse_list(cell) is not None for cell in cells) >= 0.9 * len(cells) > 0
    if "separator" in sample.given:
        entry["separator"] = sample.given["separator"]
    elif entry["lists"] or not cells:
        entry["separator"] = ""
        if values:
            report.guess("separator", "lists" if entry["lists"] else "none", "cells hold lists", "--separator")
    else:
        entry["separator"], reason, doubtful = guess_separator([html.unescape(cell) for cell in cells])
        report.guess("separator", _show(entry["separator"]), reason, "--separator")
        longest = max(cells, key=len)
        if "/" in entry["separator"] or ">" in entry["separator"]:
            report.warn(f"each level of a path like {longest[:60]!r} is a label: --separator none keeps whole paths")
        if doubtful:
            report.warn(f"the separator of labels is doubtful, e.g. {longest[:80]!r} (--separator)")


def _find_pictures(
    entry: dict[str, Any], images: list[Column], ids: list[Column], pictures: Path | None, sample: Sample
) -> None:
    """Guess whether images are URLs, paths or files named by id, and the folder."""
    report = sample.report
    if pictures is not None and not pictures.is_dir():
        raise VixmlError("the folder of pictures is missing", where=pictures, hint="--pictures FOLDER")
    if not images and pictures is None:
        report.guess("pictures", "none", "no column of paths or URLs", "--images, --pictures")
        return
    if not images:
        known = images_by_id(pictures)
        hits = sum(str(value) in known for value in (ids[0].cells if ids else []))
        if not hits:
            raise undecided(
                "no column names pictures, and no file in the folder is named by an id", sample.path,
                f"{len(known)} names in {pictures}, e.g. {', '.join(sorted(known)[:3])}", "--images COLUMN, or --id COLUMN",
            )  # fmt: skip
        named = ids[0].name
        entry |= {"images": named, "images_are": "ids", "folder": str(pictures.resolve())}
        report.guess("pictures", f"files in {pictures}, named by {named}", f"{hits} sampled ids have one", "--images")
        return
    cells = [str(cell) for c in images for cell in c.cells if not isinstance(cell, list)]
    separator, reason = sample.given.get("image_separator"), "given"
    if separator is None:
        separator = next((s for s in ("|", ";", ",", "\n", " ") if sum(
            all(IMAGE.search(p.split("?")[0]) or _URL.match(p.strip()) for p in cell.split(s)) for cell in cells if s in cell
        ) > 0.5 * max(sum(s in cell for cell in cells), 1)), "")  # fmt: skip
        reason = "its parts are paths or URLs" if separator else "one per cell"
    entry["lists"] = entry["lists"] or sum(parse_list(cell) is not None for cell in cells) >= 0.5 * len(cells) > 0
    values = [str(v) for c in images for cell in c.cells for v in (
        cell if isinstance(cell, list) else parse_list(str(cell)) or (str(cell).split(separator) if separator else [cell])
    )]  # fmt: skip
    paths = [value.strip() for value in values if not _URL.match(value.strip())]
    urls = len(values) - len(paths)
    entry |= {"images": " + ".join(c.name for c in images), "image_separator": separator, "other_images": "skip"}
    if urls >= 0.5 * len(values):
        entry["images_are"], where = "urls", "to be fetched"
    else:
        folder = pictures or sample.path.parent
        whole = sum((folder / path).is_file() for path in paths)
        by_name = sum((folder / re.split(r"[/\\]", path)[-1]).is_file() for path in paths)
        entry |= {"images_are": "names" if by_name > whole else "paths", "folder": str(folder.resolve())}
        where = f"{max(whole, by_name)} of {len(paths)} sampled files are in {folder}"
        if not max(whole, by_name):
            option = "--pictures FOLDER, or --images none"
            raise undecided("no picture of the table is in the folder", folder, f"e.g. {paths[0]}", option)
    report.guess("pictures", f"{entry['images']} ({entry['images_are']})", where, "--images, --pictures")
    report.guess("separator of pictures", _show(separator), reason, "--image-separator")
    if others := min(urls, len(paths)):
        report.warn(f"{others} of {len(values)} sampled pictures are not {entry['images_are']}: left out")


def _doubt_text(column: Column, labels: list[Column], separator: str, sample: Sample) -> None:
    """Warn if a text column is mostly empty, or contains the labels."""
    if column.filled < 0.5:
        sample.report.warn(f"{column.name!r} is empty in {1 - column.filled:.0%} of the items (--text)")
    seen = named = 0
    for record in sample.records:
        for cell in (record.get(c.name) for c in labels):
            parts = cell if isinstance(cell, list) else str(cell).split(separator) if separator and cell else [cell]
            names = [str(part).strip().casefold() for part in parts if part not in (None, "")]
            if names:
                seen += 1
                named += all(name in str(record.get(column.name)).casefold() for name in names)
    if seen >= 10 and named >= 0.9 * seen:
        share = f"{named / seen:.0%}"
        sample.report.warn(f"{column.name!r} contains the labels of {share} of the items: leave it out with --text?")
