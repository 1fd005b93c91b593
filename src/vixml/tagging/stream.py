"""Tag a table of any length in flat memory, and resume where it was killed.

Items are tagged a chunk of rows at a time. Each chunk is one finished file in ``<out>-tagging``, so that a killed run loses one
chunk at most; chunks begin at fixed rows, so the same table gives the same bytes however often it was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vixml import __version__
from vixml.config.registry import Catalogue, TableForm, fields_of
from vixml.data.catalogue import Table, images_by_id
from vixml.data.corpus import reading_parquet
from vixml.data.guess import Report, form_like
from vixml.data.table_files import expand, kind_of, plain
from vixml.errors import VixmlError
from vixml.files import atomic_path, read_json, sha256_json, write_json
from vixml.images.store import kept_folder
from vixml.progress import bar, warn
from vixml.runtime import map_in_order
from vixml.tagging.tagger import PICTURES, TEXT, Read, Tagger
from vixml.text import csv_cell, shown

ENDINGS = (".csv", ".jsonl", ".parquet")
Row = tuple[str, str, dict[str, Any] | VixmlError]  # where, id, and the item or why it is none
TAGS = pa.schema([("id", pa.string()), ("rank", pa.int32()), ("label", pa.string()), ("score", pa.float32())])
ASIDE = ("row", "id", "reason", "tagged")


@dataclass(frozen=True)
class Columns:
    """Where a table has what is tagged, and how it is written; None: as in the training table.

    Attributes:
        id: column of the ids; a row without one is ``#`` and its number.
        text: columns of the text, joined by ``+``.
        pictures: column of paths, relative to ``folder``.
        separator: of several paths in one cell.
        folder: None: the table's.
        form: keys of :class:`~vixml.config.registry.TableForm` that are given; others are those of the training table if
            they fit, or guessed.
    """

    id: str | None = None
    text: str | None = None
    pictures: str | None = None
    separator: str | None = None
    folder: Path | None = None
    form: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Which tags are written, and how.

    Attributes:
        k: of :func:`tag_table`.
        name_by: ``text`` or ``id`` of a label.
        precision: share of the tags that are to be true: others are left out; None: all k are written.
        unlike: share of ordinary items that may be taken for items unlike all training items, which are put aside; None:
            nothing is.
        probability: write a further column, ``probability``.
    """

    k: int = 10
    name_by: str = "text"
    precision: float | None = None
    unlike: float | None = None
    probability: bool = False

    @property
    def schema(self) -> pa.Schema:
        """Return the columns that are written."""
        return TAGS.append(pa.field("probability", pa.float32())) if self.probability else TAGS


