"""Retrieval-augmented inference against plain loops, by hand, and at its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rankings import agree

from vixml.config.run import Inference
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.search import search
from vixml.retrieval.vote import knn_vote, retrieval_augmented

N_LABELS = 7


def augmented(top_k, joint=False, **how):
    return Inference(method="retrieval-augmented", top_k=top_k, search="joint" if joint else "separate", **how)


def naive(
    queries, labels, voters, voter_labels, *, label_weight, retrieved_labels, retrieved_queries, joint,
    temperature, filter=None,
):  # fmt: skip
    """Return per query a dict of the score of every label, worked out one query and one label at a time."""
    result = []
    for row, query in enumerate(queries):
        banned = set() if filter is None else set(filter.row(row).tolist())

        def score(vector, query=query):
            return float(np.float32(query.astype(np.float64) @ vector.astype(np.float64)))

        # ("label", l) sorts before ("query", i), so that labels go first among equals.
        of_labels = sorted((-score(labels[i]), "label", i) for i in range(len(labels)) if i not in banned)
        of_voters = sorted((-score(voters[i]), "query", i) for i in range(len(voters)))
        if joint:
            kept = sorted(of_labels + of_voters)[:retrieved_labels]
        else:
            kept = of_labels[:retrieved_labels] + of_voters[:retrieved_queries]
        top = max((-negative for negative, _, _ in kept), default=0.0)
        raw = {(kind, i): np.exp((-negative - top) / temperature) for negative, kind, i in kept}
        weights = {key: value / sum(raw.values()) for key, value in raw.items()}
        total: dict[int, float] = {}
        for (kind, i), weight in weights.items():
            if kind == "label" and label_weight > 0:
                total[i] = total.get(i, 0.0) + label_weight * weight
        for (kind, i), weight in weights.items():
            if kind == "query" and label_weight < 1:
                for label in voter_labels.row(i).tolist():
                    if label not in banned:
                        total[label] = total.get(label, 0.0) + (1 - label_weight) * weight
        result.append(total)
    return result


@settings(deadline=None, max_examples=120)
@given(
    st.integers(1, 5), st.integers(0, 9), st.integers(1, 10), st.integers(1, 12), st.integers(1, 9),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans(), st.booleans(), st.sampled_from([1e-4, 1e-2, 64]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_agrees_with_loops(
    n, n_voters, retrieved_labels, retrieved_queries, top_k, label_weight, joint, filtered, memory_mb, seed
):
    rng = np.random.default_rng(seed)
    # Halves: products are exact, and many of them are tied.
    sizes = (n, N_LABELS, n_voters)
    queries, labels, voters = (rng.integers(-2, 3, (rows, 3)).astype(np.float32) / 2 for rows in sizes)
    of_voters = Ragged.from_rows([np.flatnonzero(rng.random(N_LABELS) < 0.4) for _ in range(n_voters)], N_LABELS)
    filter = Ragged.from_rows([np.flatnonzero(rng.random(N_LABELS) < 0.4) for _ in range(n)], N_LABELS)
    how = {
        "label_weight": label_weight, "retrieved_labels": retrieved_labels, "retrieved_queries": retrieved_queries,
        "joint": joint, "temperature": 0.3,
    }  # fmt: skip
    vectors, banned = (queries, labels, voters, of_voters), filter if filtered else None
    search = Searcher(memory_mb=memory_mb)
    ids, scores = retrieval_augmented(*vectors, augmented(top_k, **how), filter=banned, search=search)
    expected = naive(*vectors, **how, filter=banned)
    assert ids.shape == scores.shape == (n, top_k) and ids.dtype == np.int32 and scores.dtype == np.float32
    agree(ids, scores, expected)


# One query along the first axis; what else has which inner product with it can be read off the first column.
QUERY = np.float32([[1, 0]])
LABELS = np.float32([[0.5, 0], [1.0, 0], [0.0, 1], [-1.0, 0]])
VOTERS = np.float32([[0.75, 0], [0.5, 0], [-0.5, 0]])
OF_VOTERS = Ragged.from_rows([[0, 2], [2], [3]], n_cols=4)


def weights_of(*scores: float) -> list[float]:
    raw = np.exp(np.array(scores) / 0.5)
    return list(raw / raw.sum())


def test_hand_worked_in_two_searches():
    how = augmented(4, label_weight=0.9, retrieved_labels=2, retrieved_queries=2, temperature=0.5)
    ids, scores = retrieval_augmented(QUERY, LABELS, VOTERS, OF_VOTERS, how)
    # Retrieved: labels 1 (score 1) and 0 (0.5); training queries 0 (0.75), which has labels 0 and 2, and 1 (0.5; label 2).
    l1, l0, q0, q1 = weights_of(1.0, 0.5, 0.75, 0.5)
    assert ids.tolist() == [[1, 0, 2, -1]]
    assert scores[0, :3] == pytest.approx([0.9 * l1, 0.9 * l0 + 0.1 * q0, 0.1 * (q0 + q1)])


def test_hand_worked_in_one_search():
    how = augmented(4, label_weight=0.5, retrieved_labels=3, joint=True, temperature=0.5)
    ids, scores = retrieval_augmented(QUERY, LABELS, VOTERS, OF_VOTERS, how)
    # Best three of all: label 1 (1), training query 0 (0.75), and of label 0 and training query 1 (0.5 both) the label.
    l1, q0, l0 = weights_of(1.0, 0.75, 0.5)
    assert ids.tolist() == [[1, 0, 2, -1]]
    assert scores[0, :3] == pytest.approx([0.5 * l1, 0.5 * (l0 + q0), 0.5 * q0])


def many(seed: int = 5):
    rng = np.random.default_rng(seed)
    queries, labels, voters = (rng.standard_normal((n, 24)).astype(np.float32) for n in (50, 80, 300))
    queries, labels, voters = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, labels, voters))
    of_voters = Ragged.from_rows([rng.choice(80, rng.integers(0, 7), replace=False) for _ in range(300)], n_cols=80)
    filter = Ragged.from_rows([rng.choice(80, rng.integers(0, 9), replace=False) for _ in range(50)], n_cols=80)
    return (queries, labels, voters, of_voters), filter


@pytest.mark.parametrize("joint", [False, True])
def test_with_all_weight_on_labels_it_ranks_as_label_search(joint):
    inputs, filter = many()
    how = augmented(20, label_weight=1, retrieved_labels=20, joint=joint)
    ids, scores = retrieval_augmented(*inputs, how, filter=filter)
    queries, labels, *_ = inputs
    expected, _ = search(queries, labels, 20, filter=filter)
    if joint:  # training queries take positions, so that fewer labels are left, in the same order
        assert 0 < (ids >= 0).sum() < ids.size
        expected = np.where(ids >= 0, expected, -1)
    assert np.array_equal(ids, expected)
    assert (scores[ids >= 0] > 0).all()


def test_without_weight_on_labels_it_votes_as_neighbours_do_but_for_the_normaliser():
    (queries, labels, voters, of_voters), filter = many()
    how = augmented(20, label_weight=0, retrieved_labels=15, retrieved_queries=30)
    ids, scores = retrieval_augmented(queries, labels, voters, of_voters, how, filter=filter)
    neighbours = Inference(method="knn", neighbours=30, top_k=20)
    expected, votes = knn_vote(queries, voters, of_voters, neighbours, filter=filter)
    # What the neighbours weigh of one softmax over them and the labels.
    of_voter, of_label = (
        np.exp(found.astype(np.float64) / 0.05).sum(axis=1, keepdims=True)
        for found in (search(queries, voters, 30)[1], search(queries, labels, 15, filter=filter)[1])
    )
    assert scores == pytest.approx(votes * (of_voter / (of_voter + of_label)), rel=1e-5)
    # Rounding may tie votes in one scale and not in the other; here it does for none.
    assert np.array_equal(ids, expected)


@pytest.mark.parametrize("joint", [False, True])
def test_results_do_not_depend_on_chunks(joint):
    inputs, filter = many()
    first = retrieval_augmented(*inputs, augmented(20, joint), filter=filter)
    for memory_mb in (0.02, 0.3, 3):
        search = Searcher(memory_mb=memory_mb)
        again = retrieval_augmented(*inputs, augmented(20, joint), filter=filter, search=search)
        assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_the_joint_search_is_a_search_among_stacked_vectors():
    (queries, labels, voters, _), _ = many()
    # A training query with a label of its own, which nothing else has: every position shows in the result.
    of_voters = Ragged.from_rows([[80 + i] for i in range(300)], n_cols=380)
    # Labels that only training queries have lie opposite to their query, below anything that is retrieved.
    vectors = np.concatenate([labels, -voters])
    how = augmented(10, label_weight=0.5, retrieved_labels=10, joint=True)
    ids, _ = retrieval_augmented(queries, vectors, voters, of_voters, how)
    stacked, _ = search(queries, np.concatenate([vectors, voters]), 10)
    shown = np.where(stacked < 380, stacked, stacked - 300)
    # A label and the training query that has it may both be there: then they share a position.
    for row in range(len(queries)):
        assert set(ids[row][ids[row] >= 0].tolist()) == set(shown[row].tolist())


def test_what_does_not_belong_together_is_refused():
    (queries, labels, voters, of_voters), _ = many()
    with pytest.raises(VixmlError, match="voters do not belong together"):
        retrieval_augmented(queries, labels, voters[1:], of_voters, augmented(3))
    with pytest.raises(VixmlError, match="labels of the training queries do not belong together"):
        retrieval_augmented(queries, labels[1:], voters, of_voters, augmented(3))
