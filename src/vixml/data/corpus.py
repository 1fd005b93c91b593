"""A dataset as it travels between stages: texts, label matrices and image lists (docs/formats.md)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.config.registry import Counts, Dataset
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import atomic_path, load_array, write_json
from vixml.manifest import holds
from vixml.ragged import Ragged, RaggedWriter

SPLITS = ("train", "test", "label")
QUERY_SPLITS = ("train", "test")
_REBUILD = "build the corpus again: vixml build-corpus"


class Corpus:
    """A corpus on disk. Opening it checks the sizes; columns are read on demand."""

    def __init__(self, folder: Path | str, rows: dict[str, int]) -> None:
        self.folder, self._rows = Path(folder), rows

    @classmethod
    def load(cls, folder: Path | str, *, filter_required: bool = False) -> Corpus:
        """Open a folder written by ``build-corpus``; ``filter_required`` refuses one without filters (deviation D8).

        Raises:
            VixmlError: a file missing or malformed, a required filter missing, parts of different sizes, an item with an
                image twice.
        """
        folder = Path(folder)
        tables = {split: ("id", "text") for split in SPLITS} | {"images": ("key", "source")}
        corpus = cls(folder, {name: _n_rows(folder / f"{name}.parquet", columns) for name, columns in tables.items()})
        for split in SPLITS:
            corpus.images(split).check_once(folder / f"{split}_images", "an item has an image twice", _REBUILD)
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
                "the labels of a row do not ascend, or one occurs twice",
                where=f"{folder}, row {int(np.searchsorted(matrix.offsets, wrong[0], side='right') - 1)}",
                hint=_REBUILD,
            )
        return matrix

    def images(self, split: str) -> Ragged:
        """Return the image lists of a split: (n(split) rows over images), in order of preference."""
        return self._ragged(self.folder / f"{_known(split)}_images", self.n(split), self.n_images)

    def filter(self, split: str) -> Ragged | None:
        """Return the pairs of train or test that are never scored, or None where the dataset has none."""
        name = f"filter_{_known(split, QUERY_SPLITS)}"
        return self._ragged(self.folder / name, self.n(split), self.n_labels) if holds(self.folder, name) else None

    def _ragged(self, folder: Path, rows: int, columns: int) -> Ragged:
        matrix = Ragged.load(folder)
        found, expected = f"{len(matrix)} rows over {matrix.n_cols}", f"{rows} rows over {columns}"
        what = "a list of a corpus does not belong to the tables beside it"
        expect_equal(found, expected, what, where=folder, hint=_REBUILD)
        return matrix


def training_rows(path: Path, n_train: int, hint: str) -> np.ndarray:
    """Read the rows of train that a run held out: (n,) int64.

    Raises:
        VixmlError: rows of another type, or beyond the corpus.
    """
    rows = load_array(path, mmap=False)
    if rows.ndim != 1 or rows.dtype != np.int64 or (len(rows) and (rows.min() < 0 or rows.max() >= n_train)):
        what = "held-out rows do not fit the corpus"
        found = f"shape {rows.shape}, {rows.dtype}, largest {rows.max(initial=-1)}"
        raise VixmlError(what, where=path, found=found, expected=f"(n,) int64 from 0 to {n_train - 1}", hint=hint)
    return rows


def split_settings(dataset: Dataset) -> tuple[int, float]:
    """Return seed and test fraction of a dataset that is split here.

    Raises:
        VixmlError: the registry lacks one of them.
    """
    if dataset.split_seed is None or dataset.test_fraction is None:
        raise VixmlError(
            "a dataset that is split here needs a seed and a test fraction",
            where=f"config/datasets.yaml: {dataset.title}",
            expected="split_seed and test_fraction",
        )
    return dataset.split_seed, dataset.test_fraction


def verify_averages(counts: Mapping[str, Any], published: Mapping[str, float], where: object) -> None:
    """Check a corpus's averages of train against published ones (Table 8), within half a unit of their second decimal.

    Raises:
        VixmlError: an average differs; all that differ are listed.
    """
    pairs = counts["n_train_pairs"]
    found = {
        "avg_labels_per_query": pairs / max(counts["n_train"], 1),
        "avg_queries_per_label": pairs / max(counts["n_labels"], 1),
    }
    wrong = [key for key, value in published.items() if abs(found[key] - value) > 0.005 + 1e-9]
    expect_equal(
        ", ".join(f"{key} = {found[key]:.4f}" for key in wrong),
        ", ".join(f"{key} = {published[key]:.2f}" for key in wrong),
        "the corpus does not have the averages that are published for it",
        where=where,
        hint="the archive holds other pairs than the published dataset: compare its size and origin with the registry",
    )


def verify_counts(found: dict[str, Any], expect: Counts | None, where: object) -> None:
    """Check a finished corpus against the registry.

    Raises:
        VixmlError: any count differs; all that differ are listed.
    """
    expected = expect.model_dump(exclude_none=True) if expect is not None else {}
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    found, expected = (", ".join(f"{key} = {counts.get(key)}" for key in wrong) for counts in (found, expected))
    what = "the corpus does not have the counts of the registry"
    hint = "an input or the build changed; if intended, record the new counts in `expect` and run every result again"
    expect_equal(found, expected, what, where=where, hint=hint)


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0


def _known(split: str, among: Sequence[str] = SPLITS) -> str:
    if split not in among:
        raise VixmlError("no such split", found=split, expected=" or ".join(among))
    return split


def _n_rows(path: Path, columns: Sequence[str]) -> int:
    """Return the number of rows; check the columns' presence and type without reading them."""
    if not path.exists():
        raise VixmlError("a table of the corpus is missing", where=path, hint=_REBUILD)
    with reading_parquet(path):
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    _expect_strings(schema, path, columns, _REBUILD)
    return metadata.num_rows


