"""Build a corpus from a user's own tables (docs/dataset.md): texts, labels by id or by name, images.

Rules, each counted under ``rules`` of ``counts.json``: those of :mod:`vixml.data.texts`; without a table of labels,
the labels are the values found in *train* (test must not decide what is a label), and other values of test are left out;
a label that an item names twice counts once; queries without a label are kept (`unlabelled: skip` leaves them out); an entry
of a list that is null is left out, and so is an image that is no text. Names of labels are repaired as texts are, in the table of labels and in queries alike.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vixml.config.fields import fields_of
from vixml.config.registry import Catalogue, Dataset
from vixml.data.corpus import QUERY_SPLITS, CorpusWriter, split_settings
from vixml.data.label_names import expect_single_names, folded, parse_list, set_flags
from vixml.data.table_files import GUIDE, Row, kind_of, named_tables, plain_number, read_parts, read_rows, tables_in
from vixml.data.texts import TextRules, named, nearest, repaired, without_html
from vixml.errors import VixmlError

# Prefix of a local image's path in images.parquet.
SOURCE = "catalogue"
_URL = re.compile(r"https?://", re.IGNORECASE)
Tables = Mapping[str, Sequence[Path]]


def build_catalogue(dataset: Dataset, tables: Tables, out: Path | str, raw_dir: Path | str = ".") -> dict[str, Any]:
    """Write the corpus of a user's tables (:func:`required_tables`); return the content of ``counts.json``.

    Raises:
        VixmlError: a table malformed, a label that is not in the table of labels, an image outside the folder (file and
            line are named).
    """
    writer = CorpusWriter(out)
    rules = write_items(dataset, tables, writer, raw_dir)
    urls = dataset.catalogue.images_are == "urls" and len(writer.images) > 0
    return writer.finish(source=lambda key: f"{SOURCE}:{key}", urls=urls, facts={"rules": rules})


def write_items(
    dataset: Dataset, tables: Tables, writer: CorpusWriter, raw_dir: Path | str
) -> dict[str, dict[str, int]]:
    """Pass labels, train and test to a writer, or a survey; return how often each rule was needed, by split."""
    build = _Build(dataset, tables, writer, raw_dir)
    build.write_labels()
    for split in QUERY_SPLITS:
        build.write_queries(split)
    entry = build.entry
    if entry.images is not None and not build.images_found:
        what = "no table has the column of images"
        expected = f"a column {entry.images!r} in one of them (catalogue.images)"
        where = ", ".join(str(path) for paths in tables.values() for path in paths)
        hint = nearest(entry.images, list(build.columns)) or "correct its name in config/datasets.yaml, or leave it out"
        raise VixmlError(what, where=where, found=named(build.columns), expected=expected, hint=hint)
    if build.no_address is not None and not build.address_found:
        raise build._other_kind(build.no_address[0], f"the path {build.no_address[1]!r}, and no URL in any row")
    return build.rules


def folder_of(entry: Catalogue, raw_dir: Path | str) -> Path:
    """Return the folder of a catalogue's tables and images."""
    return Path(raw_dir) / entry.folder


def tables_of(entry: Catalogue, raw_dir: Path | str) -> dict[str, list[Path]]:
    """Return the files of a catalogue's tables, by name."""
    folder = folder_of(entry, raw_dir)
    return tables_in(folder) if entry.tables is None else named_tables(entry.tables, folder)


def required_tables(dataset: Dataset, raw_dir: Path | str) -> dict[str, list[Path]]:
    """Return the files of a catalogue's tables, by name.

    Raises:
        VixmlError: no folder, or neither `train` and `test` nor `items`, or `items` without settings of the split.
    """
    assert dataset.catalogue is not None
    folder = folder_of(dataset.catalogue, raw_dir)
    if not folder.is_dir() and (dataset.catalogue.tables is None or dataset.catalogue.images is not None):
        raise VixmlError("the folder of a catalogue is missing", where=folder, hint=f"make it: {GUIDE}")
    tables = tables_of(dataset.catalogue, raw_dir)
    queries = set(tables) - {"label"}
    if queries not in ({"train", "test"}, {"items"}):
        raise VixmlError(
            "a catalogue has either the tables train and test, or one table items",
            where=folder,
            found=", ".join(sorted(path.name for paths in tables.values() for path in paths)) or "no table",
            expected="train.jsonl and test.jsonl, or items.jsonl (or .csv, .parquet)",
            hint=GUIDE,
        )
    if "items" in tables:
        split_settings(dataset)
    return tables


