"""Tag a table of any length in flat memory, and resume where it was killed.

Items are tagged a chunk of rows at a time. Each chunk is one finished file in ``<out>-tagging``, so that a killed run loses one
chunk at most; what a chunk holds depends on the table alone, so the same table gives the same bytes however often it was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vixml import __version__
from vixml.config.fields import fields_of
from vixml.data.table_files import expand
from vixml.errors import VixmlError
from vixml.files import atomic_path, read_json, sha256_json, write_json
from vixml.identity import alone, discard, kept_folder
from vixml.progress import bar, warn
from vixml.runtime import map_in_order
from vixml.tagging.rows import Columns, Row, digest_of_table, form_of, items_of
from vixml.tagging.tagger import IMAGES, IMAGES_AT_ONCE, ITEMS_AT_ONCE, Read, Tagger, in_chunks
from vixml.text import csv_cell

ENDINGS = (".csv", ".jsonl", ".parquet")
TAGS = pa.schema([("id", pa.string()), ("rank", pa.int32()), ("label", pa.string()), ("score", pa.float32())])
ASIDE = ("row", "id", "reason", "tagged")


@dataclass(frozen=True)
class Wanted:
    """Tags to write, and their form.

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
        table: a file of any kind that ``vixml new`` reads (:mod:`vixml.data.table_files`), a pattern, or a list of these:
            parts of one table.
        out: ``.csv``, ``.jsonl`` or ``.parquet`` with ``id``, ``rank`` (from 1), ``label`` and ``score``, one row per tag. Rows
            that cannot be tagged are in ``<out>.aside.csv`` with their reason; items that were tagged without an image that
            cannot be read are there, too.
        k: tags of an item at most.

    Returns:
        Counts: ``items``, ``tagged``, ``aside`` (not tagged), ``faulty_images`` (items tagged without an image),
        and with a precision ``no_tag`` (items of which no tag has it).

    Raises:
        VixmlError: a table that cannot be read or lacks the columns, another ending, no item that can be tagged, a model
            that does not know what its scores are worth, or another process that writes ``out``.
    """
    out, columns, wanted = Path(out), columns or Columns(), replace(wanted or Wanted(), k=k)
    named = [table] if isinstance(table, (str, Path)) else table
    paths = [path for pattern in named for path in expand(Path(pattern))]
    if written := {out.resolve(), aside_of(out).resolve()} & {path.resolve() for path in paths}:
        raise VixmlError("the tags would replace the table", where=written.pop(), hint="name another file with --out")
    if out.suffix not in ENDINGS or wanted.name_by not in ("text", "id") or wanted.k < 1:
        found = f"{out.name}, labels by {wanted.name_by}, k {wanted.k}"
        expected = f"a name that ends in {', '.join(ENDINGS)}; text or id; 1 or more"
        raise VixmlError("tags cannot be written like this", where=out, found=found, expected=expected)
    if columns.images and not tagger.reads_images:
        warn(f"{tagger.folder.folder}: this model reads text only; the column {columns.images} is not looked at")
    limits = _limits(tagger, wanted)
    digest, lines = digest_of_table(paths)
    form = form_of(tagger, paths, columns)
    told = {name: value if value is None else str(value) for name, value in vars(columns).items()}
    told |= {"form": form.model_dump()}
    options = {**vars(wanted), "at_once": [ITEMS_AT_ONCE, IMAGES_AT_ONCE], "ending": out.suffix, "columns": told}
    identity = {"table": digest, "model": sha256_json(tagger.folder.header), "labels": sha256_json(tagger.ids)}
    identity |= {"options": options, "precision": tagger.precision, "offset": tagger.offset, "version": __version__}
    # Another one would remove these chunks. On a disk without locks, _join notices a loss.
    hint = "wait until it ends, or name another file with --out"
    with alone(out, "tagging", "another process writes these tags", hint):
        kept = kept_folder(out, "tagging", identity)
        chunks: list[Path] = []
        counts = dict.fromkeys(("items", "tagged", "aside", "faulty_images"), 0)
        counts |= {"no_tag": 0} if wanted.precision is not None else {}
        work = partial(_read, tagger, fields_of(columns.text) if columns.text else None)
        with bar(f"tagging {paths[0].name}", lines) as advance, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = items_of(paths, form, tagger, columns)
            for number, chunk in enumerate(in_chunks(rows, _n_images)):
                tagged = kept / f"{number:08d}{out.suffix}"
                done = tagged.with_suffix(".json")
                chunks.append(tagged)
                if all(path.exists() for path in (done, tagged, _aside_part(tagged))):
                    found = read_json(done)
                    advance.skip(len(chunk))
                else:
                    read = list(map_in_order(pool, work, chunk, 64) if tagger.reads_images else map(work, chunk))
                    tags, aside, found = _tag_chunk(tagger, chunk, read, wanted, limits)
                    _write_chunk(tagged, tags, aside, wanted.schema)
                    write_json(done, found)
                    advance(len(chunk))
                counts = {key: value + found[key] for key, value in counts.items()}
        if not counts["tagged"]:
            raise _nothing_tagged(paths[0], kept, counts)
        _join(chunks, out, wanted.schema)
        discard(kept)  # the tags are there
        return counts


def aside_of(out: Path) -> Path:
    """Return the file of the rows that were put aside."""
    return out.with_name(f"{out.name}.aside.csv")


def _limits(tagger: Tagger, wanted: Wanted) -> tuple[float, float]:
    """Return the score and the similarity from which on a tag and an item count, -inf: all do; print what they mean.

    Raises:
        VixmlError: the model was trained without held-out items, or is not that good on them.
    """
    fitted, asked = tagger.calibration, (wanted.precision, wanted.unlike)
    if fitted is None and (wanted.probability or asked != (None, None)):
        raise VixmlError(
            "this model does not know what its scores are worth",
            where=tagger.folder.folder,
            found="no calibration.json: too few items were held out of its training, or inference was not chosen on them",
            hint="leave out --precision, --unlike and --probability; or fit a catalogue with at least 500 training items",
        )
    score = similarity = -math.inf
    said = []
    if wanted.precision is not None:
        one = fitted.threshold(wanted.precision)
        score = one.score
        said.append(
            f"tags with a score of {one.score:.4g} or more: on held-out items {one.precision:.0%} of them were true, they held "
            f"{one.recall:.0%} of the true labels, and {one.items:.0%} of the items kept one (--precision)"
        )
    if wanted.unlike is not None:
        alarm = fitted.alarm(wanted.unlike)
        similarity = alarm.similarity
        said.append(
            f"items whose nearest training item has a similarity below {alarm.similarity:.3f} are put aside, which happened to "
            f"{alarm.share:.1%} of the held-out items (--unlike)"
        )
    for sentence in said:
        print(sentence, file=sys.stderr)
    return score, similarity


def _tag_chunk(
    tagger: Tagger,
    chunk: Sequence[Row],
    read: Sequence[Read | VixmlError],
    wanted: Wanted,
    limits: tuple[float, float],
) -> tuple[list[tuple[Any, ...]], list[tuple[str, ...]], dict[str, int]]:
    """Return the tags of some rows, the rows that are put aside (:data:`ASIDE`), and counts."""
    least_score, least_similarity = limits
    good, tags, aside, n_unlike, n_empty = [], [], [], 0, 0
    for (where, item, _), one in zip(chunk, read, strict=True):
        if isinstance(one, Read):
            good.append((where, item, one))
            aside += [(where, item, reason, "yes") for reason in one.faults]
        else:
            aside.append((where, item, one.what if one.found is None else f"{one.what}: {one.found}", "no"))
    names = tagger.labels if wanted.name_by == "text" else tagger.ids
    if good:
        queries = tagger.queries([one for _, _, one in good])
        ids, scores = tagger.rank(queries, wanted.k)
        near = tagger.similarity(queries).tolist() if wanted.unlike is not None else [math.inf] * len(good)
        more = tagger.calibration(scores).tolist() if wanted.probability else None
        for row, (where, item, _) in enumerate(good):
            if near[row] < least_similarity:
                n_unlike += 1
                reason = f"unlike all training items: similarity {near[row]:.3f} to the nearest"
                aside.append((where, item, reason, "no"))
                continue
            before = len(tags)
            for rank, (label, score) in enumerate(zip(ids[row].tolist(), scores[row].tolist(), strict=True), start=1):
                if label >= 0 and score >= least_score:
                    tags.append((item, rank, names[label], score, *(more[row][rank - 1 : rank] if more else ())))
            n_empty += len(tags) == before
    counts = {"items": len(chunk), "tagged": len(good) - n_unlike, "aside": len(chunk) - len(good) + n_unlike}
    return tags, aside, counts | {"faulty_images": sum(bool(one.faults) for _, _, one in good), "no_tag": n_empty}


def _write_chunk(path: Path, tags: Sequence[Sequence[Any]], aside: Sequence[Sequence[Any]], schema: pa.Schema) -> None:
    """Write the tags of some rows, and those that are put aside."""
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix](temporary, tags, schema)
    with atomic_path(_aside_part(path)) as temporary:
        _write_csv(temporary, aside)


def _aside_part(chunk: Path) -> Path:
    return chunk.with_suffix(".aside")


def _read(tagger: Tagger, fields: Sequence[str] | None, row: Row) -> Read | VixmlError:
    where, _, item = row
    if isinstance(item, VixmlError):
        return item
    try:
        return tagger.read(item, where, fields)
    except VixmlError as error:
        return error


def _n_images(row: Row) -> int:
    return 0 if isinstance(row[2], VixmlError) else len(row[2].get(IMAGES, ()))


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


def _join(chunks: Sequence[Path], out: Path, schema: pa.Schema) -> None:
    """Write the rows that were put aside as one file, if there are any, then all chunks: with the tags, all is there.

    Raises:
        VixmlError: a chunk is no longer there.
    """
    parts = [_aside_part(chunk) for chunk in chunks]
    if lost := [path for path in (*chunks, *parts) if not path.exists()]:
        hint = "run the same command again; one process at a time may write a file of tags"
        raise VixmlError("a part of the tags was removed meanwhile", where=lost[0], hint=hint)
    if any(part.stat().st_size for part in parts):
        with atomic_path(aside_of(out)) as temporary:
            _concatenate(parts, temporary, ASIDE)
    else:
        aside_of(out).unlink(missing_ok=True)  # of an earlier table
    with atomic_path(out) as temporary:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as writer:
                for chunk in chunks:
                    writer.write_table(pq.ParquetFile(chunk).read())
        else:
            _concatenate(chunks, temporary, schema.names if out.suffix == ".csv" else ())


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
    discard(kept)
    return VixmlError(
        "no row of the table can be tagged", where=table, found=found, hint="name the columns: --text, --images"
    )