def _column(path: Path, name: str) -> list[str]:
    return read_strings(path, [name]).column(name).to_pylist()


def read_strings(path: Path, columns: Sequence[str], hint: str = _REBUILD) -> pa.Table:
    """Read columns of a Parquet table.

    Raises:
        VixmlError: unreadable, a column that is missing or not of strings, a value that is missing.
    """
    with reading_parquet(path, hint), pq.ParquetFile(path) as file:
        _expect_strings(file.schema_arrow, path, columns, hint)
        table = file.read(columns=list(columns))  # pq.read_table imports pandas
    for name in columns:
        expect_no_null(table[name], f"{path}: {name}", hint)
    return table


def expect_no_null(column: pa.Array | pa.ChunkedArray, where: str, hint: str = _REBUILD, first: int = 0) -> None:
    """Check that a column has a value in every row; the first row's number is ``first``.

    Raises:
        VixmlError: one has none (the row is named).
    """
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        what = "a value is missing"
        raise VixmlError(what, where=f"{where}, row {row}", found="null", expected="a string", hint=hint)


def _expect_strings(schema: pa.Schema, path: Path, columns: Sequence[str], hint: str) -> None:
    for name in columns:
        index = schema.get_field_index(name)
        found = schema.field(index).type if index >= 0 else None
        kind = found.value_type if found is not None and pa.types.is_dictionary(found) else found
        if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            what = "a table lacks a column" if kind is None else "a column has the wrong type"
            where, found = f"{path}: {name}", "columns " + ", ".join(schema.names) if kind is None else str(found)
            raise VixmlError(what, where=where, found=found, expected=f"a string column {name!r}", hint=hint)


def reading_parquet(path: Path, hint: str = _REBUILD) -> AbstractContextManager[None]:
    """Turn whatever pyarrow raises on a damaged file into one clear error (:func:`vixml.errors.reading`)."""
    return reading("not a readable parquet file", path, hint=hint)


# -- writing row by row -----------------------------------------------------------------------------------------------

# Rows of one row group, held in memory until it is written: a few megabytes of titles.
GROUP = 1 << 15
ITEM = pa.schema([("id", pa.string()), ("text", pa.string())])
IMAGE = pa.schema([("key", pa.string()), ("source", pa.string())])
URL = pa.schema(
    [("split", pa.string()), ("item", pa.int32()), ("place", pa.int32()), ("url", pa.string()), ("image", pa.int32())]
)
URLS = "image_urls.parquet"


@contextmanager
def table_writer(path: Path, schema: pa.Schema, group: int = GROUP, **options: Any) -> Iterator[Callable[..., None]]:
    """Yield a function that adds a row to a Parquet table, which is written ``group`` rows at a time and appears on success."""
    columns: list[list[Any]] = [[] for _ in schema]
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:

        def flush() -> None:
            if columns[0]:
                writer.write_table(pa.table(columns, schema=schema), row_group_size=group)
                columns[:] = [[] for _ in schema]

        def append(*row: object) -> None:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            if len(columns[0]) == group:
                flush()

        yield append
        flush()


