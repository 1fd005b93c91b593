"""Build a corpus from a user's own tables (docs/adding-a-dataset.md): texts, labels by id or by name, images.

Rules, each counted under ``rules`` of ``counts.json``: those of :mod:`vixml.data.xc_repository`; without a table of labels,
the labels are the values that stand in *train* (test must not decide what is a label), and other values of test are
left out; a label named twice by one item counts once; queries without a label are kept.
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

from vixml.config.registry import Catalogue, Dataset, fields_of
from vixml.data.corpus import QUERY_SPLITS, CorpusWriter
from vixml.data.xc_repository import TextRules, read_jsonl
from vixml.errors import VixmlError

# What stands in front of a local image's path in images.parquet.
SOURCE = "catalogue"
_URL = re.compile(r"https?://\S+$", re.IGNORECASE)


def build_catalogue(dataset: Dataset, raw_dir: Path | str, out: Path | str) -> dict[str, Any]:
    """Write the corpus of a user's tables.

    Args:
        dataset: its entry, with ``catalogue``.
        raw_dir: what a relative folder is below.
        out: folder to write.

    Returns:
        The content of ``counts.json``.

    Raises:
        VixmlError: a table missing or malformed, a label that the table of labels does not hold, an image outside the
            folder (file and line are named).
    """
    entry = dataset.catalogue
    assert entry is not None  # the entry was validated
    tables = required_tables(dataset, raw_dir)
    part = _parts(dataset, tables)
    rules: dict[str, dict[str, int]] = {}
    writer = CorpusWriter(out)
    images = _ImageColumn(entry)
    if "label" in tables:
        labels = _write_labels(writer, entry, dataset, tables["label"], images, rules)
    else:
        labels = _labels_of_train(writer, entry, part["train"])
    for split in QUERY_SPLITS:
        texts, found = TextRules(dataset.text_fields), Counter[str]()
        with writer.split(split) as add:
            for where, record in part[split]:
                ids = labels.of(record, where, part[split].separator, found)
                add(
                    texts.identify(record.get(entry.id), where),
                    texts.text(record, where),
                    ids,
                    images.of(record, where, part[split].separator),
                )
        if not writer.rows[split]:
            raise VixmlError("a split holds no item", where=part[split].path, hint=GUIDE)
        texts.check_fields(part[split].path)
        rules[split] = dict(sorted((texts.counts + found).items()))
    images.check(tables)
    return writer.finish(source=lambda key: f"{SOURCE}:{key}", urls=images.kind == "URL", facts={"rules": rules})


def folder_of(entry: Catalogue, raw_dir: Path | str) -> Path:
    """Return where a catalogue's tables and images lie."""
    return Path(raw_dir) / entry.folder


