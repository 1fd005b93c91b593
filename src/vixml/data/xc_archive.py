"""Build a corpus from a raw archive of the Extreme Classification Repository, read as a stream.

The archive holds, in any folder, ``lbl.json.gz``, ``trn.json.gz`` and ``tst.json.gz`` (a JSON object a line: ``uid``,
the fields that make the text, ``target_ind``), and ``filter_labels_train.txt`` and ``filter_labels_test.txt`` (row and
label of pairs that are never scored). Where records have no ``target_ind``, ``trn_X_Y.txt`` and ``tst_X_Y.txt`` hold the
labels as sparse matrices. Rows are never dropped or moved: labels and filters point at row numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.data.archive import Archive, Member
from vixml.data.corpus import QUERY_SPLITS
from vixml.data.corpus_writer import CorpusWriter
from vixml.data.image_table import ImageTable
from vixml.data.text_rules import TextRules
from vixml.data.xc_text import in_range, iter_sparse, malformed, read_jsonl, read_pairs
from vixml.errors import VixmlError
from vixml.progress import bar

SHORT = {"train": "trn", "test": "tst", "label": "lbl"}
STEP = 5000


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are read.

    Attributes:
        text: those that make the text, in order.
        images: the one with the item's image URLs (one, or a list), or None.
        table: where the image URLs stand by item id instead, or None.
    """

    text: tuple[str, ...]
    images: str | None = None
    table: ImageTable | None = None


def build_from_archive(
    archive: Archive, fields: Fields, folder: Path | str, *, filter_required: bool, total: int = 0
) -> dict[str, Any]:
    """Write the corpus of one archive.

    Args:
        archive: opened.
        fields: what is read of a record.
        folder: to write (docs/formats.md, `corpus/`).
        filter_required: whether the archive must hold the filters.
        total: rows expected in all, for the progress bar.

    Returns:
        The content of ``counts.json``; under ``rules``, how often each rule for odd records was needed in each split.

    Raises:
        VixmlError: a file missing, damaged or malformed (file and line are named).
    """
    members = {split: _required(archive, f"{SHORT[split]}.json.gz") for split in ("label", *QUERY_SPLITS)}
    # Before an hour's work on the texts: a filter that is not there is no reason to go on.
    filters = {split: archive.only(f"filter_labels_{split}.txt") for split in QUERY_SPLITS}
    for split, member in filters.items():
        if member is None and filter_required:
            raise _missing(archive, f"filter_labels_{split}.txt", "without it scores would be too high")
    writer = CorpusWriter(folder)
    rules: dict[str, dict[str, int]] = {}
    with bar("reading records", total) as advance:
        for split in ("label", *QUERY_SPLITS):
            reader = _Records(archive, members[split], split, fields, writer.rows.get("label", 0))
            with writer.split(split) as part:
                for n, row in enumerate(reader, start=1):
                    part.add(*row)
                    if n % STEP == 0:
                        advance(STEP)
            rules[split] = reader.counts()
    has_images = fields.images is not None or fields.table is not None
    if has_images and not len(writer.images):
        raise VixmlError(
            "no record has an image",
            where=archive.name if fields.table is None else fields.table.path,
            expected="ids of this archive" if fields.table else f"addresses in the field {fields.images!r}",
            hint="correct `image_urls` or `image_table` of the dataset in config/datasets.yaml, or leave it out",
        )
    matrices = {}
    for split, member in filters.items():
        if member is not None:
            matrices[split] = read_pairs(member, writer.rows[split], writer.rows["label"])
            if filter_required and not len(matrices[split].values):
                raise VixmlError("a filter that this dataset requires is empty", where=member, found="no pair")
    facts: dict[str, Any] = {f"n_filter_{split}_pairs": len(matrix.values) for split, matrix in matrices.items()}
    if fields.table is not None:
        facts["image_addresses_repeated"] = fields.table.repeated
    return writer.finish(urls=has_images, filters=matrices, facts=facts | {"rules": rules})


