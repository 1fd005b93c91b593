"""The vectors of labels, and of training items, with their ids and names: a faiss index, or Parquet for a vector database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.errors import VixmlError
from vixml.retrieval.ranking import searched_labels
from vixml.retrieval.search import search
from vixml.tagging.exports.text_encoder import TOLERANCE, sample_texts
from vixml.tagging.model_folder import LABELS, NEIGHBOURS, ModelFolder
from vixml.tagging.tagger import Tagger

ROWS = 1 << 15  # in memory together
NEAREST = 10
COLUMNS = ["id", "name", "vector"]  # of a Parquet file


@dataclass(frozen=True)
class Vectors:
    """Named vectors: the rows (n, dim') float32, memory-mapped, of ``labels`` or ``items``.

    The first ``dim`` columns are the text vector; an item's others are its images.
    """

    kind: str
    ids: list[str]
    names: list[str]
    rows: np.ndarray
    dim: int

    @classmethod
    def of_labels(cls, folder: ModelFolder) -> Vectors:
        """Return the labels, as inference searches them; their text vectors where it searches none."""
        preferred = (*searched_labels(folder.run.inference), "z", "u")
        name = next(name for name in preferred if f"{LABELS}/{name}.npy" in folder)
        return cls._read(folder, "labels", LABELS, name)

    @classmethod
    def of_items(cls, folder: ModelFolder) -> Vectors:
        """Return the training items.

        Raises:
            VixmlError: the folder was packed without them.
        """
        if f"{NEIGHBOURS}/vectors.npy" not in folder:
            hint = "export the labels alone, or pack the run again with its neighbours"
            raise VixmlError("the model folder holds no training items", where=folder.folder, hint=hint)
        return cls._read(folder, "items", NEIGHBOURS, "vectors")

    @classmethod
    def _read(cls, folder: ModelFolder, kind: str, part: str, name: str) -> Vectors:
        table = folder.items(part)
        rows = folder.vectors(f"{part}/{name}.npy", len(table))
        ids = table["id"].to_pylist()
        names = [text or key for text, key in zip(table["text"].to_pylist(), ids, strict=True)]
        return cls(kind, ids, names, rows, folder.header["dim"])

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and their text vectors, (n, dim) float32 of unit length."""
        for start in range(0, len(self.ids), ROWS):
            part = slice(start, start + ROWS)
            found = np.array(self.rows[part, : self.dim], np.float32)
            if self.rows.shape[1] > self.dim:
                found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
            yield part, found


def write_parquet(vectors: Vectors, path: Path) -> str:
    """Write ``id``, ``name`` and ``vector`` (float32, fixed size), read them back, and return a line about the check.

    Raises:
        VixmlError: what is read is not what was written, or no vector of unit length.
    """
    kind = pa.list_(pa.float32(), vectors.dim)
    schema = pa.schema(list(zip(COLUMNS, (pa.string(), pa.string(), kind), strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        for part, found in vectors.chunks():
            lists = pa.FixedSizeListArray.from_arrays(found.ravel(), type=kind)
            table = pa.table([vectors.ids[part], vectors.names[part], lists], schema=schema)
            writer.write_table(table, row_group_size=ROWS)
    written = pq.ParquetFile(path)
    groups = (written.read_row_group(number) for number in range(written.num_row_groups))
    for (part, expected), table in zip(vectors.chunks(), groups, strict=True):
        found = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, vectors.dim)
        same = table["id"].to_pylist() == vectors.ids[part] and table["name"].to_pylist() == vectors.names[part]
        unit = np.abs(np.linalg.norm(found, axis=1) - 1).max(initial=0.0) < 1e-3
        if not (same and unit and np.array_equal(found, expected)):
            raise VixmlError("what was written cannot be read back: nothing is put in place", where=path, found=part)
    return f"{path.name}: {len(vectors.ids):,} {vectors.kind}, {vectors.dim} numbers each, read back."


def write_faiss(vectors: Vectors, folder: Path, tagger: Tagger) -> str:
    """Write an exact inner-product index and the table of its rows, search it, and return a line about the check.

    Raises:
        VixmlError: its nearest vectors are not those of the project's own search.
    """
    import faiss

    path = folder / f"{vectors.kind}.faiss"
    index = faiss.IndexFlatIP(vectors.dim)
    for _, found in vectors.chunks():
        index.add(found)
    faiss.write_index(index, str(path))
    rows = pa.array(range(len(vectors.ids)), pa.int64())
    names = [pa.array(column, pa.string()) for column in (vectors.ids, vectors.names)]
    pq.write_table(pa.table([rows, *names], names=["row", "id", "name"]), folder / f"{vectors.kind}.parquet")
    texts = sample_texts(tagger)
    queries, k = tagger.encode(texts), min(NEAREST, len(vectors.ids))
    scores, ids = faiss.read_index(str(path)).search(queries, k)
    narrow = vectors.rows.shape[1] > vectors.dim
    whole = np.concatenate([found for _, found in vectors.chunks()]) if narrow else vectors.rows
    _, expected = search(queries, whole, k)
    own = np.einsum("qd,qkd->qk", queries, whole[ids])  # each found vector is the one of its row
    apart = max(float(np.abs(scores - other).max(initial=0.0)) for other in (expected, own))
    if not apart <= TOLERANCE:
        what = "the index does not find the nearest vectors: nothing is put in place"
        raise VixmlError(what, where=path, found=f"a score differs by {apart:.1e}")
    return f"{path.name}: the {k} nearest {vectors.kind} of {len(texts)} texts are those of vixml's exact search."
