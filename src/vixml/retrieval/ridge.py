"""Local ridge votes: kernel ridge regression on the training queries around each query, plus label search and a linear model.

Ours, not the paper's (docs/deviations.md D33). A model fitted to the neighbours of each query is local learning (Bottou and
Vapnik, Local learning algorithms, Neural Computation 4(6), 1992, doi:10.1162/neco.1992.4.6.888). The ridge weights are the
prediction of a Gaussian process given the nearest neighbours alone, as in nearest-neighbour Gaussian processes (Datta, Banerjee,
Finley and Gelfand, J. Am. Stat. Assoc. 111(514):800-812, 2016, doi:10.1080/01621459.2015.1044091). Unlike a softmax over
neighbours, they share one vote among near duplicates.

Cost per query with k neighbours of d dimensions: k^2 d + k^3 / 3 operations in float64 for one half of the kernel matrix, 4.2
million at k 100 and d 384: 0.14 ms on a core with 31 GFLOP/s (benchmarks/ridge.py). At LF-AmazonTitles-1.3M, exact
search among 1.3 million labels and 2.2 million training queries takes 2.7 billion: 0.2 % more. Everything stays in float64: float32
products would save a third of the ridge's time (50 microseconds per text of about 700) and make scores and near-ties depend on the
processor. Inner products with labels are computed only for pairs that can be among the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vixml.config.run import Inference, Ridge
from vixml.errors import VixmlError, expect_equal
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.linear import linear_scores
from vixml.retrieval.search import full_precision_products, no_labels, on_device, products, rows_of, steps
from vixml.retrieval.vote import BUILD_AGAIN, EXACT, Votes, check_voters, kth_largest, rank, vote_chunks
from vixml.runtime import one_blas_thread, one_thread_each, share_out

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ROUNDING = 1e-6  # of a score in [-10, 10] to float32: scores that tie there are ranked by label
LONGEST = 1.001  # squared length of a vector; more is no rounding
# Bytes of the neighbours' vectors and kernel matrices that are computed together: a processor's cache holds the first.
ON_CPU, ON_GPU = 4 << 20, 1 << 30
VOTES_MB = 8  # of votes that are summed together: they stay in a processor's cache


@dataclass(frozen=True)
class LabelTerm:
    """A weighted inner product of queries and labels, part of a score.

    Attributes:
        weight: its factor, above 0.
        queries: (n, d) float32.
        labels: (m, d) float32.
    """

    weight: float
    queries: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise VixmlError("a weight of label vectors is not above 0", where="local ridge votes", found=self.weight)


@dataclass(frozen=True)
class LinearTerm:
    """The weighted score of a linear model, part of a score.

    Attributes:
        weight: its factor, above 0.
        features: (n, t) float32, of the queries (:meth:`vixml.retrieval.linear.LinearModel.features`).
        coefficients: (t, m) float32.
    """

    weight: float
    features: csr_matrix
    coefficients: np.ndarray


def local_ridge(
    queries: np.ndarray,
    voters: np.ndarray,
    voter_labels: Ragged,
    terms: Sequence[LabelTerm],
    how: Inference,
    *,
    linear: LinearTerm | None = None,
    filter: Ragged | None = None,
    search: Searcher = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels by the votes of a ridge regression on the neighbouring training queries, by label search and a linear model.

    With K the kernel ``exp((s - 1) / bandwidth)`` of inner products s, the neighbours N of query q weigh
    ``(K_NN + regulariser I)^-1 k_Nq``. The score of label l is the sum of the weights of the neighbours that have l, divided by
    ``frequency(l) ^ frequency_power`` (its number of voters), plus each term's ``weight <query, label>``, plus the weighted score of
    the linear model. Ranked are the labels of the neighbours and the ``top_k`` of each term and of the linear model (those with a
    score above 0), all by the full score. Results do not depend on threads or memory. A score may be negative.

    Arguments, result and errors are as in :func:`vixml.retrieval.vote.knn_vote`, except:

    Args:
        queries, voters: of length 1 at most; longer ones are an error.
        terms: label searches that add to the votes.
        how: ``ridge`` (but not its weights of terms) and ``top_k``.
        linear: a linear model that adds to the votes; None for none.

    Example:
        >>> voters, labels = np.float32([[1, 0], [0, 1]]), Ragged.from_rows([[0, 1], [1]], n_cols=3)
        >>> how = Inference(method="local-ridge", ridge={"bandwidth": 1, "regulariser": 1}, top_k=2)
        >>> ids, scores = local_ridge(np.float32([[1, 0]]), voters, labels, [], how)
        >>> ids.tolist(), scores.round(3).tolist()
        ([[1, 0]], [[0.578000009059906, 0.4819999933242798]])
    """
    check_voters(voters, voter_labels, "local ridge votes")
    sizes = [(len(term.queries), len(term.labels)) for term in terms]
    sizes += [] if linear is None else [(linear.features.shape[0], linear.coefficients.shape[1])]
    sizes += [] if filter is None else [(len(filter), filter.n_cols)]
    expected = f"{len(queries)} queries, {voter_labels.n_cols} labels"
    what = "queries and labels of local ridge votes do not belong together"
    for n, m in sizes:
        expect_equal(f"{n} queries, {m} labels", expected, what, where="label vectors or filter", hint=BUILD_AGAIN)
    device, top_k = torch.device(search.device), how.top_k
    nearest, cosines = search(queries, voters, min(how.ridge.neighbours, max(len(voters), 1)))
    found = [_Found(term, on_device(term.labels, device), search, *search(term.queries, term.labels, top_k, filter))
             for term in terms]  # fmt: skip
    frequency = np.maximum(voter_labels.counts(), 1) ** float(how.ridge.frequency_power)
    near_voters = on_device(voters, device)
    ids, scores = no_labels(len(queries), top_k)
    more = 0 if linear is None else top_k + voter_labels.n_cols // 8
    a_row = nearest.shape[1], voter_labels, top_k * (1 + len(terms)) + more
    for block in vote_chunks(len(queries), *a_row, search.memory_mb):
        weights = ridge_weights(nearest[block], cosines[block], near_voters, how.ridge, device, block.start)
        for some in vote_chunks(len(weights), *a_row, min(search.memory_mb, VOTES_MB)):
            part = slice(block.start + some.start, block.start + some.stop)
            banned = rows_of(filter, part)
            here: list[_Found | _Scored] = [one.part(part) for one in found]
            here += [] if linear is None else [_Scored.of(linear, part, banned, top_k)]
            cast = [Votes.cast(nearest[part], weights[some], voter_labels), *(one.votes for one in here)]
            totals = Votes.joined(cast).summed(voter_labels.n_cols, banned)
            totals = replace(totals, weights=totals.weights / frequency[totals.labels])
            best = _contenders(totals, here, len(weights[some]), voter_labels.n_cols, top_k)
            ids[part], scores[part] = rank(best, len(weights[some]), top_k)
    return ids, scores


