"""Voting and popularity against plain loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rankings import agree

from vixml.config.run import Inference
from vixml.errors import VixmlError
from vixml.images.embeddings import ImageEmbeddings
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.vote import Votes, knn_vote, kth_largest, popularity, with_images


def knn(neighbours, temperature, top_k):
    return Inference(method="knn", neighbours=neighbours, temperature=temperature, top_k=top_k)


def naive_votes(queries, voters, labels, neighbours, temperature, filter=None):
    """Return per query a dict of the score of every label that gets a vote."""
    result = []
    for row, query in enumerate(queries):
        scores = [float(np.float32(query.astype(np.float64) @ voter.astype(np.float64))) for voter in voters]
        nearest = sorted(range(len(voters)), key=lambda i: (-scores[i], i))[:neighbours]
        top = max((scores[i] for i in nearest), default=0.0)
        weight = {i: np.exp((scores[i] - top) / temperature) for i in nearest}
        votes: dict[int, float] = {}
        for i in nearest:
            for label in labels.row(i).tolist():
                votes[label] = votes.get(label, 0.0) + weight[i] / sum(weight.values())
        if filter is not None:
            votes = {label: vote for label, vote in votes.items() if label not in filter.row(row)}
        result.append(votes)
    return result


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5), st.integers(0, 12), st.integers(1, 15), st.integers(1, 8), st.integers(0, 10**6), st.booleans(),
    st.sampled_from([1e-4, 1e-2, 64]),
)  # fmt: skip
def test_agrees_with_loops(n, n_voters, neighbours, top_k, seed, filtered, memory_mb):
    rng = np.random.default_rng(seed)
    queries, voters = (rng.integers(-2, 3, (rows, 3)).astype(np.float32) / 2 for rows in (n, n_voters))
    labels = Ragged.from_rows([np.flatnonzero(rng.random(6) < 0.4) for _ in range(n_voters)], n_cols=6)
    filter = Ragged.from_rows([np.flatnonzero(rng.random(6) < 0.3) for _ in range(n)], n_cols=6) if filtered else None
    how, search = knn(neighbours, 0.3, top_k), Searcher(memory_mb=memory_mb)
    ids, scores = knn_vote(queries, voters, labels, how, filter=filter, search=search)
    expected = naive_votes(queries, voters, labels, neighbours, 0.3, filter)
    assert ids.shape == scores.shape == (n, top_k) and ids.dtype == np.int32 and scores.dtype == np.float32
    agree(ids, scores, expected)


def test_hand_worked():
    voters = np.float32([[1, 0], [0, 1], [0.6, 0.8]])
    labels = Ragged.from_rows([[0], [1, 2], [2]], n_cols=4)
    ids, scores = knn_vote(np.float32([[1, 0]]), voters, labels, knn(2, 0.4, 3))
    # Neighbours 0 (score 1) and 2 (0.6): weights e^0 and e^(-0.4 / 0.4), normalised: 0.7311 and 0.2689.
    assert ids.tolist() == [[0, 2, -1]]
    assert scores[0, :2] == pytest.approx([0.7311, 0.2689], abs=1e-4)


def test_results_do_not_depend_on_chunks():
    rng = np.random.default_rng(5)
    queries, voters = (rng.standard_normal((n, 24)).astype(np.float32) for n in (50, 300))
    labels = Ragged.from_rows([rng.choice(40, rng.integers(0, 7), replace=False) for _ in range(300)], n_cols=40)
    first = knn_vote(queries, voters, labels, knn(30, 2.0, 20))
    for memory_mb in (0.02, 0.3, 3):
        again = knn_vote(queries, voters, labels, knn(30, 2.0, 20), search=Searcher(memory_mb=memory_mb))
        assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_voters_and_labels_must_match():
    with pytest.raises(VixmlError, match="voters do not belong together"):
        knn_vote(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), Ragged.from_rows([[0]], 1), knn(1, 1.0, 1))


def test_popularity_by_count_then_id_with_filters():
    labels = Ragged.from_rows([[4, 1], [4, 0], [1], [2]], n_cols=6)
    ids, scores = popularity(labels, 3, 6, filter=Ragged.from_rows([[], [1, 5], [4]], n_cols=6))
    # Counts: label 1 and 4 twice, 0 and 2 once, 3 and 5 never.
    assert ids.tolist() == [[1, 4, 0, 2, -1, -1], [4, 0, 2, -1, -1, -1], [1, 0, 2, -1, -1, -1]]
    assert scores[1].tolist() == [0.5, 0.25, 0.25, *[-np.inf] * 3]
    assert popularity(labels, 1, 2, filter=Ragged.from_rows([[4]], n_cols=6))[0].tolist() == [[1, 0]]


def test_images_are_appended_as_unit_means():
    vectors = np.array([[3, 0], [0, 4], [0, 0], [5, 0]], dtype=np.float16)
    embeddings = ImageEmbeddings(vectors, np.array([], dtype=np.int64), "demo", Path("embeddings"))
    lists = Ragged.from_rows([[0, 1], [], [2], [3]], n_cols=4)
    text = np.float32([[2, 0], [1, 0], [0, 1], [0, 3]])
    for memory_mb in (256, 1e-5):
        found = with_images(text, embeddings, lists, 0.36, memory_mb)
        half = np.sqrt(0.5)
        # sqrt(1 - w) = 0.8, sqrt(w) = 0.6. Item 0: the mean of two directions, whatever their lengths; item 1 has no
        # image and item 2 one of zeros.
        expected = [[0.8, 0, 0.6 * half, 0.6 * half], [0.8, 0, 0, 0], [0, 0.8, 0, 0], [0, 0.8, 0.6, 0]]
        assert found.dtype == np.float32
        assert found == pytest.approx(np.array(expected), abs=1e-6)
    # The inner product is the weighted mean of the two cosines: 0.64 * 0 + 0.36 * cos 45 degrees.
    assert found[0] @ found[3] == pytest.approx(0.36 * half, abs=1e-6)
    alone = with_images(text, embeddings, lists, 0.0)[:, :2]
    assert alone == pytest.approx(text / np.linalg.norm(text, axis=1)[:, None])
    with pytest.raises(VixmlError, match="do not belong together"):
        with_images(text[:2], embeddings, lists, 0.5)


@given(
    rows=st.lists(st.lists(st.integers(-3, 3), max_size=6), min_size=1, max_size=5),
    k=st.integers(1, 7),
    table=st.sampled_from([1, 9, 999]),
)
def test_the_kth_largest_of_each_row(rows, k, table):
    of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    values = np.array([value for row in rows for value in row], dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vixml.retrieval.vote.TABLE", table)
        found = kth_largest(of, values, len(rows), k).tolist()
    assert found == [sorted(row, reverse=True)[k - 1] if len(row) >= k else -np.inf for row in rows]


@pytest.mark.parametrize("n_labels", [5, 2**31 - 1])  # too many to pack label and position into one integer, with rows
def test_votes_are_summed_in_their_order(n_labels):
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, 2**31, 40)) // 2**29 * 2**29
    votes = Votes(rows, rng.integers(0, 5, 40).astype(np.int32), rng.standard_normal(40))
    sums: dict[tuple[int, int], float] = {}
    for row, label, weight in zip(*(getattr(votes, of).tolist() for of in ("rows", "labels", "weights")), strict=True):
        sums[row, label] = sums.get((row, label), 0.0) + weight
    found = votes.summed(n_labels, None)
    assert list(zip(found.rows.tolist(), found.labels.tolist(), strict=True)) == sorted(sums)
    assert found.weights == pytest.approx([sums[key] for key in sorted(sums)])
