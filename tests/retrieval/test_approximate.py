"""Indexes that look at a part of the labels: what they miss, and that all else is as in the exact search."""

import contextlib

import numpy as np
import pytest
import torch

from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval import approximate
from vixml.retrieval.approximate import GPU_MB, Index, Searcher
from vixml.retrieval.search import decide, search


def clustered(n: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim))
    vectors = centres[rng.integers(0, 40, n)] + 0.7 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES, LABELS = clustered(200, seed=1), clustered(3000, seed=2)


def find(kind: str, recall: float = 0.95, queries=QUERIES, labels=LABELS, k: int = 20, filter=None, **how):
    return Searcher(kind, recall, seed=3, **how)(queries, labels, k, filter)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_wanted_share_is_found_and_scores_are_exact(kind):
    facts = []
    ids, scores = find(kind, facts=facts)
    best, best_scores = search(QUERIES, LABELS, 20)
    shared = np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(ids, best, strict=True)])
    assert 0.95 <= shared <= 1
    exact = np.einsum("qkd,qd->qk", LABELS[ids].astype(np.float64), QUERIES.astype(np.float64)).astype(np.float32)
    assert np.array_equal(scores, exact) and (np.diff(scores, axis=1) <= 0).all()
    assert (scores[:, 0] <= best_scores[:, 0]).all()
    (said,) = facts
    assert said["kind"] == kind and said["n"] == 3000 and said["build_seconds"] > 0
    assert said["bytes"] > LABELS.nbytes, "the vectors are in it"
    assert [step["effort"] for step in said["curve"]] == sorted({step["effort"] for step in said["curve"]})
    assert said["curve"][-1]["recall"] >= 0.95 and all(step["recall"] < 0.95 for step in said["curve"][:-1])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_same_seed_same_ranking(kind):
    first = find(kind)
    for again in (find(kind), find(kind, memory_mb=0.1)):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_everything_is_found_if_that_is_asked_for(kind):
    ids, scores = find(kind, recall=1.0, queries=QUERIES[:30], labels=LABELS[:400])
    expected = search(QUERIES[:30], LABELS[:400], 20)
    if kind == "ivf":  # all lists; a graph may have labels that no walk reaches
        assert np.array_equal(ids, expected[0])
    same = ids == expected[0]
    assert same.mean() > 0.99 and np.array_equal(scores[same], expected[1][same])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_filtered_pairs_leave_room_for_others(kind):
    best = search(QUERIES, LABELS, 30)[0]
    filter = Ragged.from_rows([np.sort(row[: i % 31]) for i, row in enumerate(best)], n_cols=3000)
    ids, _ = find(kind, filter=filter)
    assert (ids >= 0).all()
    assert not any(np.isin(ids[row], filter.row(row)).any() for row in range(200))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("n_labels", [1, 2, 19, 50])
def test_rankings_are_as_long_as_there_are_labels(kind, n_labels):
    ids, scores = find(kind, labels=LABELS[:n_labels], queries=QUERIES[:1])
    expected = search(QUERIES[:1], LABELS[:n_labels], 20)
    assert ids.shape == (1, 20) and (ids >= 0).sum() == min(20, n_labels)
    if n_labels <= 20:  # then there is nothing to miss
        assert np.array_equal(ids, expected[0]) and np.array_equal(scores, expected[1])


def test_half_precision_labels_and_no_queries():
    ids, _ = find("ivf", labels=LABELS.astype(np.float16))
    assert (ids >= 0).all()
    assert find("hnsw", queries=QUERIES[:0])[0].shape == (0, 20)


