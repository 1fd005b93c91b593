"""Image embeddings: the images of each item, vectors that can be trusted, and rows read without reading ahead."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from helpers import rows_of
from hypothesis import given
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.files import load_array, save_array, write_json
from vixml.images import embeddings as embeddings_module
from vixml.images.embeddings import FORMAT, ImageEmbeddings, open_scattered, take_rows
from vixml.ragged import Ragged

# -- lists and vectors ------------------------------------------------------------------------------------------------

N = 8


def embeddings(missing: list[int] | None = None) -> ImageEmbeddings:
    vectors = np.arange(N * 4, dtype=np.float16).reshape(N, 4)
    return ImageEmbeddings(vectors, np.asarray(missing or [], dtype=np.int64), "demo", Path("embeddings"))


LISTS = st.lists(st.lists(st.integers(0, N - 1), max_size=5), max_size=9)


@given(LISTS, st.sets(st.integers(0, N - 1)), st.integers(1, 4))
def test_lists_drop_missing_images_and_then_cut(rows, missing, per_item):
    lists = embeddings(sorted(missing)).lists(Ragged.from_rows(rows, N), per_item)
    expected = [[image for image in row if image not in missing][:per_item] for row in rows]
    assert rows_of(lists) == expected
    lists.check("test")


@given(LISTS, st.integers(0, 5))
def test_shuffling_gives_every_item_the_list_of_another_item(rows, seed):
    # Each list says whose it is, so that a list that stayed is seen.
    owned = Ragged.from_rows([[i] for i in range(len(rows))], N if len(rows) <= N else len(rows))
    vectors = np.zeros((owned.n_cols, 2), dtype=np.float16)
    own = ImageEmbeddings(vectors, np.zeros(0, np.int64), "demo", Path("embeddings"))
    shuffled = own.lists(owned, 3, control="shuffled", seed=seed).values
    assert sorted(shuffled) == list(range(len(rows)))
    assert len(rows) < 2 or (shuffled != np.arange(len(rows))).all()
    again = own.lists(owned, 3, control="shuffled", seed=seed).values
    assert shuffled.tolist() == again.tolist()


def test_shuffling_moves_whole_lists_and_depends_on_the_seed():
    rows = Ragged.from_rows([[i % N, (i + 1) % N][: i % 3] for i in range(50)], N)
    plain = embeddings().lists(rows, 2)
    one, two = (rows_of(embeddings().lists(rows, 2, control="shuffled", seed=seed)) for seed in (1, 2))
    assert sorted(rows_of(plain)) == sorted(one) == sorted(two) and one != two


def test_the_constant_control_is_the_same_for_all_items_and_splits():
    rows = Ragged.from_rows([[1, 2, 3], [], [4]], N)
    others = Ragged.from_rows([[6]] * 7, N)
    same = embeddings([0, 5]).lists(rows, 2, control="constant", seed=3)
    assert same.lengths.tolist() == [2, 2, 2] and len(set(same.values.tolist())) == 2
    assert not {0, 5} & set(same.values.tolist()), "images that are not there are not drawn"
    again = embeddings([0, 5]).lists(others, 2, control="constant", seed=3)
    assert again.row(6).tolist() == same.row(0).tolist(), "of whatever split"
    none = embeddings().lists(Ragged.from_rows([[], []], N), 2, control="constant")
    assert none.lengths.tolist() == [0, 0], "labels without images stay without"
    same.check("test")


def test_lists_over_another_number_of_images_are_refused():
    with pytest.raises(VixmlError, match="do not belong together"):
        embeddings().lists(Ragged.from_rows([[0]], N + 1), 3)


def test_gather_returns_rows_in_order():
    lists = Ragged.from_rows([[2, 0], [], [7]], N)
    found = embeddings().gather(lists)
    assert found.dtype == np.float32 and found.tolist() == embeddings().vectors[[2, 0, 7]].tolist()
    assert embeddings().gather(np.array([3]), np.float16).dtype == np.float16
    assert embeddings().gather(np.zeros(0, np.int64)).shape == (0, 4)


@pytest.mark.parametrize(("row", "what"), [(-1, "out of range"), (N, "out of range"), (5, "is missing")])
def test_gather_refuses_ids_without_a_vector(row, what):
    with pytest.raises(VixmlError, match=what) as caught:
        embeddings([5]).gather(np.array([0, row]))
    assert str(row) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gather_names_the_row_of_a_bad_vector(bad):
    opened = embeddings()
    opened.vectors[6, 1] = bad
    assert opened.gather(np.array([0, 5])).shape == (2, 4)
    with pytest.raises(VixmlError, match="not finite") as caught:
        opened.gather(np.array([0, 6]))
    assert "row 6" in str(caught.value)


def test_open_checks_the_matrix_against_its_header(tmp_path):
    header = {"format": FORMAT, "n_images": N, "dim": 4, "vision": "demo", "missing": [1]}
    save_array(tmp_path / "vectors.npy", embeddings().vectors)
    write_json(tmp_path / "embeddings.json", header)
    opened = ImageEmbeddings.open(tmp_path)
    assert isinstance(opened.vectors, np.memmap) and opened.missing.tolist() == [1]
    unfit = "do not match their header"
    for change, says in (({"dim": 5}, unfit), ({"n_images": N + 1}, unfit), ({"format": "old"}, "of this version")):
        write_json(tmp_path / "embeddings.json", header | change)
        with pytest.raises(VixmlError, match=says):
            ImageEmbeddings.open(tmp_path)
    write_json(tmp_path / "embeddings.json", header)
    save_array(tmp_path / "vectors.npy", embeddings().vectors.astype(np.float32))
    with pytest.raises(VixmlError, match="do not match their header"):
        ImageEmbeddings.open(tmp_path)


# -- scattered rows ---------------------------------------------------------------------------------------------------

N_ROWS, DIM = 20_000, 1152


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> Path:
    """A file of 46 MB."""
    path = tmp_path_factory.mktemp("matrix") / "vectors.npy"
    save_array(path, np.random.default_rng(0).integers(0, 9, (N_ROWS, DIM)).astype(np.float16))
    return path


@pytest.mark.parametrize("ids", [[], [N_ROWS - 1], [7, 7, 0], [N_ROWS - 1, 0, N_ROWS // 2]])
@pytest.mark.parametrize("advised", [True, False])
def test_the_rows_equal_those_of_the_file(matrix, ids, advised, monkeypatch):
    monkeypatch.setattr(embeddings_module, "CAN_ADVISE", advised and embeddings_module.CAN_ADVISE)
    wanted = np.load(matrix)[ids]
    for rows in (open_scattered(matrix), load_array(matrix), np.load(matrix)):
        found = take_rows(rows, np.array(ids, dtype=np.int64))
        assert found.dtype == np.float16 and np.array_equal(found, wanted) and found.flags.writeable


def test_an_empty_file_has_no_rows(tmp_path):
    save_array(tmp_path / "none.npy", np.zeros((0, 4), np.float16))
    assert take_rows(open_scattered(tmp_path / "none.npy"), np.zeros(0, np.int64)).shape == (0, 4)


class Spy(mmap.mmap):
    """A map that remembers what it was advised, and refuses advice on request."""

    refuse = False

    def madvise(self, *advice):
        self.__dict__.setdefault("seen", []).append(advice)
        if self.refuse:
            raise OSError("no such advice")


@pytest.mark.skipif(not embeddings_module.CAN_ADVISE, reason="this system's maps take no advice")
@pytest.mark.parametrize("refuse", [False, True])
def test_all_rows_are_requested_before_the_first_is_read(matrix, refuse, monkeypatch):
    with open(matrix, "rb") as stream:
        mapped = Spy(stream.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.refuse = refuse
    rows = np.ndarray((N_ROWS, DIM), np.float16, mapped, offset=128)
    monkeypatch.setattr(embeddings_module, "load_array", lambda path: rows)
    ids = np.arange(N_ROWS - 1, 0, -397)
    assert np.array_equal(take_rows(open_scattered(matrix), ids), np.load(matrix)[ids])
    starts = [128 + 2 * DIM * i for i in sorted(ids.tolist())]
    wanted = [(mmap.MADV_WILLNEED, at - at % mmap.PAGESIZE, at % mmap.PAGESIZE + 2 * DIM) for at in starts]
    assert mapped.seen == [(mmap.MADV_RANDOM,), *(wanted[:1] if refuse else wanted)]


def read_from_disk(path: Path, take) -> tuple[int, int]:
    """Return what taking rows of a file costs that no cache holds: bytes from the disk, and pages waited for one by one."""

    def so_far() -> tuple[int, int]:
        read = Path("/proc/self/io").read_text(encoding="utf-8").split("\nread_bytes: ")[1].split()[0]
        return int(read), resource.getrusage(resource.RUSAGE_SELF).ru_majflt

    take(path)  # what else is read for it, a page of a library, is there by now
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = so_far()
    take(path)
    after = so_far()
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count what is read")
def test_only_requested_pages_are_read(matrix):
    ids = np.arange(50, N_ROWS, 397)
    plain, _ = read_from_disk(matrix, lambda path: load_array(path)[ids])
    _, one_by_one = read_from_disk(matrix, lambda path: open_scattered(path)[ids])
    if plain < 10 * len(ids) * mmap.PAGESIZE or one_by_one < len(ids):
        pytest.skip("this file system holds files in memory, counts nothing, or does not read ahead")
    ours, waited = read_from_disk(matrix, lambda path: take_rows(open_scattered(path), ids))
    assert ours < plain / 4, "nothing is read ahead"
    assert waited < one_by_one / 4, "rows are asked for all at once"
