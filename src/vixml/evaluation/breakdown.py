"""Break a score down: by frequency of labels, and by queries and labels with and without an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vixml.evaluation.metrics import hits_in_chunks
from vixml.ragged import Ragged

N_GROUPS = 10
KS = (1, 5)


def frequency_deciles(train_counts: np.ndarray) -> np.ndarray:
    """Sort labels into ten groups, rarest first, that each hold about a tenth of the training *pairs*.

    Groups have equal volume, not equal numbers of labels: half of all labels may have a few per cent of the pairs. Labels
    of one frequency stay together, so a group may be empty where one frequency has more than a tenth of all pairs.

    Args:
        train_counts: (n_labels,) number of training queries with each label.

    Returns:
        (n_labels,) int64 group, 0 for the rarest.

    Example:
        >>> frequency_deciles(np.array([1, 18, 1, 0])).tolist()
        [0, 5, 0, 0]
    """
    volume = np.bincount(train_counts, weights=train_counts)
    # A frequency belongs where the middle of its pairs lies.
    middle = np.cumsum(volume) - volume / 2
    group = np.minimum(N_GROUPS * middle / max(volume.sum(), 1), N_GROUPS - 1).astype(np.int64)
    return group[train_counts]


def break_down(
    predictions: np.ndarray,
    truth: Ragged,
    train_counts: np.ndarray,
    query_has_image: np.ndarray,
    label_has_image: np.ndarray,
    *,
    filter: Ragged | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """Split P@k by label frequency and by images.

    Contributions are in percent and add up to P@k: a contribution is the share of all ``n_queries * k`` positions that a
    true label *of that group* fills. For queries with and without an image P@1 is a mean within each side.

    Args:
        predictions: (n_queries, K) int32 label ids, best first, -1 for none.
        truth: n_queries rows over labels.
        train_counts: (n_labels,) training frequency of each label.
        query_has_image: (n_queries,) bool.
        label_has_image: (n_labels,) bool.
        filter: pairs that are never scored.
        ks: where contributions are taken.

    Returns:
        ``by_frequency`` (a list of ten groups, rarest labels first), ``by_label_image`` and ``by_query_image``
        (``with``, ``without``).
    """
    decile = frequency_deciles(train_counts)
    with_image = label_has_image.astype(np.int64)
    by_decile = {k: np.zeros(N_GROUPS) for k in ks}
    by_image = {k: np.zeros(2) for k in ks}
    right = np.zeros(2)
    for chunk in hits_in_chunks(predictions, truth, filter):
        for k in ks:
            found = chunk.labels[:, :k][chunk.hits[:, :k]]
            by_decile[k] += np.bincount(decile[found], minlength=N_GROUPS)
            by_image[k] += np.bincount(with_image[found], minlength=2)
        right += np.bincount(query_has_image[chunk.rows].astype(np.int64), weights=chunk.hits[:, 0], minlength=2)
    queries = np.bincount(query_has_image.astype(np.int64), minlength=2)
    pairs = np.bincount(decile[truth.values], minlength=N_GROUPS)

    def contributions(of: dict[int, np.ndarray], group: int) -> dict[str, float]:
        return {f"P@{k}": float(100 * of[k][group] / (len(truth) * k)) for k in ks}

    by_frequency = []
    for group in range(N_GROUPS):
        inside = train_counts[decile == group]
        about = {
            "n_labels": len(inside),
            "train_count": [int(inside.min()), int(inside.max())] if len(inside) else None,
        }
        about |= {"n_true_pairs": int(pairs[group]), "contribution": contributions(by_decile, group)}
        by_frequency.append(about)
    true_pairs = np.bincount(with_image[truth.values], minlength=2)
    by_label_image, by_query_image = {}, {}
    for name, side in (("with", 1), ("without", 0)):
        about = {"n_labels": int((with_image == side).sum()), "n_true_pairs": int(true_pairs[side])}
        by_label_image[name] = about | {"contribution": contributions(by_image, side)}
        # A side without queries has no precision, which is not the same as a precision of 0.
        precision = float(100 * right[side] / queries[side]) if queries[side] else None
        by_query_image[name] = {"n_queries": int(queries[side]), "P@1": precision}
    return {"by_frequency": by_frequency, "by_label_image": by_label_image, "by_query_image": by_query_image}
