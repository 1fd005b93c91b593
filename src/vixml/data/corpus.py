"""A dataset as it travels between stages: texts, label matrices and image lists (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.config.registry import Counts
from vixml.errors import VixmlError
from vixml.files import atomic_path, write_json
from vixml.ragged import Ragged, RaggedWriter

SPLITS = ("train", "test", "label")
QUERY_SPLITS = ("train", "test")
_REBUILD = "build the corpus again: vixml build-corpus"


@dataclass(frozen=True)
class Items:
    """The rows of one split: ids (unique) and texts, in step."""

    ids: list[str]
    texts: list[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Items:
        """Return items whose text is their id."""
        return cls(list(texts), list(texts))


@dataclass
class CorpusData:
    """A whole corpus in memory, ready to be written.

    Attributes:
        items: split -> items, for train, test and label.
        labels: split -> (n_split rows over labels), for train and test, ascending in each row.
        image_keys, image_sources: row = image id.
        images: split -> (n_split rows over images), in order of preference.
        filters: split -> (n_split rows over labels), pairs never scored; empty where the dataset has none.
        facts: what else counts.json records.
    """

    items: dict[str, Items]
    labels: dict[str, Ragged]
    image_keys: list[str]
    image_sources: list[str]
    images: dict[str, Ragged]
    filters: dict[str, Ragged] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """Return what the corpus counts: the content of counts.json."""
        rows = {split: len(items.ids) for split, items in self.items.items()}
        return count(rows, self.labels, self.images, len(self.image_keys)) | self.facts

    def write(self, folder: Path | str) -> None:
        """Write the folder of docs/formats.md; the same corpus gives the same bytes."""
        folder = Path(folder)
        for split in SPLITS:
            items = self.items[split]
            _write_table(folder / f"{split}.parquet", {"id": items.ids, "text": items.texts})
            self.images[split].save(folder / f"{split}_images")
        _write_table(folder / "images.parquet", {"key": self.image_keys, "source": self.image_sources})
        for split in QUERY_SPLITS:
            self.labels[split].save(folder / f"{split}_labels")
        for split, matrix in self.filters.items():
            matrix.save(folder / f"filter_{split}")
        write_json(folder / "counts.json", self.counts())


class Corpus:
    """A corpus on the disk. Sizes are checked when it is opened; columns are read when they are asked for."""

    def __init__(self, folder: Path | str, rows: dict[str, int]) -> None:
        self.folder, self._rows = Path(folder), rows

    @classmethod
    def load(cls, folder: Path | str, *, filter_required: bool = False) -> Corpus:
        """Open a folder written by ``build-corpus``.

        Args:
            folder: the corpus.
            filter_required: whether the dataset defines reciprocal pairs that must not be scored (deviation D8).

        Raises:
            VixmlError: a file missing or malformed, a required filter missing, parts of different sizes.
        """
        folder = Path(folder)
        tables = {split: ("id", "text") for split in SPLITS} | {"images": ("key", "source")}
        corpus = cls(folder, {name: _n_rows(folder / f"{name}.parquet", columns) for name, columns in tables.items()})
        for split in SPLITS:
            corpus.images(split)
        for split in QUERY_SPLITS:
            corpus.labels(split)
            if corpus.filter(split) is None and filter_required:
                raise VixmlError(
                    "a filter that this dataset requires is missing",
                    where=folder / f"filter_{split}",
                    expected="the reciprocal pairs that are never scored (config/datasets.yaml: filter_required)",
                    hint=f"without it scores would be too high and comparable to nothing; {_REBUILD}",
                )
        return corpus

    def n(self, split: str) -> int:
        """Return the number of items of a split."""
        return self._rows[_known(split)]

    @property
    def n_labels(self) -> int:
        """Return the number of labels."""
        return self._rows["label"]

    @property
    def n_images(self) -> int:
        """Return the number of images."""
        return self._rows["images"]

    def ids(self, split: str) -> list[str]:
        """Return the ids of a split, in row order."""
        return _column(self.folder / f"{_known(split)}.parquet", "id")

    def texts(self, split: str) -> list[str]:
        """Return the texts of a split, in row order."""
        return _column(self.folder / f"{_known(split)}.parquet", "text")

    def image_keys(self) -> list[str]:
        """Return the images' keys; row = image id."""
        return _column(self.folder / "images.parquet", "key")

    def image_sources(self) -> list[str]:
        """Return the images' references ``source:member``; row = image id."""
        return _column(self.folder / "images.parquet", "source")

    def labels(self, split: str) -> Ragged:
        """Return the label matrix of train or test: (n(split) rows over labels), ascending in each row."""
        folder = self.folder / f"{_known(split, QUERY_SPLITS)}_labels"
        matrix = self._ragged(folder, self.n(split), self.n_labels)
        inside = np.ones(len(matrix.values), dtype=bool)
        inside[matrix.offsets[:-1][matrix.lengths > 0]] = False  # a row's first value may be anything
        wrong = np.flatnonzero(inside[1:] & (np.diff(matrix.values) <= 0)) + 1
        if len(wrong):
            raise VixmlError(
                "labels of a row do not ascend, or one stands twice",
                where=f"{folder}, row {int(np.searchsorted(matrix.offsets, wrong[0], side='right') - 1)}",
                hint=_REBUILD,
            )
        return matrix

    def images(self, split: str) -> Ragged:
        """Return the image lists of a split: (n(split) rows over images), in order of preference."""
        return self._ragged(self.folder / f"{_known(split)}_images", self.n(split), self.n_images)

    def filter(self, split: str) -> Ragged | None:
        """Return the pairs of train or test that are never scored, or None where the dataset has none."""
        folder = self.folder / f"filter_{_known(split, QUERY_SPLITS)}"
        return self._ragged(folder, self.n(split), self.n_labels) if folder.exists() else None

    def _ragged(self, folder: Path, rows: int, columns: int) -> Ragged:
        matrix = Ragged.load(folder)
        if (len(matrix), matrix.n_cols) != (rows, columns):
            raise VixmlError(
                "two parts of a corpus do not belong together",
                where=folder,
                found=f"{len(matrix)} rows over {matrix.n_cols}",
                expected=f"{rows} rows over {columns}, as the tables beside it",
                hint=_REBUILD,
            )
        return matrix


