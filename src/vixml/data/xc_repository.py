"""Build a corpus from a raw archive of the Extreme Classification Repository, read as a stream.

The archive holds, in any folder, ``lbl.json.gz``, ``trn.json.gz`` and ``tst.json.gz`` (one JSON object per line: ``uid``,
the fields that form the text, ``target_ind``), and ``filter_labels_train.txt`` and ``filter_labels_test.txt`` (row and
label of pairs that are never scored). Where records have no ``target_ind``, ``trn_X_Y.txt`` and ``tst_X_Y.txt`` hold the
labels as sparse matrices. Rows are never dropped or moved: labels and filters point at row numbers.
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vixml.config.fields import fields_of
from vixml.config.registry import Dataset
from vixml.data.archive import Archive, Member
from vixml.data.corpus import QUERY_SPLITS, CorpusWriter, read_strings
from vixml.data.texts import TextRules
from vixml.errors import VixmlError, expect_equal, expect_index
from vixml.progress import bar
from vixml.ragged import Ragged, offsets_of

SHORT = {"train": "trn", "test": "tst", "label": "lbl"}
STEP = 5000


def build_from_archive(
    archive: Archive, dataset: Dataset, folder: Path | str, table: ImageTable | None = None
) -> dict[str, Any]:
    """Write the corpus of one archive; return the content of ``counts.json``, whose ``rules`` count odd records.

    ``table`` has image URLs by item id; None where the records hold them, or there are none.

    Raises:
        VixmlError: a file missing, damaged or malformed (file and line are named).
    """
    why = "the archive is of another dataset or another kind (raw text is needed)"
    members = {split: _find(archive, f"{SHORT[split]}.json.gz", why) for split in ("label", *QUERY_SPLITS)}
    # Before the texts, which may take an hour.
    why = "without it scores would be too high" if dataset.filter_required else None
    filters = {split: _find(archive, f"filter_labels_{split}.txt", why) for split in QUERY_SPLITS}
    writer = CorpusWriter(folder)
    rules: dict[str, dict[str, int]] = {}
    expect = dataset.expect
    with bar("reading records", expect.n_train + expect.n_test + expect.n_labels if expect else 0) as advance:
        for split, member in members.items():
            reader = _Records(archive, member, split, dataset, table, writer.rows.get("label", 0))
            with writer.split(split) as add:
                for n, row in enumerate(reader, start=1):
                    add(*row)
                    if n % STEP == 0:
                        advance(STEP)
            rules[split] = dict(sorted((reader.texts.counts + reader.found).items()))
    has_images = dataset.image_urls is not None or table is not None
    if has_images and not writer.images:
        raise VixmlError(
            "no record has an image",
            where=archive.name if table is None else table.path,
            expected="ids of this archive" if table else f"addresses in the field {dataset.image_urls!r}",
            hint="correct `image_urls` or `image_table` of the dataset in config/datasets.yaml, or leave it out",
        )
    matrices = {}
    for split, member in filters.items():
        if member is not None:
            matrices[split] = read_pairs(member, writer.rows[split], writer.rows["label"])
            if dataset.filter_required and not len(matrices[split].values):
                raise VixmlError("a filter that this dataset requires is empty", where=member, found="no pair")
    facts: dict[str, Any] = {f"n_filter_{split}_pairs": len(matrix.values) for split, matrix in matrices.items()}
    if table is not None:
        facts["image_addresses_repeated"] = table.repeated
    return writer.finish(urls=has_images, filters=matrices, facts=facts | {"rules": rules})


def _find(archive: Archive, filename: str, why_required: str | None) -> Member | None:
    member = archive.only(filename)
    if member is None and why_required is not None:
        near = [name for name in archive.names() if name.endswith((".gz", ".txt", ".json"))][:8]
        what, found = f"the archive holds no {filename}", ", ".join(near) or "no file of that kind"
        raise VixmlError(what, where=archive.name, found=found, expected=filename, hint=why_required)
    return member


class _Records:
    """Iterate over one split: ``(id, text, labels, images)`` of each row."""

    def __init__(
        self, archive: Archive, member: Member, split: str, dataset: Dataset, table: ImageTable | None, n_labels: int
    ) -> None:
        self.archive, self.member, self.split, self.n_labels = archive, member, split, n_labels
        self.texts = TextRules(fields_of(dataset.text))
        self.found: Counter[str] = Counter()
        self.image_field, self.table = dataset.image_urls, table

    def __iter__(self) -> Iterator[tuple[str, str, Sequence[int], Sequence[str]]]:
        matrix: Iterator[Sequence[int]] | None = None
        n_rows, hint = 0, "the files do not belong together"
        what = "records and label matrix are of different lengths"
        for number, record in read_jsonl(self.member):
            where = f"{self.member}:{number}"
            labels: Sequence[int] = ()
            if self.split != "label":
                if n_rows == 0 and "target_ind" not in record:
                    matrix_file, matrix_rows, matrix = self._matrix(where)
                labels = self._targets(record, where) if matrix is None else next(matrix, None)
                if labels is None:
                    expected = f"{matrix_rows} records, one per row of {matrix_file}"
                    raise VixmlError(what, where=where, found=f"record {n_rows + 1}", expected=expected, hint=hint)
                self.found["without_labels"] += not labels
            item = self.texts.identify(record.get("uid"), where)
            images = self._images(item, record, where)
            n_rows += 1
            yield item, self.texts.text(record, where), labels, images
        if matrix is not None and next(matrix, None) is not None:
            expected = f"{n_rows} rows, one per record of {self.member}"
            raise VixmlError(what, where=matrix_file, found=f"{matrix_rows} rows", expected=expected, hint=hint)
        if n_rows == 0:
            raise VixmlError("a split holds no record", where=self.member, found="an empty file")
        self.texts.check_fields(self.member)

    def _targets(self, record: dict[str, Any], where: str) -> list[int]:
        if "target_ind" not in record:
            raise malformed(where, "keys " + ", ".join(record), "the key 'target_ind'")
        labels, weights = record["target_ind"], record.get("target_rel")
        # bool is an int in Python, but true is not a label.
        if not isinstance(labels, list) or not set(map(type, labels)) <= {int}:
            raise malformed(where, repr(labels), "target_ind: a list of label ids")
        if weights is not None and (
            not isinstance(weights, list)
            or len(weights) != len(labels)
            or not set(map(type, weights)) <= {int, float}
            or not all(weight > 0 for weight in set(weights))
        ):
            raise malformed(where, repr(weights), f"target_rel: {len(labels)} positive numbers, as target_ind is long")
        ordered = sorted(set(labels))
        if ordered:
            in_range(where, "label", ordered[0], self.n_labels)
            in_range(where, "label", ordered[-1], self.n_labels)
        self.found["labels_repeated"] += len(labels) - len(ordered)
        return ordered

    def _images(self, item: str, record: dict[str, Any], where: str) -> Sequence[str]:
        if self.table is not None:
            urls = self.table.of(item)
        elif self.image_field is None:
            return ()
        else:
            value = record.get(self.image_field)
            urls = [value] if isinstance(value, str) else value or []
            if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
                raise malformed(where, repr(value), f"{self.image_field}: a URL or a list of URLs")
            urls = [url.strip().encode(errors="replace").decode() for url in urls if url.strip()]
        self.found["without_images"] += not urls
        return urls

    def _matrix(self, where: str) -> tuple[Member, int, Iterator[Sequence[int]]]:
        name = f"{SHORT[self.split]}_X_Y.txt"
        file = self.archive.only(name)
        if file is None:
            raise malformed(where, "neither", f"the key 'target_ind', or {name} in the archive")
        n_rows, columns, rows = read_sparse(file)
        what = f"a label matrix has another number of columns than there are records in {SHORT['label']}.json.gz"
        expect_equal(columns, self.n_labels, what, where=f"{file}:1")
        return file, n_rows, rows


# -- addresses of images ----------------------------------------------------------------------------------------------

COLUMNS = ("id", "url")


class ImageTable:
    """Look up an item's addresses, in the order of the table's rows.

    Ids are kept as 64-bit hashes in order, and the addresses as one run of bytes: 13 million rows take about 1.5 GB. What
    is found by hash is compared with the id itself.

    Attributes:
        repeated: rows that gave an item an address it had already; they count once.

    Raises:
        VixmlError: not a Parquet file, a column missing or not of strings, an id or an address that is empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.repeated = Path(path), 0
        table = read_strings(self.path, COLUMNS, "fetch it again: it has columns id and url, one row per address")
        self._ids, self._urls = (table[name].cast(pa.large_string()) for name in COLUMNS)
        hashes = np.concatenate(
            [np.zeros(0, np.uint64), *(_hash(chunk.to_pandas().to_numpy()) for chunk in self._ids.chunks)]
        )
        self._order = np.argsort(hashes, kind="stable")  # stable: an item's addresses keep their order
        self._hashes = hashes[self._order]

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