@dataclass(frozen=True)
class _Found:
    """Result of a term's search."""

    term: LabelTerm
    vectors: np.ndarray | Tensor  # its label vectors, on a GPU if they fit
    search: Searcher
    labels: np.ndarray  # (n, top_k) int32, -1 for none
    products: np.ndarray  # (n, top_k) float32, best first

    def part(self, rows: slice) -> _Found:
        """Return what was found for some queries."""
        term = replace(self.term, queries=self.term.queries[rows])
        return replace(self, term=term, labels=self.labels[rows], products=self.products[rows])

    @property
    def votes(self) -> Votes:
        """Return a vote without weight for each label found."""
        rows, positions = np.nonzero(self.labels >= 0)
        return Votes(rows, self.labels[rows, positions], np.zeros(len(rows)))

    @property
    def ceiling(self) -> np.ndarray:
        """Return the most that the term adds to any label that was not found: (n,) float64; an index may miss labels."""
        last = self.products[:, -1].astype(np.float64)
        return self.term.weight * np.where((last > -np.inf) & (self.search.kind == "exact"), last, np.inf)

    def added(self, pairs: Votes) -> np.ndarray:
        """Return what the term adds to each pair of query and label: (n_pairs,) float32."""
        return self.term.weight * _pairs(self.term.queries, self.vectors, pairs, torch.device(self.search.device))


