"""Read a published map from items to rows of a matrix: a *pickled* array of lists, without running what a pickle can run.

``{train,test,labels}_imgs_384_3_map.npy`` is an array of Python objects: for each item a list of row numbers, or -1. Such a
file is a pickle, that is, a little program that may call any function of the machine it is read on. Three walls stand here:

1. Every instruction is looked at before one is carried out: only those that numbers, lists and arrays need, none larger
   than the file, in a file no larger than such a map can be.
2. Names lead nowhere. The few of NumPy's that an array of lists needs are answered by stand-ins of this file, which do
   nothing but keep what they are given; every other name is an error. No code of NumPy's sees a byte of the pickle.
3. What comes out must be, item by item, -1, nothing, or integers: one list deep and no deeper.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vixml.errors import VixmlError
from vixml.images.row_files import read_header
from vixml.ragged import Ragged

# A list of three numbers takes about 25 bytes, as an array of its own about 80.
BYTES_PER_ITEM = 256
SPARE_BYTES = 1 << 16
INSTRUCTIONS = frozenset(
    ["PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"]
)  # fmt: skip
INTEGERS = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))
HINT = "fetch it again from its publisher; do not open it with numpy.load: a pickle runs what it likes"


def read_row_lists(path: Path | str, n_items: int, n_rows: int) -> tuple[Ragged, dict[str, int]]:
    """Read a map.

    Args:
        path: the file.
        n_items: how many items it must speak of.
        n_rows: rows of the matrix that it points into.

    Returns:
        (n_items) lists over rows, each row once a list, order kept; and what was counted: ``items_without`` (-1, nothing
        or an empty list), ``rows_repeated`` (in one list), ``rows_unnamed`` (of the matrix).

    Raises:
        VixmlError: missing or cut short, another number of items, a row that does not exist, or a pickle of anything else.
    """
    path = Path(path)
    shape, _, dtype, offset = read_header(path, HINT)
    if dtype != np.dtype(object) or shape != (n_items,):
        raise VixmlError(
            "a map does not fit the corpus" if dtype == np.dtype(object) else "not a map from items to rows",
            where=path,
            found=f"{dtype}, shape {shape}",
            expected=f"an array of objects, one for each of {n_items:,} items",
            hint="map and corpus must be of one dataset and split",
        )
    allowed = offset + SPARE_BYTES + BYTES_PER_ITEM * n_items
    if path.stat().st_size > allowed:
        raise _refused(path, f"{path.stat().st_size:,} bytes", f"at most {allowed:,} for {n_items:,} items")
    with open(path, "rb") as stream:
        stream.seek(offset)
        content = stream.read()
    return _lists(_objects(content, path, n_items), path, n_rows)


def _lists(items: Sequence[Any], path: Path, n_rows: int) -> tuple[Ragged, dict[str, int]]:
    values, offsets, repeated, without = array("q"), array("q", [0]), 0, 0
    for item, found in enumerate(items):
        rows = _integers(found, path, item)
        kept = rows if len(rows) < 2 else list(dict.fromkeys(rows))
        repeated += len(rows) - len(kept)
        without += not kept
        values.extend(kept)
        offsets.append(len(values))
    flat, starts = np.frombuffer(values, dtype=np.int64), np.frombuffer(offsets, dtype=np.int64)
    wrong = np.flatnonzero((flat < 0) | (flat >= n_rows))
    if len(wrong):
        raise VixmlError(
            "a map points beyond its matrix",
            where=f"{path}, item {int(np.searchsorted(starts, wrong[0], side='right') - 1)}",
            found=f"row {flat[wrong[0]]}" + (f", and {len(wrong) - 1:,} more such rows" if len(wrong) > 1 else ""),
            expected=f"0 to {n_rows - 1}, the rows of the matrix beside it",
            hint="map and matrix must be of one dataset and split",
        )
    named = np.zeros(n_rows, dtype=bool)
    named[flat] = True
    counts = {"items_without": without, "rows_repeated": repeated, "rows_unnamed": int(n_rows - named.sum())}
    return Ragged(flat.astype(np.int32), starts.copy(), n_rows), counts


def _integers(found: Any, path: Path, item: int) -> Sequence[int]:
    """Return the rows of one item."""
    if found is None or (type(found) is int and found == -1):
        return ()
    if isinstance(found, _Array):
        try:
            found = found.integers()
        except (pickle.UnpicklingError, TypeError) as error:
            raise _refused(path, f"item {item}: {error}", "integers, a row each") from error
    # type() and not isinstance: true is an int in Python, but no row.
    if not isinstance(found, list | tuple) or not set(map(type, found)) <= {int}:
        raise VixmlError(
            "a map holds something that is no list of rows",
            where=f"{path}, item {item}",
            found=_shown(found),
            expected="a list of integers, or -1 for an item without images",
            hint=HINT,
        )
    if any(not -(2**63) <= row < 2**63 for row in found):
        raise VixmlError("a map holds a number that is no row", where=f"{path}, item {item}", hint=HINT)
    return found


def _shown(found: Any) -> str:
    if isinstance(found, list | tuple):
        kinds = sorted({type(value).__name__.removeprefix("_").lower() for value in found})
        return f"a {type(found).__name__} of {', '.join(kinds)}"
    return f"{found}" if type(found) in (int, bool) else f"a value of type {type(found).__name__.lstrip('_').lower()}"


# -- the pickle -------------------------------------------------------------------------------------------------------


def _objects(content: bytes, path: Path, n_items: int) -> list[Any]:
    """Return the objects of a pickled one-dimensional array."""
    try:
        _inspect(content)
        found = _Restricted(io.BytesIO(content)).load()
        if not isinstance(found, _Array):
            raise pickle.UnpicklingError(f"{_shown(found)} in place of an array")
        return found.objects(n_items)
    # What a bad pickle raises is open: it may put any instruction behind any other.
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        EOFError,
        OverflowError,
    ) as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise _refused(path, words[0][:200], "a pickled array of lists of integers, and nothing else") from error


def _refused(path: Path, found: str, expected: str) -> VixmlError:
    return VixmlError("a pickle that is not read", where=path, found=found, expected=expected, hint=HINT)


def _inspect(content: bytes) -> None:
    """Look at every instruction before one is carried out.

    Raises:
        ValueError, pickle.UnpicklingError: one that a map does not need, or that asks for more memory than there are bytes.
    """
    end = 0
    for code, argument, place in pickletools.genops(content):
        if code.name not in INSTRUCTIONS:
            raise pickle.UnpicklingError(f"the instruction {code.name} at byte {place}")
        # The reader of the standard library makes its memory as long as the largest number of a PUT.
        if type(argument) is int and code.name in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME") and argument > len(content):
            raise pickle.UnpicklingError(f"{code.name} {argument} at byte {place}, in {len(content)} bytes")
        end = place + 1
    if end != len(content):
        raise pickle.UnpicklingError(f"{len(content) - end} bytes behind its end")


class _Restricted(pickle.Unpickler):
    """Answer the names that a pickled array of lists needs with stand-ins; any other is an error."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name."""
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: nothing lies outside the file."""
        raise pickle.UnpicklingError("a reference to something outside the file")


class _Stand:
    """A stand-in without state, so that no pickle can change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for something that has none")


