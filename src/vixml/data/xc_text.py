"""The text files of the Extreme Classification Repository: sparse matrices, filter pairs, JSON lines (plain or gzip).

All are read line by line, and whatever is wrong with a line is reported with the file and the line.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.ragged import Ragged

_HINT = "the file is damaged or of another format: fetch it again"


def read_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 text file; ``.gz`` files are unpacked on the way.

    Raises:
        VixmlError: missing, not UTF-8 (older files are Latin-1: guessing would garble the text), or a broken gzip file.
    """
    path = Path(path)
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8").rstrip("\r\n")
    except FileNotFoundError as error:
        raise VixmlError("a text file is missing", where=path, hint="fetch it, or check the path") from error
    except UnicodeDecodeError as error:
        raise VixmlError(
            "a line is not UTF-8",
            where=f"{path}:{number}",
            found=f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}",
            expected="UTF-8 text",
            hint="convert it, e.g. iconv -f latin1 -t utf-8, and record the new sha256",
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VixmlError("not a whole gzip file", where=f"{path}:{number + 1}", found=str(error), hint=_HINT) from error


def read_sparse(path: Path | str) -> Ragged:
    """Read a sparse matrix: a header ``rows cols``, then ``column:value ...`` for each row.

    Returns:
        The columns of each row, ascending. Values are checked to be numbers and dropped: in label files all are 1.

    Raises:
        VixmlError: a malformed header or entry, a column out of range or twice in a row, another number of rows.
    """
    lines = read_lines(path)
    n_rows, n_cols = _header(path, next(lines, (1, "")))
    rows: list[list[int]] = []
    for number, line in lines:
        if len(rows) == n_rows:
            if line.strip():
                raise _rows(path, number, "more rows", n_rows)
            continue
        rows.append(_row(path, number, line, n_cols))
    if len(rows) < n_rows:
        raise _rows(path, len(rows) + 2, f"{len(rows)} rows, then the end of the file", n_rows)
    return Ragged.from_rows(rows, n_cols)


def write_sparse(path: Path | str, matrix: Ragged) -> None:
    """Write a matrix of ones in the format that :func:`read_sparse` reads."""
    rows = (" ".join(f"{column}:1" for column in matrix.row(index)) for index in range(len(matrix)))
    write_text(path, "\n".join([f"{len(matrix)} {matrix.n_cols}", *rows]) + "\n")


def read_pairs(path: Path | str, n_rows: int, n_cols: int) -> Ragged:
    """Read filter pairs, ``row column`` a line, as lists of columns for each row, ascending.

    Raises:
        VixmlError: a malformed line, or a row or column out of range.
    """
    rows: list[set[int]] = [set() for _ in range(n_rows)]
    for number, line in read_lines(path):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not all(_is_id(part) for part in parts):
            raise _malformed(path, number, line, "row column")
        row, column = int(parts[0]), int(parts[1])
        _in_range(path, number, "row", row, n_rows)
        _in_range(path, number, "column", column, n_cols)
        rows[row].add(column)
    return Ragged.from_rows([sorted(row) for row in rows], n_cols)


def read_jsonl(path: Path | str, *required: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file with one JSON object a line; blank lines are skipped.

    Args:
        path: the file, plain or ``.gz``.
        required: keys that every object must have.

    Raises:
        VixmlError: a line that is not a JSON object, or lacks a key.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _malformed(path, number, line, "one JSON object a line", found=str(error)) from error
        if not isinstance(value, dict):
            raise _malformed(path, number, line, "one JSON object a line")
        for key in required:
            if key not in value:
                found = "keys " + ", ".join(map(str, value))
                raise _malformed(path, number, line, f"the key {key!r}", found=found)
        yield number, value


def read_targets(path: Path | str, n_labels: int, key: str = "target_ind") -> Ragged:
    """Read the label lists of a JSON lines file, ascending in each row.

    Raises:
        VixmlError: a list that is malformed, has a label out of range, or twice.
    """
    rows = []
    for number, value in read_jsonl(path, key):
        labels = value[key]
        # bool is an int in Python, but true is not a label.
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise _malformed(path, number, str(labels), f"{key}: a list of label ids")
        for label in labels:
            _in_range(path, number, "label", label, n_labels)
        rows.append(_ascending(path, number, labels))
    return Ragged.from_rows(rows, n_labels)


def _header(path: Path | str, first: tuple[int, str]) -> tuple[int, int]:
    parts = first[1].split()
    if len(parts) != 2 or not all(_is_id(part) for part in parts):
        raise _malformed(path, 1, first[1], "a header: rows cols")
    return int(parts[0]), int(parts[1])


def _row(path: Path | str, number: int, line: str, n_cols: int) -> list[int]:
    columns = []
    for entry in line.split():
        column, colon, value = entry.partition(":")
        if not colon or not _is_id(column) or not _is_number(value):
            raise _malformed(path, number, entry, "column:value")
        _in_range(path, number, "column", int(column), n_cols)
        columns.append(int(column))
    return _ascending(path, number, columns)


def _ascending(path: Path | str, number: int, columns: list[int]) -> list[int]:
    ordered = sorted(columns)
    twice = np.flatnonzero(np.diff(ordered) == 0) if len(ordered) > 1 else []
    if len(twice):
        raise _malformed(path, number, str(ordered[twice[0]]), "every column once in a row")
    return ordered


def _is_id(text: str) -> bool:
    # str.isdigit alone accepts digits of other scripts and superscripts; ids travel as int32.
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _in_range(path: Path | str, number: int, what: str, value: int, n: int) -> None:
    if not 0 <= value < n:
        raise VixmlError(
            f"a {what} id is out of range",
            where=f"{path}:{number}",
            found=value,
            expected=f"0 to {n - 1}",
            hint="the file belongs to another data set, or counts from 1",
        )


def _malformed(path: Path | str, number: int, text: str, expected: str, found: str | None = None) -> VixmlError:
    return VixmlError(
        "a line is malformed",
        where=f"{path}:{number}",
        found=found if found is not None else repr(text if len(text) <= 80 else text[:80] + "..."),
        expected=expected,
        hint=_HINT,
    )


def _rows(path: Path | str, number: int, found: str, n_rows: int) -> VixmlError:
    return VixmlError(
        "the file does not have the rows its header states",
        where=f"{path}:{number}",
        found=found,
        expected=f"{n_rows} rows",
        hint=_HINT,
    )
