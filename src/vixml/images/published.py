"""Stage ``import-vectors``: image vectors that somebody published, as the bank that ``embed-images`` would write.

Of each split there is a matrix, float32, a row a picture, and a map from items to rows. The pictures behind the rows are
not named, and those that could not be had are left out, so no row can be tied to an image id of the corpus: the bank brings
its own lists of rows for each item, and the corpus stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.world import VisionModel
from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.images.bank import FORMAT
from vixml.images.coverage import share_with_images
from vixml.images.pickled_rows import read_row_lists
from vixml.images.row_files import RowFile, RowWriter, row_writer
from vixml.progress import Quiet, bar
from vixml.provenance import stage
from vixml.ragged import Ragged

HINT = (
    "the file is of another dataset or vision encoder, or damaged: fetch it again, or place the published one by hand"
)


@dataclass(frozen=True)
class Published:
    """The two files of one split.

    Attributes:
        vectors: (n_pictures, dim) float32, ``.npy``.
        rows: for each item a list of rows of ``vectors``, or -1; ``.npy``, pickled.
    """

    vectors: Path
    rows: Path


def import_vectors(
    corpus_dir: Path | str,
    files: Mapping[str, Published],
    vision: str,
    entry: VisionModel,
    out: Path | str,
) -> None:
    """Check published vectors and publish them as an image bank: ``vectors.npy``, ``{split}_images/``, ``bank.json``.

    Rows stand in the order train, test, label. A row of zeros was never computed: it is missing, as a picture that could
    not be had is elsewhere. Memory holds one block of rows and the lists of one split.

    Args:
        corpus_dir: the corpus whose items the maps speak of, in the same order.
        files: split -> its two files.
        vision: which encoder made the vectors; an entry of config/models.yaml.
        entry: that entry.
        out: folder to publish.

    Raises:
        VixmlError: a file missing or cut short, vectors of another length, a map that points beyond its matrix or has
            another number of items, a vector with NaN, infinity or beyond float16, or items in another order than the
            corpus's.
    """
    corpus = Corpus.load(corpus_dir)
    config = {"vision": vision, "model": entry.model_dump(mode="json")}
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {f"{split}_vectors": files[split].vectors for split in SPLITS}
    inputs |= {f"{split}_map": files[split].rows for split in SPLITS}
    matrices = {split: _open(files[split].vectors, vision, entry.dim) for split in SPLITS}
    facts: dict[str, Any] = {"precision": "published"}
    with stage(out, "import-vectors", config=config, inputs=inputs, facts=facts) as work:
        total, first, pictured = sum(map(len, matrices.values())), 0, {}
        for split in SPLITS:
            lists, counts = read_row_lists(files[split].rows, corpus.n(split), len(matrices[split]))
            _check_order(lists, corpus.images(split), files[split].rows, counts)
            facts[split] = {"n_vectors": len(matrices[split]), **counts}
            Ragged((lists.values + first).astype(np.int32), lists.offsets, total).save(work / f"{split}_images")
            first += len(matrices[split])
        missing: list[int] = []
        with (
            row_writer(work / "vectors.npy", (total, entry.dim), "float16") as writer,
            bar(f"importing vectors of {vision}", total) as advance,
        ):
            for split in SPLITS:
                found = _convert(matrices[split], writer, missing, advance)
                facts[split]["vectors_of_zeros"] = found
        for split in SPLITS:
            pictured[split] = share_with_images(Ragged.load(work / f"{split}_images"), missing)
        header = {"format": FORMAT, "n_images": total, "dim": entry.dim, "vision": vision, "precision": "published"}
        write_json(work / "bank.json", header | {"lists": "own", "missing": missing})
        facts |= {"n_images": total, "n_missing": len(missing), "pct_with_images": pictured}


def _open(path: Path, vision: str, dim: int) -> RowFile:
    matrix = RowFile.open(path, "float32", hint=HINT)
    if matrix.shape[1] != dim:
        raise VixmlError(
            "published vectors have another length than the vision encoder's",
            where=path,
            found=f"{matrix.shape[1]} numbers a vector",
            expected=f"{dim}, as {vision} in config/models.yaml",
            hint=HINT,
        )
    return matrix


def _check_order(lists: Ragged, addresses: Ragged, path: Path, counts: dict[str, int]) -> None:
    """Refuse a map whose items stand in another order than the corpus's.

    Published vectors come from the addresses that the corpus lists, so an item without an address has no vector. By chance,
    in another order, the share of such items among those with a vector would be that of all; half of it is refused.
    """
    if not len(addresses.values):
        return  # a corpus that knows no pictures says nothing of the order
    pictured, addressed = lists.lengths > 0, addresses.lengths > 0
    odd = int((pictured & ~addressed).sum())
    counts["items_with_vectors_but_no_address"] = odd
    if odd > 0.5 * (1 - addressed.mean()) * pictured.sum():
        raise VixmlError(
            "a map's items stand in another order than the corpus's",
            where=path,
            found=f"{odd:,} of {int(pictured.sum()):,} items with vectors have no picture in the corpus",
            expected="next to none",
            hint="build the corpus from the archive that the vectors were made from",
        )


def _convert(matrix: RowFile, writer: RowWriter, missing: list[int], advance: Quiet) -> int:
    """Append a matrix as float16; rows of zeros are added to ``missing``. Returns how many those are.

    Raises:
        VixmlError: NaN, infinity, or a number that float16 does not hold; all are counted, the first is named.
    """
    bad = {"NaN": 0, "infinity": 0, "beyond float16 (65504)": 0}
    row, zeros = -1, 0
    for first, block in matrix.blocks():
        with np.errstate(over="ignore"):
            half = block.astype(np.float16)
        # A sum is not finite where a part is not, and needs no table of truth values; a false alarm is looked into.
        if not np.isfinite(half.sum(axis=1, dtype=np.float32)).all():
            nan, infinite, over = np.isnan(block), np.isinf(block), np.isinf(half) & np.isfinite(block)
            for key, where in zip(bad, (nan, infinite, over), strict=True):
                bad[key] += int(where.sum())
            wrong = (nan | infinite | over).any(axis=1)
            row = first + int(np.argmax(wrong)) if row < 0 and wrong.any() else row
        empty = np.flatnonzero(~half.any(axis=1))
        missing.extend((writer.n_rows + empty).tolist())
        zeros += len(empty)
        writer.append(half)
        advance(len(block))
    if row >= 0:
        raise VixmlError(
            "published vectors that float16 cannot hold",
            where=f"{matrix.path}, row {row}",
            found=", ".join(f"{count:,} numbers {name}" for name, count in bad.items() if count),
            expected="finite numbers up to 65504",
            hint=HINT,
        )
    return zeros
