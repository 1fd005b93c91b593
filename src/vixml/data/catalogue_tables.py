"""Read a user's tables as a stream of records: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vixml.data.xc_text import read_jsonl
from vixml.errors import VixmlError

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
