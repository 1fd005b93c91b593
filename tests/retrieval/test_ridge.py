"""Local ridge votes against plain loops in float64, by hand, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rankings import agree
from scipy.sparse import csr_matrix

from vixml.config.run import Inference, Ridge
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.ridge import LabelTerm, LinearTerm, _solve, _solve_on_cpu, local_ridge

N_LABELS, N_MANY = 9, 90


def inference(top_k, **ridge):
    return Inference(method="local-ridge", top_k=top_k, ridge=ridge)


def product(a, b) -> float:
    return float(np.float32(sum(float(x) * float(y) for x, y in zip(a, b, strict=True))))


def naive(queries, voters, voter_labels, terms, how, filter=None, linear=None):
    """Return per query a dict of the score of every ranked label, one pair at a time, solved by Gaussian elimination."""
    ridge, result = how.ridge, []
    for row, query in enumerate(queries):
        banned = set() if filter is None else set(filter.row(row).tolist())
        near = sorted(range(len(voters)), key=lambda i, q=query: (-product(q, voters[i]), i))[: ridge.neighbours]
        k, h = len(near), ridge.bandwidth
        system = np.empty((k, k))
        for a in range(k):
            for b in range(k):
                cosine = sum(float(x) * float(y) for x, y in zip(voters[near[a]], voters[near[b]], strict=True))
                system[a, b] = np.exp((cosine - 1) / h) + ridge.regulariser * (a == b)
        to_query = np.array([np.exp((product(query, voters[i]) - 1) / h) for i in near])
        weights = np.linalg.solve(system, to_query) if k else []
        votes: dict[int, float] = {}
        for i, weight in zip(near, weights, strict=True):
            for label in voter_labels.row(i).tolist():
                votes[label] = votes.get(label, 0.0) + weight
        for term in terms:
            allowed = set(range(N_LABELS)) - banned
            order = sorted(allowed, key=lambda at, t=term: (-product(t.queries[row], t.labels[at]), at))
            for label in order[: how.top_k]:
                votes.setdefault(label, 0.0)
        if linear is not None:
            added = (linear.features[[row]].toarray().astype(float) @ linear.coefficients.astype(float))[0]
            allowed = [label for label in range(N_LABELS) if label not in banned and added[label] > 0]
            least = min(sorted((added[label] for label in allowed), reverse=True)[: how.top_k], default=0)
            for label in allowed:
                if added[label] >= least - 1e-9:
                    votes.setdefault(label, 0.0)
        scores = {}
        for label in set(votes) - banned:
            frequency = sum(label in voter_labels.row(i) for i in range(len(voters)))
            scores[label] = votes[label] / max(frequency, 1) ** ridge.frequency_power
            for term in terms:
                scores[label] += term.weight * product(term.queries[row], term.labels[label])
            scores[label] += 0 if linear is None else linear.weight * added[label]
        result.append(scores)
    return result


def case(seed, n=3, n_voters=8, dim=3):
    """Return unit vectors and labels; coordinates are few, so that products tie and training queries repeat."""
    rng = np.random.default_rng(seed)

    def units(rows):
        vectors = rng.integers(-1, 2, (rows, dim)).astype(np.float64)
        return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)).astype(np.float32)

    queries, voters, z, u = units(n), units(n_voters), units(N_LABELS), units(N_LABELS)
    labels = Ragged.from_rows([np.flatnonzero(rng.random(N_LABELS) < 0.3) for _ in range(n_voters)], N_LABELS)
    filter = Ragged.from_rows([np.flatnonzero(rng.random(N_LABELS) < 0.3) for _ in range(n)], N_LABELS)
    return queries, voters, labels, z, u, filter


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6), n_voters=st.integers(0, 9), neighbours=st.integers(1, 12), top_k=st.integers(1, 11),
    power=st.sampled_from([0, 0.1, 1]), weights=st.sampled_from([(), (0.3,), (0.3, 0.2)]),
    linear_weight=st.sampled_from([0, 0.7, 8]), filtered=st.booleans(), memory_mb=st.sampled_from([1e-4, 64]),
)  # fmt: skip
def test_agrees_with_loops(seed, n_voters, neighbours, top_k, power, weights, linear_weight, filtered, memory_mb):
    queries, voters, labels, z, u, filter = case(seed, n_voters=n_voters)
    terms = [LabelTerm(weight, queries, vectors) for weight, vectors in zip(weights, (z, u), strict=False)]
    how, filter = inference(top_k, neighbours=neighbours, frequency_power=power), filter if filtered else None
    search = Searcher(memory_mb=memory_mb)
    # Quarters: products and sums are exact, and tie.
    shapes = ((3, 5), (5, N_LABELS))
    features, coefficients = (np.random.default_rng(seed).integers(-1, 2, shape) / 4 for shape in shapes)
    linear = LinearTerm(linear_weight, csr_matrix(features, dtype=np.float32), coefficients.astype(np.float32))
    linear = linear if linear_weight else None
    ids, scores = local_ridge(queries, voters, labels, terms, how, linear=linear, filter=filter, search=search)
    assert ids.shape == scores.shape == (3, top_k) and ids.dtype == np.int32 and scores.dtype == np.float32
    agree(ids, scores, naive(queries, voters, labels, terms, how, filter, linear))


def test_near_duplicates_share_one_vote():
    voters = np.float32([[1, 0]] * 50 + [[0, 1]])
    labels = Ragged.from_rows([[0]] * 50 + [[1]], n_cols=2)
    how = inference(2, neighbours=100, regulariser=1e-6, bandwidth=1)
    ids, scores = local_ridge(np.float32([[1, 0], [0, 1]]), voters, labels, [], how)
    # A singular kernel: fifty copies of the query weigh together what one does.
    assert ids.tolist() == [[0, 1], [1, 0]]
    assert scores == pytest.approx(np.array([[1, 0], [1, 0]]), abs=1e-4)


def test_one_training_query_and_a_label_without_queries():
    terms = [LabelTerm(0.5, np.float32([[0.6, 0.8]]), np.float32([[0, 0], [0, 1], [1, 0]]))]
    how = inference(3, frequency_power=1)
    ids, scores = local_ridge(np.float32([[1, 0]]), np.float32([[1, 0]]), Ragged.from_rows([[0]], 3), terms, how)
    # Label 0: the vote 1 / (1 + 0.2); labels 1 and 2, which no training query has: the products 0.8 and 0.6, halved.
    assert ids.tolist() == [[0, 1, 2]]
    assert scores[0] == pytest.approx([1 / 1.2, 0.4, 0.3])


def large(n=70, n_voters=600, dim=48):
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal((rows, dim)).astype(np.float32) for rows in (n, n_voters, 90, 90)]
    queries, voters, z, u = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    labels = Ragged.from_rows([rng.choice(90, rng.integers(0, 7), replace=False) for _ in range(n_voters)], n_cols=90)
    filter = Ragged.from_rows([rng.choice(90, rng.integers(0, 5), replace=False) for _ in range(n)], n_cols=90)
    return queries, voters, labels, [LabelTerm(0.3, queries, z), LabelTerm(0.2, queries, u)], filter


def linear_term(n=70):
    rng = np.random.default_rng(5)
    features = rng.standard_normal((n, 30)) * (rng.random((n, 30)) < 0.3)
    return LinearTerm(0.5, csr_matrix(features, dtype=np.float32), rng.standard_normal((30, 90)).astype(np.float32) / 9)


def test_bytes_depend_neither_on_memory_nor_on_threads_nor_on_the_batch():
    queries, voters, labels, terms, filter = large()
    how, linear = inference(20, frequency_power=0.1), linear_term()
    first = local_ridge(queries, voters, labels, terms, how, linear=linear, filter=filter)
    before = torch.get_num_threads()
    try:
        for memory_mb, threads in ((0.3, 1), (3, 2)):
            torch.set_num_threads(threads)
            search = Searcher(memory_mb=memory_mb)
            again = local_ridge(queries, voters, labels, terms, how, linear=linear, filter=filter, search=search)
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)
    for rows in (slice(0, 1), slice(13, 50)):
        some = [LabelTerm(term.weight, term.queries[rows], term.labels) for term in terms]
        own = filter.take(np.arange(rows.start, rows.stop))
        part = LinearTerm(linear.weight, linear.features[rows], linear.coefficients)
        again = local_ridge(queries[rows], voters, labels, some, how, linear=part, filter=own)
        assert all(np.array_equal(a[rows], b) for a, b in zip(first, again, strict=True))


class Missing:
    """A searcher that misses every second label, as an index may; training queries are found exactly."""

    kind, device, memory_mb = "hnsw", "cpu", 512

    def __init__(self, voters: np.ndarray) -> None:
        self.voters = voters

    def __call__(self, queries, labels, k, filter=None):
        if labels is self.voters:
            return Searcher()(queries, labels, k)
        return tuple(found[:, 1::2] for found in Searcher()(queries, labels, 2 * k, filter))


@pytest.mark.parametrize("top_k", [1, 3, 20])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("linear", [None, linear_term()], ids=["without", "with a linear model"])
def test_pairs_that_are_left_out_are_not_among_the_best(top_k, exact, linear):
    queries, voters, labels, terms, filter = large()
    search = Searcher() if exact else Missing(voters)
    # All training queries vote, so every label has a score.
    how, every = (inference(k, neighbours=len(voters), prototype_weight=0.3) for k in (top_k, N_MANY))
    ids, scores = local_ridge(queries, voters, labels, terms, how, linear=linear, filter=filter, search=search)
    all_ids, all_scores = local_ridge(queries, voters, labels, terms, every, linear=linear, filter=filter)
    assert np.array_equal(ids, all_ids[:, :top_k]) and np.array_equal(scores, all_scores[:, :top_k])


def test_a_long_training_query_that_is_orthogonal_to_the_query_is_refused():
    voters, labels = np.float32([[0, 100], [0, 100]]), Ragged.from_rows([[0], [0]], 1)
    with pytest.raises(VixmlError, match="length 1 at most"):
        local_ridge(np.float32([[1, 0]]), voters, labels, [], inference(1))


@pytest.mark.parametrize(("regulariser", "bandwidth", "off"), [(0.2, 0.2, 1e-13), (1e-6, 0.2, 1e-8), (1e-6, 1e4, 1e-8)])
def test_both_solvers_agree(regulariser, bandwidth, off):
    """That of a GPU, on the processor, and LAPACK; with copies among the neighbours, kernel matrices are nearly singular."""
    rng = np.random.default_rng(0)
    voters = rng.standard_normal((300, 24)).astype(np.float32)
    voters /= np.linalg.norm(voters, axis=1, keepdims=True)
    voters[5:40] = voters[4]
    ids = np.stack([np.arange(60), *(rng.permutation(300)[:60] for _ in range(9))]).astype(np.int32)
    to_query, how = rng.random((10, 60)), Ridge(regulariser=regulariser, bandwidth=bandwidth)
    expected = _solve_on_cpu(voters, ids, to_query.copy(), how, torch.device("cpu"), 0)
    for source in (voters, torch.from_numpy(voters)):
        found = _solve(source, ids, to_query.copy(), how, torch.device("cpu"), 0)
        np.testing.assert_allclose(found, expected, atol=off * np.abs(expected).max())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_returns_the_same():
    queries, voters, labels, terms, filter = large()
    how = inference(20, frequency_power=0.1)
    ids, scores = local_ridge(queries, voters, labels, terms, how, filter=filter)
    again = local_ridge(queries, voters, labels, terms, how, filter=filter, search=Searcher(device="cuda"))
    assert np.array_equal(ids, again[0]) and np.array_equal(scores, again[1])


@pytest.mark.parametrize(("changed", "what"), [
    ({"voters": np.eye(3, dtype=np.float32)}, "voters do not belong together"),
    ({"z": np.zeros((N_LABELS + 1, 3), dtype=np.float32)}, "do not belong together"),
    ({"filter": Ragged.from_rows([[]] * 3, N_LABELS + 1)}, "do not belong together"),
    ({"voters": np.full((8, 3), np.nan, dtype=np.float32)}, "not finite"),
    ({"queries": np.full((3, 3), np.nan, dtype=np.float32)}, "not finite"),
    ({"z": np.full((N_LABELS, 3), np.inf, dtype=np.float32)}, "not finite"),
    ({"voters": np.full((8, 3), 2, dtype=np.float32)}, "length 1 at most"),
    ({"queries": np.full((3, 3), 40, dtype=np.float32)}, "length 1 at most"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(changed, what):
    queries, voters, labels, z, _, filter = case(0)
    known = {"queries": queries, "voters": voters, "z": z, "filter": filter} | changed
    terms = [LabelTerm(0.3, queries, known["z"])]
    with pytest.raises(VixmlError, match=what):
        local_ridge(known["queries"], known["voters"], labels, terms, inference(3), filter=known["filter"])