def required_tables(dataset: Dataset, raw_dir: Path | str) -> dict[str, Path]:
    """Return the tables of a catalogue, by name.

    Raises:
        VixmlError: no folder, or neither `train` and `test` nor `items`.
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
    if "items" in tables and (dataset.split_seed is None or dataset.test_fraction is None):
        raise VixmlError(
            "a dataset that we split ourselves needs a seed and a share",
            where="config/datasets.yaml",
            expected="split_seed and test_fraction",
        )
    return tables


@dataclass
class _Part:
    """The records of one split: a table, or the rows of `items` that fall into it."""

    path: Path
    separator: str | None
    rows: np.ndarray | None = None

    def __iter__(self) -> Iterator[Record]:
        for row, record in enumerate(read_table(self.path)):
            if self.rows is None or self.rows[row]:
                yield record


def _parts(dataset: Dataset, tables: dict[str, Path]) -> dict[str, _Part]:
    entry = dataset.catalogue
    assert entry is not None

    def part(path: Path, rows: np.ndarray | None = None) -> _Part:
        return _Part(path, _separator(entry, path), rows)

    if "items" not in tables:
        return {split: part(tables[split]) for split in QUERY_SPLITS}
    # A hash is a random order that no library version can change; equal ids fall into one split but at its edge.
    hashes = np.array(
        [
            int.from_bytes(hashlib.sha256(f"{dataset.split_seed}:{_key(record, entry, row)}".encode()).digest()[:8])
            for row, (_, record) in enumerate(read_table(tables["items"]))
        ],
        dtype=np.uint64,
    )
    test = np.zeros(len(hashes), dtype=bool)
    test[np.argsort(hashes, kind="stable")[: round(dataset.test_fraction * len(hashes))]] = True
    return {"train": part(tables["items"], ~test), "test": part(tables["items"], test)}


def _key(record: dict[str, Any], entry: Catalogue, row: int) -> str:
    value = record.get(entry.id)
    return f"#{row}" if value in (None, "") else str(value)


def _separator(entry: Catalogue, path: Path) -> str | None:
    return entry.separator if path.suffix == ".csv" else None


@dataclass
class _Labels:
    """Names of labels -> rows; ``closed``: a table lists them all, so another name is an error in every split."""

    entry: Catalogue
    rows: dict[str, int]
    closed: bool

    def of(self, record: dict[str, Any], where: str, separator: str | None, found: Counter[str]) -> list[int]:
        """Return a query's label ids, ascending."""
        if self.entry.labels not in record:
            raise VixmlError(
                "a query has no column of labels",
                where=where,
                found="columns " + ", ".join(map(str, record)),
                expected=f"a column {self.entry.labels!r} (catalogue.labels)",
                hint="a query without a label has an empty list",
            )
        names = values(record, self.entry.labels, where, separator)
        ids = set()
        for name in names:
            if name in self.rows:
                ids.add(self.rows[name])
            elif self.closed:
                raise VixmlError(
                    "a query has a label that the table of labels does not hold",
                    where=where,
                    found=repr(name),
                    expected="an id of the table label"
                    if self.entry.labels_by == "id"
                    else "a text of the table label",
                    hint="add it there, or correct `labels_by` in config/datasets.yaml",
                )
            else:
                found["labels_not_in_train"] += 1
        repeated = len([name for name in names if name in self.rows]) - len(ids)
        if repeated:
            found["labels_repeated"] += repeated
        if not ids:
            found["without_labels"] += 1
        return sorted(ids)


def _write_labels(
    writer: CorpusWriter,
    entry: Catalogue,
    dataset: Dataset,
    path: Path,
    images: _ImageColumn,
    rules: dict[str, dict[str, int]],
) -> _Labels:
    texts = TextRules(fields_of(entry.label_text) if entry.label_text else dataset.text_fields)
    rows: dict[str, int] = {}
    with writer.split("label") as add:
        for row, (where, record) in enumerate(read_table(path)):
            text, item = texts.text(record, where), texts.identify(record.get(entry.id), where)
            name = values(record, entry.id, where, None) if entry.labels_by == "id" else [text] if text else []
            if len(name) != 1 or name[0] in rows:
                raise VixmlError(
                    "a label cannot be told from the others",
                    where=where,
                    found=f"no {entry.labels_by}" if len(name) != 1 else f"{name[0]!r}, as in row {rows[name[0]]}",
                    expected=f"one {entry.labels_by} a label, each different (catalogue.labels_by)",
                )
            rows[name[0]] = row
            add(item, text, images=images.of(record, where, _separator(entry, path)))
    if not rows:
        raise VixmlError("the table of labels is empty", where=path, hint=GUIDE)
    texts.check_fields(path)
    rules["label"] = dict(sorted(texts.counts.items()))
    return _Labels(entry, rows, closed=True)


def _labels_of_train(writer: CorpusWriter, entry: Catalogue, train: _Part) -> _Labels:
    names: set[str] = set()
    for where, record in train:
        names.update(values(record, entry.labels, where, train.separator))
    if not names:
        raise VixmlError(
            "no query of train has a label",
            where=train.path,
            expected=f"labels in the column {entry.labels!r} (catalogue.labels)",
            hint=GUIDE,
        )
    rows = {name: row for row, name in enumerate(sorted(names))}
    with writer.split("label") as add:
        for name in rows:
            add(name, name)
    return _Labels(entry, rows, closed=False)


