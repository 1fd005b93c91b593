"""Rows that lie scattered in a file: the same rows as any way gives, and no more read from the disk than their pages."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from vixml.files import load_array, save_array
from vixml.images import embeddings
from vixml.images.embeddings import PAGE, PAGES_A_REQUEST, open_scattered, requests, take_rows

N, DIM = 20_000, 1152


@pytest.mark.parametrize("width", [2, 2304, PAGE, 3 * PAGE + 1, 40 * PAGE])
@pytest.mark.parametrize("header", [0, 128, PAGE])
@pytest.mark.parametrize("ids", [[], [0], [5, 5], [3, 0, 1, 2], range(200), range(0, 400, 7)])
def test_requests_cover_every_page_of_the_rows_exactly_once(ids, header, width):
    naive = {byte // PAGE for i in ids for byte in (*range(header + i * width, header + (i + 1) * width, PAGE),
                                                    header + (i + 1) * width - 1)}  # fmt: skip
    found = list(zip(*requests(np.array(list(ids), dtype=np.int32), header, width), strict=True))
    assert [page for start, stop in found for page in range(start, stop)] == sorted(naive)
    assert all(0 < stop - start <= PAGES_A_REQUEST for start, stop in found)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> Path:
    """A file of 46 MB."""
    path = tmp_path_factory.mktemp("matrix") / "vectors.npy"
    save_array(path, np.random.default_rng(0).integers(0, 9, (N, DIM)).astype(np.float16))
    return path


@pytest.mark.parametrize("ids", [[], [N - 1], [7, 7, 0], [N - 1, 0, N // 2]])
@pytest.mark.parametrize("advised", [True, False])
def test_the_rows_equal_those_of_the_file(matrix, ids, advised, monkeypatch):
    monkeypatch.setattr(embeddings, "CAN_ADVISE", advised and embeddings.CAN_ADVISE)
    wanted = np.load(matrix)[ids]
    for rows in (open_scattered(matrix), load_array(matrix), np.load(matrix)):
        found = take_rows(rows, np.array(ids, dtype=np.int64))
        assert found.dtype == np.float16 and np.array_equal(found, wanted) and found.flags.writeable


def test_an_empty_file_has_no_rows(tmp_path):
    save_array(tmp_path / "none.npy", np.zeros((0, 4), np.float16))
    assert take_rows(open_scattered(tmp_path / "none.npy"), np.zeros(0, np.int64)).shape == (0, 4)


class Spy(mmap.mmap):
    """A map that remembers what it was advised, and refuses advice if told so."""

    refuse = False

    def madvise(self, *advice):
        self.__dict__.setdefault("seen", []).append(advice)
        if self.refuse:
            raise OSError("no such advice")


@pytest.mark.skipif(not embeddings.CAN_ADVISE, reason="this system's maps take no advice")
@pytest.mark.parametrize("refuse", [False, True])
def test_all_rows_are_requested_before_the_first_is_read(matrix, refuse, monkeypatch):
    with open(matrix, "rb") as stream:
        held = Spy(stream.fileno(), 0, access=mmap.ACCESS_READ)
    held.refuse = refuse
    rows = np.ndarray((N, DIM), np.float16, held, offset=128)
    monkeypatch.setattr(embeddings, "load_array", lambda path: rows)
    ids = np.arange(N - 1, 0, -397)
    assert np.array_equal(take_rows(open_scattered(matrix), ids), np.load(matrix)[ids])
    pages = list(zip(*requests(ids, 128, 2 * DIM), strict=True))
    wanted = [(mmap.MADV_WILLNEED, PAGE * a, min(PAGE * b, len(held)) - PAGE * a) for a, b in pages]
    assert held.seen == [(mmap.MADV_RANDOM,), *(wanted[:1] if refuse else wanted)]


def read_from_disk(path: Path, rows_of) -> tuple[int, int]:
    """Return what taking rows of a file costs that no cache holds: bytes from the disk, and pages waited for one by one."""

    def so_far() -> tuple[int, int]:
        told = Path("/proc/self/io").read_text(encoding="utf-8").split("\nread_bytes: ")[1].split()[0]
        return int(told), resource.getrusage(resource.RUSAGE_SELF).ru_majflt

    rows_of(path)  # what else is read for it, a page of a library, is there by now
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = so_far()
    rows_of(path)
    after = so_far()
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count what is read")
def test_only_requested_pages_are_read(matrix):
    ids = np.arange(50, N, 397)
    plain, _ = read_from_disk(matrix, lambda path: load_array(path)[ids])
    _, one_by_one = read_from_disk(matrix, lambda path: open_scattered(path)[ids])
    if plain < 10 * len(ids) * PAGE or one_by_one < len(ids):
        pytest.skip("this file system holds files in memory, counts nothing, or does not read ahead")
    ours, waited = read_from_disk(matrix, lambda path: take_rows(open_scattered(path), ids))
    assert ours < plain / 4, "nothing is read ahead"
    assert waited < one_by_one / 4, "rows are asked for all at once"
