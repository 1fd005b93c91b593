"""A linear model from the TF-IDF vector of a text to each label: a baseline, and a part of local ridge votes.

It finds what the texts say literally, the encoder what they mean. Ridge regression, one label versus the rest, on the terms that occur
in most training texts: 16,384 predict as well as all (docs/deviations.md D33).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vixml.config.limits import LINEAR_LABELS, LINEAR_TERMS, LINEAR_TEXTS, has_linear
from vixml.data.lexical import AT_ONCE, BUCKETS, NGRAMS, inverse_frequencies, tf_idf
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.search import no_labels, rows_of, steps
from vixml.retrieval.vote import Votes, rank
from vixml.runtime import one_blas_thread

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REGULARISER = 0.5
COEFFICIENTS = 1 << 25  # at most: 128 MB
PANEL = 1 << 11  # columns of the system that are computed together
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear model.

    Attributes:
        weights: of :func:`vixml.data.lexical.inverse_frequencies`.
        terms: (t,) int32, ascending: the terms that have coefficients.
        coefficients: (t, m) float32.
    """

    weights: np.ndarray
    terms: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Ragged) -> LinearModel:
        """Fit each label by least squares with a ridge; the same texts give the same bytes, whatever the number of threads.

        Args:
            texts: n texts; :data:`LINEAR_TEXTS` at most.
            labels: n rows over m labels; :data:`LINEAR_LABELS` at most.

        Raises:
            VixmlError: more texts or labels.
        """
        from scipy.linalg import cho_factor, cho_solve
        from scipy.sparse import csr_matrix

        n, m = len(texts), labels.n_cols
        if not has_linear(n, m):
            raise VixmlError(
                "too large for a linear model on TF-IDF",
                where="inference.method linear, or inference.ridge.linear_weight",
                found=f"{n:,} training texts, {m:,} labels",
                expected=f"{LINEAR_TEXTS:,} and {LINEAR_LABELS:,} at most",
                hint="leave the run out, or set linear_weight to 0; `knn` and `local-ridge` scale to any number",
            )
        weights = inverse_frequencies(texts)
        of_term, never = weights.ravel(), np.float32(1 + np.log(1 + n))  # the less, the more texts have it
        most = min(LINEAR_TERMS, COEFFICIENTS // max(m, 1), np.count_nonzero(of_term < never))
        terms = np.sort(np.argsort(of_term, kind="stable")[:most]).astype(np.int32)
        known = cls(weights, terms, np.zeros((0, m), np.float32)).features_of(texts)
        truth = csr_matrix((np.ones(len(labels.values), np.float32), labels.values, labels.offsets), shape=(n, m))
        dual = n <= len(terms)  # the smaller system
        factors = known.T.tocsr() if dual else known
        # In float64: of many texts that share words, sums in float32 are off by as much as the regulariser.
        system = _gram(factors.astype(np.float64))
        system[np.diag_indices(len(system))] += REGULARISER
        right = truth if dual else known.T.astype(np.float64) @ truth
        with one_blas_thread():
            solved = cho_solve(cho_factor(system, lower=True, overwrite_a=True), right.toarray().astype(np.float32))
        coefficients = known.T @ solved if dual else solved
        return cls(weights, terms, np.ascontiguousarray(coefficients, dtype=np.float32))

    def features(self, vectors: csr_matrix) -> csr_matrix:
        """Return what coefficients are multiplied with, the columns of :attr:`terms`: (n, t) float32.

        Unlike indexing, its cost does not depend on the number of all columns. ``vectors`` are the TF-IDF of n texts with
        :attr:`weights` (:func:`vixml.data.lexical.tf_idf`).
        """
        from scipy.sparse import csr_matrix

        columns = self._positions[vectors.indices]
        kept = columns >= 0
        starts = np.concatenate([[0], np.cumsum(kept)])[vectors.indptr]
        return csr_matrix((vectors.data[kept], columns[kept], starts), shape=(vectors.shape[0], len(self.terms)))

    def features_of(self, texts: Sequence[str]) -> csr_matrix:
        """Return the features of texts: (n, t) float32; the terms without coefficients of a few texts at a time are in memory."""
        from scipy.sparse import vstack

        parts = [self.features(tf_idf(texts[some], self.weights)) for some in steps(max(len(texts), 1), AT_ONCE)]
        return vstack(parts, format="csr")

    @cached_property
    def _positions(self) -> np.ndarray:
        """Return the column of each hashed term among the kept ones, -1 for none."""
        positions = np.full(len(NGRAMS) * BUCKETS, -1, np.int32)
        positions[self.terms] = np.arange(len(self.terms))
        return positions


def linear(
    features: csr_matrix, coefficients: np.ndarray, top_k: int, *, filter: Ragged | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rank all labels by a :class:`LinearModel` alone; arguments are as in :func:`linear_scores`.

    Returns:
        ``(labels, scores)`` as :func:`vixml.retrieval.vote.knn_vote`; every label may be ranked.
    """
    n = features.shape[0]
    ids, scores = no_labels(n, top_k)
    for part in steps(n, QUERIES_AT_ONCE):
        found = linear_scores(features[part], coefficients, rows_of(filter, part))
        rows, columns = np.nonzero(found > -np.inf)
        ids[part], scores[part] = rank(Votes(rows, columns.astype(np.int32), found[rows, columns]), len(found), top_k)
    return ids, scores


def linear_scores(features: csr_matrix, coefficients: np.ndarray, filter: Ragged | None) -> np.ndarray:
    """Return the score of every label, -inf for pairs of the filter: (n, m) float32; a row does not depend on the others.

    Args:
        features: (n, t) float32.
        coefficients: (t, m) float32.
        filter: n rows over labels.

    Raises:
        VixmlError: a score that is not finite.
    """
    found = features @ coefficients
    if not np.isfinite(found).all():
        raise VixmlError(
            "a score of the linear model is not finite",
            where="linear model",
            found="NaN or infinity",
            expected="finite coefficients and features",
            hint="fit it again",
        )
    if filter is not None:
        found[np.repeat(np.arange(len(found)), filter.lengths), filter.values] = -np.inf
    return found


def _gram(factors: csr_matrix) -> np.ndarray:
    """Return the inner products of the columns: (c, c) float32."""
    columns = factors.tocsc()
    out = np.empty((columns.shape[1],) * 2, np.float32)
    for some in steps(len(out), PANEL):
        out[:, some] = (factors.T @ columns[:, some]).toarray()
    return out