def test_proposals_are_ordered_as_by_the_exact_search():
    # Integers: nearly everything is tied, and -1 stands between.
    rng = np.random.default_rng(0)
    queries, labels = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (7, 50))
    near = np.stack([rng.permutation(50) for _ in range(7)])
    filter = Ragged.from_rows([np.flatnonzero(rng.random(50) < 0.2) for _ in range(7)], n_cols=50)
    for k in (1, 10, 60):
        found, exact = decide(queries, labels, near, k, filter), search(queries, labels, k, filter=filter)
        assert np.array_equal(found[0], exact[0]) and np.array_equal(found[1], exact[1])
    near[near >= 25] = -1
    ids, _ = decide(queries, labels, near, 60)
    assert np.array_equal(ids[:, :25], search(queries, labels[:25], 25)[0]) and (ids[:, 25:] == -1).all()


def test_a_longer_look_finds_more():
    index = Index(LABELS, "ivf", seed=0)
    curve = index.tune(QUERIES, LABELS, 20, 1.0, seed=0)
    shares = [step["recall"] for step in curve]
    assert shares == sorted(shares) and shares[0] < shares[-1] == 1.0


def test_a_run_searches_exactly_unless_it_names_an_index():
    exact, index = Searcher(), Searcher("ivf", 0.9)
    assert np.array_equal(exact(QUERIES, LABELS, 5)[0], search(QUERIES, LABELS, 5)[0]) and exact.facts == []
    index(QUERIES, LABELS, 5)
    assert [fact["kind"] for fact in index.facts] == ["ivf"]
    with pytest.raises(VixmlError, match="no such index"):
        Searcher("flat")


@pytest.mark.parametrize(("given", "free", "tried"), [
    (512, GPU_MB, [GPU_MB]), (512, 3000, [GPU_MB, GPU_MB / 2, GPU_MB / 4]), (2 * GPU_MB, 2 * GPU_MB, [2 * GPU_MB]),
    (6000, 3000, [GPU_MB, 6000]),
])  # fmt: skip
def test_a_gpu_gives_more_memory_as_far_as_it_has_it(given, free, tried, monkeypatch):
    asked = []

    def on_gpu(*vectors, memory_mb, **how):
        asked.append(memory_mb)
        if memory_mb > free:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(approximate, "search", on_gpu)
    with contextlib.nullcontext() if free >= min(tried) else pytest.raises(torch.OutOfMemoryError):
        Searcher(device="cuda:0", memory_mb=given)(QUERIES, LABELS, 5)
    assert asked == tried


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_long_filter_of_one_query_widens_no_others_search(kind, monkeypatch):
    """That query is searched exactly; and so is one that wants more than an index on a GPU proposes."""
    asked, plain = [], Index.propose
    monkeypatch.setattr(Index, "propose", lambda index, queries, k: asked.append(k) or plain(index, queries, k))
    monkeypatch.setattr(approximate, "MOST_BANNED", 40)
    best = search(QUERIES[:9], LABELS, 500)[0]
    filter = Ragged.from_rows([np.sort(best[0]), *([[]] * 8)], n_cols=3000)
    ids, scores = find(kind, queries=QUERIES[:9], filter=filter)
    expected = search(QUERIES[:9], LABELS, 20, filter=filter)
    assert max(asked) == 20 + approximate.SPARE + 40
    assert np.array_equal(ids[0], expected[0][0]) and np.array_equal(scores[0], expected[1][0])

    def on_gpu(index, *given):
        build(index, *given)
        index.most, index.widest = min(index.most, 8), 60

    asked.clear()
    build = Index.__init__
    monkeypatch.setattr(Index, "__init__", on_gpu)
    ids, scores = find(kind, queries=QUERIES[:9], k=100, recall=1.0)
    expected = search(QUERIES[:9], LABELS, 100)
    assert max(asked) == 60 and np.array_equal(ids, expected[0]) and np.array_equal(scores, expected[1])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_row_that_is_not_finite_is_named(kind):
    queries = np.tile(QUERIES, (4, 1))
    queries[[3, 650]] = np.nan
    with pytest.raises(VixmlError) as error:
        Searcher(kind)(queries, LABELS, 5)
    assert error.value.where == "queries, row 3"