@dataclass
class CatalogueTable:
    """The records of a table, or those of its rows that fall into a split.

    Attributes:
        rows: which rows belong to it; None: all.
        faults: whether a row that is broken by itself is its error, and does not stop the others.
        left_out: what was left out of cells since the table was last opened, by reason.
    """

    paths: Sequence[Path]
    entry: Catalogue
    rows: np.ndarray | None = None
    faults: bool = False
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def path(self) -> Path:
        """Return the first file, for messages."""
        return self.paths[0]

    def __iter__(self) -> Iterator[Row]:
        self.left_out.clear()
        empty = self._empty
        read = read_rows if self.faults else read_parts
        for row, (where, record) in enumerate(read(self.paths, self.entry.form)):
            if self.rows is None or self.rows[row]:
                if empty and isinstance(record, dict):
                    record = {
                        name: None if isinstance(cell, str) and cell.strip().casefold() in empty else cell
                        for name, cell in record.items()
                    }
                yield where, record

    @cached_property
    def _split(self) -> bool:
        return self.entry.separator_in == "all" or kind_of(self.path) == "csv"

    def values(self, record: dict[str, Any], columns: str, where: str, *, whole: bool = False) -> list[str]:
        """Return the values of a cell, or of several columns joined by ``+`` (text is cut at the separator unless ``whole``).

        Empty values are left out.

        Raises:
            VixmlError: a cell that holds something else than texts and whole numbers.
        """
        names = [columns] if columns in record else fields_of(columns)
        return [value for name in names for value in self._cell(record.get(name), name, columns, where, whole)]

    def _cell(self, cell: Any, name: str, columns: str, where: str, whole: bool) -> Iterator[str]:
        entry = self.entry
        if isinstance(cell, str) and not whole:
            listed = parse_list(cell) if entry.lists else None
            separator = entry.separator
            if columns == entry.images and entry.image_separator is not None:
                separator = entry.image_separator
            if entry.strip_html and columns == entry.labels:
                cell = html.unescape(cell)  # before the `;` of an entity is taken for a separator
            cell = listed if listed is not None else cell.split(separator) if self._split and separator else cell
        for value in cell if isinstance(cell, list) else [cell]:
            value = plain_number(value)
            if value is None:
                self.left_out["nulls_in_lists"] += isinstance(cell, list)
                continue
            if type(value) is int:
                value = str(value)
            if not isinstance(value, str):
                if columns == entry.images:  # one bad entry of a million stops nothing
                    self.left_out["images_not_text"] += 1
                    continue
                what, found = "a cell holds something else than texts or whole numbers", repr(value)[:80]
                raise VixmlError(what, where=f"{where}: {name}", found=found, hint=GUIDE)
            if value.strip() and value.strip().casefold() not in self._empty:
                yield value.strip()

    @cached_property
    def _empty(self) -> set[str]:
        return {value.casefold() for value in self.entry.empty}