# A file on disk, or one inside an archive.
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
        with ExitStack() as stack:
            stream = stack.enter_context(file.open() if isinstance(file, Member) else open(Path(file), "rb"))  # noqa: SIM115
            if str(file).endswith(".gz"):
                # Unbuffered beyond its 8 kB: where the file is cut, the lines before are still given.
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            while line := stream.readline(LINE_LIMIT):
                number += 1
                if len(line) == LINE_LIMIT:
                    raise malformed(f"{file}:{number}", f"more than {LINE_LIMIT} bytes", "a line of text")
                yield number, line.decode("utf-8").rstrip("\r\n")
    except FileNotFoundError as error:
        raise VixmlError("a text file is missing", where=file, hint="fetch it, or check the path") from error
    except UnicodeDecodeError as error:
        what, found = "a line is not UTF-8", f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
        hint = "convert it, e.g. iconv -f latin1 -t utf-8, and record the new sha256"
        raise VixmlError(what, where=f"{file}:{number}", found=found, expected="UTF-8 text", hint=hint) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, lzma.LZMAError, NotImplementedError) as error:
        gzipped = isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error))
        what = "not a whole gzip file" if gzipped else "a file inside an archive is damaged"
        raise VixmlError(what, where=f"{file}:{number + 1}", found=str(error), hint=_HINT) from error


