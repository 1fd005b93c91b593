"""Rank labels as a run's inference says: the one place where its methods are told apart, for the pipeline and for tagging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vixml.config.run import Inference
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.ridge import LabelTerm, LinearTerm, local_ridge
from vixml.retrieval.vote import EXACT, knn_vote, retrieval_augmented

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LINEAR = "linear"


@dataclass(frozen=True)
class Queries:
    """Queries as labels and as training queries are compared with them.

    Attributes:
        text: (n, d) float32, compared with labels.
        voting: (n, d') float32, compared with voters; with images in it where ``inference.image_weight`` is above 0.
        features: (n, t) float32, of the linear model (:func:`adds_linear`); None without one.
    """

    text: np.ndarray
    voting: np.ndarray
    features: csr_matrix | None = None

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: np.ndarray) -> Queries:
        """Return some of the queries."""
        return Queries(self.text[rows], self.voting[rows], None if self.features is None else self.features[rows])


def adds_linear(how: Inference) -> bool:
    """Return whether a linear model adds to local ridge votes."""
    return how.method == "local-ridge" and how.ridge.linear_weight > 0


def searched_labels(how: Inference) -> tuple[str, ...]:
    """Return the label vectors that inference searches: ``z``, ``u``, both or none."""
    if how.method == "local-ridge":
        return tuple(_ridge_weights(how))
    return (how.labels_as,) if how.method in ("label-search", "retrieval-augmented") else ()


def _ridge_weights(how: Inference) -> dict[str, float]:
    """Return the weight of each kind of label vectors that adds to local ridge votes."""
    weights = {"z": how.ridge.prototype_weight, "u": how.ridge.text_weight}
    return {name: weight for name, weight in weights.items() if weight > 0}


def rank_labels(
    queries: Queries,
    labels: Mapping[str, np.ndarray],
    voters: np.ndarray | None,
    voter_labels: Ragged | None,
    how: Inference,
    *,
    filter: Ragged | None = None,
    search: Searcher = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels as ``how.method`` says; not for popularity, which looks at no query.

    Arguments and result are as in :func:`vixml.retrieval.vote.knn_vote`, except:

    Args:
        labels: of :func:`searched_labels` -> (m, d) float32; ``linear`` -> (t, m) float32, coefficients, where it adds.
        voters, voter_labels: None for ``label-search``.
    """
    if how.method == "label-search":
        return search(queries.text, labels[how.labels_as], how.top_k, filter)
    if how.method == "knn":
        return knn_vote(queries.voting, voters, voter_labels, how, filter=filter, search=search)
    if how.method == "local-ridge":
        terms = [LabelTerm(weight, queries.text, labels[name]) for name, weight in _ridge_weights(how).items()]
        linear = LinearTerm(how.ridge.linear_weight, queries.features, labels[LINEAR]) if adds_linear(how) else None
        return local_ridge(
            queries.voting, voters, voter_labels, terms, how, linear=linear, filter=filter, search=search
        )
    found = labels[how.labels_as]
    return retrieval_augmented(queries.text, found, voters, voter_labels, how, filter=filter, search=search)
