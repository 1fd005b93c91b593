"""Build a corpus from a raw archive of the Extreme Classification Repository, read as a stream.

The archive holds, in any folder, ``lbl.json.gz``, ``trn.json.gz`` and ``tst.json.gz`` (a JSON object a line: ``uid``,
the fields that make the text, ``target_ind``), and ``filter_labels_train.txt`` and ``filter_labels_test.txt`` (row and
label of pairs that are never scored). Where records have no ``target_ind``, ``trn_X_Y.txt`` and ``tst_X_Y.txt`` hold the
labels as sparse matrices. Rows are never dropped or moved: labels and filters point at row numbers.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.data.archive import Archive, Member
from vixml.data.corpus import QUERY_SPLITS, CorpusWriter
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.progress import bar
from vixml.ragged import Ragged

SHORT = {"train": "trn", "test": "tst", "label": "lbl"}
STEP = 5000


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are read.

    Attributes:
        text: those that make the text, in order.
        images: the one with the item's image URLs (one, or a list), or None.
        table: where the image URLs stand by item id instead, or None.
    """

    text: tuple[str, ...]
    images: str | None = None
    table: ImageTable | None = None


def build_from_archive(
    archive: Archive, fields: Fields, folder: Path | str, *, filter_required: bool, total: int = 0
) -> dict[str, Any]:
    """Write the corpus of one archive.

    Args:
        archive: opened.
        fields: what is read of a record.
        folder: to write (docs/formats.md, `corpus/`).
        filter_required: whether the archive must hold the filters.
        total: rows expected in all, for the progress bar.

    Returns:
        The content of ``counts.json``; under ``rules``, how often each rule for odd records was needed in each split.

    Raises:
        VixmlError: a file missing, damaged or malformed (file and line are named).
    """
    members = {split: _required(archive, f"{SHORT[split]}.json.gz") for split in ("label", *QUERY_SPLITS)}
    # Before an hour's work on the texts: a filter that is not there is no reason to go on.
    filters = {split: archive.only(f"filter_labels_{split}.txt") for split in QUERY_SPLITS}
    for split, member in filters.items():
        if member is None and filter_required:
            raise _missing(archive, f"filter_labels_{split}.txt", "without it scores would be too high")
    writer = CorpusWriter(folder)
    rules: dict[str, dict[str, int]] = {}
    with bar("reading records", total) as advance:
        for split in ("label", *QUERY_SPLITS):
            reader = _Records(archive, members[split], split, fields, writer.rows.get("label", 0))
            with writer.split(split) as add:
                for n, row in enumerate(reader, start=1):
                    add(*row)
                    if n % STEP == 0:
                        advance(STEP)
            rules[split] = reader.counts()
    has_images = fields.images is not None or fields.table is not None
    if has_images and not len(writer.images):
        raise VixmlError(
            "no record has an image",
            where=archive.name if fields.table is None else fields.table.path,
            expected="ids of this archive" if fields.table else f"addresses in the field {fields.images!r}",
            hint="correct `image_urls` or `image_table` of the dataset in config/datasets.yaml, or leave it out",
        )
    matrices = {}
    for split, member in filters.items():
        if member is not None:
            matrices[split] = read_pairs(member, writer.rows[split], writer.rows["label"])
            if filter_required and not len(matrices[split].values):
                raise VixmlError("a filter that this dataset requires is empty", where=member, found="no pair")
    facts: dict[str, Any] = {f"n_filter_{split}_pairs": len(matrix.values) for split, matrix in matrices.items()}
    if fields.table is not None:
        facts["image_addresses_repeated"] = fields.table.repeated
    return writer.finish(urls=has_images, filters=matrices, facts=facts | {"rules": rules})


