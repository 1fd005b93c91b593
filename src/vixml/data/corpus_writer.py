"""Write a corpus row by row, in memory that does not grow with its texts and pairs (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vixml.data.corpus import QUERY_SPLITS, SPLITS, count
from vixml.errors import VixmlError
from vixml.files import atomic_path, write_json
from vixml.ragged import Ragged, RaggedWriter

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
    """Number the pictures of a corpus: each once, in the order in which items first name it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def number(self, names: Sequence[str]) -> list[int]:
        """Return the image ids of one item's pictures, in order; a picture named twice counts once."""
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
            prefix: what stands in front of a picture's name in ``source``.
            urls: whether the pictures are URLs: then ``image_urls.parquet`` lists them for whoever fetches them.
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
            # Only now is it known how many pictures there are.
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
            # In the order in which pictures were numbered, so that a new URL is the next image.
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
        """Add an item: its id, its text, its labels in ascending order (of a query), its pictures in order."""
        self._table.append(item, text)
        self._images.append(self.corpus.images.number(images))
        if self._labels is not None:
            self._labels.append(labels)
