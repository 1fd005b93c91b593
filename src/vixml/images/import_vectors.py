"""Stage ``import-vectors``: published image embeddings, in the form that ``embed-images`` writes.

Each split has a float32 matrix, one row per image, and a map from items to rows. The files do not name the images and omit
unavailable ones, so no row can be matched to an image id of the corpus: the result has its own lists of rows for each item,
and the corpus does not change.

The map is a *pickled* array of lists. It is parsed without running anything: every instruction is checked first, and every
name becomes a :class:`_Record`, which only stores its arguments.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vixml.config.registry import VisionModel
from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import write_json
from vixml.images.embeddings import FORMAT, share_with_images
from vixml.progress import Quiet, bar
from vixml.provenance import stage
from vixml.ragged import Ragged

BLOCK_BYTES = 16 << 20
HINT = "the file is damaged or belongs to another dataset or vision encoder: fetch it again, or place the published one by hand"
HINT_PICKLED_ROWS = "fetch it again from its publisher; do not open it with numpy.load: a pickle can run any code"
REFUSED = "a pickle that is not read"
# A list of three numbers takes about 25 bytes, as an array of its own about 80.
BYTES_PER_ITEM = 256
SPARE_BYTES = 1 << 16
INSTRUCTIONS = frozenset(
    ["PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"]
)  # fmt: skip
NAMES = frozenset(
    [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("__builtin__", "bytes")]
    + [(f"{core}.multiarray", name) for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")]
)
INTEGERS = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))


@dataclass(frozen=True)
class Published:
    """The files of a split: vectors (n_images, dim) float32, and for each item a list of their rows, or -1, pickled."""

    vectors: Path
    rows: Path


def import_vectors(
    corpus_dir: Path | str,
    files: Mapping[str, Published],
    vision: str,
    entry: VisionModel,
    out: Path | str,
    per_item: int = 1,
) -> None:
    """Check published image embeddings and write ``vectors.npy``, ``{split}_images/`` and ``embeddings.json``.

    Rows are in the order train, test, label. A row of zeros was never computed: its image counts as missing. Memory holds one
    block of rows and the lists of one split. ``per_item`` is how many images a run wants of an item.

    Raises:
        VixmlError: a file missing or cut short, no item with ``per_item`` images, vectors of the wrong length, a map that points beyond its matrix or has
            the wrong number of items, a vector with NaN, infinity or beyond float16, or items in an order that differs
            from the corpus.
    """
    corpus = Corpus.load(corpus_dir)
    config = {"vision": vision, "model": entry.settings("import-vectors")}
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {f"{split}_vectors": files[split].vectors for split in SPLITS}
    inputs |= {f"{split}_map": files[split].rows for split in SPLITS}
    matrices = {split: _open(files[split].vectors, vision, entry.dim) for split in SPLITS}
    facts: dict[str, Any] = {"precision": "published"}
    with stage(out, "import-vectors", config=config, inputs=inputs, facts=facts) as work:
        total, first, longest = sum(map(len, matrices.values())), 0, 0
        for split in SPLITS:
            lists, counts = read_row_lists(files[split].rows, corpus.n(split), len(matrices[split]))
            _check_order(lists, corpus.images(split), files[split].rows, counts)
            facts[split] = {"n_vectors": len(matrices[split]), **counts}
            Ragged((lists.values + first).astype(np.int32), lists.offsets, total).save(work / f"{split}_images")
            first, longest = first + len(matrices[split]), max(longest, int(lists.lengths.max(initial=0)))
        if per_item > longest:  # before the matrices, which take hours
            raise VixmlError(
                "images.per_item exceeds the images available",
                where="images.per_item of a run",
                found=per_item,
                expected=f"at most {longest}, the longest list of rows in the maps",
                hint="lower it, or pool the images here (published_vectors: false)",
            )
        missing: list[int] = []
        with open(work / "vectors.npy", "wb") as stream, bar(f"importing vectors of {vision}", total) as advance:
            # Written as a stream: pages of a memory map would count as this process's memory.
            described = {"descr": "<f2", "fortran_order": False, "shape": (total, entry.dim)}
            np.lib.format.write_array_header_1_0(stream, described)
            first = 0
            for split in SPLITS:
                zeros = _convert(matrices[split], stream, advance)
                facts[split]["vectors_of_zeros"] = len(zeros)
                missing += (first + zeros).tolist()
                first += len(matrices[split])
        with_image = {split: share_with_images(Ragged.load(work / f"{split}_images"), missing) for split in SPLITS}
        header = {"format": FORMAT, "n_images": total, "dim": entry.dim, "vision": vision, "precision": "published"}
        write_json(work / "embeddings.json", header | {"lists": "own", "missing": missing})
        facts |= {"n_images": total, "n_missing": len(missing), "pct_with_images": with_image}


def _open(path: Path, vision: str, dim: int) -> RowFile:
    matrix = RowFile.open(path, "float32", hint=HINT)
    what = f"published vectors do not have the length of {vision} in config/models.yaml"
    expect_equal(f"{matrix.shape[1]} numbers per vector", f"{dim} numbers per vector", what, where=path, hint=HINT)
    return matrix


def _check_order(lists: Ragged, addresses: Ragged, path: Path, counts: dict[str, int]) -> None:
    """Refuse a map whose items are in a different order than in the corpus.

    Published vectors come from the addresses that the corpus lists, so an item without an address has no vector. In a random
    order, the share of such items among those with a vector equals their share of all items; half of that is refused.
    """
    if not len(addresses.values):
        return  # without images the order cannot be checked
    with_image, addressed = lists.lengths > 0, addresses.lengths > 0
    odd = int((with_image & ~addressed).sum())
    counts["items_with_vectors_but_no_address"] = odd
    if odd > 0.5 * (1 - addressed.mean()) * with_image.sum():
        raise VixmlError(
            "the items of a map are not in the order of the corpus",
            where=path,
            found=f"{odd:,} of {int(with_image.sum()):,} items with vectors have no image in the corpus",
            expected="almost none",
            hint="build the corpus from the archive that the vectors were made from",
        )


def _convert(matrix: RowFile, stream: BinaryIO, advance: Quiet) -> np.ndarray:
    """Append a matrix as float16 to ``stream``; return the rows of zeros. Numbers that do not fit are counted, then refused."""
    bad = {"NaN": 0, "infinity": 0, "beyond float16 (65504)": 0}
    faint = -1
    row, zeros = -1, [np.zeros(0, dtype=np.int64)]
    for first, block in matrix.blocks():
        with np.errstate(over="ignore"):
            half = block.astype(np.float16)
        # A sum is not finite if a part is not, and needs no array of booleans; a false alarm is checked below.
        if not np.isfinite(half.sum(axis=1, dtype=np.float32)).all():
            nan, infinite, over = np.isnan(block), np.isinf(block), np.isinf(half) & np.isfinite(block)
            for key, where in zip(bad, (nan, infinite, over), strict=True):
                bad[key] += int(where.sum())
            wrong = (nan | infinite | over).any(axis=1)
            row = first + int(np.argmax(wrong)) if row < 0 and wrong.any() else row
        zero = np.flatnonzero(~half.any(axis=1))
        if faint < 0 and len(lost := zero[block[zero].any(axis=1)]):
            faint = first + int(lost[0])
        zeros.append(first + zero)
        stream.write(memoryview(half).cast("B") if half.size else b"")
        advance(len(block))
    if row >= 0:
        what, where = "published vectors that float16 cannot hold", f"{matrix.path}, row {row}"
        found = ", ".join(f"{count:,} numbers {name}" for name, count in bad.items() if count)
        raise VixmlError(what, where=where, found=found, expected="finite numbers up to 65504", hint=HINT)
    zero = np.concatenate(zeros)
    if faint >= 0 or (len(zero) == len(matrix) and len(matrix)):
        raise VixmlError(
            "published vectors that are zero in float16",
            where=f"{matrix.path}, row {max(faint, 0)}",
            found="numbers below 3e-8" if faint >= 0 else f"all of its {len(matrix):,} rows are zero",
            expected="vectors of ordinary length; a row of exact zeros is an image that was never computed",
            hint=HINT,
        )
    return zero


# -- the matrices ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowFile:
    """A matrix (n, dim) on disk whose header and length were checked; its rows start at ``offset``."""

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    offset: int

    @classmethod
    def open(cls, path: Path | str, dtype: str, *, hint: str) -> RowFile:
        """Read the header.

        Raises:
            VixmlError: missing, not ``.npy``, another dtype, not a matrix in C order, shorter or longer than its header says.
        """
        path = Path(path)
        shape, fortran, found, offset = npy_header(path, hint)
        kind = f"{found}, {len(shape)} dimensions, {'columns' if fortran else 'rows'} first"
        what = "not a matrix of the expected kind"
        expect_equal(kind, f"{dtype}, 2 dimensions, rows first", what, where=path, hint=hint)
        size, needed = path.stat().st_size, offset + shape[0] * shape[1] * found.itemsize
        what = "a matrix is truncated" if size < needed else "a matrix is longer than its header says"
        expect_equal(f"{size:,} bytes", f"{needed:,} bytes", what, where=path, hint=hint)
        return cls(path, (shape[0], shape[1]), found, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, rows (n, dim))``, by default about 16 MB at a time; each block overwrites the previous one."""
        n, dim = self.shape
        step = n_rows or max(1, BLOCK_BYTES // max(1, dim * self.dtype.itemsize))
        buffer = np.empty((min(step, n), dim), dtype=self.dtype)
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            for first in range(0, n, step):
                block = buffer[: min(step, n - first)]
                if block.size and stream.readinto(memoryview(block).cast("B")) != block.nbytes:
                    hint = "another process may be writing it: try again"
                    raise VixmlError("a file became shorter while it was read", where=self.path, hint=hint)
                yield first, block


def npy_header(path: Path, hint: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, whether columns come first, dtype and length of the header of a ``.npy`` file.

    Raises:
        VixmlError: missing, or a header of an unknown version.
    """
    if not path.exists():
        raise VixmlError("an array is missing", where=path, hint=hint)
    with reading("not a .npy file", path, expected="a NumPy array", hint=hint), open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"format version {version[0]}.{version[1]}")
        try:
            return (*readers[version](stream), stream.tell())
        except MemoryError as error:  # of Python's parser: a header is at most 64 KB
            raise ValueError("a header that cannot be parsed") from error


# -- the maps -------------------------------------------------------------------------------------------------------


def read_row_lists(path: Path | str, n_items: int, n_rows: int) -> tuple[Ragged, dict[str, int]]:
    """Read a map.

    Returns:
        (n_items) lists over rows, each row once per list, order kept; and counts: ``items_without`` (-1, nothing
        or an empty list), ``rows_repeated`` (in one list), ``rows_unnamed`` (of the matrix).

    Raises:
        VixmlError: missing or truncated, the wrong number of items, a row that does not exist, or a pickle of anything else.
    """
    path = Path(path)
    shape, _, dtype, offset = npy_header(path, HINT_PICKLED_ROWS)
    what = "a map does not fit the corpus" if dtype == np.dtype(object) else "not a map from items to rows"
    hint = "map and corpus must be of one dataset and split"
    expect_equal(f"{dtype}, shape {shape}", f"object, shape {(n_items,)}", what, where=path, hint=hint)
    allowed = offset + SPARE_BYTES + BYTES_PER_ITEM * n_items
    if path.stat().st_size > allowed:
        raise _refused(path, f"{path.stat().st_size:,} bytes", f"at most {allowed:,} for {n_items:,} items")
    with open(path, "rb") as stream:
        stream.seek(offset)
        content = stream.read()
    return _lists(_objects(content, path, n_items), path, n_rows, most=len(content))


def _lists(items: Sequence[Any], path: Path, n_rows: int, most: int) -> tuple[Ragged, dict[str, int]]:
    """Return what :func:`read_row_lists` does; a pickle of ``most`` bytes writes a row in a byte at least."""
    values, offsets, repeated, without, total = array("q"), array("q", [0]), 0, 0, 0
    for item, found in enumerate(items):
        rows = _integers(found, path, item)
        total += len(rows)
        if total > most:  # one list may be the list of every item, at two bytes for each
            raise _refused(path, f"more than {most:,} rows in {most:,} bytes", "lists that are written out")
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
    try:
        if isinstance(found, _Record):
            found = found.integer() if found.name == "scalar" else found.array()
        if isinstance(found, list | tuple) and _Record in map(type, found):
            found = [value.integer() if isinstance(value, _Record) else value for value in found]
    except (pickle.UnpicklingError, TypeError, ValueError) as error:
        raise _refused(path, f"item {item}: {error}", "integers, one per row") from error
    if found is None or (type(found) is int and found == -1):
        return ()
    # type() and not isinstance: True is an int in Python, but not a row.
    if not isinstance(found, list | tuple) or not set(map(type, found)) <= {int}:
        what = "a map holds something other than a list of rows"
        where, expected = f"{path}, item {item}", "a list of integers, or -1 for an item without images"
        raise VixmlError(what, where=where, found=_shown(found), expected=expected, hint=HINT_PICKLED_ROWS)
    if any(not -(2**63) <= row < 2**63 for row in found):
        raise VixmlError("a map holds a number that is not a row", where=f"{path}, item {item}", hint=HINT_PICKLED_ROWS)
    return found


def _shown(found: Any) -> str:
    if isinstance(found, list | tuple):
        kinds = sorted({type(value).__name__.removeprefix("_").lower() for value in found})
        return f"a {type(found).__name__} of {', '.join(kinds)}"
    return f"{found}" if type(found) in (int, bool) else f"a value of type {type(found).__name__.lstrip('_').lower()}"


# -- the pickle -------------------------------------------------------------------------------------------------------


def _objects(content: bytes, path: Path, n_items: int) -> list[Any]:
    """Return the objects of a pickled one-dimensional array."""
    expected = "a pickled array of lists of integers, and nothing else"
    # A bad pickle may raise almost anything: any instruction can follow any other.
    with reading(REFUSED, path, expected=expected, hint=HINT_PICKLED_ROWS):
        _inspect(content)
        found = _Restricted(io.BytesIO(content)).load()
        if not isinstance(found, _Record):
            raise pickle.UnpicklingError(f"{_shown(found)} in place of an array")
        objects = found.array(objects_only=True)
        if len(objects) != n_items:
            raise pickle.UnpicklingError(f"{len(objects)} objects in place of {n_items}")
        return objects


def _refused(path: Path, found: str, expected: str) -> VixmlError:
    return VixmlError(REFUSED, where=path, found=found, expected=expected, hint=HINT_PICKLED_ROWS)


def _inspect(content: bytes) -> None:
    """Check, before any is executed, that a map needs each instruction, and no more memory than the file has bytes."""
    end = 0
    for code, argument, position in pickletools.genops(content):
        if code.name not in INSTRUCTIONS:
            raise pickle.UnpicklingError(f"the instruction {code.name} at byte {position}")
        # The standard library allocates a memo as long as the largest number of a PUT.
        if type(argument) is int and code.name in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME") and argument > len(content):
            raise pickle.UnpicklingError(f"{code.name} {argument} at byte {position}, in {len(content)} bytes")
        end = position + 1
    if end != len(content):
        raise pickle.UnpicklingError(f"{len(content) - end} bytes behind its end")


class _Restricted(pickle.Unpickler):
    """Resolve the names that a pickled array of lists needs to records; any other is an error."""

    def find_class(self, module: str, name: str) -> _Record:
        """Return a record of a name."""
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return _Record(name)


class _Record:
    """A name, the arguments of its call and its state; nothing is run.

    The methods do not recurse, however deeply a pickle nests records.
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments: Any) -> _Record:
        if self.arguments is not None:
            raise pickle.UnpicklingError("a call of a result")
        return _Record(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        if self.arguments is None or self.state is not None:
            raise pickle.UnpicklingError("a state for an object without one")
        self.state = state

    def array(self, *, objects_only: bool = False) -> list[Any]:
        """Return the contents of a one-dimensional array of objects or integers, which has the length that it states."""
        match self.name, self.arguments, self.state:
            case "_reconstruct", (_Record(name="ndarray", arguments=None), _, _), (_, (int(n),), dtype, _, content):
                if _dtype(dtype) == "O8":
                    if type(content) is not list or len(content) != n:
                        raise pickle.UnpicklingError(f"an array that does not hold the {n} objects that it states")
                    return content
                if not objects_only:
                    return _numbers(dtype, content, n)
        raise pickle.UnpicklingError("an array of another kind or shape")

    def integer(self) -> int:
        """Return a NumPy number."""
        match self.name, self.arguments:
            case "scalar", (dtype, content):
                return _numbers(dtype, content, 1)[0]
        raise pickle.UnpicklingError("something other than integers")

    def bytes(self) -> bytes:
        """Return bytes as older pickles write them: ``bytes()`` or ``_codecs.encode(text, "latin1")``."""
        match self.name, self.arguments:
            case "bytes", ():
                return b""
            case "encode", (str(text), "latin1"):
                return text.encode("latin1")
        raise pickle.UnpicklingError("something other than bytes")


def _dtype(found: Any) -> str:
    """Return the name of a dtype that was recorded, such as ``O8`` or ``<i4``."""
    match found:
        case _Record(name="dtype", arguments=("O8", *_)):
            return "O8"
        case _Record(name="dtype", arguments=(str(name), *_), state=None) if name in INTEGERS:
            return f"<{name}"
        # Version, byte order, and parts that only structures have.
        case _Record(name="dtype", arguments=(str(name), *_), state=(_, str(order), None, None, None, *_)) if (
            name in INTEGERS and order in ("<", ">", "|", "=")
        ):
            return ("<" if order in "=|" else order) + name
    raise pickle.UnpicklingError("an unknown kind of numbers")


def _numbers(dtype: Any, content: Any, n: int) -> list[int]:
    """Return ``n`` integers from bytes."""
    kind, content = np.dtype(_dtype(dtype)), content.bytes() if isinstance(content, _Record) else content
    if kind.kind not in "iu" or type(content) is not bytes:
        raise pickle.UnpicklingError("something other than integers")
    if len(content) != n * kind.itemsize:
        raise pickle.UnpicklingError(f"{len(content)} bytes for {n} integers")
    return np.frombuffer(content, dtype=kind).tolist()
