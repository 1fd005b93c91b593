"""The image embeddings: which images each item gets, and vectors that can be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.files import save_array, write_json
from vixml.images.embeddings import FORMAT, ImageEmbeddings
from vixml.ragged import Ragged

N = 8


def embeddings(missing: list[int] | None = None) -> ImageEmbeddings:
    vectors = np.arange(N * 4, dtype=np.float16).reshape(N, 4)
    return ImageEmbeddings(vectors, np.asarray(missing or [], dtype=np.int64), "demo", Path("embeddings"))


LISTS = st.lists(st.lists(st.integers(0, N - 1), max_size=5), max_size=9)


@given(LISTS, st.sets(st.integers(0, N - 1)), st.integers(1, 4))
def test_lists_drop_missing_images_and_then_cut(rows, missing, per_item):
    lists = embeddings(sorted(missing)).lists(Ragged.from_rows(rows, N), per_item)
    expected = [[image for image in row if image not in missing][:per_item] for row in rows]
    assert [lists.row(i).tolist() for i in range(len(lists))] == expected
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
    one, two = (
        embeddings().lists(rows, 2, control="shuffled", seed=1),
        embeddings().lists(rows, 2, control="shuffled", seed=2),
    )

    def contents(lists: Ragged) -> list[list[int]]:
        return [lists.row(i).tolist() for i in range(len(lists))]

    assert sorted(contents(plain)) == sorted(contents(one)) == sorted(contents(two))
    assert contents(one) != contents(two)


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
    held = embeddings()
    held.vectors[6, 1] = bad
    assert held.gather(np.array([0, 5])).shape == (2, 4)
    with pytest.raises(VixmlError, match="not finite") as caught:
        held.gather(np.array([0, 6]))
    assert "row 6" in str(caught.value)


def test_open_checks_the_matrix_against_its_header(tmp_path):
    header = {"format": FORMAT, "n_images": N, "dim": 4, "vision": "demo", "missing": [1]}
    save_array(tmp_path / "vectors.npy", embeddings().vectors)
    write_json(tmp_path / "embeddings.json", header)
    opened = ImageEmbeddings.open(tmp_path)
    assert isinstance(opened.vectors, np.memmap) and opened.missing.tolist() == [1]
    for change in ({"dim": 5}, {"n_images": N + 1}):
        write_json(tmp_path / "embeddings.json", header | change)
        with pytest.raises(VixmlError, match="do not match their header"):
            ImageEmbeddings.open(tmp_path)
    write_json(tmp_path / "embeddings.json", header | {"format": "old"})
    with pytest.raises(VixmlError, match="of this version"):
        ImageEmbeddings.open(tmp_path)
    write_json(tmp_path / "embeddings.json", header)
    save_array(tmp_path / "vectors.npy", embeddings().vectors.astype(np.float32))
    with pytest.raises(VixmlError, match="do not match their header"):
        ImageEmbeddings.open(tmp_path)