def count(
    rows: Mapping[str, int], labels: Mapping[str, Ragged], images: Mapping[str, Ragged], n_images: int
) -> dict[str, Any]:
    """Return what a corpus counts: the content of counts.json, but for what its builder adds.

    Args:
        rows: split -> number of items.
        labels: split -> label matrix, for train and test.
        images: split -> image lists.
        n_images: images in all.
    """
    frequency, with_image = labels["train"].counts(), images["label"].lengths
    counts: dict[str, Any] = {"n_train": rows["train"], "n_test": rows["test"], "n_labels": rows["label"]}
    counts["n_images"] = n_images
    for split in QUERY_SPLITS:
        counts[f"n_{split}_pairs"] = len(labels[split].values)
        counts[f"labels_per_{split}_query"] = _mean(labels[split].lengths)
        counts[f"images_per_{split}_query"] = _mean(images[split].lengths)
    counts["median_label_frequency"] = float(np.median(frequency)) if len(frequency) else 0.0
    counts["labels_with_image"] = _mean(with_image > 0)
    counts["images_per_label_with_image"] = _mean(with_image[with_image > 0])
    return counts


def verify_averages(counts: Mapping[str, Any], published: Mapping[str, float], where: object) -> None:
    """Check a corpus's averages against published ones, within half a unit of their second decimal.

    Args:
        counts: of the corpus.
        published: ``avg_labels_per_query`` and ``avg_queries_per_label`` of train, as far as they are known (Table 8).
        where: what to name.

    Raises:
        VixmlError: an average differs; all that differ are listed.
    """
    pairs = counts["n_train_pairs"]
    found = {
        "avg_labels_per_query": pairs / max(counts["n_train"], 1),
        "avg_queries_per_label": pairs / max(counts["n_labels"], 1),
    }
    wrong = [key for key, value in published.items() if abs(found[key] - value) > 0.005 + 1e-9]
    if wrong:
        raise VixmlError(
            "the corpus does not have the averages that are published for it",
            where=where,
            found=", ".join(f"{key} = {found[key]:.4f}" for key in wrong),
            expected=", ".join(f"{key} = {published[key]:.2f}" for key in wrong),
            hint="the archive holds other pairs than the published dataset: compare its size and origin with the registry",
        )


