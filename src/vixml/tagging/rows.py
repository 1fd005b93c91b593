"""Read a table as items to tag: in its own form and columns, or in those of the training table."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vixml.config.fields import fields_of
from vixml.config.registry import Catalogue, TableForm
from vixml.data.catalogue import CatalogueTable, images_by_id
from vixml.data.corpus import reading_parquet
from vixml.data.guess_form import Report, form_like
from vixml.data.table_files import kind_of, plain_number
from vixml.errors import VixmlError
from vixml.progress import warn
from vixml.tagging.tagger import IMAGES, TEXT, Tagger
from vixml.text import shown

Row = tuple[str, str, dict[str, Any] | VixmlError]  # where, id, and the item or why it is none


@dataclass(frozen=True)
class Columns:
    """Columns of a table that are tagged, and its form; None: as in the training table.

    Attributes:
        id: column of the ids; a row without one is ``#`` and its number.
        text: columns of the text, joined by ``+``.
        images: column of paths, relative to ``folder``.
        separator: of several paths in one cell.
        folder: None: the table's.
        form: keys of :class:`~vixml.config.registry.TableForm` that are given; others are those of the training table if
            they fit, or guessed.
    """

    id: str | None = None
    text: str | None = None
    images: str | None = None
    separator: str | None = None
    folder: Path | None = None
    form: Mapping[str, Any] = field(default_factory=dict)


def form_of(tagger: Tagger, paths: Sequence[Path], columns: Columns) -> TableForm:
    """Return how the table is written, and print it with the options that change it."""
    catalogue, report = tagger.folder.dataset.catalogue, Report()
    names = {TEXT, IMAGES, *tagger.folder.dataset.text_fields, *fields_of(columns.text or ""), columns.images or ""}
    form = form_like(paths, columns.form, catalogue.form if catalogue else TableForm(), names, report)
    for subject, found, reason, option in report.guesses:
        print(shown(f"{paths[0].name}: {subject} {found} ({reason}; {option})"), file=sys.stderr)
    for sentence in report.warnings:
        warn(sentence)
    return form


def items_of(paths: Sequence[Path], form: TableForm, tagger: Tagger, columns: Columns) -> Iterator[Row]:
    """Yield (where, id, item) of each row; a row that cannot be read is its error.

    Raises:
        VixmlError: the table cannot be read, or lacks the columns.
    """
    entry = tagger.folder.dataset.catalogue or Catalogue(folder=".")
    given = {"id": columns.id, "image_separator": columns.separator, "images_are": columns.images and "paths"}
    given["images"] = columns.images or entry.images or IMAGES
    entry = entry.model_copy(update={"form": form} | {key: value for key, value in given.items() if value})
    table, folder = CatalogueTable(paths, entry, faults=True), columns.folder or paths[0].parent
    by_id = images_by_id(folder) if entry.images_are == "ids" and tagger.reads_images else None
    fields = fields_of(columns.text) if columns.text else tagger.folder.dataset.text_fields
    texts = (*fields, *(() if columns.text else (TEXT,)))
    shown = (entry.images, *fields_of(entry.images))
    named = (columns.id, *fields_of(columns.text or ""), *fields_of(columns.images or ""))
    wanted = {name for name in named if name}
    fixed, record = kind_of(paths[0]) not in ("lines", "json"), None  # JSON records may differ in their keys

    def lacking(names: set[str]) -> VixmlError:
        return VixmlError(
            "the table lacks a column",
            where=", ".join(map(str, paths)),
            found="columns " + ", ".join(map(str, record or ()))[:500],
            expected=", ".join(sorted(names)) or f"{' + '.join(fields)}, or {TEXT}, for the text",
            hint="name the table's own columns: --text, --images, --id",
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
        key = plain_number(row.get(entry.id))
        item = item if key in (None, "") else str(key)
        found: dict[str, Any] = {name: row[name] for name in texts if name in row} or {TEXT: None}
        try:
            if tagger.reads_images:
                found[IMAGES] = _images(table, row, where, folder, by_id)
        except VixmlError as error:
            found = error
        yield where, item, found
    if wanted and record is not None:  # no record had it
        raise lacking(wanted)


def _images(
    table: CatalogueTable, record: Mapping[str, Any], where: str, folder: Path, by_id: Mapping[str, list[str]] | None
) -> list[Path | str | bytes]:
    """Return the images of a row: paths, addresses, or bytes as `datasets` writes them."""
    columns = table.entry.images
    if by_id is not None:
        return [folder / path for path in by_id.get(str(plain_number(record.get(columns))), ())]
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


def digest_of_table(paths: Sequence[Path]) -> tuple[list[str], int]:
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