class _Records:
    """Go through one split: ``(id, text, labels, images)`` of each row."""

    def __init__(self, archive: Archive, member: Member, split: str, fields: Fields, n_labels: int) -> None:
        self.archive, self.member, self.split, self.fields, self.n_labels = archive, member, split, fields, n_labels
        self.texts = TextRules(fields.text)
        self.found: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, str, Sequence[int], Sequence[str]]]:
        matrix: Iterator[Sequence[int]] | None = None
        row = -1
        for row, (number, record) in enumerate(read_jsonl(self.member)):
            labels: Sequence[int] = ()
            if self.split != "label":
                if row == 0 and "target_ind" not in record:
                    matrix = self._matrix()
                labels = self._targets(number, record) if matrix is None else next(matrix, None)
                if labels is None:
                    raise self._too_few(row)
                if not len(labels):
                    self.found["without_labels"] += 1
            where = f"{self.member}:{number}"
            item = self.texts.identify(record.get("uid"), where)
            yield item, self.texts.text(record, where), labels, self._images(number, item, record)
        if matrix is not None and next(matrix, None) is not None:
            raise self._too_few(row + 1)
        if row < 0:
            raise VixmlError("a split holds no record", where=self.member, found="an empty file")
        self.texts.check_fields(self.member)

    def counts(self) -> dict[str, int]:
        """Return how often each rule was needed, by name."""
        return dict(sorted((self.texts.counts + self.found).items()))

    def _targets(self, number: int, record: dict[str, Any]) -> list[int]:
        if "target_ind" not in record:
            raise malformed(self.member, number, "", "the key 'target_ind'", found="keys " + ", ".join(record))
        labels, weights = record["target_ind"], record.get("target_rel")
        # bool is an int in Python, but true is not a label.
        if not isinstance(labels, list) or not set(map(type, labels)) <= {int}:
            raise malformed(self.member, number, str(labels), "target_ind: a list of label ids")
        if weights is not None and (
            not isinstance(weights, list)
            or len(weights) != len(labels)
            or not set(map(type, weights)) <= {int, float}
            or not all(weight > 0 for weight in set(weights))
        ):
            raise malformed(
                self.member, number, str(weights), f"target_rel: {len(labels)} positive numbers, as target_ind is long"
            )
        ordered = sorted(set(labels))
        if ordered:
            in_range(self.member, number, "label", ordered[0], self.n_labels)
            in_range(self.member, number, "label", ordered[-1], self.n_labels)
        if len(ordered) < len(labels):
            self.found["labels_repeated"] += len(labels) - len(ordered)
        return ordered

    def _images(self, number: int, item: str, record: dict[str, Any]) -> Sequence[str]:
        if self.fields.table is not None:
            urls = self.fields.table.of(item)
            self.found["without_images"] += not urls
            return urls
        if self.fields.images is None:
            return ()
        value = record.get(self.fields.images)
        urls = [value] if isinstance(value, str) else value or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise malformed(self.member, number, str(value), f"{self.fields.images}: a URL or a list of URLs")
        urls = [url.strip() for url in urls if url.strip()]
        if not urls:
            self.found["without_images"] += 1
        return urls

    def _matrix(self) -> Iterator[Sequence[int]]:
        name = f"{SHORT[self.split]}_X_Y.txt"
        self.matrix = self.archive.only(name)
        if self.matrix is None:
            raise malformed(self.member, 1, "", f"the key 'target_ind', or {name} in the archive", found="neither")
        rows = iter_sparse(self.matrix)
        self.shape = next(rows)
        if self.shape[1] != self.n_labels:
            raise VixmlError(
                "a label matrix belongs to another list of labels",
                where=f"{self.matrix}:1",
                found=f"{self.shape[1]} columns",
                expected=f"{self.n_labels}, the records of {SHORT['label']}.json.gz",
            )
        return rows

    def _too_few(self, rows: int) -> VixmlError:
        return VixmlError(
            "records and label matrix are of different lengths",
            where=self.matrix,
            found=f"{self.shape[0]} rows",
            expected=f"one for each record of {self.member}",
            hint=f"the files do not belong together (noticed at row {rows})",
        )


def _required(archive: Archive, filename: str) -> Member:
    member = archive.only(filename)
    if member is None:
        raise _missing(archive, filename, "the archive is of another dataset or another kind (raw text is needed)")
    return member


def _missing(archive: Archive, filename: str, why: str) -> VixmlError:
    near = [name for name in archive.names() if name.endswith((".gz", ".txt", ".json"))][:8]
    return VixmlError(
        f"the archive holds no {filename}",
        where=archive.name,
        found=", ".join(near) or "no file of that kind",
        expected=filename,
        hint=why,
    )
