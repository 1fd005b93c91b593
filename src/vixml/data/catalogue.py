"""Build a corpus from a user's own tables (docs/adding-a-dataset.md): texts, labels by id or by name, images.

Rules, each counted under ``rules`` of ``counts.json``: those of :mod:`vixml.data.xc_repository`; without a table of labels,
the labels are the values found in *train* (test must not decide what is a label), and other values of test are left out;
a label that an item names twice counts once; queries without a label are kept.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from vixml.config.registry import Catalogue, Dataset, fields_of
from vixml.data.corpus import QUERY_SPLITS, CorpusWriter, reading_parquet, split_settings
from vixml.data.xc_repository import TextRules, read_jsonl
from vixml.errors import VixmlError

# Prefix of a local image's path in images.parquet.
SOURCE = "catalogue"
_URL = re.compile(r"https?://", re.IGNORECASE)


def build_catalogue(dataset: Dataset, tables: dict[str, Path], out: Path | str) -> dict[str, Any]:
    """Write the corpus of a user's tables.

    Args:
        dataset: its entry, with ``catalogue``.
        tables: of :func:`required_tables`.
        out: folder to write.

    Returns:
        The content of ``counts.json``.

    Raises:
        VixmlError: a table malformed, a label that is not in the table of labels, an image outside the folder (file and
            line are named).
    """
    build = _Build(dataset, tables, out)
    build.write_labels()
    for split in QUERY_SPLITS:
        build.write_queries(split)
    entry = build.entry
    if entry.images is not None and not build.images_found:
        raise VixmlError(
            "no table has the column of images",
            where=", ".join(str(path) for path in tables.values()),
            expected=f"a column {entry.images!r} in one of them (catalogue.images)",
            hint="correct its name in config/datasets.yaml, or leave it out",
        )
    if build.no_address is not None and not build.address_found:
        raise build._other_kind(build.no_address[0], f"the path {build.no_address[1]!r}, and no URL in any row")
    urls = entry.images_are == "urls" and len(build.writer.images) > 0
    return build.writer.finish(source=lambda key: f"{SOURCE}:{key}", urls=urls, facts={"rules": build.rules})


def folder_of(entry: Catalogue, raw_dir: Path | str) -> Path:
    """Return the folder of a catalogue's tables and images."""
    return Path(raw_dir) / entry.folder


def required_tables(dataset: Dataset, raw_dir: Path | str) -> dict[str, Path]:
    """Return the tables of a catalogue, by name.

    Raises:
        VixmlError: no folder, or neither `train` and `test` nor `items`, or `items` without settings of the split.
    """
    assert dataset.catalogue is not None
    folder = folder_of(dataset.catalogue, raw_dir)
    if not folder.is_dir():
        raise VixmlError("the folder of a catalogue is missing", where=folder, hint=f"make it: {GUIDE}")
    tables = tables_in(folder)
    queries = set(tables) - {"label"}
    if queries not in ({"train", "test"}, {"items"}):
        raise VixmlError(
            "a catalogue has either the tables train and test, or one table items",
            where=folder,
            found=", ".join(sorted(path.name for path in tables.values())) or "no table",
            expected="train.jsonl and test.jsonl, or items.jsonl (or .csv, .parquet)",
            hint=GUIDE,
        )
    if "items" in tables:
        split_settings(dataset)
    return tables


@dataclass
class _Table:
    """The records of a table, or those of its rows that fall into a split."""

    path: Path
    entry: Catalogue
    rows: np.ndarray | None = None

    def __iter__(self) -> Iterator[Record]:
        for row, record in enumerate(read_table(self.path)):
            if self.rows is None or self.rows[row]:
                yield record

    def values(self, record: dict[str, Any], column: str, where: str, *, whole: bool = False) -> list[str]:
        """Return the values of one cell: a list, or one value (CSV text is cut at the separator unless ``whole``).

        Empty values are left out.

        Raises:
            VixmlError: a cell that holds something else than texts and whole numbers.
        """
        cell = record.get(column)
        if isinstance(cell, str) and self.path.suffix == ".csv" and not whole:
            cell = cell.split(self.entry.separator)
        cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
        found = []
        for value in cells:
            if type(value) is int:
                value = str(value)
            if not isinstance(value, str):
                raise VixmlError(
                    "a cell holds something else than texts or whole numbers",
                    where=f"{where}: {column}",
                    found=repr(value)[:80],
                    hint=GUIDE,
                )
            if value.strip():
                found.append(value.strip())
        return found