@dataclass(frozen=True)
class _Scored:
    """Scores of a linear model for some queries."""

    weight: float
    scores: np.ndarray  # (n, m) float32, -inf for pairs of the filter
    least: np.ndarray  # (n,) float32, the `top_k`-th score of each query, or 0 if that is less

    @classmethod
    def of(cls, term: LinearTerm, rows: slice, banned: Ragged | None, top_k: int) -> _Scored:
        """Score all labels of some queries."""
        scores = linear_scores(term.features[rows], term.coefficients, banned)
        last = max(scores.shape[1] - top_k, 0)
        least = np.partition(scores, last, axis=1)[:, last] if scores.size else np.zeros(len(scores), np.float32)
        return cls(term.weight, scores, np.maximum(least, 0))

    @property
    def votes(self) -> Votes:
        """Return a vote without weight for each label with a score among the best and above 0."""
        rows, labels = np.nonzero((self.scores >= self.least[:, None]) & (self.scores > 0))
        return Votes(rows, labels.astype(np.int32), np.zeros(len(rows)))

    @property
    def ceiling(self) -> np.ndarray:
        """Return the most that is added to any label without such a vote: (n,) float64."""
        return self.weight * self.least.astype(np.float64)

    def added(self, pairs: Votes) -> np.ndarray:
        """Return what is added to each pair of query and label: (n_pairs,) float32."""
        return self.weight * self.scores[pairs.rows, pairs.labels]


def _contenders(votes: Votes, found: Sequence[_Found | _Scored], n_rows: int, n_labels: int, top_k: int) -> Votes:
    """Add the terms to the votes, and leave out pairs that cannot be among a query's best: inner products are most of the work.

    ``votes`` has one vote per pair of query (of ``n_rows``) and label (of ``n_labels``), ascending.
    """
    if not found:
        return votes
    keys, of_found = votes.rows * n_labels + votes.labels, Votes.joined([one.votes for one in found])
    kept = votes.weights >= kth_largest(votes.rows, votes.weights, n_rows, 2 * top_k)[votes.rows]
    kept[np.searchsorted(keys, of_found.rows * n_labels + of_found.labels)] = True
    scores = votes.weights.copy()
    _add_terms(scores, votes, kept, found)
    least = kth_largest(votes.rows[kept], scores[kept], n_rows, top_k)
    at_most = votes.weights + np.sum([one.ceiling for one in found], axis=0)[votes.rows]
    more = ~kept & (at_most + ROUNDING >= least[votes.rows])
    _add_terms(scores, votes, more, found)
    kept |= more
    return Votes(votes.rows[kept], votes.labels[kept], scores[kept])


def _add_terms(scores: np.ndarray, votes: Votes, which: np.ndarray, found: Sequence[_Found | _Scored]) -> None:
    """Add the terms to the scores of some pairs, in place."""
    pairs = Votes(votes.rows[which], votes.labels[which], votes.weights[which])
    added = np.zeros(len(pairs.rows))
    for one in found:
        added += one.added(pairs)
    scores[which] += added