def tag_table(
    tagger: Tagger,
    table: Path | str | Sequence[Path | str],
    out: Path | str,
    k: int = 10,
    columns: Columns | None = None,
    wanted: Wanted | None = None,
) -> dict[str, int]:
    """Write the tags of every item of a table, and beside it the rows that were put aside.

    Args:
        tagger: the model.
        table: a file of any kind that ``vixml new`` reads (:mod:`vixml.data.table_files`), a pattern, or a list of these:
            parts of one table.
        out: ``.csv``, ``.jsonl`` or ``.parquet`` with ``id``, ``rank`` (from 1), ``label`` and ``score``, one row per tag. Rows
            that cannot be tagged are in ``<out>.aside.csv`` with their reason; items that were tagged without a picture that
            cannot be read are there, too.
        k: tags of an item at most.
        columns: of the table.
        wanted: which tags, and how.

    Returns:
        Counts: ``items``, ``tagged``, ``aside`` (not tagged), ``faulty_pictures`` (items tagged without a picture),
        and with a precision ``no_tag`` (items of which no tag has it).

    Raises:
        VixmlError: a table that cannot be read or lacks the columns, another ending, no item that can be tagged, or a model
            that does not know what its scores are worth.
    """
    out, columns, wanted = Path(out), columns or Columns(), replace(wanted or Wanted(), k=k)
    named = [table] if isinstance(table, (str, Path)) else table
    paths = [path for pattern in named for path in expand(Path(pattern))]
    if out.resolve() in {path.resolve() for path in paths}:
        raise VixmlError("the tags would replace the table", where=out, hint="name another file with --out")
    if out.suffix not in ENDINGS or wanted.name_by not in ("text", "id") or wanted.k < 1:
        found = f"{out.name}, labels by {wanted.name_by}, k {wanted.k}"
        expected = f"a name that ends in {', '.join(ENDINGS)}; text or id; 1 or more"
        raise VixmlError("tags cannot be written like this", where=out, found=found, expected=expected)
    if columns.pictures and not tagger.reads_images:
        warn(f"{tagger.folder.folder}: this model reads text only; the column {columns.pictures} is not looked at")
    limits, size = _limits(tagger, wanted), tagger.at_once
    digest, lines = _digest(paths)
    form = _form(tagger, paths, columns)
    told = {name: value if value is None else str(value) for name, value in vars(columns).items()}
    told |= {"form": form.model_dump()}
    options = {**vars(wanted), "size": size, "ending": out.suffix, "columns": told}
    identity = {"table": digest, "model": sha256_json(tagger.folder.header), "labels": sha256_json(tagger.ids)}
    identity |= {"options": options, "precision": tagger.precision, "offset": tagger.offset, "version": __version__}
    kept = kept_folder(out, "tagging", identity)
    counts = dict.fromkeys(("items", "tagged", "aside", "faulty_pictures"), 0)
    counts |= {"no_tag": 0} if wanted.precision is not None else {}
    work = partial(_read, tagger, fields_of(columns.text) if columns.text else None)
    with bar(f"tagging {paths[0].name}", lines) as advance, ThreadPoolExecutor(torch.get_num_threads()) as pool:
        rows = _items(paths, form, tagger, columns)
        for number, chunk in enumerate(iter(lambda: list(islice(rows, size)), [])):
            done = kept / f"{number:08d}.json"
            if done.exists():
                advance.skip(len(chunk))
            else:
                read = list(map_in_order(pool, work, chunk, 64) if tagger.reads_images else map(work, chunk))
                found = _tag_chunk(tagger, chunk, read, wanted, limits)
                write_json(done, _write_chunk(kept / f"{number:08d}{out.suffix}", found, wanted.schema))
                advance(len(chunk))
            found = read_json(done)
            counts = {key: value + found[key] for key, value in counts.items()}
    if not counts["tagged"]:
        raise _nothing_tagged(paths[0], kept, counts)
    _join(kept, out, wanted.schema)
    shutil.rmtree(kept, ignore_errors=True)  # the tags are there; what stays is of no harm
    return counts


def aside_of(out: Path) -> Path:
    """Return the file of the rows that were put aside."""
    return out.with_name(f"{out.name}.aside.csv")


@dataclass(frozen=True)
class Limits:
    """Scores and similarities from which on a tag, or an item, counts; -inf: all do."""

    score: float = -math.inf
    similarity: float = -math.inf


def _limits(tagger: Tagger, wanted: Wanted) -> Limits:
    """Return the limits that are asked for, and print what they mean.

    Raises:
        VixmlError: the model was trained without held-out items, or is not that good on them.
    """
    fitted, asked = tagger.calibration, (wanted.precision, wanted.unlike)
    if fitted is None and (wanted.probability or asked != (None, None)):
        raise VixmlError(
            "this model does not know what its scores are worth",
            where=tagger.folder.folder,
            found="no calibration.json: too few items were held out of its training, or inference was not chosen on them",
            hint="leave out --precision, --unlike and --probability; or fit a catalogue with 4,000 training items or more",
        )
    limits, said = Limits(), []
    if wanted.precision is not None:
        one = fitted.threshold(wanted.precision)
        limits = replace(limits, score=one.score)
        said.append(
            f"tags with a score of {one.score:.4g} or more: on held-out items {one.precision:.0%} of them were true, they held "
            f"{one.recall:.0%} of the true labels, and {one.items:.0%} of the items kept one (--precision)"
        )
    if wanted.unlike is not None:
        alarm = fitted.alarm(wanted.unlike)
        limits = replace(limits, similarity=alarm.similarity)
        said.append(
            f"items whose nearest training item has a similarity below {alarm.similarity:.3f} are put aside, which happened to "
            f"{alarm.share:.1%} of the held-out items (--unlike)"
        )
    for sentence in said:
        print(sentence, file=sys.stderr)
    return limits


@dataclass(frozen=True)
class Chunk:
    """Tags of some rows, the rows that are put aside, and counts."""

    tags: list[tuple[Any, ...]]
    aside: list[tuple[str, str, str, str]]
    counts: dict[str, int]


