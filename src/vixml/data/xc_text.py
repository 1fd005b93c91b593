"""The text files of the Extreme Classification Repository: sparse matrices, filter pairs, JSON lines (plain or gzip).

All are read line by line, and whatever is wrong with a line is reported with the file and the line.
"""

from __future__ import annotations

import gzip
import json
import math
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from vixml.data.archive import Member
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.ragged import Ragged

# A file on the disk, or one inside an archive.
File = Path | str | Member
# The longest line read: far above any honest one, far below what a packed bomb unfolds to.
LINE_LIMIT = 64 << 20
_HINT = "the file is damaged or of another format: fetch it again"


def read_lines(file: File) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 text file; ``.gz`` files are unpacked on the way.

    Raises:
        VixmlError: missing, not UTF-8 (older files are Latin-1: guessing would garble the text), a broken or cut gzip
            file, or a line longer than :data:`LINE_LIMIT`.
    """
    number = 0
    try:
        with _open(file) as stream:
            while line := stream.readline(LINE_LIMIT):
                number += 1
                if len(line) == LINE_LIMIT:
                    raise malformed(file, number, "", "a line of text", found=f"more than {LINE_LIMIT} bytes")
                yield number, line.decode("utf-8").rstrip("\r\n")
    except FileNotFoundError as error:
        raise VixmlError("a text file is missing", where=file, hint="fetch it, or check the path") from error
    except UnicodeDecodeError as error:
        raise VixmlError(
            "a line is not UTF-8",
            where=f"{file}:{number}",
            found=f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}",
            expected="UTF-8 text",
            hint="convert it, e.g. iconv -f latin1 -t utf-8, and record the new sha256",
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VixmlError("not a whole gzip file", where=f"{file}:{number + 1}", found=str(error), hint=_HINT) from error
    except zipfile.BadZipFile as error:
        raise VixmlError(
            "a file inside an archive is damaged", where=f"{file}:{number + 1}", found=str(error), hint=_HINT
        ) from error


@contextmanager
def _open(file: File) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        stream = stack.enter_context(file.open() if isinstance(file, Member) else open(Path(file), "rb"))  # noqa: SIM115
        if str(file).endswith(".gz"):
            # Unbuffered beyond its own 8 kB: where the file is cut, the lines before are still given.
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
        yield stream


def read_sparse(file: File) -> Ragged:
    """Read a sparse matrix: a header ``rows cols``, then ``column:value ...`` for each row.

    Returns:
        The columns of each row, ascending. Values are checked to be numbers and dropped: in label files all are 1.

    Raises:
        VixmlError: a malformed header or entry, a column out of range or twice in a row, another number of rows.
    """
    rows = iter_sparse(file)
    _, n_cols = next(rows)
    return Ragged.from_rows(rows, n_cols)


def iter_sparse(file: File) -> Iterator[Sequence[int]]:
    """Yield ``(rows, cols)`` of a sparse matrix, then the columns of each row, ascending; as :func:`read_sparse`."""
    lines = read_lines(file)
    n_rows, n_cols = _header(file, next(lines, (1, "")))
    yield n_rows, n_cols
    seen = 0
    for number, line in lines:
        if seen == n_rows:
            if line.strip():
                raise _rows(file, number, "more rows", n_rows)
            continue
        seen += 1
        yield _row(file, number, line, n_cols)
    if seen < n_rows:
        raise _rows(file, seen + 2, f"{seen} rows, then the end of the file", n_rows)


def write_sparse(path: Path | str, matrix: Ragged) -> None:
    """Write a matrix of ones in the format that :func:`read_sparse` reads."""
    rows = (" ".join(f"{column}:1" for column in matrix.row(index)) for index in range(len(matrix)))
    write_text(path, "\n".join([f"{len(matrix)} {matrix.n_cols}", *rows]) + "\n")


def read_pairs(file: File, n_rows: int, n_cols: int) -> Ragged:
    """Read filter pairs, ``row column`` a line, as lists of columns for each row, ascending; a pair counts once.

    Raises:
        VixmlError: a malformed line, or a row or column out of range.
    """
    found = array("q")
    for number, line in read_lines(file):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not all(_is_id(part) for part in parts):
            raise malformed(file, number, line, "row column")
        row, column = int(parts[0]), int(parts[1])
        in_range(file, number, "row", row, n_rows)
        in_range(file, number, "column", column, n_cols)
        found.append(row * n_cols + column)
    rows, columns = np.divmod(np.unique(np.frombuffer(found, dtype=np.int64)), max(n_cols, 1))
    offsets = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
    return Ragged(columns.astype(np.int32), offsets, n_cols)


def read_jsonl(file: File, *required: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file with one JSON object a line; blank lines are skipped.

    Args:
        file: plain or ``.gz``.
        required: keys that every object must have.

    Raises:
        VixmlError: a line that is not a JSON object, or lacks a key.
    """
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise malformed(file, number, line, "one JSON object a line", found=str(error)) from error
        if not isinstance(value, dict):
            raise malformed(file, number, line, "one JSON object a line")
        for key in required:
            if key not in value:
                found = "keys " + ", ".join(map(str, value))
                raise malformed(file, number, line, f"the key {key!r}", found=found)
        yield number, value


def _header(file: File, first: tuple[int, str]) -> tuple[int, int]:
    parts = first[1].split()
    if len(parts) != 2 or not all(_is_id(part) for part in parts):
        raise malformed(file, 1, first[1], "a header: rows cols")
    return int(parts[0]), int(parts[1])


def _row(file: File, number: int, line: str, n_cols: int) -> list[int]:
    columns = []
    for entry in line.split():
        column, colon, value = entry.partition(":")
        if not colon or not _is_id(column) or not _is_number(value):
            raise malformed(file, number, entry, "column:value")
        in_range(file, number, "column", int(column), n_cols)
        columns.append(int(column))
    return _ascending(file, number, columns)


def _ascending(file: File, number: int, columns: list[int]) -> list[int]:
    ordered = sorted(columns)
    twice = np.flatnonzero(np.diff(ordered) == 0) if len(ordered) > 1 else []
    if len(twice):
        raise malformed(file, number, str(ordered[twice[0]]), "every column once in a row")
    return ordered


def _is_id(text: str) -> bool:
    # str.isdigit alone accepts digits of other scripts and superscripts; ids travel as int32.
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def in_range(file: File, number: int, what: str, value: int, n: int) -> None:
    """Refuse an id outside [0, n), naming file and line."""
    if not 0 <= value < n:
        raise VixmlError(
            f"a {what} id is out of range",
            where=f"{file}:{number}",
            found=value,
            expected=f"0 to {n - 1}",
            hint="the file belongs to another data set, or counts from 1",
        )


def malformed(file: File, number: int, text: str, expected: str, found: str | None = None) -> VixmlError:
    """Return the error for a line that is not what it should be."""
    return VixmlError(
        "a line is malformed",
        where=f"{file}:{number}",
        found=found if found is not None else repr(text if len(text) <= 80 else text[:80] + "..."),
        expected=expected,
        hint=_HINT,
    )


def _rows(file: File, number: int, found: str, n_rows: int) -> VixmlError:
    return VixmlError(
        "the file does not have the rows its header states",
        where=f"{file}:{number}",
        found=found,
        expected=f"{n_rows} rows",
        hint=_HINT,
    )