class _ArrayType(_Stand):
    __slots__ = ()


class _NewArray(_Stand):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _ArrayType):
            raise pickle.UnpicklingError("an array of another kind")
        return _Array()


class _NewDtype(_Stand):
    __slots__ = ()

    def __call__(self, name: Any, align: Any = False, copy: Any = False) -> _Dtype:
        return _Dtype(name)


class _NewScalar(_Stand):
    __slots__ = ()

    def __call__(self, dtype: Any, content: Any) -> int:
        (value,) = _numbers(dtype, content, 1)
        return value


class _Encode(_Stand):
    """``_codecs.encode``: how older pickles write bytes."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in another encoding")
        return text.encode("latin1")


class _NoBytes(_Stand):
    """``bytes()``: how older pickles write none."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Dtype:
    __slots__ = ("name", "order")

    def __init__(self, name: Any) -> None:
        if type(name) is not str or (name not in INTEGERS and name != "O8"):
            raise pickle.UnpicklingError(f"numbers of type {name!r:.20}")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, and five that only structures have.
        if type(state) is not tuple or not 5 <= len(state) <= 9 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown kind of numbers")
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("numbers with fields")
        self.order = state[1]


class _Array:
    """What a pickle says of an array: kept, not built."""

    __slots__ = ("content", "dtype", "shape")

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise pickle.UnpicklingError("an unknown kind of array")
        _, self.shape, self.dtype, _, self.content = state

    def objects(self, n_items: int) -> list[Any]:
        """Return the objects of an array of that many."""
        if self.dtype.name != "O8" or self.shape != (n_items,) or type(self.content) is not list:
            raise pickle.UnpicklingError(f"an array of other numbers or another shape than ({n_items},)")
        if len(self.content) != n_items:
            raise pickle.UnpicklingError(f"{len(self.content)} objects in place of {n_items}")
        return self.content

    def integers(self) -> list[Any]:
        """Return the integers of a one-dimensional array; empty and zero-dimensional ones are as long as they say."""
        shape = getattr(self, "shape", None)
        if type(shape) is not tuple or len(shape) != 1 or type(shape[0]) is not int:
            raise pickle.UnpicklingError("an array of rows that is not a list")
        if self.dtype.name == "O8":
            if type(self.content) is not list or len(self.content) != shape[0]:
                raise pickle.UnpicklingError("an array of rows that is cut short")
            return self.content
        return _numbers(self.dtype, self.content, shape[0])


def _numbers(dtype: Any, content: Any, n: int) -> list[int]:
    """Return integers from bytes."""
    if not isinstance(dtype, _Dtype) or dtype.name not in INTEGERS or type(content) is not bytes:
        raise pickle.UnpicklingError("something else than integers")
    kind = np.dtype(("<" if dtype.order in "=|" else dtype.order) + dtype.name)
    if len(content) != n * kind.itemsize:
        raise pickle.UnpicklingError(f"{len(content)} bytes for {n} integers")
    return np.frombuffer(content, dtype=kind).tolist()


NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _NewDtype(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _NoBytes(),
    **{(f"{place}.multiarray", "_reconstruct"): _NewArray() for place in ("numpy.core", "numpy._core")},
    **{(f"{place}.multiarray", "scalar"): _NewScalar() for place in ("numpy.core", "numpy._core")},
}
