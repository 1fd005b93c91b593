"""Guess what the columns of a user's table hold; each guess has a reason and the option that changes it."""

from __future__ import annotations

import html
import os
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.config.registry import Catalogue, TableForm
from vixml.data.catalogue import IMAGE, images_by_id
from vixml.data.guess_form import URL, Report, separator_name, undecided
from vixml.data.label_names import NUMBER, SEPARATORS, flag, guess_separator, parse_list
from vixml.data.table_files import plain_number, read_parts
from vixml.data.texts import TAG, without_html
from vixml.errors import VixmlError

SAMPLED = 3000
NAMES = {
    "id": "id|sku|asin|ean|gtin|isbn|uid|uuid|key|nr|no|code|item_?id|product_?id|article_?(id|no|number)|artikel(nr|nummer)|"
    "ticket_?(id|no|number)|item_?(no|number)",
    "text": "title|titel|titre|name|product_?(name|title)|item_?name|subject|betreff|headline|question|bezeichnung|nom|"
    "produktname|artikelname|text|description|desc|beschreibung|descripcion|content|body|summary|abstract|details|plot|message",
    "labels": "labels?|tags?|keywords?|categor(y|ies)|kategorien?|schlagworte?|genres?|topics?|subjects|classes|targets?|"
    "themes?|etiquetas?|stichworte?",
    "images": "images?|pictures?|photos?|img|bilder|bild|fotos?|thumb(nail)?|covers?|poster|image_?(urls?|links?|paths?|files?)|"
    "img_?url|picture_?(urls?|files?)|main_?image",
}  # fmt: skip
PREFIX = "(?:[a-z]{1,2}:)|(?:product|item|article|produkt|artikel|short|long|main)[ _-]?"
TITLES = "title|titel|titre|name|nom|subject|betreff|headline|question|bezeichnung"
ROW = "#row"  # in place of a column of ids: the number of the row
EMPTY = ("null", "none", "nan", "n/a", "#n/a", "na", "-", "\\n")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|[a-z]{2}uml|#\d+|#x[0-9a-f]+);", re.IGNORECASE)


@dataclass
class Column:
    """A column of the sample: its cells that are not empty, and the share of records with such a cell."""

    name: str
    cells: list[Any]
    filled: float

    @property
    def texts(self) -> list[str]:
        """Return the cells as texts; those of lists, one by one."""
        return [str(value) for cell in self.cells for value in (cell if isinstance(cell, list) else [cell])]

    def share(self, test: Any) -> float:
        """Return the share of its values of which something is true."""
        return sum(bool(test(text.strip())) for text in self.texts) / max(len(self.texts), 1)

    @property
    def distinct(self) -> float:
        """Return the share of different cells."""
        return len(set(map(str, self.cells))) / max(len(self.cells), 1)

    @property
    def recurs(self) -> bool:
        """Return whether its values are shared between items, as labels are: most cells have a part that others have, too."""
        parts = [set(filter(None, re.split(r"[|;,>\n]\s*", text))) for text in map(str, self.cells)]
        often = Counter(part for some in parts for part in some)
        return sum(any(often[part] > 1 for part in some) for some in parts) >= 0.5 * len(parts)

    def called(self, role: str, before: str = f"(?:{PREFIX})?") -> bool:
        """Return whether its name is one that a role usually has, perhaps with a number (`image_2`)."""
        return re.fullmatch(f"{before}(?:{NAMES[role]})[ _-]?\\d*", self.name.strip(), re.IGNORECASE) is not None