def read_sparse(file: File) -> tuple[int, int, Iterator[list[int]]]:
    """Read a sparse matrix: a header ``rows cols``, then ``column:value ...`` for each row.

    Returns:
        number of rows, number of columns, and the columns of each row, ascending, read on demand. Values are checked to
        be numbers and dropped: in label files all are 1.

    Raises:
        VixmlError: a malformed header or entry, a column out of range or twice in a row, another number of rows.
    """
    lines = read_lines(file)
    _, header = next(lines, (1, ""))
    shape = header.split()
    if len(shape) != 2 or not all(map(_is_id, shape)):
        raise malformed(f"{file}:1", repr(header), "a header: rows cols")
    n_rows, n_cols = map(int, shape)
    return n_rows, n_cols, _sparse_rows(file, lines, n_rows, n_cols)


def _sparse_rows(file: File, lines: Iterator[tuple[int, str]], n_rows: int, n_cols: int) -> Iterator[list[int]]:
    row, what = 0, "the file does not have the rows its header states"
    for row, (number, line) in enumerate(lines, start=1):
        if row <= n_rows:
            yield _sparse_row(f"{file}:{number}", line, n_cols)
        elif line.strip():
            expect_equal("more rows", f"{n_rows} rows", what, where=f"{file}:{number}", hint=_HINT)
    if row < n_rows:
        expect_equal(f"{row} rows", f"{n_rows} rows", what, where=f"{file}:{row + 2}", hint=_HINT)


def _sparse_row(where: str, line: str, n_cols: int) -> list[int]:
    columns = []
    for entry in line.split():
        column, colon, value = entry.partition(":")
        if not colon or not _is_id(column) or not _is_number(value):
            raise malformed(where, repr(entry), "column:value")
        in_range(where, "column", int(column), n_cols)
        columns.append(int(column))
    columns.sort()
    for column, following in pairwise(columns):
        if column == following:
            raise malformed(where, repr(column), "every column once in a row")
    return columns


def read_pairs(file: File, n_rows: int, n_cols: int) -> Ragged:
    """Read filter pairs, one ``row column`` per line, as lists of columns for each row, ascending; a pair counts once.

    Raises:
        VixmlError: a malformed line, or a row or column out of range.
    """
    found = array("q")
    for number, line in read_lines(file):
        parts = line.split()
        if not parts:
            continue
        where = f"{file}:{number}"
        if len(parts) != 2 or not all(map(_is_id, parts)):
            raise malformed(where, repr(line), "row column")
        row, column = map(int, parts)
        in_range(where, "row", row, n_rows)
        in_range(where, "column", column, n_cols)
        found.append(row * n_cols + column)
    rows, columns = np.divmod(np.unique(np.frombuffer(found, dtype=np.int64)), max(n_cols, 1))
    return Ragged(columns.astype(np.int32), offsets_of(np.bincount(rows, minlength=n_rows)), n_cols)


def read_jsonl(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file with one JSON object per line, plain or ``.gz``; blank lines are skipped.

    Raises:
        VixmlError: a line that is not a JSON object.
    """
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise malformed(f"{file}:{number}", str(error), "one JSON object per line") from error
        if not isinstance(value, dict):
            raise malformed(f"{file}:{number}", repr(line), "one JSON object per line")
        yield number, value


def _is_id(text: str) -> bool:
    # str.isdigit alone accepts digits of other scripts and superscripts; ids travel as int32.
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def in_range(where: str, kind: str, value: int, n: int) -> None:
    """Refuse an id outside [0, n)."""
    if not 0 <= value < n:  # called for every pair
        hint = "the file belongs to another dataset, or counts from 1"
        expect_index(value, n, f"a {kind} id is out of range", where=where, hint=hint)


def malformed(where: str, found: str, expected: str) -> VixmlError:
    """Return the error for a malformed line."""
    found = found if len(found) <= 120 else found[:120] + "..."
    return VixmlError("a line is malformed", where=where, found=found, expected=expected, hint=_HINT)
