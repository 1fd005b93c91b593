"""Retrieval-augmented inference: labels and training queries are both retrieved, and the latter vote for their labels.

Paper, section 4.5 and Table 13, after RAE-XMC (arXiv:2502.10615). One softmax over everything that was retrieved gives
weights w; with the label weight lambda, the score of label l is

    lambda w_l [l was retrieved] + (1 - lambda) sum_i w_i [training query i was retrieved and has l].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.search import search as exact_search
from vixml.retrieval.vote import Votes, check_voters, rank_votes, softmax, vote_chunks


def retrieval_augmented(
    queries: np.ndarray,
    labels: np.ndarray,
    voters: np.ndarray,
    voter_labels: Ragged,
    top_k: int,
    *,
    label_weight: float = 0.9,
    retrieved_labels: int = 100,
    retrieved_queries: int = 100,
    joint: bool = False,
    temperature: float = 0.05,
    filter: Ragged | None = None,
    memory_mb: float = 512,
    device: str | torch.device = "cpu",
    search: Callable[..., tuple[np.ndarray, np.ndarray]] = exact_search,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels by what was retrieved of them and of the training queries that have them.

    Args:
        queries: (n, d) float32.
        labels: (m, d) float32, label vectors.
        voters: (v, d) float32, training queries.
        voter_labels: v rows over the m labels.
        top_k: labels kept of each query.
        label_weight: ``lambda``, from 0 to 1. A side of weight 0 proposes no labels, but has its share in the softmax.
        retrieved_labels: labels retrieved of each query; with ``joint``, labels and training queries together.
        retrieved_queries: training queries retrieved; with ``joint`` not used.
        joint: one search among labels and training queries (RAE-XMC), not two (the paper's). Of equal scores labels go
            first, then the smaller row.
        temperature: of the softmax, above 0.
        filter: n rows over labels: pairs left out. They are not retrieved either, so that others take their place.
        memory_mb: bound for temporary tables; the result does not depend on it.
        device: where to search.
        search: how: :func:`vixml.retrieval.search.search`, or what is called like it.

    Returns:
        ``(labels, scores)``: (n, top_k) int32, best first, ties by smaller id, -1 where no more labels were proposed;
        (n, top_k) float32, -inf there.

    Raises:
        VixmlError: vectors and rows of labels that differ in number, or what :func:`search` refuses.

    Example:
        >>> labels, voters = np.float32([[1, 0], [0, 1], [0, 0]]), np.float32([[1, 0]])
        >>> of_voters = Ragged.from_rows([[2]], n_cols=3)
        >>> ids, scores = retrieval_augmented(
        ...     np.float32([[1, 0]]), labels, voters, of_voters, 3, label_weight=0.5, retrieved_labels=1
        ... )
        >>> ids.tolist(), scores.tolist()
        ([[0, 2, -1]], [[0.25, 0.25, -inf]])
    """
    check_voters(voters, voter_labels, "retrieval-augmented inference")
    if voter_labels.n_cols != len(labels):
        raise VixmlError(
            "label vectors and labels of the training queries do not belong together",
            where="retrieval-augmented inference",
            found=f"{len(labels)} vectors, training queries over {voter_labels.n_cols} labels",
            expected="one vector a label",
            hint="build the index again from this corpus",
        )
    n_voters = retrieved_labels if joint else retrieved_queries
    how = {"memory_mb": memory_mb, "device": device}
    found, label_scores = search(queries, labels, retrieved_labels, filter=filter, **how)
    nearest, voter_scores = search(queries, voters, n_voters, **how)
    ids = np.full((len(queries), top_k), -1, dtype=np.int32)
    scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
    for part in vote_chunks(len(queries), n_voters, voter_labels, retrieved_labels + top_k, memory_mb):
        both = np.concatenate([label_scores[part], voter_scores[part]], axis=1).astype(np.float64)
        if joint:
            both = _best(both, retrieved_labels)
        weights = softmax(both / temperature)
        # What the joint search dropped is no longer there.
        there = np.where(both > -np.inf, np.concatenate([found[part], nearest[part]], axis=1), -1)
        banned = None if filter is None else filter.take(np.arange(part.start, part.stop))
        cast = []
        if label_weight > 0:
            own, weight = there[:, :retrieved_labels], label_weight * weights[:, :retrieved_labels]
            cast.append(Votes(np.nonzero(own >= 0)[0], own[own >= 0], weight[own >= 0]))
        if label_weight < 1:
            weight = (1 - label_weight) * weights[:, retrieved_labels:]
            cast.append(Votes.cast(there[:, retrieved_labels:], weight, voter_labels))
        ids[part], scores[part] = rank_votes(Votes.joined(cast), len(weights), len(labels), top_k, banned)
    return ids, scores


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return (n, c) scores with all but the k largest of each row set to -inf; of equal scores the first stay.

    The best k of two lists together are among the best k of each, so nothing has to be searched as one.
    """
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.full_like(scores, -np.inf)
    np.put_along_axis(best, kept, np.take_along_axis(scores, kept, axis=1), axis=1)
    return best
