"""Image embeddings: the matrix of image vectors, and the rows that each item gets."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError, expect_equal, expect_index
from vixml.files import load_array, read_header
from vixml.ragged import Ragged

FORMAT = "vixml-image-embeddings-1"
MIXED = "build corpus, images and embeddings of one dataset again; snakemake keeps them consistent"
REBUILD = "delete the folder and run the stage that writes it again: embed-images or import-vectors"


@dataclass(frozen=True)
class ImageEmbeddings:
    """Hold one vector per image. The row is the image id; with published item lists, it is the number that those lists use.

    Attributes:
        vectors: (n_images, dim) float16, memory-mapped: only the rows gathered are ever read.
        missing: (n_missing,) int64, ascending: ids without an image. Their rows are zero and never returned.
        vision: the vision encoder that made them.
        folder: their folder.
        item_lists: split -> (n_split) lists over rows, if they were published with the embeddings; otherwise empty, and the
            corpus's lists name the vectors of an item.

    Example:
        >>> embeddings = ImageEmbeddings(np.eye(3, 4, dtype=np.float16), np.array([1]), "demo", Path("embeddings"))
        >>> lists = embeddings.lists(Ragged.from_rows([[1, 0, 2], [2]], n_cols=3), per_item=1)
        >>> lists.values.tolist(), embeddings.gather(lists).shape
        ([0, 2], (2, 4))
    """

    vectors: np.ndarray
    missing: np.ndarray
    vision: str
    folder: Path
    item_lists: Mapping[str, Ragged] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str) -> ImageEmbeddings:
        """Open image embeddings; vectors stay on the disk.

        Raises:
            VixmlError: missing, another version, or a matrix that is not what ``embeddings.json`` says.
        """
        folder = Path(folder)
        header = read_header(folder / "embeddings.json", FORMAT, "image embeddings")
        vectors = open_scattered(folder / "vectors.npy")
        expected = f"{(header['n_images'], header['dim'])} float16"
        what, where = "image embeddings do not match their header", folder / "vectors.npy"
        expect_equal(f"{vectors.shape} {vectors.dtype}", expected, what, where=where, hint=REBUILD)
        item_lists = {}
        if header.get("lists") == "own":
            item_lists = {split: Ragged.load(folder / f"{split}_images") for split in SPLITS}
        return cls(vectors, np.asarray(header["missing"], dtype=np.int64), header["vision"], folder, item_lists)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Return the length of a vector."""
        return self.vectors.shape[1]

    def images_of(self, corpus: Corpus, split: str) -> Ragged:
        """Return the rows of each item of a split: the published item lists if there are any, otherwise the corpus's.

        Raises:
            VixmlError: the item lists and the corpus have different numbers of items.
        """
        if not self.item_lists:
            return corpus.images(split)
        lists = self.item_lists[split]
        what, where = "item-to-image lists and corpus do not belong together", self.folder / f"{split}_images"
        hint = f"import the vectors for the corpus {corpus.folder}: vixml import-vectors"
        expect_equal(f"{len(lists)} items", f"{corpus.n(split)} items", what, where=where, hint=hint)
        return lists

    def lists(self, item_images: Ragged, per_item: int, control: str = "none", seed: int = 0) -> Ragged:
        """Return the images that each item gets: missing ones dropped, then at most ``per_item``, order kept.

        Control ``shuffled`` then permutes whole lists: the items form one random circle and each takes its neighbour's list,
        so that no item keeps its list, while the number of lists, their lengths and their contents are unchanged. Control
        ``constant`` gives every item the same ``per_item`` images, drawn from all; if no item has an image, none gets one.

        Args:
            item_images: (n_items) lists of image ids, in order of preference (:meth:`images_of`).
            seed: of the control's draw; the same images are drawn whatever the items.

        Raises:
            VixmlError: the lists refer to another number of images than there are embeddings.
        """
        what = "item-to-image lists and image embeddings do not belong together"
        found, expected = f"lists over {item_images.n_cols} images", f"lists over {len(self)} images"
        expect_equal(found, expected, what, where=self.folder, hint=MIXED)
        kept = item_images.select(~self._is_missing(item_images.values)).first(per_item)
        if control == "constant" and len(kept.values):
            present = np.flatnonzero(~self._is_missing(np.arange(len(self))))
            same = np.random.default_rng(seed).choice(present, min(per_item, len(present)), replace=False)
            return Ragged(
                np.tile(same, len(kept)).astype(kept.values.dtype), len(same) * np.arange(len(kept) + 1), kept.n_cols
            )
        if control != "shuffled" or len(kept) < 2:
            return kept
        circle = np.random.default_rng(seed).permutation(len(kept))
        donor = np.empty(len(kept), dtype=np.int64)
        donor[circle] = np.roll(circle, 1)
        return kept.take(donor)

    def gather(self, rows: Ragged | np.ndarray, dtype: type = np.float32) -> np.ndarray:
        """Return the vectors of some images: (n, dim) of ``dtype``.

        Args:
            rows: image ids, (n,); of a :class:`Ragged` its values, row after row.
            dtype: ``np.float32`` or ``np.float16``.

        Raises:
            VixmlError: an id out of range or missing, a vector with NaN or infinity (the row is named).
        """
        ids = np.asarray(rows.values if isinstance(rows, Ragged) else rows).reshape(-1)
        for extreme in (ids.min(), ids.max()) if len(ids) else ():
            hint = "the ids belong to another dataset's embeddings"
            expect_index(int(extreme), len(self), "an image id is out of range", where=self.folder, hint=hint)
        if (absent := self._is_missing(ids)).any():
            raise VixmlError(
                "this image is missing and has no vector",
                where=f"{self.folder}, row {int(ids[absent][0])}",
                hint="take ids from ImageEmbeddings.lists, which drops missing images",
            )
        gathered = take_rows(self.vectors, ids)
        if (row := _first_not_finite(gathered)) is not None:
            where = f"{self.folder / 'vectors.npy'}, row {int(ids[row])}"
            raise VixmlError("an image vector is not finite", where=where, found="NaN or infinity", hint=REBUILD)
        return gathered.astype(dtype, copy=False)

    def _is_missing(self, ids: np.ndarray) -> np.ndarray:
        """Return (n,) bool. Runs for every batch, so its cost grows with the ids asked for, not with all missing."""
        if not len(self.missing):
            return np.zeros(len(ids), dtype=bool)
        place = np.minimum(np.searchsorted(self.missing, ids), len(self.missing) - 1)
        return self.missing[place] == ids