class _Build:
    """Write the splits of one catalogue.

    Attributes:
        rules: split -> how often each rule was needed.
        images_found: whether a table has the column of images.
        address_found: whether that column holds an address of the web.
        odd: rules needed by the images of the split that is being written.
        no_address: place and content of the first entry that is none, although the registry says URLs.
    """

    def __init__(self, dataset: Dataset, tables: dict[str, Path], out: Path | str) -> None:
        assert dataset.catalogue is not None  # the entry was validated
        self.dataset, self.entry, self.writer = dataset, dataset.catalogue, CorpusWriter(out)
        self.label_table = _Table(tables["label"], self.entry) if "label" in tables else None
        self.queries = self._split(tables)
        self.label_rows: dict[str, int] = {}
        self.rules: dict[str, dict[str, int]] = {}
        self.images_found = False
        self.address_found, self.odd = False, Counter[str]()
        self.no_address: tuple[str, str] | None = None  # the first one

    def _split(self, tables: dict[str, Path]) -> dict[str, _Table]:
        if "items" not in tables:
            return {split: _Table(tables[split], self.entry) for split in QUERY_SPLITS}
        seed, fraction = split_settings(self.dataset)

        def digest(record: dict[str, Any], row: int) -> int:
            value = record.get(self.entry.id)
            key = f"#{row}" if value in (None, "") else str(value)
            return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8])

        # A hash is a random order that no library version can change; equal ids fall into one split but at its edge.
        hashes = np.array(
            [digest(record, row) for row, (_, record) in enumerate(read_table(tables["items"]))], dtype=np.uint64
        )
        test = np.zeros(len(hashes), dtype=bool)
        test[np.argsort(hashes, kind="stable")[: round(fraction * len(hashes))]] = True
        return {split: _Table(tables["items"], self.entry, rows) for split, rows in (("train", ~test), ("test", test))}

    def write_labels(self) -> None:
        """Write the labels: those of their table, or without one, the values found in train."""
        if self.label_table is None:
            self._write_labels_of_train(self.queries["train"])
            return
        entry, table = self.entry, self.label_table
        texts = TextRules(fields_of(entry.label_text) if entry.label_text else self.dataset.text_fields)
        with self.writer.split("label") as add:
            for row, (where, record) in enumerate(table):
                text, item = texts.text(record, where), texts.identify(record.get(entry.id), where)
                name = [text] if text else []
                if entry.labels_by == "id":
                    name = table.values(record, entry.id, where, whole=True)
                if len(name) != 1 or name[0] in self.label_rows:
                    raise VixmlError(
                        f"a label needs a unique {entry.labels_by}",
                        where=where,
                        found=f"no {entry.labels_by}"
                        if len(name) != 1
                        else f"{name[0]!r}, as in row {self.label_rows[name[0]]}",
                        expected=f"one {entry.labels_by} per label, each different (catalogue.labels_by)",
                    )
                self.label_rows[name[0]] = row
                add(item, text, images=self._images(table, record, where))
        if not self.label_rows:
            raise VixmlError("the table of labels is empty", where=table.path, hint=GUIDE)
        texts.check_fields(table.path)
        self.rules["label"] = dict(sorted({**texts.counts, **self.odd}.items()))

    def _write_labels_of_train(self, train: _Table) -> None:
        names = {name for where, record in train for name in train.values(record, self.entry.labels, where)}
        if not names:
            raise VixmlError(
                "no query of train has a label",
                where=train.path,
                expected=f"labels in the column {self.entry.labels!r} (catalogue.labels)",
                hint=GUIDE,
            )
        self.label_rows = {name: row for row, name in enumerate(sorted(names))}
        with self.writer.split("label") as add:
            for name in self.label_rows:
                add(name, name)

    def write_queries(self, split: str) -> None:
        """Write train or test."""
        table, texts, found = self.queries[split], TextRules(self.dataset.text_fields), Counter[str]()
        self.odd.clear()
        with self.writer.split(split) as add:
            for where, record in table:
                labels = self._labels(table, record, where, found)
                item, text = texts.identify(record.get(self.entry.id), where), texts.text(record, where)
                add(item, text, labels, self._images(table, record, where))
        if not self.writer.rows[split]:
            raise VixmlError("a split holds no item", where=table.path, hint=GUIDE)
        texts.check_fields(table.path)
        self.rules[split] = dict(sorted((texts.counts + found + self.odd).items()))

    def _labels(self, table: _Table, record: dict[str, Any], where: str, found: Counter[str]) -> list[int]:
        """Return a query's label ids, ascending; if a table lists all labels, another name is an error."""
        if self.entry.labels not in record:
            raise VixmlError(
                "a query has no column of labels",
                where=where,
                found="columns " + ", ".join(map(str, record)),
                expected=f"a column {self.entry.labels!r} (catalogue.labels)",
                hint="a query without a label has an empty list",
            )
        names = table.values(record, self.entry.labels, where)
        unknown = [name for name in names if name not in self.label_rows]
        if unknown and self.label_table is not None:
            raise VixmlError(
                "a query has a label that the table of labels does not hold",
                where=where,
                found=repr(unknown[0]),
                expected="an id of the table label" if self.entry.labels_by == "id" else "a text of the table label",
                hint="add it there, or correct `labels_by` in config/datasets.yaml",
            )
        ids = {self.label_rows[name] for name in names if name in self.label_rows}
        found["labels_not_in_train"] += len(unknown)
        found["labels_repeated"] += len(names) - len(unknown) - len(ids)
        found["without_labels"] += not ids
        return sorted(ids)

    def _images(self, table: _Table, record: dict[str, Any], where: str) -> list[str]:
        """Return an item's images, in order.

        Raises:
            VixmlError: a path that leaves the folder, or another kind of name than the registry says.
        """
        column = self.entry.images
        if column is None:
            return []
        self.images_found = self.images_found or column in record
        names = table.values(record, column, where)
        if self.entry.images_are == "urls":
            return [self._address(name, f"{where}: {column}") for name in names]
        return [self._path(name, f"{where}: {column}") for name in names]

    def _address(self, name: str, where: str) -> str:
        """Return an address as it is, valid or not: `fetch-images` gives the reason why an invalid one has no image."""
        if _URL.match(name) is None:
            self.no_address = self.no_address or (where, name)
            self.odd["images_without_web_address"] += 1
        else:
            self.address_found = True
        return name.encode(errors="replace").decode()  # half of a surrogate pair cannot be stored

    def _path(self, name: str, where: str) -> str:
        if _URL.match(name):
            raise self._other_kind(where, f"the URL {name!r}")
        path = PurePosixPath(name)
        if "://" in name or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise VixmlError(
                "an image is neither inside the catalogue's folder nor on the web",
                where=where,
                found=repr(name),
                expected="a path inside the folder, written with /, or an address with http:// or https://",
            )
        return path.as_posix().encode(errors="replace").decode()

    def _other_kind(self, where: str, found: str) -> VixmlError:
        return VixmlError(
            "an image is named in another way than the registry says",
            where=where,
            found=found,
            expected=self.entry.images_are,
            hint="correct catalogue.images_are in config/datasets.yaml, or this row",
        )