@dataclass
class Sample:
    """Rows of a table, drawn at random but always the same ones, and which of its columns have a role.

    ``path`` is its first file; ``given`` is what the user set, as in :func:`guess_catalogue`.
    """

    path: Path
    records: list[dict[str, Any]]
    given: Mapping[str, Any]
    report: Report

    def __post_init__(self) -> None:
        self.columns, self._taken = [], set[str]()
        for name in dict.fromkeys(name for record in self.records for name in record):
            cells = [record.get(name) for record in self.records]
            cells = [cell for cell in cells if cell not in (None, [], "") and str(cell).strip().lower() not in EMPTY]
            self.columns.append(Column(name, cells, len(cells) / len(self.records)))

    @classmethod
    def draw(cls, paths: Sequence[Path], form: TableForm, given: Mapping[str, Any], report: Report) -> Sample:
        """Read a table, which has a row or more, and count its rows in the report."""
        kept: list[dict[str, Any]] = []
        draw = random.Random(0)
        for report.n_rows, (_, record) in enumerate(read_parts(paths, form), start=1):
            if len(kept) < SAMPLED:
                kept.append(record)
            elif (place := draw.randrange(report.n_rows)) < SAMPLED:
                kept[place] = record
        if not kept:
            raise VixmlError("a table has a header and no row", where=paths[0], hint="is the export finished?")
        return cls(paths[0], kept, given, report)

    @property
    def names(self) -> str:
        """Return the names of its columns, for an error."""
        return f"columns {', '.join(column.name for column in self.columns)}"[:2000]

    @property
    def free(self) -> list[Column]:
        """Return the columns without a role."""
        return [column for column in self.columns if column.name not in self._taken]

    def take(self, columns: list[Column]) -> list[Column]:
        """Give these columns a role."""
        self._taken.update(column.name for column in columns)
        return columns

    def chosen(self, role: str) -> list[Column] | None:
        """Take the columns that the user named for a role, which must exist; None if the user named none."""
        if (value := self.given.get(role)) is None or (value == "none" and role == "images"):
            return None if value is None else []
        by_name = {column.name: column for column in self.columns}
        if role == "id" and value == ROW and ROW not in by_name:
            return []
        names = [value] if value in by_name else [name.strip() for name in value.split("+")]
        joined = [name for name in by_name if "+" in name and name in value]
        if joined and (not by_name.keys() >= set(names) or (names == joined and role == "text")):
            raise _has_plus(self.path, joined)
        for name in names:
            if name not in by_name:
                hint = f"--{role}" + f", or --id '{ROW}' for the number of the row" * (role == "id")
                raise VixmlError(f"no column {name!r}", where=self.path, found=self.names, hint=hint)
        return self.take([by_name[name] for name in names])


