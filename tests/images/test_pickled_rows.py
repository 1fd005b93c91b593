"""A published map is read as data: what a pickle would do to the machine is refused before anything runs."""

from __future__ import annotations

import io
import os
import pickle
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.images.import_vectors import read_row_lists

LISTS = st.lists(st.one_of(st.just(-1), st.none(), st.lists(st.integers(0, 70_000), max_size=4)), max_size=12)


def objects(rows) -> np.ndarray:
    array = np.empty(len(rows), dtype=object)
    for i, item in enumerate(rows):
        array[i] = item
    return array


def write(path: Path, content: bytes, n: int = 1) -> Path:
    """Write a pickle behind the header of an array of n objects."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (n,)})
    path.write_bytes(header.getvalue() + content)
    return path


def refused(path: Path, n: int = 1) -> VixmlError:
    with pytest.raises(VixmlError) as error:
        read_row_lists(path, n, 10)
    assert str(path) in str(error.value.where) and error.value.hint
    return error.value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@given(rows=LISTS)
def test_arrays_pickled_by_numpy_are_read_back(protocol, rows, tmp_path_factory):
    path = write(tmp_path_factory.getbasetemp() / "map.npy", pickle.dumps(objects(rows), protocol), len(rows))
    found, counts = read_row_lists(path, len(rows), 70_001)
    expected = [list(dict.fromkeys(item)) if isinstance(item, list) else [] for item in rows]
    assert [found.row(i).tolist() for i in range(len(rows))] == expected
    assert counts["items_without"] == sum(not item for item in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["i1", "<i4", "<i8", ">i8", "u2", object])
def test_rows_may_be_numpy_arrays_or_scalars(tmp_path, protocol, kind):
    rows = [np.array([3, 1], dtype=kind), [np.int64(2), np.uint8(7)], np.zeros(0, dtype=kind), -1]
    path = write(tmp_path / "map.npy", pickle.dumps(objects(rows), protocol), 4)
    found, _ = read_row_lists(path, 4, 10)
    assert [found.row(i).tolist() for i in range(4)] == [[3, 1], [2, 7], [], []]


def test_module_names_of_older_and_newer_numpy_are_accepted(tmp_path):
    content = pickle.dumps(objects([[1]]), 3)
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_row_lists(write(tmp_path / "map.npy", old), 1, 2)[0].row(0).tolist() == [1]


# -- malice -----------------------------------------------------------------------------------------------------------


class Evil:
    """Pickles as a call of whatever it is given."""

    def __init__(self, call, *arguments):
        self.how = call, arguments

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [True, False], ids=["in the array", "in its place"])
def test_calls_of_other_functions_do_not_run(tmp_path, protocol, inside):
    mark = tmp_path / "it-ran"
    for evil in (
        Evil(os.system, f"touch {shlex.quote(str(mark))}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(open, str(mark), "w"),
        Evil(np.save, str(mark), 1),
        Evil(np.fromfile, "/etc/hostname"),
    ):
        content = pickle.dumps(objects([[1, evil]]) if inside else evil, protocol)
        error = refused(write(tmp_path / "map.npy", content))
        assert error.what == "a pickle that is not read"
        assert "the name" in error.found or "the instruction" in error.found
    assert not mark.exists() and not mark.with_suffix(".npy").exists()
    # The same bytes do run where they are trusted: the test would see it.
    pickle.loads(pickle.dumps(Evil(os.system, f"touch {shlex.quote(str(mark))}"), protocol))
    assert mark.exists()


def op(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


NEW = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


@pytest.mark.parametrize(
    "content",
    [
        op(name("numpy.core.multiarray", "fromfile")),
        op(name("numpy", "ndarray.tofile")),
        op(name("numpy.core.multiarray", "_reconstruct.__globals__")),
        op(name("builtins", "getattr")),
        op(name("numpy.core.multiarray", "scalar"), b"}b"),  # a state for a function
        op(b"\x80\x02]", name("numpy", "dtype"), b"\x8c\x02O8\x85R}b"),
        op(b"]]a\x81"),  # NEWOBJ
        op(b"\x82\x01"),  # EXT1
        op(b"Vid\nP"),
        op(b"(i__main__\nx\n"),
        op(b"\x97"),  # NEXT_BUFFER
        op(b"}"),
        op(b"G@\x00\x00\x00\x00\x00\x00\x00"),
        op(b"]r\xff\xff\xff\xff"),  # a memo of 64 GB
        op(b"]p999999999999\n"),
        op(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f]"),
        op(b"B\xff\xff\xff\x7fabc"),
        op(b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00abc"),
        op(NEW),  # an array that was never filled
        op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89C\x08ABCDEFGHtb"),  # bytes for objects
        op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]tb"),  # fewer objects than said
        op(NEW, b"(K\x01J\xff\xff\xff\x7f\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]tb"),
        op(name("numpy", "dtype"), b"\x8c\x02V8\x85R"),
        op(name("_codecs", "encode"), b"\x8c\x01a\x8c\x03rot\x86R"),
        b"\x80\x04]",
        b"\x80\x04].]",
        b"",
        b"\xff\xff",
        b"\x80\x04R.",
        b"\x80\x04h\x05.",
    ],
)  # fmt: skip
def test_other_instructions_and_states_are_refused(tmp_path, content):
    assert refused(write(tmp_path / "map.npy", content)).what == "a pickle that is not read"


def array_of(item: bytes) -> bytes:
    """Return the pickle of an array of one object."""
    return op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]", item, b"atb")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (b"]" * 20_000 + b"a" * 19_999, "a list of list"),
        (b"]\x88a", "a list of bool"),
        (b"\x88", "True"),
        (b"K\x05", "5"),
        (b"\x8c\x01a", "str"),
        (b"]2aa", None),  # a list that holds itself: DUP is not among the instructions
        (b"]\x94h\x00a", "a list of list"),
        (b"]\x8a\x09" + b"\xff" * 8 + b"\x7fa", None),
    ],
    ids=["deep", "true in a list", "true", "a bare number", "text", "dup", "itself", "huge"],
)
def test_an_item_must_be_a_list_of_rows(tmp_path, item, said):
    error = refused(write(tmp_path / "map.npy", array_of(item)))
    assert said is None or said in error.found


def test_a_map_too_large_for_its_items_is_refused(tmp_path):
    path = write(tmp_path / "map.npy", b"\x80\x04" + b"]" * 200_000 + b".")
    assert "at most" in refused(path).expected


def test_reading_many_lists_is_fast(tmp_path):
    """Ten thousand lists in a fraction of a second; a quadratic step would show."""
    rows = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(10_000)]
    path = write(tmp_path / "map.npy", pickle.dumps(objects(rows), 3), 10_000)
    found, counts = read_row_lists(path, 10_000, 30_001)
    assert found.values.tolist() == list(range(30_000)) and counts["rows_unnamed"] == 1


def test_an_array_of_numbers_is_refused(tmp_path):
    np.save(tmp_path / "map.npy", np.arange(3))
    assert "not a map" in refused(tmp_path / "map.npy", 3).what
    (tmp_path / "map.npy").write_bytes(struct.pack("<8s", b"\x93NUMPY\x03\x00") + b"\x00" * 20)
    assert refused(tmp_path / "map.npy", 3).what == "not a .npy file"