def _first_not_finite(vectors: np.ndarray) -> int | None:
    """Return the first row of (n, dim) float16 vectors that holds NaN or infinity.

    Those are the numbers whose bits, without the sign, are 0x7C00 or more. As integers a batch is checked six times
    as fast as with `np.isfinite` or a sum, in blocks that stay in the processor's cache.
    """
    for start in range(0, len(vectors), 128):
        bits = vectors[start : start + 128].view(np.uint16) & np.uint16(0x7FFF)
        if bits.size and bits.max() >= 0x7C00:
            return start + int((bits.max(axis=1) >= 0x7C00).argmax())
    return None


# -- scattered rows ---------------------------------------------------------------------------------------------------

# Not every system accepts advice on a memory map; without it the rows are the same, read one after the other.
CAN_ADVISE = hasattr(mmap, "MADV_RANDOM") and hasattr(mmap, "MADV_WILLNEED")


def open_scattered(path: Path | str) -> np.ndarray:
    """Open a ``.npy`` file for :func:`take_rows`: memory-mapped, read-only, without reading ahead.

    Raises:
        VixmlError: as :func:`vixml.files.load_array`.
    """
    rows = load_array(path)
    if CAN_ADVISE and isinstance(rows.base, mmap.mmap):
        with suppress(OSError):  # a kernel or a file system may not support advice
            rows.base.madvise(mmap.MADV_RANDOM)
    return rows


def take_rows(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return copies of some rows.

    Args:
        rows: (n, ...) as :func:`open_scattered` returns them, or any array.
        ids: (k,) integers from 0 to n - 1, in any order.

    Returns:
        (k, ...) of the same dtype.
    """
    if CAN_ADVISE and isinstance(rows.base, mmap.mmap) and rows.nbytes:
        width = rows.nbytes // len(rows)
        starts = len(rows.base) - rows.nbytes + np.unique(ids).astype(np.int64) * width
        pages = starts // mmap.PAGESIZE * mmap.PAGESIZE
        madvise = rows.base.madvise  # called thousands of times per batch
        with suppress(OSError):
            for page, size in zip(pages.tolist(), (starts + width - pages).tolist(), strict=True):
                madvise(mmap.MADV_WILLNEED, page, size)
    return np.asarray(rows[ids])


# -- coverage ---------------------------------------------------------------------------------------------------------


def share_with_images(lists: Ragged, missing: Iterable[int]) -> float:
    """Return the percentage of items that have an image that is not missing, to two decimals.

    Example:
        >>> share_with_images(Ragged.from_rows([[0, 1], [1], []], n_cols=2), missing=[1])
        33.33
    """
    there = np.ones(lists.n_cols, dtype=bool)
    there[list(missing)] = False
    rows = np.unique(lists.row_ids()[there[lists.values]])
    return round(100.0 * len(rows) / max(len(lists), 1), 2)


def coverage(corpus: Corpus, missing: Iterable[int]) -> dict[str, float]:
    """Return for each split the percentage of items that have an image (Table 8)."""
    missing = list(missing)
    return {split: share_with_images(corpus.images(split), missing) for split in SPLITS}