def guess_catalogue(
    paths: Mapping[str, Sequence[Path]],
    form: TableForm,
    given: Mapping[str, Any],
    image_folder: Path | None,
    report: Report,
) -> tuple[Catalogue, str]:
    """Guess the columns of a table; return the entry `catalogue` and the text columns (``title + content``).

    Of ``paths`` (table -> files), `items` or `train` decides. ``given`` is what the user set: keys of
    :class:`Catalogue`, and `text`. ``image_folder`` is a folder.

    Raises:
        VixmlError: a column that is not there, or a role for which there are several columns or none.
    """
    sample = Sample.draw(paths.get("items") or paths["train"], form, given, report)
    text, labels, ids, images = (sample.chosen(role) for role in ("text", "labels", "id", "images"))
    if images is None:
        images = sample.take(_guess_images(sample.free))
    if ids is None:
        ids = sample.take(_guess_ids(sample))
    if labels is None:
        labels = sample.take(_guess_labels(sample))
    if text is None:
        text = sample.take(_guess_texts(sample))

    named, columns = " + ".join(c.name for c in text), sample.columns
    report.guess("text", named, f"e.g. {_example(text[0])}", "--text")
    entry: dict[str, Any] = {"labels": " + ".join(c.name for c in labels), "separator_in": "all", "form": form}
    entry["labels_are"] = given.get("labels_are") or ("columns" if _is_multi_hot(labels) else "values")
    if entry["labels_are"] == "columns":
        names = f"{len(labels)} columns: {', '.join(c.name for c in labels)}"
        report.guess("labels", names[:80] + "..." * (len(names) > 80), "each is a label where it is 1", "--labels")
        report.guess("labels are", "columns", "they hold 0 and 1 only", "--labels-are values")
    else:
        report.guess("labels", entry["labels"], f"e.g. {_example(labels[0])}", "--labels")
    entry["id"] = ids[0].name if ids else ROW
    zeros = next((v for v in (ids[0].texts if ids else []) if re.fullmatch(r"0\d+", v)), None)
    kept = f"; leading zeros are kept, e.g. {zeros}" if zeros else ""
    why = f"unique{kept}" if ids else "no column of ids that differ"
    report.guess("id", ids[0].name if ids else "number of the row", why, "--id")
    _guess_separator(entry, labels, sample)
    _find_images(entry, images, ids, image_folder, sample)

    numbers = [c for c in columns if c.cells and c.share(NUMBER.match) >= 0.9]
    comma, point = (
        [v for c in numbers for v in c.texts if re.search(rf"\d{sign}\d{{1,2}}\b(?!\d)", v)] for sign in (",", r"\.")
    )
    if comma or point:
        sign = "," if len(comma) > len(point) else "."
        shown = comma if sign == "," else point
        report.guess("decimal sign", sign, f"e.g. {shown[0]}; columns of numbers are not used", "--text, --labels")
    found = [value for c in labels for value in c.texts]
    if entry["lists"]:  # `<java><c#>` is a list, and no HTML
        found = [str(name) for value in found for name in parse_list(value) or [value]]
    values = [value for c in text for value in c.texts] + found
    has_html = sum(bool(TAG.search(v) or _ENTITY.search(v)) for v in values)
    strip = given["strip_html"] if given.get("strip_html") is not None else has_html > 0
    if unused := [c.name for c in sample.free]:
        report.guess("not used", ", ".join(unused)[:80], f"{len(unused)} of {len(columns)} columns", "--text, --labels")
    why = f"{has_html} of {len(values)} sampled values have tags or entities"
    report.guess("HTML", "removed" if strip else "kept", why, "--keep-html" if strip else "--strip-html")
    if tagged := [value for value in found if strip and TAG.search(value)]:
        share = f"{len(tagged)} of {len(found)} sampled labels have tags, which are removed"
        report.warn(f"{share}: {tagged[0][:60]!r} becomes {without_html(tagged[0])[:60]!r} (--keep-html)")
    used = [
        str(cell) for c in [*text, *labels] for record in sample.records if (cell := record.get(c.name)) is not None
    ]
    empty = sorted({value for value in used if value.strip().lower() in EMPTY})
    if empty:
        report.guess("empty values", ", ".join(empty), "they mean nothing", "catalogue.empty in the file")
    entry |= {"strip_html": strip, "empty": empty, "fold_case": bool(given.get("fold_case"))}
    entry["unlabelled"] = given.get("unlabelled", "skip")
    for column in text if entry["labels_are"] == "values" else ():
        _doubt_text(column, labels, entry["separator"], sample)
    return Catalogue(folder=entry.pop("folder", str(sample.path.resolve().parent)), **entry), named


def _example(column: Column) -> str:
    return repr(str(column.cells[0])[:60]) if column.cells else "nothing"


def _is_multi_hot(columns: Sequence[Column]) -> bool:
    """Return whether several columns hold 0 and 1 (true and false, yes and no, x and nothing) only, and each kind occurs."""
    found = {flag(value) for column in columns for value in column.texts}
    empty = any(column.filled < 1 for column in columns)
    return len(columns) > 1 and None not in found and True in found and (False in found or empty)


def _guess_images(columns: list[Column]) -> list[Column]:
    def is_image(value: str) -> bool:
        return bool(IMAGE.search(re.split("[?;|,]", value)[0]))

    return [c for c in columns if c.cells and "+" not in c.name and (
        c.share(is_image) >= 0.5 or (c.called("images") and c.share(lambda v: v.startswith(("http", "["))) >= 0.5)
    )]  # fmt: skip


def _guess_ids(sample: Sample) -> list[Column]:
    """Return the column of ids, by its name, else a first column of single words that all differ; none otherwise."""
    unique = [
        c for c in sample.free
        if c.filled >= 0.9 and c.distinct >= 0.9 and max(map(len, c.texts)) <= 64
        and all(isinstance(plain_number(v), str) or type(plain_number(v)) is int for v in c.cells)  # what a build takes
    ]  # fmt: skip
    if called := [c for c in unique if c.called("id")]:
        return sorted(called, key=lambda c: c.name.strip().lower() != "id")[:1]
    first = [c for c in unique if c is sample.columns[0] and not (c.called("text") or c.called("labels"))]
    return [c for c in first if c.filled == c.distinct == 1 and not c.share(lambda v: len(v.split()) > 1)]