class _Build:
    """Write the splits of one catalogue.

    Attributes:
        rules: split -> how often each rule was needed.
        images_found: whether a table has the column of images.
        address_found: whether that column holds an address of the web.
        no_address: place and content of the first entry that is none, although the registry says URLs.
        n_entries: images named so far.
        train_ids: ids of train that the table gives.
        columns: of train and test.
    """

    def __init__(self, dataset: Dataset, tables: Tables, writer: CorpusWriter, raw_dir: Path | str) -> None:
        assert dataset.catalogue is not None  # the entry was validated
        self.dataset, self.entry, self.writer = dataset, dataset.catalogue, writer
        self.folder = folder_of(self.entry, raw_dir)
        self.label_table = CatalogueTable(tables["label"], self.entry) if "label" in tables else None
        self.queries = self._split(tables)
        self.label_rows: dict[str, int] = {}
        self.rules: dict[str, dict[str, int]] = {}
        self.images_found = False
        self.address_found = False
        self.no_address: tuple[str, str] | None = None  # the first one
        self.n_entries = 0
        self.train_ids: set[str] = set()
        self.columns: dict[str, None] = {}

    def _split(self, tables: Tables) -> dict[str, CatalogueTable]:
        if "items" not in tables:
            return {split: CatalogueTable(tables[split], self.entry) for split in QUERY_SPLITS}
        seed, fraction = split_settings(self.dataset)

        def digest(record: dict[str, Any], row: int) -> int:
            value = plain_number(record.get(self.entry.id))
            key = f"#{row}" if value in (None, "") else str(value)
            return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8])

        # A hash is a random order that no library version can change; equal ids fall into one split but at its edge.
        hashes = np.array(
            [digest(record, row) for row, (_, record) in enumerate(CatalogueTable(tables["items"], self.entry))],
            dtype=np.uint64,
        )
        test = np.zeros(len(hashes), dtype=bool)
        test[np.argsort(hashes, kind="stable")[: round(fraction * len(hashes))]] = True
        return {
            split: CatalogueTable(tables["items"], self.entry, rows)
            for split, rows in (("train", ~test), ("test", test))
        }

    def write_labels(self) -> None:
        """Write the labels: those of their table, or without one, the values found in train."""
        if self.label_table is None:
            self._write_labels_of_train(self.queries["train"])
            return
        entry, table = self.entry, self.label_table
        fields = fields_of(entry.label_text) if entry.label_text else self.dataset.text_fields
        texts = TextRules(fields, html=entry.strip_html)
        with self.writer.split("label") as add:
            for row, (where, record) in enumerate(table):
                text, item = texts.text(record, where), texts.identify(plain_number(record.get(entry.id)), where)
                name = [text] if text else []
                if entry.labels_by == "id":
                    name = self._clean(table.values(record, entry.id, where, whole=True))
                if len(name) != 1 or name[0] in self.label_rows:
                    what, found = f"a label needs a unique {entry.labels_by}", f"no {entry.labels_by}"
                    if len(name) == 1:
                        found = f"{name[0]!r}, as in row {self.label_rows[name[0]]}"
                    expected = f"one {entry.labels_by} per label, each different (catalogue.labels_by)"
                    raise VixmlError(what, where=where, found=found, expected=expected)
                self.label_rows[name[0]] = row
                add(item, text, images=self._images(table, record, where, texts.counts))
        if not self.label_rows:
            raise VixmlError("the table of labels is empty", where=table.path, hint=GUIDE)
        texts.check_fields(table.path)
        self.rules["label"] = dict(sorted((texts.counts + table.left_out).items()))

    def _write_labels_of_train(self, train: CatalogueTable) -> None:
        names, most = Counter[str](), 0
        for where, record in train:
            found = self._names(train, record, where)
            names.update(found)
            most = max(most, len(found))
        if not names:
            expected = f"labels in the column {self.entry.labels!r} (catalogue.labels)"
            raise VixmlError("no query of train has a label", where=train.path, expected=expected, hint=GUIDE)
        if self.entry.labels_are == "values":
            several, whole = len(fields_of(self.entry.labels)) > 1, not self.entry.separator
            doubts = expect_single_names(names, most, several, whole, f"{train.path}: {self.entry.labels}")
            self.rules |= {"label": doubts} if doubts else {}
        fold = folded if self.entry.fold_case else str
        # The most frequent spelling; of two, the first in alphabetical order.
        ordered = sorted(names, key=lambda name: (-names[name], name))
        shown = {name: key for key, name in {fold(name): name for name in reversed(ordered)}.items()}
        with self.writer.split("label") as add:
            for row, name in enumerate(sorted(shown)):
                self.label_rows[shown[name]] = row
                add(name, name)

    def _names(self, table: CatalogueTable, record: dict[str, Any], where: str) -> list[str]:
        """Return the names of a query's labels."""
        columns = [self.entry.labels] if self.entry.labels in record else fields_of(self.entry.labels)
        if missing := [name for name in columns if name not in record]:
            what, expected = "a query has no column of labels", f"a column {missing[0]!r} (catalogue.labels)"
            hint = nearest(missing[0], list(record)) or "a query without a label has an empty list"
            raise VixmlError(what, where=where, found=named(record), expected=expected, hint=hint)
        if self.entry.labels_are == "columns":
            return self._clean(set_flags(record, columns, where))
        names = table.values(record, self.entry.labels, where)
        clean = self._clean(names)
        table.left_out["labels_of_tags_only"] += len(names) - len(clean)
        return clean

    def _clean(self, names: list[str]) -> list[str]:
        """Return names of labels as texts are: on one line, storable, without HTML if the registry says so."""
        clean = (without_html(name) if self.entry.strip_html else name for name in names)
        return [name for name in map(repaired, clean) if name]

    def write_queries(self, split: str) -> None:
        """Write train or test."""
        table, found, ids = self.queries[split], Counter[str](), set[str]()
        texts, columns = TextRules(self.dataset.text_fields, html=self.entry.strip_html), dict[str, None]()
        with self.writer.split(split) as add:
            for where, record in table:
                columns |= {} if columns.keys() >= record.keys() else dict.fromkeys(record)
                names = self._names(table, record, where)
                if not names and self.entry.unlabelled == "skip":
                    found["unlabelled_left_out"] += 1
                    continue
                labels = self._labels(names, where, found)
                key = plain_number(record.get(self.entry.id))
                item, text = texts.identify(key, where), texts.text(record, where)
                if key is not None and split == "train":
                    ids.add(item)
                found["ids_in_train"] += key is not None and item in self.train_ids
                add(item, text, labels, self._images(table, record, where, found))
        if self.writer.rows[split]:
            texts.check_fields(table.path)
        self._check_split(split, table, columns, found)
        self.train_ids |= ids
        self.columns |= columns
        self.rules[split] = dict(sorted((texts.counts + found + table.left_out).items()))

    def _check_split(self, split: str, table: CatalogueTable, columns: Mapping[str, None], found: Counter[str]) -> None:
        """Check what is known once a split is written, and what would else fail after the training."""
        n_rows, entry = self.writer.rows[split] + found["unlabelled_left_out"], self.entry
        if not n_rows:
            raise VixmlError(
                "a split holds no item", where=table.path, found=f"no item of split {split}",
                expected="one item in each of train and test", hint=f"more items, or another share of test; {GUIDE}",
            )  # fmt: skip
        default = type(entry).model_fields["id"].default
        if entry.id not in columns and entry.id != default and not entry.id.startswith("#"):
            what, expected = "no record has the column of ids", f"a column {entry.id!r} (catalogue.id)"
            hint = nearest(entry.id, list(columns)) or "id: '#row' numbers the rows"
            raise VixmlError(what, where=table.path, found=named(columns), expected=expected, hint=hint)
        if found["without_labels"] + found["unlabelled_left_out"] == n_rows:
            unknown = found["labels_not_in_train"]
            raise VixmlError(
                "no query of test has a label of train" if unknown else f"no query of {split} has a label",
                where=table.path,
                found=f"{n_rows} queries, {unknown} labels that train does not have",
                expected=f"labels in the column {entry.labels!r} (catalogue.labels)",
                hint="without one, nothing can be learned or scored: are the tables of one catalogue, and is the separator right?",
            )
        if table.left_out["images_not_text"] and not self.n_entries:
            what, where = "the images of a table are neither texts nor lists of texts", f"{table.path}: {entry.images}"
            found = f"{table.left_out['images_not_text']} entries of other kinds"
            raise VixmlError(what, where=where, found=found, expected="paths or addresses", hint=GUIDE)

    def _labels(self, names: list[str], where: str, found: Counter[str]) -> list[int]:
        """Return a query's label ids, ascending; if a table lists all labels, another name is an error."""
        if self.entry.fold_case and self.label_table is None:
            names = [folded(name) for name in names]
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

    def _images(self, table: CatalogueTable, record: dict[str, Any], where: str, found: Counter[str]) -> list[str]:
        """Return an item's images, in order."""
        column = self.entry.images
        if column is None:
            return []
        self.images_found = self.images_found or column in record or any(c in record for c in fields_of(column))
        if self.entry.images_are == "ids":
            return [_storable(path) for path in self.by_id.get(str(plain_number(record.get(column))), [])]
        images, cell = [], f"{where}: {column}"
        for name in table.values(record, column, where):
            is_url = _URL.match(name) is not None
            if self.entry.other_images == "skip" and is_url != (self.entry.images_are == "urls"):
                found["images_of_another_kind"] += 1
            elif self.entry.images_are == "urls":
                images.append(self._address(name, is_url, cell, found))
            else:
                images.append(self._path(name, is_url, cell))
        self.n_entries += len(images)
        return images

    @cached_property
    def by_id(self) -> dict[str, list[str]]:
        """Return the images of each id, in order: ``ID.jpg``, ``ID_2.jpg`` or ``ID-2.jpg``, and those in a folder ``ID``."""
        return images_by_id(self.folder)

    def _address(self, name: str, is_url: bool, where: str, found: Counter[str]) -> str:
        """Return an address as it is, valid or not: `fetch-images` gives the reason why an invalid one has no image."""
        if is_url:
            self.address_found = True
        else:
            self.no_address = self.no_address or (where, name)
            found["images_without_web_address"] += 1
        return _storable(name)

    def _path(self, name: str, is_url: bool, where: str) -> str:
        if is_url:
            raise self._other_kind(where, f"the URL {name!r}")
        if self.entry.images_are == "names":
            name = PurePosixPath(name.replace("\\", "/")).name
        path = PurePosixPath(name)
        if "://" in name or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise VixmlError(
                "an image is neither inside the catalogue's folder nor on the web",
                where=where,
                found=repr(name)[:300],
                expected="a path inside the folder, written with /, or an address with http:// or https://",
            )
        return _storable(path.as_posix())

    def _other_kind(self, where: str, found: str) -> VixmlError:
        what = "an image is named in another way than the registry says"
        hint = "correct catalogue.images_are in config/datasets.yaml, or this row"
        return VixmlError(what, where=where, found=found, expected=self.entry.images_are, hint=hint)