def ridge_weights(
    nearest: np.ndarray,
    cosines: np.ndarray,
    voters: np.ndarray | Tensor,
    how: Ridge,
    device: torch.device,
    first: int = 0,
) -> np.ndarray:
    """Return the weight of each neighbour in the ridge regression at its query, (n, k) float64; 0 for no neighbour.

    Args:
        nearest: (n, k) int32, rows of ``voters``; -1 for none, only in all rows or in none of a column.
        cosines: (n, k) float32, inner products with the query.
        voters: (v, d) float32, of length 1 at most, or a tensor on ``device``.
        how: ``bandwidth`` and ``regulariser``.
        first: number of the first query, for an error.

    Raises:
        VixmlError: a voter or query that is longer than 1: its kernel would outgrow the regulariser.
    """
    n, weights = len(nearest), np.zeros(nearest.shape)
    k = int((nearest >= 0).all(axis=0).sum())
    if not n or not k:
        return weights
    _check_length(cosines.max(axis=1), first)
    on_cpu = device.type == "cpu"
    step = max(1, (ON_CPU if on_cpu else ON_GPU) // (8 * k * (voters.shape[1] + 2 * k)))

    def work(start: int, stop: int) -> None:
        for rows in steps(stop, step, start):
            to_query = np.exp((cosines[rows, :k].astype(np.float64) - 1) / how.bandwidth)
            solve = _solve_on_cpu if on_cpu else _solve
            weights[rows, :k] = solve(voters, nearest[rows, :k], to_query, how, device, first + rows.start)

    one_each = one_blas_thread() if on_cpu else nullcontext()  # the queries are shared among threads already
    with full_precision_products(), one_each, one_thread_each() as pool:
        share_out(pool if on_cpu else None, n, work)
    return weights


def _solve_on_cpu(
    voters: np.ndarray | Tensor, ids: np.ndarray, to_query: np.ndarray, how: Ridge, _: torch.device, first: int
) -> np.ndarray:
    """Solve as :func:`_solve`, with half of its operations.

    A matrix times its own transpose computes one half (syrk, which numpy calls) and copies it. OpenBLAS, which numpy and scipy
    bring, decomposes it in a third of the time of torch's MKL on processors by AMD.
    """
    from scipy.linalg.lapack import dposv  # not at once: `vixml --help` is instant

    near = np.take(np.asarray(voters), ids, axis=0).astype(np.float64)
    kernel = np.matmul(near, near.transpose(0, 2, 1))
    _check_length(np.einsum("nkk->nk", kernel).max(axis=1), first)
    kernel -= 1
    kernel /= how.bandwidth
    np.exp(kernel, out=kernel)
    np.einsum("nkk->nk", kernel)[...] += how.regulariser
    solved = [dposv(one.T, right, lower=1, overwrite_a=1)[1:] for one, right in zip(kernel, to_query, strict=True)]
    if any(info for _, info in solved):
        raise np.linalg.LinAlgError("a kernel matrix is not positive definite")
    return np.stack([weights for weights, _ in solved])


def _solve(
    voters: np.ndarray | Tensor, ids: np.ndarray, to_query: np.ndarray, how: Ridge, device: torch.device, first: int
) -> np.ndarray:
    """Return the weights of the neighbours ``ids`` of some queries: (n, k) float64; the rest is as in :func:`ridge_weights`.

    ``to_query``: (n, k) float64, kernel of each neighbour and the query.
    """
    if isinstance(voters, Tensor):
        near = voters[torch.from_numpy(ids).to(device).long()].double()
    else:
        near = torch.from_numpy(np.take(voters, ids, axis=0)).to(device).double()
    kernel = torch.bmm(near, near.transpose(1, 2))
    diagonal = kernel.diagonal(dim1=1, dim2=2)
    _check_length(diagonal.amax(dim=1).cpu().numpy(), first)
    kernel.sub_(1).div_(how.bandwidth).exp_()
    diagonal.add_(how.regulariser)
    right = torch.from_numpy(to_query).to(device)[:, :, None]
    return torch.cholesky_solve(right, torch.linalg.cholesky(kernel))[:, :, 0].cpu().numpy()


def _pairs(queries: np.ndarray, labels: np.ndarray | Tensor, pairs: Votes, device: torch.device) -> np.ndarray:
    """Return the inner product of each pair of query and label, ascending by query, as a search does: (n_pairs,) float32."""
    starts = np.searchsorted(pairs.rows, np.arange(len(queries) + 1))
    out = np.empty(len(pairs.rows), dtype=np.float32)
    longest = int(np.diff(starts).max(initial=1))
    step = max(1, (ON_CPU if device.type == "cpu" else ON_GPU) // (12 * longest * queries.shape[1]))

    def work(first: int, last: int) -> None:
        buffers: list[Tensor] = []
        for rows in steps(last, step, first):
            inside = slice(starts[rows.start], starts[rows.stop])
            row = pairs.rows[inside] - rows.start
            column = np.arange(inside.start, inside.stop) - starts[pairs.rows[inside]]
            near = np.zeros((rows.stop - rows.start, int(column.max(initial=0)) + 1), dtype=np.int64)
            near[row, column] = pairs.labels[inside]
            block = torch.from_numpy(np.array(queries[rows], dtype=np.float32)).to(device)
            found = products(block, labels, torch.from_numpy(near).to(device), buffers)
            out[inside] = found.cpu().numpy()[row, column]

    with one_thread_each() as pool:
        share_out(pool if device.type == "cpu" else None, len(queries), work)
    return out


def _check_length(products: np.ndarray, first: int) -> None:
    """Check that inner products of vectors are at most 1."""
    longer = np.flatnonzero(products > LONGEST)
    if len(longer):
        raise VixmlError(
            "local ridge votes need vectors of length 1 at most",
            where=f"query {first + longer[0]} or its nearest training queries",
            found=f"an inner product of {products[longer[0]]:.4g}",
            expected="1 at most",
            hint="normalise queries and training queries, as `vixml build-index` does",
        )