def _guess_labels(sample: Sample) -> list[Column]:
    usable = [c for c in sample.free if c.cells]
    called = [c for c in usable if c.called("labels")] or [c for c in usable if c.called("labels", ".*") and c.recurs]
    # `label` is also what a title is called.
    called = [c for c in called if c.recurs] or called
    stems = {re.sub(r"[ _-]?(?<!\d)\d+$", "", c.name.strip().lower()) for c in called}
    exact = [c for c in called if re.fullmatch(r"labels?", c.name.strip(), re.IGNORECASE)]
    if exact or len(stems) == 1:
        return exact[:1] or called
    if called:
        names = [c.name for c in called]
        option = f"--labels NAME, or --labels '{' + '.join(names)}'"
        raise undecided("several columns may hold the labels", sample.path, ", ".join(names), option)
    flags = [c for c in usable if all(flag(value) is not None for value in c.texts)]
    prefixed = [c for c in flags if re.match(rf"(?:{NAMES['labels']}|is|has)[ _.:-]", c.name.strip(), re.IGNORECASE)]
    for group in (prefixed, flags):
        if len(group) > 2 and _is_multi_hot(group):
            if joined := [c.name for c in group if "+" in c.name]:
                raise _has_plus(sample.path, joined)
            return group
    likely = [c.name for c in usable if c.recurs and c.distinct > 0.01 and c.share(NUMBER.match) < 0.5]
    hint = "--labels NAME" + (f"; values recur in {', '.join(likely)}" if likely else "")
    raise undecided("no column is known to hold the labels", sample.path, sample.names, hint)


def _has_plus(path: Path, names: Sequence[str]) -> VixmlError:
    """Return the error for columns that cannot be named beside others."""
    return VixmlError(
        "the name of a column has a `+`, which joins columns", where=path, found=", ".join(names)[:200],
        hint="rename it in the table, or name the columns to use without it: --labels, --text, --images",
    )  # fmt: skip


def _guess_texts(sample: Sample) -> list[Column]:
    usable = [
        c for c in sample.free if c.cells and "+" not in c.name and all(isinstance(cell, str) for cell in c.cells)
    ]
    called = [c for c in usable if c.called("text")] or [c for c in usable if c.called("labels") and not c.recurs]
    chosen = called or [c for c in usable if c.distinct >= 0.5 and c.share(lambda v: len(v.split()) > 1) >= 0.7]
    if not chosen or (len(chosen) > 3 and not called):
        raise undecided("no column is known to hold the text", sample.path, sample.names, "--text 'NAME + NAME'")
    return sorted(chosen, key=lambda c: not re.fullmatch(f"(?:{PREFIX})?(?:{TITLES})", c.name.strip(), re.IGNORECASE))


def _guess_separator(entry: dict[str, Any], labels: list[Column], sample: Sample) -> None:
    """Guess how labels are written in a cell: as a list, or with a separator."""
    values, report = entry["labels_are"] == "values", sample.report
    cells = [str(cell) for column in labels for cell in column.cells if not isinstance(cell, list) and values]
    entry["lists"] = sum(parse_list(cell) is not None for cell in cells) >= 0.9 * len(cells) > 0
    if "separator" in sample.given:
        entry["separator"] = sample.given["separator"]
    elif entry["lists"] or not cells:
        entry["separator"] = ""
        if values:
            report.guess("separator", "lists" if entry["lists"] else "none", "cells hold lists", "--separator")
    else:
        cells = [html.unescape(cell) for cell in cells]
        entry["separator"], reason, doubtful = guess_separator(cells)
        report.guess("separator", separator_name(entry["separator"]), reason, "--separator")
        marks = [entry["separator"]] if entry["separator"] else SEPARATORS
        longest = max((cell for cell in cells if any(mark in cell for mark in marks)), key=len, default="")
        if "/" in entry["separator"] or ">" in entry["separator"]:
            report.warn(f"each level of a path like {longest[:60]!r} is a label: --separator none keeps whole paths")
        if doubtful:
            report.warn(f"the separator of labels is doubtful, e.g. {longest[:80]!r} (--separator)")