def _tag_chunk(
    tagger: Tagger, chunk: Sequence[Row], read: Sequence[Read | VixmlError], wanted: Wanted, limits: Limits
) -> Chunk:
    """Tag some rows."""
    good = [(row, one) for row, one in zip(chunk, read, strict=True) if isinstance(one, Read)]
    aside = []
    for (where, item, _), one in zip(chunk, read, strict=True):
        faults = [_reason(one)] if not isinstance(one, Read) else one.faults
        aside += [(where, item, reason, "yes" if isinstance(one, Read) else "no") for reason in faults]
    names = tagger.labels if wanted.name_by == "text" else tagger.ids
    tags, n_unlike, n_empty = [], 0, 0
    if good:
        queries = tagger.queries([one for _, one in good])
        ids, scores = tagger.rank(queries, wanted.k)
        near = tagger.similarity(queries).tolist() if wanted.unlike is not None else [math.inf] * len(good)
        more = tagger.calibration(scores).tolist() if wanted.probability else None
        for row, ((where, item, _), _) in enumerate(good):
            if near[row] < limits.similarity:
                n_unlike += 1
                aside.append(
                    (where, item, f"unlike all training items: similarity {near[row]:.3f} to the nearest", "no")
                )
                continue
            before = len(tags)
            for rank, (label, score) in enumerate(zip(ids[row].tolist(), scores[row].tolist(), strict=True), start=1):
                if label >= 0 and score >= limits.score:
                    tags.append((item, rank, names[label], score, *(more[row][rank - 1 : rank] if more else ())))
            n_empty += len(tags) == before
    faulty = sum(isinstance(one, Read) and bool(one.faults) for one in read)
    counts = {"items": len(chunk), "tagged": len(good) - n_unlike, "faulty_pictures": faulty, "no_tag": n_empty}
    return Chunk(tags, aside, counts | {"aside": len(chunk) - len(good) + n_unlike})


def _write_chunk(path: Path, found: Chunk, schema: pa.Schema) -> dict[str, int]:
    """Write the tags of some rows, and those that are put aside; return their counts."""
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix](temporary, found.tags, schema)
    with atomic_path(path.with_suffix(".aside")) as temporary:
        _write_csv(temporary, found.aside)
    return found.counts


def _read(tagger: Tagger, fields: Sequence[str] | None, row: Row) -> Read | VixmlError:
    where, _, item = row
    if isinstance(item, VixmlError):
        return item
    try:
        return tagger.read(item, where, fields)
    except VixmlError as error:
        return error


def _reason(error: VixmlError) -> str:
    return error.what if error.found is None else f"{error.what}: {error.found}"


def _write_csv(path: Path, rows: Sequence[Sequence[Any]], schema: pa.Schema | None = None) -> None:
    written = io.StringIO()
    # Ids and labels are users' texts; each occurs many times.
    texts = {value: csv_cell(value) for row in rows for value in row if isinstance(value, str)}
    csv.writer(written, lineterminator="\n").writerows(
        [f"{value:.6f}" if isinstance(value, float) else texts.get(value, value) for value in row] for row in rows
    )
    path.write_text(written.getvalue(), encoding="utf-8")


def _write_jsonl(path: Path, rows: Sequence[Sequence[Any]], schema: pa.Schema) -> None:
    lines = [
        json.dumps(
            dict(zip(schema.names, (*row[:3], *(round(value, 6) for value in row[3:])), strict=True)),
            ensure_ascii=False,
        )
        for row in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[Sequence[Any]], schema: pa.Schema) -> None:
    columns = list(zip(*rows, strict=True)) or [[]] * len(schema)
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema), path)


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


def _join(kept: Path, out: Path, schema: pa.Schema) -> None:
    """Write the rows that were put aside as one file, if there are any, then all chunks: with the tags, all is there."""
    parts = sorted(kept.glob("*.aside"))
    if any(part.stat().st_size for part in parts):
        with atomic_path(aside_of(out)) as temporary:
            _concatenate(parts, temporary, ASIDE)
    else:
        aside_of(out).unlink(missing_ok=True)  # of an earlier table
    with atomic_path(out) as temporary:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as writer:
                for part in sorted(kept.glob("*.parquet")):
                    writer.write_table(pq.ParquetFile(part).read())
        else:
            _concatenate(sorted(kept.glob(f"*{out.suffix}")), temporary, schema.names if out.suffix == ".csv" else ())


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


def _form(tagger: Tagger, paths: Sequence[Path], columns: Columns) -> TableForm:
    """Return how the table is written, and print it with the options that change it."""
    catalogue, report = tagger.folder.dataset.catalogue, Report()
    names = {TEXT, PICTURES, *tagger.folder.dataset.text_fields, *fields_of(columns.text or ""), columns.pictures or ""}
    form = form_like(paths, columns.form, catalogue.form if catalogue else TableForm(), names, report)
    for subject, found, reason, option in report.guesses:
        print(shown(f"{paths[0].name}: {subject} {found} ({reason}; {option})"), file=sys.stderr)
    for sentence in report.warnings:
        warn(sentence)
    return form


