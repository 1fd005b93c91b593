"""Lists of different lengths: checked against plain Python lists."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.files import read_json, save_array, write_json
from vixml.ragged import Ragged

N_COLS = 7
lists = st.lists(st.lists(st.integers(0, N_COLS - 1), max_size=5), max_size=8)


@given(lists)
def test_rows_lengths_and_counts(rows):
    ragged = Ragged.from_rows(rows, N_COLS)
    flat = [value for row in rows for value in row]
    assert rows_of(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.counts().tolist() == [flat.count(value) for value in range(N_COLS)]
    assert ragged.row_ids().tolist() == [i for i, row in enumerate(rows) for _ in row]
    assert ragged.values.dtype == np.int32 and ragged.offsets.dtype == np.int64


@given(lists, st.data())
def test_take_is_indexing(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    taken = Ragged.from_rows(rows, N_COLS, note="kept").take(wanted)
    assert rows_of(taken) == [rows[i] for i in wanted]
    assert taken.header == {"note": "kept"} and taken.n_cols == N_COLS


@given(lists)
def test_transpose_twice_sorts_each_row(rows):
    ragged = Ragged.from_rows(rows, N_COLS)
    turned = ragged.transpose()
    assert rows_of(turned) == [[i for i, row in enumerate(rows) for v in row if v == value] for value in range(N_COLS)]
    assert rows_of(turned.transpose()) == [sorted(row) for row in rows]


@settings(max_examples=20)
@given(rows=lists, mmap=st.booleans())
def test_a_folder_comes_back(tmp_path_factory, rows, mmap):
    folder = tmp_path_factory.mktemp("ragged")
    Ragged.from_rows(rows, N_COLS, tokenizer="t").save(folder)
    found = Ragged.load(folder, mmap=mmap)
    assert rows_of(found) == rows
    assert found.n_cols == N_COLS and found.header == {"tokenizer": "t"}


def test_an_id_out_of_range_names_its_row():
    with pytest.raises(VixmlError) as caught:
        Ragged.from_rows([[0], [], [2, 7]], N_COLS)
    assert caught.value.where == "<memory>, row 2" and caught.value.found == 7
    with pytest.raises(VixmlError):
        Ragged.from_rows([[-1]], N_COLS)


@pytest.fixture
def folder(tmp_path):
    Ragged.from_rows([[1, 2], [3]], N_COLS).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("offsets", [[0, 2], [0, 1, 5], [0, 3, 2], [1, 2, 3], [0, 1, 2, 3], []])
def test_altered_offsets_are_refused(folder, offsets):
    save_array(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    with pytest.raises(VixmlError, match=r"offsets do not describe the values|does not have the size") as caught:
        Ragged.load(folder)
    assert caught.value.where == folder


def test_values_cut_or_out_of_range_are_refused(folder):
    save_array(folder / "values.npy", np.array([1, 2], dtype=np.int32))
    with pytest.raises(VixmlError):
        Ragged.load(folder)
    save_array(folder / "values.npy", np.array([1, 2, 70], dtype=np.int32))
    with pytest.raises(VixmlError, match="out of range"):
        Ragged.load(folder)


def test_another_format_is_refused(folder):
    write_json(folder / "header.json", read_json(folder / "header.json") | {"format": "vixml-ragged-9"})
    with pytest.raises(VixmlError, match="version"):
        Ragged.load(folder)


@pytest.mark.parametrize("odd", [None, [], "3", 1.5, float("inf"), True])
def test_a_header_without_its_sizes_is_one_clear_error(folder, odd):
    header = read_json(folder / "header.json") | {"n_cols": odd}
    (folder / "header.json").write_text(json.dumps(header))  # also what is no JSON
    with pytest.raises(VixmlError, match="not a number of columns"):
        Ragged.load(folder)