class _ImageColumn:
    """Read items' images; a catalogue has paths or URLs, not both, since they are had in different ways."""

    def __init__(self, entry: Catalogue) -> None:
        self.entry = entry
        self.kind: str | None = None
        self._seen = False

    def of(self, record: dict[str, Any], where: str, separator: str | None) -> list[str]:
        """Return an item's images, in order.

        Raises:
            VixmlError: a path that leaves the folder, an address of another kind, or both kinds in one catalogue.
        """
        if self.entry.images is None:
            return []
        self._seen = self._seen or self.entry.images in record
        names = values(record, self.entry.images, where, separator)
        return [self._checked(name, f"{where}: {self.entry.images}") for name in names]

    def check(self, tables: dict[str, Path]) -> None:
        """Refuse a catalogue of which no table has the column of images: its name is misspelt.

        Raises:
            VixmlError: no such column.
        """
        if self.entry.images is not None and not self._seen:
            raise VixmlError(
                "no table has the column of images",
                where=", ".join(str(path) for path in tables.values()),
                expected=f"a column {self.entry.images!r} in one of them (catalogue.images)",
                hint="correct its name in config/datasets.yaml, or leave it out",
            )

    def _checked(self, name: str, where: str) -> str:
        kind = "URL" if _URL.match(name) else "path"
        path = PurePosixPath(name)
        if kind == "path" and ("://" in name or path.is_absolute() or ".." in path.parts or "\\" in name):
            raise VixmlError(
                "an image is neither inside the catalogue's folder nor on the web",
                where=where,
                found=repr(name),
                expected="a path inside the folder, written with /, or an address with http:// or https://",
            )
        if kind != {"paths": "path", "urls": "URL"}[self.entry.images_are]:
            raise VixmlError(
                "an image is named in another way than the registry says",
                where=where,
                found=f"the {kind} {name!r}",
                expected=self.entry.images_are,
                hint="correct catalogue.images_are in config/datasets.yaml, or this row",
            )
        if self.kind not in (None, kind):
            raise VixmlError(
                "a catalogue names images by path and by URL",
                where=where,
                found=f"the {kind} {name!r} after a {self.kind}",
                expected="one of the two for the whole catalogue",
                hint="fetch the others into the folder and name their paths",
            )
        self.kind = kind
        return name if kind == "URL" else path.as_posix()


# -- records of tables ------------------------------------------------------------------------------------------------

GUIDE = "docs/adding-a-dataset.md describes the tables"
TABLES = ("train", "test", "items", "label")
# The longest cell of a CSV file; the library's own limit is a description of two pages.
CELL_LIMIT = 1 << 24
Record = tuple[str, dict[str, Any]]


def read_jsonl_table(path: Path) -> Iterator[Record]:
    """Yield (file:line, record) of JSON lines."""
    for number, record in read_jsonl(path):
        yield f"{path}:{number}", record


def read_csv_table(path: Path) -> Iterator[Record]:
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
                    "a CSV file needs a header with one name a column",
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


def read_parquet_table(path: Path) -> Iterator[Record]:
    """Yield (file, row; record) of a Parquet file, a few thousand rows at a time.

    Raises:
        VixmlError: damaged or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    yield f"{path}, row {row}", record
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise VixmlError(
            "not a readable parquet file", where=path, found=str(error).splitlines()[0], hint=GUIDE
        ) from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl_table,
    ".jsonl.gz": read_jsonl_table,
    ".csv": read_csv_table,
    ".parquet": read_parquet_table,
}


def tables_in(folder: Path | str) -> dict[str, Path]:
    """Return the tables that a folder holds, by name.

    Raises:
        VixmlError: one table in two formats.
    """
    found: dict[str, Path] = {}
    for name in TABLES:
        paths = [path for ending in READERS if (path := Path(folder) / f"{name}{ending}").is_file()]
        if len(paths) > 1:
            raise VixmlError(
                "a table is there in two formats",
                where=folder,
                found=", ".join(path.name for path in paths),
                expected=f"one file of the name {name}",
                hint="move the other one away",
            )
        if paths:
            found[name] = paths[0]
    return found


def read_table(path: Path) -> Iterator[Record]:
    """Yield (where, record) of a table of any of the formats."""
    ending = next(ending for ending in sorted(READERS, key=len, reverse=True) if path.name.endswith(ending))
    return READERS[ending](path)


def values(record: dict[str, Any], column: str, where: str, separator: str | None) -> list[str]:
    """Return the values of one cell: a list, or one value (in CSV: text cut at ``separator``); empty ones left out.

    Raises:
        VixmlError: a cell that holds something else than texts and whole numbers.
    """
    cell = record.get(column)
    if isinstance(cell, str) and separator is not None:
        cell = cell.split(separator)
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
