"""Read and write the rows of a ``.npy`` matrix block by block, in the memory of one block.

A memory map would do as well, but what was touched of a map counts as memory of the process until somebody needs it, and a
limit of a batch system does not wait for that. Plain reads keep the figure at one block, whatever the file's size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vixml.errors import VixmlError

BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class RowFile:
    """A matrix on the disk whose header was read and whose length was checked.

    Attributes:
        path: the file.
        shape: (n, dim).
        dtype: of a number.
        offset: where the rows start.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    offset: int

    @classmethod
    def open(cls, path: Path | str, dtype: str, *, hint: str) -> RowFile:
        """Read the header.

        Args:
            path: the file.
            dtype: what its numbers must be, e.g. ``float32``.
            hint: what to do where it is bad.

        Raises:
            VixmlError: missing, not ``.npy``, other numbers, not a matrix in C order, shorter or longer than it says.
        """
        path = Path(path)
        shape, fortran, found, offset = read_header(path, hint)
        if found != np.dtype(dtype) or len(shape) != 2 or fortran:
            raise VixmlError(
                "not a matrix of the kind that is read here",
                where=path,
                found=f"{found}, shape {shape}" + (", columns first" if fortran else ""),
                expected=f"{dtype}, two dimensions, row after row",
                hint=hint,
            )
        size, needed = path.stat().st_size, offset + shape[0] * shape[1] * found.itemsize
        if size != needed:
            raise VixmlError(
                "a matrix is cut short" if size < needed else "a matrix is longer than its header says",
                where=path,
                found=f"{size:,} bytes",
                expected=f"{needed:,} bytes for {shape[0]:,} rows of {shape[1]}",
                hint=hint,
            )
        return cls(path, (shape[0], shape[1]), found, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, rows (n, dim))``; each block is overwritten by the next.

        Args:
            n_rows: rows a block; by default about 16 MB.
        """
        n, dim = self.shape
        step = n_rows or max(1, BLOCK_BYTES // max(1, dim * self.dtype.itemsize))
        room = np.empty((min(step, n), dim), dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(self.offset)
            for first in range(0, n, step):
                block = room[: min(step, n - first)]
                _fill(stream, block, self.path)
                yield first, block


def read_header(path: Path, hint: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, whether columns come first, dtype and length of the header of a ``.npy`` file.

    Raises:
        VixmlError: missing, or no header of a version that is known.
    """
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            return (*readers[version](stream), stream.tell())
    except FileNotFoundError as error:
        raise VixmlError("an array is missing", where=path, hint=hint) from error
    except (ValueError, EOFError) as error:
        raise VixmlError(
            "not a .npy file", where=path, found=str(error).splitlines()[0][:200], expected="a NumPy array", hint=hint
        ) from error


@contextmanager
def row_writer(path: Path, shape: tuple[int, int], dtype: str) -> Iterator[RowWriter]:
    """Write a matrix of ``shape`` row after row; leaving the context checks that all came."""
    with open(path, "wb") as stream:
        described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, described)
        writer = RowWriter(stream, np.dtype(dtype))
        yield writer
        if writer.n_rows != shape[0]:
            raise ValueError(f"{writer.n_rows} rows were written of {shape[0]}")
        stream.flush()
        os.fsync(stream.fileno())


class RowWriter:
    """Append rows to an open ``.npy`` file."""

    def __init__(self, stream, dtype: np.dtype) -> None:
        self._stream, self._dtype, self.n_rows = stream, dtype, 0

    def append(self, rows: np.ndarray) -> None:
        """Append (n, dim) rows."""
        self._stream.write(memoryview(np.ascontiguousarray(rows, dtype=self._dtype)).cast("B"))
        self.n_rows += len(rows)


def _fill(stream, block: np.ndarray, path: Path) -> None:
    room, filled = memoryview(block).cast("B") if block.size else memoryview(b""), 0
    while filled < len(room):
        n = stream.readinto(room[filled:])
        if not n:
            raise VixmlError("a file ended while it was read", where=path, hint="is somebody writing it? try again")
        filled += n