def _storable(name: str) -> str:
    """Return a name without halves of surrogate pairs: those of JSON, and bytes of a file's name that are not UTF-8."""
    return name.encode(errors="replace").decode()


def digest_of_images(entry: Catalogue, raw_dir: Path | str, names: Sequence[str]) -> str:
    """Return a digest of local images as the disk tells them: name, size and time of change, or that there is no such file."""
    folder, digest = os.fspath(folder_of(entry, raw_dir)), hashlib.sha256()
    for name in names:
        try:
            about = os.stat(os.path.join(folder, name))
            found = f"{about.st_size} {about.st_mtime_ns}"
        except (OSError, ValueError):  # no such file, or no name of a file
            found = "-"
        digest.update(f"{name}\0{found}\n".encode())
    return digest.hexdigest()


def digest_of_names(entry: Catalogue, raw_dir: Path | str) -> str:
    """Return a digest of the names of all images in a folder, by which items find theirs (``images_are: ids``)."""
    names = sorted(PurePosixPath(*file).as_posix() for file in images_in(folder_of(entry, raw_dir)))
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


IMAGE = re.compile(r"\.(png|jpe?g|webp|gif|bmp|svg)$", re.IGNORECASE)
_SHORT = re.compile(r"\d{1,3}")


def images_in(folder: Path) -> list[tuple[str, str]]:
    """Return the image files below a folder: the folder in which one is, relative to it, and its name."""
    walked = ((os.path.relpath(parent, folder), names) for parent, _, names in os.walk(folder))
    return [(inner, name) for inner, names in walked for name in names if IMAGE.search(name)]


