"""A baseline without a language model: ridge regression from the TF-IDF vector of a text to each label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vixml.config.defaults import LINEAR_AT_MOST
from vixml.data.lexical import inverse_frequencies, tf_idf
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.search import no_labels, rows_of, steps
from vixml.retrieval.vote import Votes, rank

REGULARISER = 0.5
QUERIES_AT_ONCE = 256


def linear(
    queries: Sequence[str], train: Sequence[str], labels: Ragged, top_k: int, *, filter: Ragged | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rank all labels by a linear function of TF-IDF, fitted to each label one-versus-rest by least squares with a ridge.

    Solved in its dual form with scikit-learn, whose cost does not depend on the number of terms.

    Args:
        queries: n texts.
        train: v texts, 15,000 at most.
        labels: v rows over labels.
        top_k: labels of a query.
        filter: n rows over labels: pairs left out.

    Returns:
        ``(labels, scores)`` as :func:`vixml.retrieval.vote.knn_vote`; every label may be ranked.

    Raises:
        VixmlError: more training texts.
    """
    if len(train) > LINEAR_AT_MOST:
        raise VixmlError(
            "too many training texts for the linear baseline",
            where="inference.method linear",
            found=f"{len(train):,}",
            expected=f"{LINEAR_AT_MOST:,} at most: it solves a system of that size",
            hint="leave the run out; `knn` scales to any number",
        )
    from sklearn.kernel_ridge import KernelRidge

    weights = inverse_frequencies(train)
    known, dense = tf_idf(train, weights), np.zeros((len(train), labels.n_cols), np.float32)
    dense[np.repeat(np.arange(len(train)), labels.lengths), labels.values] = 1
    fitted = KernelRidge(alpha=REGULARISER, kernel="linear").fit(known, dense)
    ids, scores = no_labels(len(queries), top_k)
    for part in steps(len(queries), QUERIES_AT_ONCE):
        found = fitted.predict(tf_idf(queries[part], weights))
        if filter is not None:
            banned = rows_of(filter, part)
            found[np.repeat(np.arange(len(found)), banned.lengths), banned.values] = -np.inf
        rows, columns = np.nonzero(found > -np.inf)
        ids[part], scores[part] = rank(Votes(rows, columns.astype(np.int32), found[rows, columns]), len(found), top_k)
    return ids, scores