class _Records:
    """Go through one split: ``(id, text, labels, images)`` of each row."""

    def __init__(self, archive: Archive, member: Member, split: str, fields: Fields, n_labels: int) -> None:
        self.archive, self.member, self.split, self.fields, self.n_labels = archive, member, split, fields, n_labels
        self.texts = TextRules(fields.text)
        self.found: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, str, Sequence[int], Sequence[str]]]:
        matrix: Iterator[Sequence[int]] | None = None
        row = -1
        for row, (number, record) in enumerate(read_jsonl(self.member)):
            labels: Sequence[int] = ()
            if self.split != "label":
                if row == 0 and "target_ind" not in record:
                    matrix = self._matrix()
                labels = self._targets(number, record) if matrix is None else next(matrix, None)
                if labels is None:
                    raise self._too_few(row)
                if not len(labels):
                    self.found["without_labels"] += 1
            where = f"{self.member}:{number}"
            item = self.texts.identify(record.get("uid"), where)
            yield item, self.texts.text(record, where), labels, self._images(number, item, record)
        if matrix is not None and next(matrix, None) is not None:
            raise self._too_few(row + 1)
        if row < 0:
            raise VixmlError("a split holds no record", where=self.member, found="an empty file")
        self.texts.check_fields(self.member)

    def counts(self) -> dict[str, int]:
        """Return how often each rule was needed, by name."""
        return dict(sorted((self.texts.counts + self.found).items()))

    def _targets(self, number: int, record: dict[str, Any]) -> list[int]:
        if "target_ind" not in record:
            raise malformed(self.member, number, "", "the key 'target_ind'", found="keys " + ", ".join(record))
        labels, weights = record["target_ind"], record.get("target_rel")
        # bool is an int in Python, but true is not a label.
        if not isinstance(labels, list) or not set(map(type, labels)) <= {int}:
            raise malformed(self.member, number, str(labels), "target_ind: a list of label ids")
        if weights is not None and (
            not isinstance(weights, list)
            or len(weights) != len(labels)
            or not set(map(type, weights)) <= {int, float}
            or not all(weight > 0 for weight in set(weights))
        ):
            raise malformed(
                self.member, number, str(weights), f"target_rel: {len(labels)} positive numbers, as target_ind is long"
            )
        ordered = sorted(set(labels))
        if ordered:
            in_range(self.member, number, "label", ordered[0], self.n_labels)
            in_range(self.member, number, "label", ordered[-1], self.n_labels)
        if len(ordered) < len(labels):
            self.found["labels_repeated"] += len(labels) - len(ordered)
        return ordered

    def _images(self, number: int, item: str, record: dict[str, Any]) -> Sequence[str]:
        if self.fields.table is not None:
            urls = self.fields.table.of(item)
            self.found["without_images"] += not urls
            return urls
        if self.fields.images is None:
            return ()
        value = record.get(self.fields.images)
        urls = [value] if isinstance(value, str) else value or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise malformed(self.member, number, str(value), f"{self.fields.images}: a URL or a list of URLs")
        urls = [url.strip() for url in urls if url.strip()]
        if not urls:
            self.found["without_images"] += 1
        return urls

    def _matrix(self) -> Iterator[Sequence[int]]:
        name = f"{SHORT[self.split]}_X_Y.txt"
        self.matrix = self.archive.only(name)
        if self.matrix is None:
            raise malformed(self.member, 1, "", f"the key 'target_ind', or {name} in the archive", found="neither")
        rows = iter_sparse(self.matrix)
        self.shape = next(rows)
        if self.shape[1] != self.n_labels:
            raise VixmlError(
                "a label matrix belongs to another list of labels",
                where=f"{self.matrix}:1",
                found=f"{self.shape[1]} columns",
                expected=f"{self.n_labels}, the records of {SHORT['label']}.json.gz",
            )
        return rows

    def _too_few(self, rows: int) -> VixmlError:
        return VixmlError(
            "records and label matrix are of different lengths",
            where=self.matrix,
            found=f"{self.shape[0]} rows",
            expected=f"one for each record of {self.member}",
            hint=f"the files do not belong together (noticed at row {rows})",
        )


def _required(archive: Archive, filename: str) -> Member:
    member = archive.only(filename)
    if member is None:
        raise _missing(archive, filename, "the archive is of another dataset or another kind (raw text is needed)")
    return member


def _missing(archive: Archive, filename: str, why: str) -> VixmlError:
    near = [name for name in archive.names() if name.endswith((".gz", ".txt", ".json"))][:8]
    return VixmlError(
        f"the archive holds no {filename}",
        where=archive.name,
        found=", ".join(near) or "no file of that kind",
        expected=filename,
        hint=why,
    )


# -- records to items -------------------------------------------------------------------------------------------------

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


# -- addresses of images ----------------------------------------------------------------------------------------------

COLUMNS = ("id", "url")


class ImageTable:
    """Look up an item's addresses, in the order of the table's rows.

    Ids are kept as 64-bit hashes in order, and the addresses as one run of bytes: 13 million rows take about 1.5 GB. What
    is found by hash is compared with the id itself.

    Args:
        path: the Parquet file.

    Attributes:
        repeated: rows that gave an item an address it had already; they count once.

    Raises:
        VixmlError: not a Parquet file, a column missing or not of strings, an id or an address that is empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.repeated = Path(path), 0
        try:
            with pq.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                if missing := [name for name in COLUMNS if name not in names]:
                    raise VixmlError(
                        "a table of image addresses lacks a column",
                        where=self.path,
                        found="columns " + ", ".join(names),
                        expected="columns id and url, a row an address",
                        hint=f"name the column {missing[0]!r}",
                    )
                table = file.read(columns=list(COLUMNS))
        except (OSError, pa.ArrowInvalid) as error:
            raise VixmlError(
                "a table of image addresses cannot be read", where=self.path, found=str(error).splitlines()[0][:200],
                hint="fetch it again",
            ) from error  # fmt: skip
        self._ids, self._urls = (self._strings(table, name) for name in COLUMNS)
        hashes = np.concatenate(
            [np.zeros(0, np.uint64), *(_hash(chunk.to_pandas().to_numpy()) for chunk in self._ids.chunks)]
        )
        self._order = np.argsort(hashes, kind="stable")  # stable: an item's addresses keep their order
        self._hashes = hashes[self._order]

    def _strings(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        column = table[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)) or column.null_count:
            raise VixmlError(
                "a table of image addresses holds something else",
                where=f"{self.path}: {name}",
                found=f"{column.type}, {column.null_count} empty",
                expected="a string in each row",
            )
        return column.cast(pa.large_string())

    def of(self, item: str) -> list[str]:
        """Return an item's addresses, the best first, each once."""
        key = _hash(np.array([item], dtype=object))[0]
        low, high = (int(np.searchsorted(self._hashes, key, side=side)) for side in ("left", "right"))
        rows = [int(row) for row in self._order[low:high] if self._ids[int(row)].as_py() == item]
        found = [self._urls[row].as_py().strip() for row in rows]
        kept = [url for url in dict.fromkeys(found) if url]
        self.repeated += len(found) - len(kept)
        return kept


def _hash(ids: np.ndarray) -> np.ndarray:
    """Return (n,) uint64 hashes of strings, the same in every process."""
    return pd.util.hash_array(ids, categorize=False)


# -- text files -------------------------------------------------------------------------------------------------------

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
