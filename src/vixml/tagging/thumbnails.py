"""Thumbnails of the training items, for showing who voted: one small JPEG per item that has an image.

On disk they are two arrays beside the neighbours of a model folder: all files one after the other, and where each begins.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vixml.errors import VixmlError
from vixml.files import save_array
from vixml.images.store import ImageStore
from vixml.ragged import Ragged, offsets_of
from vixml.tagging.model_folder import COPY_AGAIN, NEIGHBOURS, ModelFolder

FILES, OFFSETS = f"{NEIGHBOURS}/thumbnails.npy", f"{NEIGHBOURS}/thumbnail_offsets.npy"
SIDE, QUALITY = 96, 85  # about 2 KB


@dataclass(frozen=True)
class Thumbnails:
    """Read thumbnails by the row of a training item.

    Attributes:
        files: (n_bytes,) uint8, memory-mapped.
        offsets: (n_items + 1,) int64; an item without an image has no byte.
    """

    files: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, folder: ModelFolder) -> Thumbnails | None:
        """Return the thumbnails of a model folder; None if it has none.

        Raises:
            VixmlError: arrays that do not belong together.
        """
        if FILES not in folder:
            return None
        files, offsets = folder.array(FILES), folder.array(OFFSETS)
        typed = (files.dtype, offsets.dtype, files.ndim, offsets.ndim) == (np.uint8, np.int64, 1, 1)
        whole = typed and len(offsets) and offsets[0] == 0 and offsets[-1] == len(files)
        if not whole or (np.diff(offsets) < 0).any():
            what, found = "the thumbnails of a model folder do not belong together", f"{len(files)} bytes"
            raise VixmlError(what, where=folder.folder / OFFSETS, found=found, hint=COPY_AGAIN)
        return cls(files, offsets)

    def read(self, row: int) -> bytes | None:
        """Return the JPEG of a training item; None if it has no image, or if there is no such item."""
        if not 0 <= row < len(self.offsets) - 1:
            return None
        return self.files[self.offsets[row] : self.offsets[row + 1]].tobytes() or None


def write_thumbnails(work: Path, store: ImageStore, images: Ragged) -> None:
    """Write the first image of each training item that is not missing, as a thumbnail."""
    present = np.ones(images.n_cols, bool)
    present[list(store.missing)] = False
    first = images.select(present[images.values]).first(1)
    if not len(first.values):
        return
    found = {}
    for image in np.unique(first.values).tolist():  # ascending, as the store is read
        with Image.open(io.BytesIO(store.read(image)), formats=("PNG",)) as opened:
            small = opened.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        small.save(written, "JPEG", quality=QUALITY)
        found[image] = written.getvalue()
    files = [b"".join(found[image] for image in first.row(row).tolist()) for row in range(len(first))]
    offsets = offsets_of([len(file) for file in files])
    save_array(work / FILES, np.frombuffer(b"".join(files), np.uint8))
    save_array(work / OFFSETS, offsets)