def _find_images(
    entry: dict[str, Any], images: list[Column], ids: list[Column], image_folder: Path | None, sample: Sample
) -> None:
    """Guess whether images are URLs, paths or files named by id, and the folder."""
    report = sample.report
    if image_folder is not None and not image_folder.is_dir():
        raise VixmlError("the folder of images is missing", where=image_folder, hint="--image-folder FOLDER")
    if not images and image_folder is None:
        report.guess("images", "none", "no column of paths or URLs", "--images, --image-folder")
        return
    if not images:
        known, values = images_by_id(image_folder), {str(value) for value in (ids[0].cells if ids else [])}
        hits = len(values & known.keys())
        if not hits:
            raise undecided(
                "no column names images, and no file in the folder is named by an id", sample.path,
                f"{len(known)} names in {image_folder}, e.g. {', '.join(sorted(known)[:3])}", "--images COLUMN, or --id COLUMN",
            )  # fmt: skip
        named = ids[0].name
        entry |= {"images": named, "images_are": "ids", "folder": str(image_folder.resolve())}
        report.guess("images", f"files in {image_folder}, named by {named}", f"{hits} sampled ids have one", "--images")
        owners = Counter(path for value in values for path in known.get(value, ()))
        if shared := sorted(path for path, n in owners.items() if n > 1):
            report.warn(f"{len(shared)} images are named by two ids and belong to both, e.g. {shared[0]} (--images)")
        return
    cells = [str(cell) for c in images for cell in c.cells if not isinstance(cell, list)]
    separator, reason = sample.given.get("image_separator"), "given"
    if separator is None:
        separator = next((s for s in ("|", ";", ",", "\n", " ") if sum(
            all(IMAGE.search(p.split("?")[0]) or URL.match(p.strip()) for p in cell.split(s)) for cell in cells if s in cell
        ) > 0.5 * max(sum(s in cell for cell in cells), 1)), "")  # fmt: skip
        reason = "its parts are paths or URLs" if separator else "one per cell"
    entry["lists"] = entry["lists"] or sum(parse_list(cell) is not None for cell in cells) >= 0.5 * len(cells) > 0
    values = [str(v) for c in images for cell in c.cells for v in (
        cell if isinstance(cell, list) else parse_list(str(cell)) or (str(cell).split(separator) if separator else [cell])
    )]  # fmt: skip
    paths = [value.strip() for value in values if not URL.match(value.strip())]
    urls = len(values) - len(paths)
    entry |= {"images": " + ".join(c.name for c in images), "image_separator": separator, "other_images": "skip"}
    if urls >= 0.5 * len(values):
        entry["images_are"], where = "urls", "to be fetched"
    else:
        folder = image_folder or sample.path.parent
        whole = sum(os.path.isfile(folder / path) for path in paths)
        by_name = sum(os.path.isfile(folder / re.split(r"[/\\]", path)[-1]) for path in paths)
        entry |= {"images_are": "names" if by_name > whole else "paths", "folder": str(folder.resolve())}
        where = f"{max(whole, by_name)} of {len(paths)} sampled files are in {folder}"
        if not max(whole, by_name):
            option = "--image-folder FOLDER, or --images none"
            raise undecided("no image of the table is in the folder", folder, f"e.g. {paths[0][:200]}", option)
    report.guess("images", f"{entry['images']} ({entry['images_are']})", where, "--images, --image-folder")
    report.guess("separator of images", separator_name(separator), reason, "--image-separator")
    if others := min(urls, len(paths)):
        report.warn(f"{others} of {len(values)} sampled images are not {entry['images_are']}: left out")


def _doubt_text(column: Column, labels: list[Column], separator: str, sample: Sample) -> None:
    """Warn if a text column is mostly empty, or contains the labels."""
    if column.filled < 0.5:
        sample.report.warn(f"{column.name!r} is empty in {1 - column.filled:.0%} of the items (--text)")
    seen = named = 0
    for record in sample.records:
        for cell in (record.get(c.name) for c in labels):
            parts = cell if isinstance(cell, list) else str(cell).split(separator) if separator and cell else [cell]
            names = [str(part).strip().casefold() for part in parts if part not in (None, "")]
            if names:
                seen += 1
                named += all(name in str(record.get(column.name)).casefold() for name in names)
    if seen >= 10 and named >= 0.9 * seen:
        share = f"{named / seen:.0%}"
        sample.report.warn(f"{column.name!r} contains the labels of {share} of the items: leave it out with --text?")