def verify_counts(found: dict[str, Any], expect: Counts | None, where: object) -> None:
    """Check a finished corpus against the registry.

    Raises:
        VixmlError: any count differs; all that differ are listed.
    """
    if expect is None:
        return
    expected = {key: value for key, value in expect.model_dump().items() if value is not None}
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if wrong:
        raise VixmlError(
            "the corpus does not count what the registry says it must",
            where=where,
            found=", ".join(f"{key} = {found.get(key)}" for key in wrong),
            expected=", ".join(f"{key} = {expected[key]}" for key in wrong),
            hint="an input or the build changed; if the change is meant, record the new counts in `expect` and run "
            "every result of this dataset again",
        )


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0


def _known(split: str, among: Sequence[str] = SPLITS) -> str:
    if split not in among:
        raise VixmlError("no such split", found=split, expected=" or ".join(among))
    return split


def _write_table(path: Path, columns: dict[str, list[str]]) -> None:
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _n_rows(path: Path, columns: Sequence[str]) -> int:
    """Return the number of rows; check the columns' presence and type without reading them."""
    with _reading(path):
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    for name in columns:
        index = schema.get_field_index(name)
        kind = schema.field(index).type if index >= 0 else None
        if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise VixmlError(
                "a table lacks a column" if kind is None else "a column has the wrong type",
                where=f"{path}: {name}",
                found="columns " + ", ".join(schema.names) if kind is None else str(kind),
                expected=f"a string column {name!r}",
                hint=_REBUILD,
            )
    return metadata.num_rows


def _column(path: Path, name: str) -> list[str]:
    with _reading(path):
        column = pq.read_table(path, columns=[name]).column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise VixmlError(
            "a value is missing", where=f"{path}: {name}, row {row}", found="null", expected="a string", hint=_REBUILD
        )
    return column.to_pylist()


class _reading:
    """Turn what pyarrow raises on a missing or damaged file into one clear error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if not self.path.exists():
            raise VixmlError("a table of the corpus is missing", where=self.path, hint=_REBUILD)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | KeyError | UnicodeDecodeError):
            raise VixmlError(
                "not a readable parquet file", where=self.path, found=str(error).splitlines()[0], hint=_REBUILD
            ) from error


# -- writing row by row -----------------------------------------------------------------------------------------------

# Rows held before they are written as one row group: a few megabytes of titles.
GROUP = 1 << 15
ITEM = pa.schema([("id", pa.string()), ("text", pa.string())])
IMAGE = pa.schema([("key", pa.string()), ("source", pa.string())])
URL = pa.schema(
    [("split", pa.string()), ("item", pa.int32()), ("place", pa.int32()), ("url", pa.string()), ("image", pa.int32())]
)
URLS = "image_urls.parquet"


class TableWriter:
    """Write a Parquet table row by row, in row groups.

    Args:
        path: the file; it appears when the writer is left without an error.
        schema: its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.n_rows = path, schema, 0
        self._columns: list[list[Any]] = [[] for _ in schema]

    def __enter__(self) -> TableWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._writer = stack.enter_context(pq.ParquetWriter(temporary, self.schema))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)

    def append(self, *row: object) -> None:
        """Add one row."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        self.n_rows += 1
        if len(self._columns[0]) == GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._columns[0]:
            self._writer.write_table(pa.table(self._columns, schema=self.schema), row_group_size=GROUP)
            self._columns = [[] for _ in self.schema]


class Images:
    """Number the images of a corpus: each once, in the order in which items first name it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def number(self, names: Sequence[str]) -> list[int]:
        """Return the image ids of one item's images, in order; an image named twice counts once."""
        return [self._ids.setdefault(name, len(self._ids)) for name in dict.fromkeys(names)]


