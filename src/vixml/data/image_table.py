"""Addresses of images by item id, from a table of many million rows (``img_urls.parquet``: columns ``id`` and ``url``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vixml.errors import VixmlError

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
