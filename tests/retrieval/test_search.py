"""Exact search against a full sort, whatever the blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval import search as module
from vixml.retrieval.search import block_sizes, propose, search

WAYS = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "held": (torch.bfloat16, True)}


@pytest.fixture(params=WAYS, autouse=True, scope="module")
def coarse(request):
    """Propose in either type, whichever this processor would choose; from labels held as a GPU would hold them, too."""
    dtype, held = WAYS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "coarse_type", lambda device: dtype)
        patch.setattr(module, "WORTH_ROUNDING", (0, 1))
        if held:
            patch.setattr(module, "on_device", lambda labels, device: torch.from_numpy(np.array(labels)))
        yield dtype


BLOCKS = [(1, 1), (2, 3), (7, 50), (1000, 1000)]


def naive(queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None = None):
    """Sort all labels of each query by (float64 product rounded to float32, id)."""
    ids, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    for row, query in enumerate(queries):
        banned = set() if filter is None else set(filter.row(row).tolist())
        ranked = sorted(
            (-float(np.float32(query.astype(np.float64) @ label.astype(np.float64))), i)
            for i, label in enumerate(labels)
            if i not in banned
        )[:k]
        ids[row, : len(ranked)] = [i for _, i in ranked]
        scores[row, : len(ranked)] = [-s for s, _ in ranked]
    return ids, scores


def in_blocks(monkeypatch, sizes):
    monkeypatch.setattr(module, "block_sizes", lambda *_: sizes)


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("sizes", BLOCKS)
@pytest.mark.parametrize("k", [1, 5, 60, 200])
def test_ties_go_to_the_smaller_id_whatever_the_blocks(monkeypatch, sizes, k):
    # Small integers: every product is exact, and most of them are tied, far more than the spare proposals.
    rng = np.random.default_rng(0)
    queries = rng.integers(-1, 2, (9, 4)).astype(np.float32)
    labels = rng.integers(-1, 2, (130, 4)).astype(np.float32)
    in_blocks(monkeypatch, sizes)
    ids, scores = search(queries, labels, k)
    expected_ids, expected_scores = naive(queries, labels, k)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("sizes", BLOCKS)
def test_filtered_pairs_leave_room_for_others(monkeypatch, sizes):
    rng = np.random.default_rng(1)
    queries, labels = unit(rng, 6, 8), unit(rng, 70, 8)
    # From no filtered label to all but three.
    banned = [rng.permutation(70)[:count] for count in (0, 1, 5, 40, 67, 70)]
    filter = Ragged.from_rows([np.sort(row) for row in banned], n_cols=70)
    in_blocks(monkeypatch, sizes)
    ids, scores = search(queries, labels, 10, filter=filter)
    expected_ids, expected_scores = naive(queries, labels, 10, filter)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(scores, expected_scores)
    assert (ids[:4] >= 0).all() and (ids[4] >= 0).sum() == 3 and (ids[5] == -1).all()


def test_the_result_does_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(2)
    # 384 values round differently in every block shape, and pairs of equal and of nearly equal labels lie side by side.
    queries, labels = unit(rng, 40, 384), unit(rng, 900, 384)
    labels[300:600] = labels[:300]
    labels[600:] = labels[:300] + rng.standard_normal((300, 384)).astype(np.float32) * 1e-9
    results = []
    for sizes in [(1, 900), (40, 7), (13, 333), (40, 900)]:
        in_blocks(monkeypatch, sizes)
        results.append(search(queries, labels, 100))
    for ids, scores in results[1:]:
        assert np.array_equal(ids, results[0][0])
        assert np.array_equal(scores, results[0][1])
    exact = queries.astype(np.float64) @ labels.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :100]
    assert np.allclose(results[0][1], best, rtol=0, atol=1e-7)


def test_a_collapsed_model_is_still_searched_exactly(monkeypatch):
    # All labels alike: no number of spare proposals is enough, and the ids decide.
    label = unit(np.random.default_rng(3), 1, 16)
    in_blocks(monkeypatch, (4, 33))
    ids, scores = search(unit(np.random.default_rng(4), 5, 16), np.repeat(label, 200, axis=0), 7)
    assert (ids == np.arange(7)).all()
    assert (scores == scores[:, :1]).all()
    filter = Ragged.from_rows([[0, 2], [], [199], list(range(196)), [1]], n_cols=200)
    ids, _ = search(unit(np.random.default_rng(4), 5, 16), np.repeat(label, 200, axis=0), 7, filter=filter)
    assert ids[[0, 3, 4]].tolist() == [[1, *range(3, 9)], [196, 197, 198, 199, -1, -1, -1], [0, *range(2, 8)]]
    zeros, _ = search(np.zeros((1, 16), dtype=np.float32), np.repeat(label, 200, axis=0), 7)
    assert zeros[0].tolist() == list(range(7))


@settings(deadline=None, max_examples=60)
@given(*(st.integers(*bounds) for bounds in ((0, 5), (0, 90), (1, 6), (1, 50), (0, 10**6))), st.booleans())
def test_agrees_with_a_full_sort(n, m, dim, k, seed, filtered):
    rng = np.random.default_rng(seed)
    queries, labels = (rng.integers(-2, 3, (rows, dim)).astype(np.float32) / 4 for rows in (n, m))
    filter = Ragged.from_rows([np.flatnonzero(rng.random(m) < 0.3) for _ in range(n)], n_cols=m) if filtered else None
    expected_ids, expected_scores = naive(queries, labels, k, filter)
    ids, scores = search(queries, labels, k, filter=filter)
    assert np.array_equal(ids, expected_ids) and np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e4, 1e25])
@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (3, 50, 7), (20, 1000, 96)])
def test_the_bound_of_the_proposals_holds(coarse, scale, n, m, dim):
    rng = np.random.default_rng(5)
    queries = torch.from_numpy(unit(rng, n, dim))
    labels = (rng.standard_normal((m, dim)) * rng.exponential(size=(m, 1)) * scale).astype(np.float32)
    found = propose(queries, labels, None, min(m, 9), 64, coarse, None)
    true = (queries.double() @ torch.from_numpy(labels).double().T).gather(1, found.ids)
    assert (found.at_least() <= true).all() and (true <= found.at_most()).all()
    if scale == 1.0:  # and it says something
        assert (found.at_most() - found.at_least()).max() < 0.1 * np.linalg.norm(labels, axis=1).max()


def test_many_labels_are_sought_in_groups(coarse):
    # More groups than twice the proposals, and a number of labels that fills no whole group.
    rng = np.random.default_rng(6)
    queries, labels = unit(rng, 70, 24), unit(rng, 9001, 24)
    filter = Ragged.from_rows([np.flatnonzero(rng.random(9001) < 0.2) for _ in range(70)], n_cols=9001)
    ids, scores = search(queries, labels, 10, filter=filter)
    products = (queries.astype(np.float64) @ labels.astype(np.float64).T).astype(np.float32)
    for row in range(70):
        products[row, filter.row(row)] = -np.inf
    assert np.array_equal(ids, np.argsort(-products, axis=1, kind="stable")[:, :10])
    assert np.array_equal(scores, np.take_along_axis(products, ids.astype(np.int64), axis=1))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing_and_are_given_back(threads):
    rng, before = np.random.default_rng(7), torch.get_num_threads()
    queries, labels = unit(rng, 33, 40), unit(rng, 700, 40)
    expected = search(queries, labels, 20)
    try:
        torch.set_num_threads(threads)
        for ours, first in zip(search(queries, labels, 20), expected, strict=True):
            assert np.array_equal(ours, first)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_labels_held_for_many_searches(monkeypatch, dtype):
    rng = np.random.default_rng(8)
    queries, labels = unit(rng, 5, 12), unit(rng, 90, 12).astype(dtype)
    looked = []
    monkeypatch.setattr(module, "check_rows", lambda name, array: looked.append(name))
    expected = search(queries, labels, 7)
    for held in (labels, torch.from_numpy(labels)):
        for ours, first in zip(search(queries, held, 7, checked=True), expected, strict=True):
            assert np.array_equal(ours, first)
    assert looked == ["queries", "labels", "queries", "queries"]


def test_read_only_float16_and_one_query():
    labels = np.eye(3, dtype=np.float16)
    labels.flags.writeable = False
    ids, scores = search(np.float32([[0, 1, 0.5]]), labels, 2)
    assert ids.tolist() == [[1, 2]] and scores.tolist() == [[1.0, 0.5]]


def test_the_callers_precision_setting_is_kept():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        search(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("memory_mb", [16, 64, 512])
@pytest.mark.parametrize("m", [4_000, 131_073, 1_305_265])
def test_blocks_stay_within_the_memory(memory_mb, m):
    q_step, l_step = block_sizes(10**6, m, 384, 132, memory_mb)
    assert 1 <= l_step <= m
    products_and_labels = 2 * q_step * l_step + 2 * l_step * 384
    proposals = 2 * q_step * 132 * 12
    assert products_and_labels + proposals <= memory_mb * 2**20


def test_bad_input_is_named():
    good = np.eye(3, dtype=np.float32)
    for name, value in (("labels", np.nan), ("queries", np.inf)):
        bad = {"queries": good, "labels": good} | {name: np.where(np.arange(9).reshape(3, 3) == 6, value, good)}
        with pytest.raises(VixmlError, match="not finite") as error:
            search(**{key: rows.astype(np.float32) for key, rows in bad.items()}, k=1)
        assert error.value.where == f"{name}, row 2"
    for labels, k, filter, says in (
        (good[:, :2], 1, None, "not vectors of one length"),
        (good.astype(np.float64), 1, None, "unexpected type"),
        (good, 0, None, "one label or more"),
        (good, 1, Ragged.from_rows([[0]], n_cols=3), "does not fit"),
    ):
        with pytest.raises(VixmlError, match=says):
            search(good, labels, k, filter=filter)