class CorpusWriter:
    """Write the folder of docs/formats.md, one split after the other, with :meth:`split`, then :meth:`finish`.

    Attributes:
        images: key -> image id; first those of ``image_keys``, then the others in the order in which items name them.
        rows: split -> number of items, for the splits written so far.
    """

    def __init__(self, folder: Path | str, image_keys: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.images = {key: number for number, key in enumerate(image_keys)}
        self.rows: dict[str, int] = {}
        self._texts = {split: array("Q") for split in QUERY_SPLITS}  # hashes, to count what is in both

    @contextmanager
    def split(self, split: str) -> Iterator[Callable[..., None]]:
        """Yield ``add(id, text, labels=(), images=())``; the split is written when the context ends. Labels come first.

        Labels (of a query) are ascending ids; images are keys in order of preference, of which a repeated one counts once.
        """
        n_rows = 0
        with ExitStack() as stack:
            append = stack.enter_context(table_writer(self.folder / f"{split}.parquet", ITEM))
            image_lists = stack.enter_context(RaggedWriter(self.folder / f"{split}_images"))
            label_lists = None
            if split in QUERY_SPLITS:
                label_lists = stack.enter_context(RaggedWriter(self.folder / f"{split}_labels"))

            def add(item: str, text: str, labels: Sequence[int] = (), images: Sequence[str] = ()) -> None:
                nonlocal n_rows
                n_rows += 1
                append(item, text)
                if text and split in self._texts:
                    digest = hashlib.blake2b(text.casefold().encode(), digest_size=8).digest()
                    self._texts[split].append(int.from_bytes(digest))
                numbers = self.images
                image_lists.append([numbers.setdefault(key, len(numbers)) for key in dict.fromkeys(images)])
                if label_lists is not None:
                    label_lists.append(labels)

            yield add
            self.rows[split] = n_rows
            image_lists.close(len(self.images))
            if label_lists is not None:
                label_lists.close(self.rows["label"])

    def finish(
        self,
        *,
        source: Callable[[str], str] = str,
        urls: bool = False,
        filters: Mapping[str, Ragged] | None = None,
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write images, filters and counts; return the content of ``counts.json``.

        Args:
            source: an image's key -> its reference in ``images.parquet``.
            urls: whether the keys are URLs: ``image_urls.parquet`` then lists them for `fetch-images`.
            filters: split -> pairs never scored.
            facts: further entries of ``counts.json``.
        """
        with table_writer(self.folder / "images.parquet", IMAGE) as append:
            for key in self.images:
                append(key, source(key))
        lists = {}
        for split in SPLITS:
            rows = Ragged.load(self.folder / f"{split}_images")
            # Only now is it known how many images there are.
            lists[split] = Ragged(rows.values, rows.offsets, len(self.images))
            lists[split].save(self.folder / f"{split}_images")
        if urls:
            keys = list(self.images)
            with table_writer(self.folder / URLS, URL) as append:
                # In the order in which images were numbered, so that a new URL is the next image.
                for split in self.rows:
                    for item in range(len(lists[split])):
                        for place, image in enumerate(lists[split].row(item)):
                            append(split, item, place, keys[image], int(image))
        for split, matrix in (filters or {}).items():
            matrix.save(self.folder / f"filter_{split}")
        labels = {split: Ragged.load(self.folder / f"{split}_labels") for split in QUERY_SPLITS}
        counts = self._count(labels, lists) | dict(facts)
        write_json(self.folder / "counts.json", counts)
        return counts

    def _count(self, labels: Mapping[str, Ragged], images: Mapping[str, Ragged]) -> dict[str, Any]:
        frequency, with_image = labels["train"].counts(), images["label"].lengths
        counts: dict[str, Any] = {f"n_{split}": self.rows[split] for split in QUERY_SPLITS}
        counts |= {"n_labels": self.rows["label"], "n_images": len(self.images)}
        for split in QUERY_SPLITS:
            counts[f"n_{split}_pairs"] = len(labels[split].values)
            counts[f"labels_per_{split}_query"] = _mean(labels[split].lengths)
            counts[f"images_per_{split}_query"] = _mean(images[split].lengths)
        train, test = (np.frombuffer(self._texts[split], np.uint64) for split in QUERY_SPLITS)
        counts["test_texts_in_train"] = int(np.isin(test, train).sum())
        counts["n_test_with_labels"] = int((labels["test"].lengths > 0).sum())
        counts["most_images_per_item"] = max(int(lists.lengths.max(initial=0)) for lists in images.values())
        counts["median_label_frequency"] = float(np.median(frequency)) if len(frequency) else 0.0
        counts["labels_with_image"] = _mean(with_image > 0)
        counts["images_per_label_with_image"] = _mean(with_image[with_image > 0])
        return counts
