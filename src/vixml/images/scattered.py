"""Read rows that lie scattered in a file that may be larger than the memory.

A memory map reads ahead: where one row is touched, the system reads as much around it as the device is set to, 128 KB or
several MB. A batch of training touches thousands of rows of a few KB, each elsewhere, so that a multiple of them is read for
the first batches, and for every batch where the file does not fit into the memory (benchmarks/README.md). So nothing is read
ahead here; the rows of a batch are asked for all at once, and the disk serves them side by side.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

import numpy as np

from vixml.files import load_array

PAGE = mmap.PAGESIZE
# Linux reads no more for one request than a device's read-ahead, 128 KB where nobody set another.
PAGES_A_REQUEST = max(1, (128 << 10) // PAGE)
# Not every system lets a map be advised; rows are the same without, read one after the other.
CAN_ADVISE = hasattr(mmap, "MADV_RANDOM") and hasattr(mmap, "MADV_WILLNEED")


def open_scattered(path: Path | str) -> np.ndarray:
    """Open a ``.npy`` file for :func:`take_rows`: memory-mapped, read-only, without reading ahead.

    Raises:
        VixmlError: as :func:`vixml.files.load_array`.
    """
    rows = load_array(path)
    if CAN_ADVISE and isinstance(rows.base, mmap.mmap):
        with suppress(OSError):  # advice is a wish: a kernel or a file system may know none
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
        start, stop = requests(ids, len(rows.base) - rows.nbytes, rows.nbytes // len(rows))
        sizes = np.minimum(stop * PAGE, len(rows.base)) - start * PAGE
        ask = rows.base.madvise  # thousands of times a batch, so nothing else is done between
        with suppress(OSError):
            for first, size in zip((start * PAGE).tolist(), sizes.tolist(), strict=True):
                ask(mmap.MADV_WILLNEED, first, size)
    return np.asarray(rows[ids])


def requests(ids: np.ndarray, header: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which pages to ask for: each page of a row once, neighbours together, none in a request that is too long.

    Args:
        ids: (k,) rows.
        header: bytes in front of row 0.
        width: bytes a row.

    Returns:
        (n,) int64: first page of each request, ascending, and the one after its last.

    Example:
        >>> start, stop = requests(np.array([9, 0, 1]), header=128, width=PAGE)
        >>> start.tolist(), stop.tolist()
        ([0, 9], [3, 11])
    """
    offsets = header + np.unique(ids).astype(np.int64) * width
    first, stop = offsets // PAGE, (offsets + width - 1) // PAGE + 1
    apart = np.ones(len(first), dtype=bool)
    apart[1:] = first[1:] > stop[:-1]
    start, stop = first[apart], stop[np.roll(apart, -1)]  # where one stretch begins, the one before has ended
    pieces = -(-(stop - start) // PAGES_A_REQUEST)
    place = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.repeat(start, pieces) + PAGES_A_REQUEST * place
    return start, np.minimum(start + PAGES_A_REQUEST, np.repeat(stop, pieces))
