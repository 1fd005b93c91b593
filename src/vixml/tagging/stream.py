"""Tag a table of any length in flat memory, and resume where it was killed.

Items are tagged a chunk of rows at a time. Each chunk is one finished file in ``<out>-tagging``, so that a killed run loses one
chunk at most; chunks begin at fixed rows, so the same table gives the same bytes however often it was interrupted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vixml import __version__
from vixml.config.registry import fields_of
from vixml.data.corpus import reading_parquet
from vixml.data.xc_repository import TextRules
from vixml.errors import VixmlError
from vixml.files import atomic_path, read_json, sha256_json, write_json
from vixml.images.store import kept_folder
from vixml.progress import bar, warn
from vixml.runtime import map_in_order
from vixml.tagging.tagger import PICTURES, TEXT, Read, Tagger, Unreadable

ENDINGS = (".csv", ".jsonl", ".parquet")
CELL_LIMIT = 1 << 24  # characters
Record = tuple[str, dict[str, Any] | VixmlError]  # where, and the cells of a row or why it cannot be read
Row = tuple[str, str, dict[str, Any] | VixmlError]  # where, id, and the item or why it is none
TAGS = pa.schema([("id", pa.string()), ("rank", pa.int32()), ("label", pa.string()), ("score", pa.float32())])
ASIDE = ("row", "id", "reason", "tagged")


@dataclass(frozen=True)
class Columns:
    """Where a table has what is tagged; None: where the training table has it.

    Attributes:
        id: column of the ids; a row without one is ``#`` and its number.
        text: columns of the text, joined by ``+``.
        pictures: column of paths, relative to ``folder``.
        separator: of several paths in one cell of a CSV file.
        folder: None: the table's.
    """

    id: str | None = None
    text: str | None = None
    pictures: str | None = None
    separator: str | None = None
    folder: Path | None = None


def tag_table(
    tagger: Tagger,
    table: Path | str,
    out: Path | str,
    k: int = 10,
    columns: Columns | None = None,
    name_by: str = "text",
) -> dict[str, int]:
    """Write the tags of every item of a table, and beside it the rows that were put aside.

    Args:
        tagger: the model.
        table: ``.csv``, ``.tsv``, ``.jsonl`` (each also ``.gz``) or ``.parquet``.
        out: ``.csv``, ``.jsonl`` or ``.parquet`` with ``id``, ``rank`` (from 1), ``label`` and ``score``, one row per tag. Rows
            that cannot be tagged are in ``<out>.aside.csv`` with their reason; items that were tagged without a picture that
            cannot be read are there, too.
        k: tags of an item.
        columns: of the table.
        name_by: ``text`` or ``id`` of a label.

    Returns:
        Counts: ``items``, ``tagged``, ``aside`` (not tagged), ``faulty_pictures`` (items tagged without a picture).

    Raises:
        VixmlError: a table that cannot be read or lacks the columns, another ending, or no item that can be tagged.
    """
    table, out, columns = Path(table), Path(out), columns or Columns()
    if out.resolve() == table.resolve():
        raise VixmlError("the tags would replace the table", where=out, hint="name another file with --out")
    if out.suffix not in ENDINGS or name_by not in ("text", "id") or k < 1:
        found = f"{out.name}, labels by {name_by}, k {k}"
        expected = f"a name that ends in {', '.join(ENDINGS)}; text or id; 1 or more"
        raise VixmlError("tags cannot be written like this", where=out, found=found, expected=expected)
    if columns.pictures and not tagger.reads_images:
        warn(f"{tagger.folder.folder}: this model reads text only; the column {columns.pictures} is not looked at")
    size = tagger.at_once
    digest, lines = _digest(table)
    named = {key: value if value is None else str(value) for key, value in asdict(columns).items()}
    options = {"k": k, "name_by": name_by, "size": size, "ending": out.suffix, "columns": named}
    identity = {"table": digest, "model": sha256_json(tagger.folder.header), "labels": sha256_json(tagger.ids)}
    identity |= {"options": options, "precision": tagger.precision, "offset": tagger.offset, "version": __version__}
    kept = kept_folder(out, "tagging", identity)
    counts = dict.fromkeys(("items", "tagged", "aside", "faulty_pictures"), 0)
    with bar(f"tagging {table.name}", lines) as advance, ThreadPoolExecutor(torch.get_num_threads()) as pool:
        rows = _items(table, tagger, columns)
        for number, chunk in enumerate(iter(lambda: list(islice(rows, size)), [])):
            done = kept / f"{number:08d}.json"
            if done.exists():
                advance.skip(len(chunk))
            else:
                found = _tag_chunk(tagger, chunk, kept / f"{number:08d}", out.suffix, k, name_by, pool)
                write_json(done, found)
                advance(len(chunk))
            for key, value in read_json(done).items():
                counts[key] += value
    if not counts["tagged"]:
        raise _nothing_tagged(table, kept, counts)
    _join(kept, out)
    shutil.rmtree(kept)
    return counts


def aside_of(out: Path) -> Path:
    """Return the file of the rows that were put aside."""
    return out.with_name(f"{out.name}.aside.csv")


def _tag_chunk(
    tagger: Tagger,
    chunk: Sequence[Row],
    path: Path,
    ending: str,
    k: int,
    name_by: str,
    pool: ThreadPoolExecutor,
) -> dict[str, int]:
    """Write the tags of some rows, and those that are put aside; return their counts."""
    work = partial(_read, tagger)
    read = list(map_in_order(pool, work, chunk, 64) if tagger.reads_images else map(work, chunk))
    good = [(item, one) for (_, item, _), one in zip(chunk, read, strict=True) if isinstance(one, Read)]
    aside = []
    for (where, item, _), one in zip(chunk, read, strict=True):
        faults = [_reason(one)] if not isinstance(one, Read) else one.faults
        aside += [(where, item, reason, "yes" if isinstance(one, Read) else "no") for reason in faults]
    ids, scores = tagger.rank(tagger.queries([one for _, one in good]), k) if good else ((), ())
    names = tagger.labels if name_by == "text" else tagger.ids
    tags = [
        (item, rank, names[label], score)
        for (item, _), labels, values in zip(good, ids, scores, strict=True)
        for rank, (label, score) in enumerate(zip(labels.tolist(), values.tolist(), strict=True), start=1)
        if label >= 0
    ]
    with atomic_path(path.with_suffix(ending)) as temporary:
        _WRITERS[ending](temporary, tags)
    with atomic_path(path.with_suffix(".aside")) as temporary:
        _write_csv(temporary, aside)
    faulty = sum(isinstance(one, Read) and bool(one.faults) for one in read)
    return {"items": len(chunk), "tagged": len(good), "aside": len(chunk) - len(good), "faulty_pictures": faulty}


def _read(tagger: Tagger, row: Row) -> Read | VixmlError:
    where, _, item = row
    if isinstance(item, VixmlError):
        return item
    try:
        return tagger.read(item, where)
    except VixmlError as error:
        return error


def _reason(error: VixmlError) -> str:
    return error.what if error.found is None else f"{error.what}: {error.found}"


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(
        [f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows
    )
    path.write_text(written.getvalue(), encoding="utf-8")


def _write_jsonl(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    lines = [
        json.dumps(dict(zip(TAGS.names, (*row[:3], round(row[3], 6)), strict=True)), ensure_ascii=False) for row in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    columns = list(zip(*rows, strict=True)) or [[]] * len(TAGS)
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, TAGS, strict=True)], schema=TAGS), path)


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


def _join(kept: Path, out: Path) -> None:
    """Write all chunks as one file, and the rows that were put aside as another, if there are any."""
    with atomic_path(out) as temporary:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(temporary, TAGS) as writer:
                for part in sorted(kept.glob("*.parquet")):
                    writer.write_table(pq.ParquetFile(part).read())
        else:
            _concatenate(sorted(kept.glob(f"*{out.suffix}")), temporary, TAGS.names if out.suffix == ".csv" else ())
    parts = sorted(kept.glob("*.aside"))
    if any(part.stat().st_size for part in parts):
        with atomic_path(aside_of(out)) as temporary:
            _concatenate(parts, temporary, ASIDE)
    else:
        aside_of(out).unlink(missing_ok=True)  # of an earlier table


def _concatenate(parts: Sequence[Path], path: Path, header: Sequence[str]) -> None:
    with open(path, "wb") as stream:
        stream.write(f"{','.join(header)}\n".encode() if header else b"")
        for part in parts:
            with open(part, "rb") as read:
                shutil.copyfileobj(read, stream)


def _nothing_tagged(table: Path, kept: Path, counts: Mapping[str, int]) -> VixmlError:
    reasons = [
        part.read_text(encoding="utf-8").splitlines()[0]
        for part in sorted(kept.glob("*.aside"))[:1]
        if part.stat().st_size
    ]
    found = f"{counts['items']} rows" + (f"; the first: {reasons[0]}" if reasons else "")
    shutil.rmtree(kept)
    return VixmlError(
        "no row of the table can be tagged", where=table, found=found, hint="name the columns: --text, --pictures"
    )


# --- Rows of a table.


def _items(table: Path, tagger: Tagger, columns: Columns) -> Iterator[Row]:
    """Yield (where, id, item) of each row; a row that cannot be read is its error.

    Raises:
        VixmlError: the table cannot be read, or lacks the columns.
    """
    catalogue = tagger.folder.dataset.catalogue
    fields = fields_of(columns.text) if columns.text else tagger.folder.dataset.text_fields
    key = columns.id or (catalogue.id if catalogue else "id")
    shown = columns.pictures or (catalogue.images if catalogue and catalogue.images else PICTURES)
    folder, plain = columns.folder or table.parent, table.name.lower().removesuffix(".gz")
    split = plain.endswith((".csv", ".tsv"))
    separator = columns.separator or (catalogue.separator if catalogue else ";") if split else None
    wanted = {name for name in (columns.id, *fields_of(columns.text or ""), columns.pictures) if name}
    fixed, first = not plain.endswith(".jsonl"), True  # records of JSON lines may differ in their keys

    def lacking(names: set[str], record: dict[str, Any], where: str) -> VixmlError:
        return VixmlError(
            "the table lacks a column",
            where=where,
            found="columns " + ", ".join(map(str, record))[:500],
            expected=", ".join(sorted(names)) or f"{' + '.join(fields)}, or {TEXT}, for the text",
            hint="name the table's own columns: --text, --pictures, --id",
        )

    for number, (where, record) in enumerate(_records(table)):
        item = f"#{number}"
        if isinstance(record, VixmlError):
            yield where, item, record
            continue
        wanted -= record.keys()
        if first and fixed and (wanted or not {*fields, TEXT, shown} & record.keys()):
            raise lacking(wanted, record, where)
        first = False
        item = item if record.get(key) in (None, "") else str(record[key])
        try:
            named = fields if columns.text or set(fields) & record.keys() else (TEXT,)
            fed = {TEXT: TextRules(named).text(record, where)}
        except VixmlError as error:
            yield where, item, error
            continue
        if tagger.reads_images:
            fed[PICTURES] = _pictures(record.get(shown), separator, folder)
        yield where, item, fed
    if wanted and not first:  # no record of JSON lines had it
        raise lacking(wanted, record if isinstance(record, dict) else {}, str(table))


def _pictures(cell: Any, separator: str | None, folder: Path) -> list[Path | str | bytes]:
    """Return the pictures of a cell: paths, addresses, or bytes as `datasets` writes them."""
    cells = cell.split(separator) if separator and isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    found: list[Path | str | bytes] = []
    for one in cells:
        one = one.get("bytes") or one.get("path") if isinstance(one, dict) else one
        if isinstance(one, bytes):
            found.append(one)
        elif one is not None and (path := str(one).strip()):
            found.append(path if "://" in path else folder / path)
    return found


def _records(table: Path) -> Iterator[Record]:
    """Yield (where, record) of each row; a row that is broken by itself is its error."""
    name = table.name.removesuffix(".gz").lower()
    readers = {
        ".csv": partial(_delimited, delimiter=","),
        ".tsv": partial(_delimited, delimiter="\t"),
        ".jsonl": _json_lines,
    }
    if table.suffix.lower() == ".parquet":
        with reading_parquet(table, "save it again"), pq.ParquetFile(table) as file:
            rows = (record for batch in file.iter_batches(batch_size=4096) for record in batch.to_pylist())
            yield from ((f"row {number}", record) for number, record in enumerate(rows))
        return
    for ending, reader in readers.items():
        if name.endswith(ending):
            with gzip.open(table, "rb") if table.suffix == ".gz" else open(table, "rb") as stream:
                yield from reader(stream)
            return
    expected = ".csv, .tsv, .jsonl (each also .gz) or .parquet"
    raise VixmlError("a table of an unknown kind", where=table, found=table.suffix or "no ending", expected=expected)


def _delimited(stream: IO[bytes], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(CELL_LIMIT)
    # Bytes that are not UTF-8 are kept as lone surrogates, so that their row alone is refused.
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="", errors="surrogateescape")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        where = f"line {start}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if header is None or "unexpected end" in str(error) or "limit" in str(error):  # the rows after it are lost
                hint = "close the quote; a quote inside a quoted cell is written twice"
                what = "a quoted cell never ends, or the table has no header"
                raise VixmlError(what, where=f"{stream.name}:{start}", found=str(error), hint=hint) from error
            yield where, Unreadable("a row cannot be read", found=str(error))
            continue
        if cells is None:
            break
        is_text = _is_utf8(cells)
        if header is None:
            header = [name.strip() for name in cells]
            if not any(header) or len(set(header)) < len(header) or not is_text:
                found = ", ".join(header).encode(errors="replace").decode()[:500] or "nothing"
                expected = "one name per column, in UTF-8"
                raise VixmlError("a table needs a header", where=f"{stream.name}:1", found=found, expected=expected)
        elif not cells:
            continue
        elif len(cells) != len(header):
            found, expected = f"{len(cells)} cells", f"{len(header)} cells"
            yield where, Unreadable("a row has another number of cells than the header", found=found, expected=expected)
        elif not is_text:
            yield where, Unreadable("a row is not UTF-8")
        else:
            yield where, dict(zip(header, cells, strict=True))
    if header is None:
        raise VixmlError("a table needs a header", where=f"{stream.name}:1", found="nothing")


def _is_utf8(cells: Sequence[str]) -> bool:
    """Return whether no cell holds a lone surrogate."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_lines(stream: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:  # neither UTF-8 nor JSON
            yield f"line {number}", Unreadable("not a line of JSON", found=str(error)[:200])
            continue
        fault = Unreadable("not a JSON object", found=type(record).__name__)
        yield f"line {number}", record if isinstance(record, dict) else fault


def _digest(table: Path) -> tuple[str, int]:
    """Return the hash of a table, and about how many rows it has."""
    if not table.is_file():
        raise VixmlError("a table is missing", where=table, hint="name a file")
    digest, lines = hashlib.sha256(), 0
    with open(table, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            lines += block.count(b"\n")
    if table.suffix.lower() == ".parquet":
        with reading_parquet(table, "save it again"):
            lines = pq.read_metadata(table).num_rows
    return digest.hexdigest(), lines