class CorpusWriter:
    """Write the folder of docs/formats.md, one split after the other, with :meth:`split`, then :meth:`finish`.

    Args:
        folder: the work folder of the stage.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.images = Images()
        self.rows: dict[str, int] = {}

    def split(self, split: str) -> SplitWriter:
        """Return a context in which the rows of ``split`` are added; the labels come first (their number is needed)."""
        return SplitWriter(self, split)

    def finish(
        self,
        *,
        prefix: str = "",
        urls: bool = False,
        filters: Mapping[str, Ragged] | None = None,
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write images, filters and counts.

        Args:
            prefix: what stands in front of an image's name in ``source``.
            urls: whether the images are URLs: then ``image_urls.parquet`` lists them for whoever fetches them.
            filters: split -> pairs never scored.
            facts: what else ``counts.json`` records.

        Returns:
            The content of ``counts.json``.
        """
        with TableWriter(self.folder / "images.parquet", IMAGE) as table:
            for name in self.images:
                table.append(name, prefix + name)
        lists = {}
        for split in SPLITS:
            rows = Ragged.load(self.folder / f"{split}_images")
            # Only now is it known how many images there are.
            lists[split] = Ragged(rows.values, rows.offsets, len(self.images))
            lists[split].save(self.folder / f"{split}_images")
        if urls:
            self._write_urls(lists)
        for split, matrix in (filters or {}).items():
            matrix.save(self.folder / f"filter_{split}")
        labels = {split: Ragged.load(self.folder / f"{split}_labels") for split in QUERY_SPLITS}
        counts = count(self.rows, labels, lists, len(self.images)) | dict(facts)
        write_json(self.folder / "counts.json", counts)
        return counts

    def _write_urls(self, lists: Mapping[str, Ragged]) -> None:
        names = list(self.images)
        with TableWriter(self.folder / URLS, URL) as table:
            # In the order in which images were numbered, so that a new URL is the next image.
            for split, rows in ((split, lists[split]) for split in self.rows):
                for item in range(len(rows)):
                    for place, image in enumerate(rows.row(item)):
                        table.append(split, item, place, names[image], int(image))


class SplitWriter:
    """Add the rows of one split of a corpus."""

    def __init__(self, corpus: CorpusWriter, split: str) -> None:
        self.corpus, self.name = corpus, split
        self._labels: RaggedWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> SplitWriter:
        folder = self.corpus.folder
        with self._stack as stack:
            self._table = stack.enter_context(TableWriter(folder / f"{self.name}.parquet", ITEM))
            self._images = stack.enter_context(RaggedWriter(folder / f"{self.name}_images"))
            if self.name in QUERY_SPLITS:
                if "label" not in self.corpus.rows:
                    raise VixmlError("queries were written before the labels", where=folder, hint="write label first")
                self._labels = stack.enter_context(RaggedWriter(folder / f"{self.name}_labels"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.corpus.rows[self.name] = self._table.n_rows
            self._images.close(len(self.corpus.images))
            if self._labels is not None:
                self._labels.close(self.corpus.rows["label"])
        self._stack.__exit__(kind, error, trace)

    def add(self, item: str, text: str, labels: Sequence[int] = (), images: Sequence[str] = ()) -> None:
        """Add an item: its id, its text, its labels in ascending order (of a query), its images in order."""
        self._table.append(item, text)
        self._images.append(self.corpus.images.number(images))
        if self._labels is not None:
            self._labels.append(labels)
