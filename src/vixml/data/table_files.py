"""Read a user's tables as records, in flat memory: CSV, JSON lines, JSON, Parquet, Excel; compressed; in several parts.

Files are not trusted: a cell, a row, a header or a decompressed size beyond the limits below is an error, and nothing is run.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vixml.config.registry import TableForm
from vixml.data.corpus import reading_parquet
from vixml.errors import VixmlError, reading
from vixml.text import cell_text

GUIDE = "docs/dataset.md describes the tables"
# The longest cell and the longest line or JSON record, in characters; the most columns.
CELL_LIMIT, LINE_LIMIT, COLUMN_LIMIT = 1 << 24, 1 << 26, 10_000
# A file that unpacks to more than this and to so many times its size is refused.
UNPACKED_LIMIT, RATIO_LIMIT = 1 << 28, 200
CHUNK = 1 << 16
Record = tuple[str, dict[str, Any]]
Row = tuple[str, dict[str, Any] | VixmlError]  # a row that is broken by itself is its error
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
KINDS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".tab": "csv", ".jsonl": "lines", ".ndjson": "lines", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet", ".xlsx": "excel", ".xlsm": "excel",
}  # fmt: skip
ENDINGS = tuple(kind + packed for packed in ("", *PACKED) for kind in KINDS)
# zipfile raises RuntimeError, of which NotImplementedError is one, for a password and an unknown compression.
SAVE_AGAIN = "open it in a spreadsheet program and save it again as .xlsx, or as CSV"
_DAMAGED = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, OSError, pa.ArrowException, RuntimeError)


def read_parts(paths: Sequence[Path], form: TableForm) -> Iterator[Record]:
    """Yield (file and line or row, record) of a table in one or several files, one after the other.

    Raises:
        VixmlError: an unknown ending, a damaged or malformed file (file and line are named), a limit exceeded.
    """
    for where, record in read_rows(paths, form):
        if isinstance(record, VixmlError):
            raise record
        yield where, record


def read_rows(paths: Sequence[Path], form: TableForm) -> Iterator[Row]:
    """Yield (where, record) of a table in one or several files; a row that is broken by itself is its error.

    Raises:
        VixmlError: as :func:`read_parts`, where the rows behind cannot be read either.
    """
    for path in paths:
        yield from READERS[kind_of(path)](path, form)


def kind_of(path: Path) -> str:
    """Return how a file is read, from its name: a key of :data:`READERS`.

    Raises:
        VixmlError: no known ending.
    """
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    kind = next((kind for ending, kind in KINDS.items() if name.endswith(ending)), None)
    if kind is None and path.name.lower().endswith(".zip"):
        return kind_of(Path(_member(path)))
    if kind is None:
        raise VixmlError(
            "a table of an unknown kind", where=path, found=path.suffix or "no ending",
            expected=f"{', '.join(KINDS)}, also with {', '.join(PACKED)}",
            hint="save an old .xls or .ods file as .xlsx or .csv",
        )  # fmt: skip
    return kind


# -- bytes ------------------------------------------------------------------------------------------------------------


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressed.

    Raises:
        VixmlError: missing, damaged, or it unpacks to implausibly much.
    """
    with _readable(path), ExitStack() as stack:
        name = path.name.lower()
        if name.endswith(".zip"):
            stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(_member(path)))
        elif name.endswith(".zst"):
            stream = stack.enter_context(pa.input_stream(str(path), compression="zstd"))
        else:
            opens = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(Path(name).suffix, open)
            stream = stack.enter_context(opens(path, "rb"))
        packed = name.endswith(PACKED)
        yield stack.enter_context(io.BufferedReader(_Unpacked(stream, path), CHUNK)) if packed else stream


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the readers of compressed files raise into one clear error."""
    try:
        yield
    except FileNotFoundError as error:
        raise VixmlError("a table is missing", where=path, hint=GUIDE) from error
    except _DAMAGED as error:
        raise VixmlError(
            "a table cannot be read", where=path, found=str(error)[:200] or type(error).__name__,
            hint="is the file whole, and readable without a password?",
        ) from error  # fmt: skip


class _Unpacked(io.RawIOBase):
    """Read a decompressed stream, of which no more than a plausible number of bytes is accepted."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream, self.path, self.seen = stream, path, 0
        self.limit = max(UNPACKED_LIMIT, RATIO_LIMIT * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.seen += len(data)
        if self.seen > self.limit:
            raise _bomb(self.path, f"over {self.limit} bytes")
        return len(data)


def _bomb(path: Path, found: str) -> VixmlError:
    return VixmlError(
        "a compressed table unpacks to implausibly much", where=path, found=found,
        expected=f"at most {RATIO_LIMIT} times its size", hint="if you trust it, decompress it yourself",
    )  # fmt: skip


def _member(path: Path) -> str:
    """Return the one table in a zip file."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
    if len(names) != 1:
        raise VixmlError(
            "a zip file must hold one table", where=path, found=", ".join(names[:5]) or "no file",
            hint="unpack it and name the tables",
        )  # fmt: skip
    return names[0]


@contextmanager
def _text(path: Path, form: TableForm, at: Callable[[], str]) -> Iterator[IO[str]]:
    """Open a file as text; ``at`` tells the place of an error."""
    encoding = {"utf-8": "utf-8-sig"}.get(form.encoding.lower(), form.encoding)
    if encoding == "utf-8-sig":
        with open_bytes(path) as stream:
            mark = stream.read(2)
        if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            hint = "it begins with a byte order mark of UTF-16: set `form.encoding: utf-16`"
            raise _not_encoded(form, at(), f"bytes 0x{mark.hex()}", hint)
    with open_bytes(path) as stream:
        try:
            # A byte of another encoding becomes half of a surrogate pair, so that its row alone is broken.
            yield io.TextIOWrapper(stream, encoding=encoding, newline="", errors="surrogateescape")
        except UnicodeError as error:
            bad = f"byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
            raise _not_encoded(form, at(), bad) from error


def _not_encoded(form: TableForm, where: str, found: str, hint: str | None = None) -> VixmlError:
    hint = hint or "save it as UTF-8, e.g. iconv -f latin1 -t utf-8, or name its encoding (`form.encoding`)"
    return VixmlError(f"a table is not {form.encoding.upper()}", where=where, found=found, hint=hint)


def _foreign(text: str, form: TableForm, where: str) -> VixmlError | None:
    """Return the error of a row that has a byte of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return _not_encoded(form, where, f"byte 0x{ord(text[error.start]) & 0xFF:02x}")
    return None


def _lines(stream: IO[str], at: Callable[[], str]) -> Iterator[str]:
    while line := stream.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise VixmlError("a line of a table is too long", where=at(), expected=f"under {LINE_LIMIT} characters")
        yield line


# -- kinds ------------------------------------------------------------------------------------------------------------


def _header(names: Sequence[object], where: str) -> list[str]:
    """Return the names of columns, those without a name as ``""``; none, too many or one given twice is an error."""
    header = ["" if name is None else str(name).strip() for name in names]
    header[:1] = [name.removeprefix("\ufeff").strip() for name in header[:1]]
    named = [name for name in header if name]
    if len(header) > COLUMN_LIMIT:
        raise VixmlError("a table has too many columns", where=where, found=len(header), expected=COLUMN_LIMIT)
    if not named or len(set(named)) < len(named):
        twice = sorted({name for name in named if named.count(name) > 1})
        raise VixmlError(
            "a table needs a header with one name per column" if not twice else "a header names a column twice",
            where=where, found=", ".join(twice or header)[:200] or "nothing", hint=GUIDE,
        )  # fmt: skip
    return header


def csv_rows(lines: Iterator[str], form: TableForm) -> Any:
    """Return a reader of CSV rows in the given form."""
    csv.field_size_limit(CELL_LIMIT)
    quoting: dict[str, Any] = {"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE}
    escape: dict[str, Any] = {"escapechar": form.escape, "doublequote": False} if form.escape else {}
    return csv.reader(lines, strict=True, delimiter=form.delimiter, **quoting, **escape)


def _read_csv(path: Path, form: TableForm) -> Iterator[Row]:
    """Yield (file:line, record) of a CSV file with a header; quoted cells may hold line breaks.

    An apostrophe in front of a formula (``'=1+1``), which makes it text in a spreadsheet, is no part of the cell.

    Broken by itself: a row with more or fewer cells, of another encoding, or with a character behind a closing quote.
    """
    line, header = 0, None
    with _text(path, form, lambda: f"{path}, after line {line}") as stream:
        reader = csv_rows(_lines(stream, lambda: f"{path}:{line + 1}"), form)
        while True:
            where, row = f"{path}:{line + 1}", None
            try:
                row = next(reader)
                fault = _foreign("".join(row), form, where)
            except StopIteration:
                break
            except csv.Error as error:
                fault = VixmlError("a row is not CSV", where=where, found=str(error), hint=GUIDE)
                if header is None or "unexpected end" in str(error) or "limit" in str(error):
                    raise VixmlError("not a CSV file", where=where, found=str(error), hint=GUIDE) from error
            line = reader.line_num
            if row == []:
                continue
            if header is None:
                if fault is not None:
                    raise fault
                header = _header(row if form.header else [f"column{n + 1}" for n in range(len(row))], f"{path}:1")
                if form.header:
                    continue
            if row is not None and len(row) != len(header):
                delimiter = {",": "commas", "\t": "tabs"}.get(form.delimiter, repr(form.delimiter))
                fault = VixmlError(
                    "a row of a CSV file has another number of cells than the header",
                    where=where, found=f"{len(row)} cells", expected=f"{len(header)} cells, separated by {delimiter}",
                    hint="put cells that hold a separator or a line break in double quotes",
                )  # fmt: skip
            yield where, fault or {name: cell_text(cell) for name, cell in zip(header, row or (), strict=True) if name}
    if header is None:
        _header([], f"{path}:1")


def _read_lines(path: Path, form: TableForm) -> Iterator[Row]:
    """Yield (file:line, record) of JSON lines; blank lines are skipped, and any other line may be broken by itself."""
    number = 0
    with _text(path, form, lambda: f"{path}, after line {number}") as stream:
        lines = _lines(stream, lambda: f"{path}:{number + 1}")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    yield where, _foreign(line, form, where) or _object(json.loads(line), where)
                except (ValueError, RecursionError) as error:
                    yield where, _malformed(where, str(error), "one JSON object per line")


def _read_json(path: Path, form: TableForm) -> Iterator[Row]:
    """Yield (file and record, record) of a JSON array, of the array at ``form.records`` of an object, or of JSON lines.

    One record at a time is held in memory. A value that is no object, or not in the encoding, is broken by itself.
    """
    row = 0
    with _text(path, form, lambda: f"{path}, record {row}") as stream:
        text = _Buffer(stream, lambda: f"{path}, record {row}")
        if text.next() == "{":
            if form.records is None:
                yield from _read_lines(path, form)
                return
            text.skip()
            while (key := text.value()) != form.records or text.next() != ":":
                if text.next() != ":":
                    raise _malformed(text.at(), repr(key), "a JSON object")
                text.skip()
                text.next()
                text.value()
                if text.next() != ",":
                    raise _malformed(text.at(), "no such key", f"an array at {form.records!r}")
                text.skip()
                text.next()
            text.skip()
        if text.next() != "[":
            raise _malformed(text.at(), text.next() or "nothing", "a JSON array of objects, or JSON lines")
        text.skip()
        while text.next() != "]":
            value = text.value()
            yield text.at(), _foreign(text.source, form, text.at()) or _object(value, text.at())
            row += 1
            if text.next() == ",":
                text.skip()
            elif text.next() != "]":
                raise _malformed(text.at(), text.next() or "the end of the file", "`,` or `]`")


class _Buffer:
    """Decode one JSON value after the other from a stream; ``source`` is the text of the last one."""

    def __init__(self, stream: IO[str], at: Callable[[], str]) -> None:
        self.stream, self.at, self.text, self.position, self.source = stream, at, "", 0, ""
        self.decode = json.JSONDecoder().raw_decode

    def _more(self) -> bool:
        # Reading as much again as is held keeps repeated decoding of a long record linear.
        more = self.stream.read(max(CHUNK, len(self.text) - self.position))
        self.text, self.position = self.text[self.position :] + more, 0
        if len(self.text) > LINE_LIMIT:
            raise VixmlError("a JSON record is too long", where=self.at(), expected=f"under {LINE_LIMIT} characters")
        return bool(more)

    def next(self) -> str:
        """Return the next character that is no white space, without taking it; "" at the end."""
        while True:
            while self.position < len(self.text):
                if not self.text[self.position].isspace():
                    return self.text[self.position]
                self.position += 1
            if not self._more():
                return ""

    def skip(self) -> None:
        """Take one character."""
        self.position += 1

    def value(self) -> Any:
        """Take the next value; what is not JSON is an error."""
        self.next()
        while True:
            try:
                value, end = self.decode(self.text, self.position)
                if end < len(self.text) or not self._more():  # a number may go on
                    self.source, self.position = self.text[self.position : end], end
                    return value
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more():
                    raise _malformed(self.at(), str(error), "JSON") from error


def _object(value: Any, where: str) -> dict[str, Any] | VixmlError:
    """Return a record, its names without blanks around them as in a CSV file; what is none is its error."""
    if not isinstance(value, dict):
        return _malformed(where, repr(value), "a JSON object")
    if all(name == name.strip() for name in value):
        return value
    try:
        return dict(zip(_header(list(value), where), value.values(), strict=True))
    except VixmlError as error:
        return error


def _malformed(where: str, found: str, expected: str) -> VixmlError:
    return VixmlError("a record is malformed", where=where, found=found[:120], expected=expected, hint=GUIDE)


def _read_parquet(path: Path, form: TableForm) -> Iterator[Row]:
    """Yield (file and row, record) of a Parquet file, a few thousand rows at a time."""
    row = 0
    with reading_parquet(path, GUIDE), ExitStack() as stack:
        source: Any = path
        if path.name.lower().endswith(PACKED):
            source = io.BytesIO(stack.enter_context(open_bytes(path)).read())
        schema = pq.read_schema(source)
        header = _header(schema.names, str(path))
        # As dictionaries, a long value that many rows repeat takes memory once, and its length shows before it is copied.
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        file = stack.enter_context(pq.ParquetFile(source, read_dictionary=texts))
        for batch in file.iter_batches(batch_size=4096):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if isinstance(column, pa.DictionaryArray):
                    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                    if longest > 4 * CELL_LIMIT:
                        raise VixmlError("a cell is too long", where=f"{path}: {name}", found=f"{longest} bytes")
            for record in batch.rename_columns(header).to_pylist():
                yield f"{path}, row {row}", record
                row += 1


def sheets_of(path: Path) -> list[str]:
    """Return the names of the sheets of an Excel file."""
    with _workbook(path) as book:
        return [sheet.title for sheet in book.worksheets]


@contextmanager
def _workbook(path: Path) -> Iterator[Any]:
    """Open an Excel file for reading row by row, unless it declares entities; formulas give their stored values."""
    import openpyxl

    with open_bytes(path) as stream:
        data = io.BytesIO(stream.read())
        with reading("not a readable Excel file", path, hint=SAVE_AGAIN):
            with zipfile.ZipFile(data) as archive:
                total = sum(member.file_size for member in archive.infolist())
                if total > max(UNPACKED_LIMIT, RATIO_LIMIT * len(data.getbuffer())):
                    raise _bomb(path, f"{total} bytes")
                for member in archive.namelist():
                    if member.endswith((".xml", ".rels")):
                        with archive.open(member) as part:
                            if b"<!DOCTYPE" in part.read(4096).upper():
                                raise VixmlError("an Excel file declares a document type", where=f"{path}: {member}")
            book = openpyxl.load_workbook(data, read_only=True, data_only=True)
        with closing(book):
            yield book


def _read_excel(path: Path, form: TableForm) -> Iterator[Row]:
    """Yield (file and row, record) of a sheet: the named one, or the first. Whole numbers keep the zeros of their format."""
    with _workbook(path) as book:
        sheets = {sheet.title: sheet for sheet in book.worksheets}  # not those of charts
        name = form.sheet or next(iter(sheets), "")
        if name not in sheets:
            raise VixmlError("no such sheet", where=path, found=name or "none", hint="one of: " + ", ".join(sheets))
        header: list[str] | None = None
        for number, values in enumerate(_excel_rows(sheets[name], path), start=1):
            if all(value in (None, "") for value in values):
                continue
            if header is None:
                header = _header(values, f"{path}, {name}, row {number}")
                continue
            where, expected = f"{path}, {name}, row {number}", f"{len(header)} cells"
            if any(value not in (None, "") for value in values[len(header) :]):
                yield where, VixmlError("a row has a cell that the header lacks", where=where, expected=expected)
                continue
            values += [None] * (len(header) - len(values))
            yield where, {key: value for key, value in zip(header, values, strict=False) if key}
        if header is None:
            _header([], f"{path}, {name}")


def _excel_rows(sheet: Any, path: Path) -> Iterator[list[Any]]:
    """Yield the cells of each row, as text or None."""
    with reading("a row of an Excel file cannot be read", path, hint=SAVE_AGAIN):
        sheet.reset_dimensions()
        for row in sheet.iter_rows():
            yield [_excel(cell) for cell in row]


def _excel(cell: Any) -> Any:
    """Return a cell as text, or None."""
    value = cell.value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and (zeros := re.fullmatch(r"0{2,}", cell.number_format or "")):
        return str(value).zfill(len(zeros[0]))
    return None if value is None else str(value)


READERS: dict[str, Callable[[Path, TableForm], Iterator[Row]]] = {
    "csv": _read_csv, "lines": _read_lines, "json": _read_json, "parquet": _read_parquet, "excel": _read_excel,
}  # fmt: skip


# -- where tables are -------------------------------------------------------------------------------------------------

TABLES = ("train", "test", "items", "label")


def tables_in(folder: Path) -> dict[str, list[Path]]:
    """Return the one file of each table in a folder, by name.

    Raises:
        VixmlError: one table in two formats.
    """
    found = {name: [path for end in ENDINGS if (path := folder / f"{name}{end}").is_file()] for name in TABLES}
    for name, paths in found.items():
        if len(paths) > 1:
            raise VixmlError(
                "a table exists in two formats", where=folder, found=", ".join(path.name for path in paths),
                expected=f"one file of the name {name}", hint="move the other one away",
            )  # fmt: skip
    return {name: paths for name, paths in found.items() if paths}


def named_tables(tables: Mapping[str, str | Sequence[str]], folder: Path) -> dict[str, list[Path]]:
    """Return the files of each table: of paths and patterns relative to ``folder``, in the order given, each pattern sorted.

    Raises:
        VixmlError: a path or pattern without a file.
    """
    patterns = {name: [given] if isinstance(given, str) else given for name, given in tables.items()}
    return {name: [path for one in some for path in expand(folder / one)] for name, some in patterns.items()}


def expand(path: Path) -> list[Path]:
    """Return a file, or the files that a pattern (``*``, ``?``, ``[``) matches, sorted.

    Raises:
        VixmlError: none.
    """
    if path.is_file():
        return [path]
    fixed = next((part for part in path.parents if not set(str(part)) & set("*?[")), Path())
    paths = [] if fixed == path.parent and not set(path.name) & set("*?[") else sorted(
        found for found in fixed.glob(os.path.relpath(path, fixed)) if found.is_file()
    )  # fmt: skip
    if not paths:
        raise VixmlError("a table is missing", where=path, found="no such file", hint=GUIDE)
    return paths


def plain_number(value: Any) -> Any:
    """Return a whole number that travelled as a float (12.0) as one, and a missing number as None."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value
