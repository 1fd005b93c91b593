"""Write a dataset's tables as Parquet files that Hugging Face ``datasets`` loads, row group by row group.

What a column holds is said once (:class:`Column`), as Arrow writes it and as the header of a dataset card names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.errors import VixmlError
from vixml.ragged import Ragged

TYPES: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
    "string": (pa.string(), {"dtype": "string"}),
    "ids": (pa.list_(pa.int32()), {"list": "int32"}),
    "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"dtype": "image"}),
}


@dataclass(frozen=True)
class Column:
    """A column of a published table.

    Attributes:
        name: of the column.
        kind: ``string``, ``ids`` (a list of row numbers), ``image`` (a PNG, or null), or ``vector`` (float16, or null).
        about: what it holds, for the card.
        dim: length of a ``vector``.
    """

    name: str
    kind: str
    about: str
    dim: int = 0

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field."""
        kind = pa.list_(pa.float16(), self.dim) if self.kind == "vector" else TYPES[self.kind][0]
        return pa.field(self.name, kind)

    @property
    def feature(self) -> dict[str, Any]:
        """Return the feature as the header of a card names it."""
        if self.kind == "vector":
            return {"name": self.name, "list": "float16", "length": self.dim}
        return {"name": self.name, **TYPES[self.kind][1]}


@dataclass
class Table:
    """One split of one configuration: where its files lie, and what was written.

    Attributes:
        config: configuration, the second argument of ``load_dataset``.
        split: of it.
        prefix: of its files, below the published folder.
        columns: what it holds.
        n_rows: written so far.
        n_bytes: of the columns in memory, as ``datasets`` counts them.
        n_files: that were written.
    """

    config: str
    split: str
    prefix: str
    columns: tuple[Column, ...]
    n_rows: int = 0
    n_bytes: int = 0
    n_files: int = 0

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema."""
        return pa.schema([column.field for column in self.columns])

    def write(self, folder: Path, batches: Iterator[pa.RecordBatch], n_rows: int, per_file: int) -> None:
        """Write all rows, ``per_file`` a file and a row group a batch; memory holds one batch.

        Args:
            folder: the published folder.
            batches: of any length; each is cut where a file ends.
            n_rows: how many rows there are in all.
            per_file: rows a file, the last but one.
        """
        n_files = max(1, -(-n_rows // per_file))
        waiting = _cut(batches, per_file)
        for number in range(n_files):
            path = folder / f"{self.prefix}-{number:05d}-of-{n_files:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            room = min(per_file, n_rows - number * per_file)
            # Pictures are compressed already, and vectors do not shrink.
            packed = {c.name: "none" if c.kind in ("image", "vector") else "zstd" for c in self.columns}
            with pq.ParquetWriter(path, self.schema, compression=_paths(self.schema, packed)) as writer:
                while room > 0:
                    batch = next(waiting, None)
                    if batch is None:
                        raise VixmlError("a table ended too early", where=path, found=self.n_rows, expected=n_rows)
                    writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
                    room -= batch.num_rows
                    self.n_rows += batch.num_rows
                    self.n_bytes += batch.nbytes
        self.n_files = n_files
        if next(waiting, None) is not None:
            raise VixmlError("a table has more rows than it should", where=folder / self.prefix, expected=n_rows)


def _paths(schema: pa.Schema, packed: dict[str, str]) -> dict[str, str]:
    """Return the compression of each column inside the file: a list or a struct is stored as its parts."""
    found = {}
    for field in schema:
        parts = [""]
        if pa.types.is_struct(field.type):
            parts = [f".{part.name}" for part in field.type]
        elif pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
            parts = [".list.element"]
        found |= {field.name + part: packed[field.name] for part in parts}
    return found


def _cut(batches: Iterator[pa.RecordBatch], per_file: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``batches`` so that none crosses a multiple of ``per_file``."""
    done = 0
    for batch in batches:
        while batch.num_rows:
            n = min(batch.num_rows, per_file - done % per_file)
            yield batch.slice(0, n)
            batch, done = batch.slice(n), done + n


def strings(path: Path, columns: Sequence[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield ``(first row, batch)`` of columns of a corpus's table.

    Raises:
        VixmlError: unreadable, or a value that is missing.
    """
    first = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if column.null_count:
                        raise VixmlError("a value is missing", where=f"{path}: {name}", found="null", hint=REBUILD)
                yield first, batch.select(columns).cast(pa.schema([(name, pa.string()) for name in columns]))
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise VixmlError(
            "not a readable parquet file", where=path, found=str(error).splitlines()[0], hint=REBUILD
        ) from error


REBUILD = "build the corpus again: vixml build-corpus"


def id_lists(ragged: Ragged, first: int, n: int) -> pa.ListArray:
    """Return rows of a :class:`Ragged` as an Arrow column of lists."""
    offsets = np.asarray(ragged.offsets[first : first + n + 1])
    values = np.asarray(ragged.values[offsets[0] : offsets[-1]], dtype=np.int32)
    return pa.ListArray.from_arrays((offsets - offsets[0]).astype(np.int32), values)


def pictures(pngs: Sequence[bytes | None]) -> pa.StructArray:
    """Return PNG files as an Arrow column that ``datasets`` decodes; null where there is none."""
    there = pa.array([png is None for png in pngs])
    nothing = pa.nulls(len(pngs), pa.string())
    return pa.StructArray.from_arrays(
        [pa.array(pngs, pa.binary()), nothing], fields=list(TYPES["image"][0]), mask=there
    )


def vectors(rows: np.ndarray, absent: np.ndarray) -> pa.FixedSizeListArray:
    """Return vectors as an Arrow column, null where ``absent``.

    Args:
        rows: (n, dim) float16.
        absent: (n,) bool.
    """
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(absent))
