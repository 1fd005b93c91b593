"""Rows of different lengths in two flat arrays: the one shape in which lists travel between stages.

Token ids, label matrices (CSR) and item-to-image lists are all this: ``values[offsets[i]:offsets[i + 1]]`` is row i.
On disk a :class:`Ragged` is a folder of ``values.npy``, ``offsets.npy`` and ``header.json`` (docs/formats.md).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vixml.errors import VixmlError, expect_equal, expect_index, expect_whole
from vixml.files import atomic_path, load_array, read_header, save_array, write_json

FORMAT = "vixml-ragged-1"


@dataclass(frozen=True)
class Ragged:
    """Hold ``n_rows`` lists of integers.

    Attributes:
        values: (n_values,) int32, all rows one after the other.
        offsets: (n_rows + 1,) int64, where each row starts; ``offsets[0] == 0``.
        n_cols: every value is in [0, n_cols): vocabulary size, number of labels or of images.
        header: further entries of the file's header (tokenizer, revision, length, ...).

    Example:
        >>> r = Ragged.from_rows([[3, 1], [], [2]], n_cols=4)
        >>> len(r), r.row(0).tolist(), r.lengths.tolist(), r.take([2, 0]).values.tolist()
        (3, [3, 1], [2, 0, 1], [2, 3, 1])
    """

    values: np.ndarray
    offsets: np.ndarray
    n_cols: int
    header: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("values", "offsets"):
            object.__setattr__(self, name, _whole_numbers(getattr(self, name), f"{name} of a Ragged"))
        expect_whole(self.n_cols, 0, "not a number of columns", where="n_cols of a Ragged", most=1 << 31)
        if self.offsets.dtype == np.uint64:  # numpy adds it to int64 as a float
            object.__setattr__(self, "offsets", self.offsets.astype(np.int64))
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise _no_offsets(self, "a Ragged")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """Return row ``index``: (length,) int32.

        Raises:
            VixmlError: no such row; a negative number is none.
        """
        if type(index) is not int or not 0 <= index < len(self):
            expect_whole(index, 0, "no such row", where="a Ragged", most=len(self) - 1)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Return the length of each row: (n_rows,) int64."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> Ragged:
        """Return some rows, in the order given (a copy; its cost grows with the rows taken, not with all rows).

        Raises:
            VixmlError: rows that are no whole numbers (a mask, say) or that do not exist.
        """
        rows = _whole_numbers(rows, "rows to take from a Ragged")
        for extreme in (rows.min(), rows.max()) if len(rows) else ():
            expect_index(int(extreme), len(self), "no such row", where="rows to take from a Ragged")
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = offsets_of(lengths)
        # Position of each value in the source: its row's start plus its place in the row.
        position = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(_int32(self.values[position], self.n_cols), offsets, self.n_cols, self.header)

    def select(self, keep: np.ndarray) -> Ragged:
        """Return the rows with only the values at which ``keep`` (n_values,) is true.

        Raises:
            VixmlError: ``keep`` is something else.
        """
        keep = np.asarray(keep)
        found, expected = f"{keep.shape} {keep.dtype}", f"({len(self.values)},) bool"
        expect_equal(found, expected, "not a truth value for each value", where="values to keep of a Ragged")
        offsets = offsets_of(np.bincount(self.row_ids()[keep], minlength=len(self)))
        return Ragged(_int32(self.values[keep], self.n_cols), offsets, self.n_cols, self.header)

    def first(self, most: int) -> Ragged:
        """Return the rows cut to their first ``most`` values."""
        expect_whole(most, 0, "not a number of values", where="values to keep of a Ragged")
        return self.select(np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths) < most)

    def counts(self) -> np.ndarray:
        """Return how often each value occurs: (n_cols,) int64 (label frequencies, for a label matrix)."""
        if self.values.min(initial=0) < 0 or self.values.max(initial=-1) >= self.n_cols:
            self.check("a Ragged")
        return np.bincount(self.values, minlength=self.n_cols).astype(np.int64)

    def row_ids(self) -> np.ndarray:
        """Return the row of each value: (n_values,) int64."""
        if self.lengths.min(initial=0) < 0:
            raise _no_offsets(self, "a Ragged")
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def transpose(self) -> Ragged:
        """Return the lists the other way round: for each value the rows that hold it, in ascending order."""
        order = np.argsort(self.values, kind="stable")
        return Ragged(self.row_ids()[order].astype(np.int32), offsets_of(self.counts()), len(self))

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]], n_cols: int, **header: Any) -> Ragged:
        """Build from an iterable of integer sequences.

        Raises:
            VixmlError: a row that is no list of whole numbers, or a number outside 0 to ``n_cols - 1`` (the row is named).
        """
        if not isinstance(rows, Iterable):
            raise VixmlError("no rows", where="rows of a Ragged", found=type(rows).__name__, expected="a list of lists")
        arrays = [_whole_numbers(row, f"row {number}") for number, row in enumerate(rows)]
        offsets = offsets_of([len(array) for array in arrays])
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
        result = cls(values, offsets, n_cols, header)
        result.check("<memory>")  # before numbers above int32 are cut
        return cls(values.astype(np.int32), offsets, int(n_cols), header)

    def check(self, where: Path | str) -> None:
        """Verify the invariants.

        Raises:
            VixmlError: offsets that do not ascend or do not end at the number of values, or a value out of range
                (the row is named).
        """
        offsets, values = self.offsets, self.values
        if (offsets[:-1] > offsets[1:]).any():
            raise _no_offsets(self, where)
        bad = np.flatnonzero((values < 0) | (values >= self.n_cols)) if len(values) else values
        if len(bad):
            where = f"{where}, row {int(np.searchsorted(offsets, bad[0], side='right') - 1)}"
            hint = "the file belongs to another label set or vocabulary, or is damaged: rebuild it"
            expect_index(int(values[bad[0]]), self.n_cols, "an id is out of range", where=where, hint=hint)

    def check_once(self, where: object, what: str = "an id occurs twice in a row", hint: str | None = None) -> None:
        """Verify that no row has a value twice; ``what`` and ``hint`` are those of the error.

        Raises:
            VixmlError: one has (the row is named).
        """
        keys = self.row_ids() * self.n_cols + self.values
        if (keys[1:] <= keys[:-1]).any():  # rows that ascend, as labels do on the disk, need no sorting
            keys.sort()
            twice = np.flatnonzero(keys[1:] == keys[:-1])
            if len(twice):
                row, value = divmod(int(keys[twice[0]]), self.n_cols)
                raise VixmlError(what, where=f"{where}, row {row}", found=value, expected="once", hint=hint)

    def save(self, folder: Path | str) -> None:
        """Write the folder ``values.npy``, ``offsets.npy``, ``header.json`` (the header last)."""
        folder = Path(folder)
        self.check(folder)
        save_array(folder / "values.npy", self.values.astype(np.int32, copy=False))
        save_array(folder / "offsets.npy", self.offsets.astype(np.int64, copy=False))
        write_json(
            folder / "header.json",
            {"format": FORMAT, "n_rows": len(self), "n_values": len(self.values), "n_cols": self.n_cols, **self.header},
        )

    @classmethod
    def load(cls, folder: Path | str, *, mmap: bool = True) -> Ragged:
        """Read and check a folder written by :meth:`save`; arrays stay on disk (memory-mapped) by default."""
        folder = Path(folder)
        header = read_header(folder / "header.json", FORMAT, "a ragged array")
        extra = {k: v for k, v in header.items() if k not in {"format", "n_rows", "n_values", "n_cols"}}
        values, offsets = load_array(folder / "values.npy", mmap=mmap), load_array(folder / "offsets.npy", mmap=False)
        hint = "rebuild it; it was altered or cut short"
        try:
            result = cls(values, offsets, header.get("n_cols"), extra)
        except VixmlError as error:
            error.where, error.hint = folder, hint
            raise
        found = f"{len(result)} rows, {len(result.values)} values"
        expected = f"{header.get('n_rows')!r} rows, {header.get('n_values')!r} values"
        what = "a ragged array does not have the size its header states"
        expect_equal(found, expected, what, where=folder, hint=hint)
        result.check(folder)
        return result


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where rows of these lengths start, and where the last one ends: (n + 1,) int64."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def expect_ragged(given: object, where: Path | str) -> None:
    """Check lists that a caller gives.

    Raises:
        VixmlError: no :class:`Ragged`, or one that :meth:`Ragged.check` refuses.
    """
    if not isinstance(given, Ragged):
        found, hint = type(given).__name__, "make one with Ragged.from_rows"
        raise VixmlError("not lists of ids", where=where, found=found, expected="a Ragged", hint=hint)
    given.check(where)


def _no_offsets(lists: Ragged, where: object) -> VixmlError:
    what, found = "offsets do not describe the values", f"{len(lists.offsets)} offsets for {len(lists.values)} values"
    hint = "rebuild the file; it was altered or cut short"
    return VixmlError(what, where=where, found=found, expected="ascending, from 0 to the number of values", hint=hint)


def _int32(values: np.ndarray, n_cols: int) -> np.ndarray:
    """Return ids as int32; those that would be cut are refused."""
    if values.dtype.itemsize >= 4 and values.dtype != np.int32 and len(values):
        for extreme in (values.min(), values.max()):
            expect_index(int(extreme), n_cols, "an id is out of range", where="a Ragged")
    return np.asarray(values, dtype=np.int32)


def _whole_numbers(given: Sequence[int] | np.ndarray, where: str) -> np.ndarray:
    """Return a list of whole numbers as it is, or as int64 if it is empty; anything else is an error."""
    if isinstance(given, np.ma.MaskedArray):
        raise VixmlError("not a list of ids", where=where, found="a masked array", expected="whole numbers, all given")
    try:
        array = np.asarray(given)
    except ValueError:  # lists of different lengths
        array = np.asarray(given, dtype=object)
    if array.ndim == 1 and not array.size:
        return array.astype(np.int64) if array.dtype.kind not in "iu" else array
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.dtype == np.uint64 and array.max() >> np.uint64(63)):
        found, expected = f"shape {array.shape}, {array.dtype}", "one dimension of whole numbers"
        raise VixmlError("not a list of ids", where=where, found=found, expected=expected)
    return array


class RaggedWriter:
    """Write a :class:`Ragged` row by row: the same files as :meth:`Ragged.save`, without its values in memory.

    The folder is whole once :meth:`close` has returned.

    Example:
        >>> import tempfile
        >>> writer = RaggedWriter(tempfile.mkdtemp())
        >>> writer.append([0, 2]); writer.append([])
        >>> len(writer.close(n_cols=3))
        2
    """

    _FLUSH = 1 << 20

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._values, self._offsets, self._n = array("i"), array("q", [0]), 0
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.folder / "values.npy"))
            self._stream = stack.enter_context(open(temporary, "wb"))
            self._write_header()
            self._stack = stack.pop_all()

    def __enter__(self) -> RaggedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        # After close there is nothing left to leave; before it, the half-written file goes.
        self._stack.__exit__(kind or InterruptedError, error or InterruptedError("not closed"), trace)

    def append(self, row: Sequence[int]) -> None:
        """Add a row; its values are checked by :meth:`close`, against ``n_cols``."""
        try:
            self._values.extend(row)
        except (TypeError, OverflowError) as error:
            where = f"{self.folder}, row {len(self._offsets) - 1}"
            raise VixmlError("not a list of ids", where=where, found=str(error), expected="whole numbers") from error
        self._n += len(row)
        self._offsets.append(self._n)
        if len(self._values) >= self._FLUSH:
            self._flush()

    def close(self, n_cols: int, **header: Any) -> Ragged:
        """Finish the files; return what they hold, read back from the disk and checked."""
        expect_whole(n_cols, 0, "not a number of columns", where=self.folder, most=1 << 31)
        self._flush()
        # NumPy leaves room in a header for the number of values to grow.
        self._stream.seek(0)
        self._write_header()
        self._stack.close()
        save_array(self.folder / "offsets.npy", np.frombuffer(self._offsets, dtype=np.int64))
        n_rows = len(self._offsets) - 1
        fixed = {"format": FORMAT, "n_rows": n_rows, "n_values": self._n, "n_cols": int(n_cols)}
        write_json(self.folder / "header.json", fixed | header)
        return Ragged.load(self.folder)

    def _flush(self) -> None:
        if self._values:
            np.frombuffer(self._values, dtype=np.int32).tofile(self._stream)
            self._values = array("i")

    def _write_header(self) -> None:
        described = {"descr": "<i4", "fortran_order": False, "shape": (self._n,)}
        np.lib.format.write_array_header_1_0(self._stream, described)