def _items(paths: Sequence[Path], form: TableForm, tagger: Tagger, columns: Columns) -> Iterator[Row]:
    """Yield (where, id, item) of each row; a row that cannot be read is its error.

    Raises:
        VixmlError: the table cannot be read, or lacks the columns.
    """
    entry = tagger.folder.dataset.catalogue or Catalogue(folder=".")
    given = {"id": columns.id, "images": columns.pictures, "image_separator": columns.separator}
    given |= {"images_are": columns.pictures and "paths"}
    entry = entry.model_copy(update={"form": form} | {key: value for key, value in given.items() if value})
    entry = entry if entry.images else entry.model_copy(update={"images": PICTURES})
    table, folder = Table(paths, entry, faults=True), columns.folder or paths[0].parent
    by_id = images_by_id(folder) if entry.images_are == "ids" and tagger.reads_images else None
    fields = fields_of(columns.text) if columns.text else tagger.folder.dataset.text_fields
    texts = (*fields, *(() if columns.text else (TEXT,)))
    shown = (entry.images, *fields_of(entry.images))
    shown_given = fields_of(columns.pictures or "")
    wanted = {name for name in (columns.id, *fields_of(columns.text or ""), *shown_given) if name}
    fixed, record = kind_of(paths[0]) not in ("lines", "json"), None  # JSON records may differ in their keys

    def lacking(names: set[str]) -> VixmlError:
        return VixmlError(
            "the table lacks a column",
            where=", ".join(map(str, paths)),
            found="columns " + ", ".join(map(str, record or ()))[:500],
            expected=", ".join(sorted(names)) or f"{' + '.join(fields)}, or {TEXT}, for the text",
            hint="name the table's own columns: --text, --pictures, --id",
        )

    for number, (where, row) in enumerate(table):
        where, item = where.removeprefix(f"{paths[0].parent}{os.sep}"), f"#{number}"
        if isinstance(row, VixmlError):
            yield where, item, row
            continue
        wanted -= row.keys()
        record, first = row, record is None
        if first and fixed and (wanted or not {*texts, *shown} & row.keys()):
            raise lacking(wanted)
        key = plain(row.get(entry.id))
        item = item if key in (None, "") else str(key)
        found: dict[str, Any] = {name: row[name] for name in texts if name in row} or {TEXT: None}
        try:
            if tagger.reads_images:
                found[PICTURES] = _pictures(table, row, where, folder, by_id)
        except VixmlError as error:
            found = error
        yield where, item, found
    if wanted and record is not None:  # no record had it
        raise lacking(wanted)


def _pictures(
    table: Table, record: Mapping[str, Any], where: str, folder: Path, by_id: Mapping[str, list[str]] | None
) -> list[Path | str | bytes]:
    """Return the pictures of a row: paths, addresses, or bytes as `datasets` writes them."""
    columns = table.entry.images
    if by_id is not None:
        return [folder / path for path in by_id.get(str(plain(record.get(columns))), ())]
    names = [columns] if columns in record else fields_of(columns)
    found: list[Path | str | bytes] = []
    paths = dict(record)
    for name in names:
        cell = record.get(name)
        cells = [one for one in (cell if isinstance(cell, list) else [cell]) if one is not None]
        data = [one.get("bytes") or one.get("path") if isinstance(one, dict) else one for one in cells]
        found += [one for one in data if isinstance(one, bytes)]
        texts = [one for one in data if one is not None and not isinstance(one, bytes)]
        paths[name] = texts if isinstance(cell, list) else next(iter(texts), None)
    for path in table.values(paths, columns, where):
        path = re.split(r"[/\\]", path)[-1] if table.entry.images_are == "names" else path
        found.append(path if "://" in path else folder / path)
    return found


def _digest(paths: Sequence[Path]) -> tuple[list[str], int]:
    """Return the hash of each file of a table, and about how many rows they have."""
    digests, lines = [], 0
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                lines += block.count(b"\n")
        digests.append(digest.hexdigest())
    if all(path.suffix.lower() in (".parquet", ".pq") for path in paths):
        with reading_parquet(paths[0], "save it again"):
            lines = sum(pq.read_metadata(path).num_rows for path in paths)
    return digests, lines