# -- records of tables ------------------------------------------------------------------------------------------------

GUIDE = "docs/adding-a-dataset.md describes the tables"
TABLES = ("train", "test", "items", "label")
# The longest cell of a CSV file; the library's default is a description of two pages.
CELL_LIMIT = 1 << 24
Record = tuple[str, dict[str, Any]]


def _read_jsonl(path: Path) -> Iterator[Record]:
    """Yield (file:line, record) of JSON lines."""
    for number, record in read_jsonl(path):
        yield f"{path}:{number}", record


def _read_csv(path: Path) -> Iterator[Record]:
    """Yield (file:line, record) of a CSV file with a header, in UTF-8; quoted cells may hold line breaks.

    Raises:
        VixmlError: not UTF-8, no header, a column named twice, a row with more or fewer cells, an open quote.
    """
    csv.field_size_limit(CELL_LIMIT)
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            line = reader.line_num
            if not any(header) or len(set(header)) < len(header):
                raise VixmlError(
                    "a CSV file needs a header with one name per column",
                    where=f"{path}:1",
                    found=", ".join(header) or "nothing",
                    hint=GUIDE,
                )
            for row in reader:
                start, line = line + 1, reader.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    raise VixmlError(
                        "a row of a CSV file has another number of cells than the header",
                        where=f"{path}:{start}",
                        found=f"{len(row)} cells",
                        expected=f"{len(header)} cells, separated by commas",
                        hint="put cells that hold a comma or a line break in double quotes",
                    )
                yield f"{path}:{start}", dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise VixmlError(
            "a table is not UTF-8",
            where=f"{path}, after line {line}",
            found=f"byte 0x{error.object[error.start]:02x}",
            hint="save it as UTF-8, e.g. iconv -f latin1 -t utf-8",
        ) from error
    except csv.Error as error:
        raise VixmlError("not a CSV file", where=f"{path}:{line + 1}", found=str(error), hint=GUIDE) from error


def _read_parquet(path: Path) -> Iterator[Record]:
    """Yield (file and row, record) of a Parquet file, a few thousand rows at a time."""
    row = 0
    with reading_parquet(path, GUIDE), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            for record in batch.to_pylist():
                yield f"{path}, row {row}", record
                row += 1


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def tables_in(folder: Path | str) -> dict[str, Path]:
    """Return the tables in a folder, by name.

    Raises:
        VixmlError: one table in two formats.
    """
    found: dict[str, Path] = {}
    for name in TABLES:
        paths = [path for ending in READERS if (path := Path(folder) / f"{name}{ending}").is_file()]
        if len(paths) > 1:
            raise VixmlError(
                "a table exists in two formats",
                where=folder,
                found=", ".join(path.name for path in paths),
                expected=f"one file of the name {name}",
                hint="move the other one away",
            )
        if paths:
            found[name] = paths[0]
    return found


def read_table(path: Path) -> Iterator[Record]:
    """Yield (where, record) of a table in any format."""
    ending = next(ending for ending in sorted(READERS, key=len, reverse=True) if path.name.endswith(ending))
    return READERS[ending](path)