def images_by_id(folder: Path) -> dict[str, list[str]]:
    """Return the images in a folder by what names them: the file ``ID.jpg``, ``ID_2.jpg``, ``ID-2.jpg``, or the folder ``ID``.

    A number in an item's folder (``ID/1.jpg``) is a position and no id. Items' folders cannot be told from others
    (``2024/1001.jpg``) by one file: numbers of up to three digits are positions in all folders whose names have a digit if
    two of these have the same.
    """
    files = images_in(folder)

    def may_be_position(inner: str, key: str) -> bool:
        return re.search(r"\d", PurePosixPath(inner).name) is not None and _SHORT.fullmatch(key) is not None

    stems = Counter(key for inner, name in files if may_be_position(inner, key := IMAGE.sub("", name)))
    with_positions = max(stems.values(), default=0) > 1
    found: dict[str, list[tuple[int, str]]] = {}
    for inner, name in files:
        stem, path = IMAGE.sub("", name), PurePosixPath(inner, name).as_posix()
        numbered = re.fullmatch(r"(.+)[_-](\d{1,3})", stem)
        keys = {stem: 0} | ({numbered[1]: int(numbered[2])} if numbered else {})
        if with_positions:
            keys = {key: order for key, order in keys.items() if not may_be_position(inner, key)}
        if inner != ".":
            keys[PurePosixPath(inner).name] = int(stem) if stem.isdecimal() else 0
        for key, order in keys.items():
            found.setdefault(key, []).append((order, path))
    return {key: [path for _, path in sorted(images)] for key, images in found.items()}
