"""Predict without a label encoder: training queries vote for their labels, or the most frequent labels win."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vixml.config.run import Inference
from vixml.errors import expect_equal, expect_whole
from vixml.images.embeddings import ImageEmbeddings
from vixml.ragged import Ragged, expect_ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.search import no_labels, rows_of, steps

EXACT = Searcher()
# Bytes per vote (a neighbour's label) while votes are summed: key, order, weight, sum.
BYTES_PER_VOTE = 64
TABLE = 1 << 18  # entries among which the largest are selected together
BUILD_AGAIN = "build the index again from this corpus"


@dataclass(frozen=True)
class Votes:
    """Votes for labels, by query and then by rank of the voter.

    Attributes:
        rows: (n_votes,) int64, the query.
        labels: (n_votes,) int32, the label.
        weights: (n_votes,) float64.
    """

    rows: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @classmethod
    def cast(cls, nearest: np.ndarray, weights: np.ndarray, voter_labels: Ragged) -> Votes:
        """Let the neighbours of each query, (n, k) rows of ``voter_labels`` with -1 for none, vote for all of their labels.

        ``weights``: (n, k) float64, of each vote of a neighbour.
        """
        there = nearest >= 0
        elected = voter_labels.take(nearest[there])
        elected.check_once("labels of the voters")
        rows = np.repeat(np.nonzero(there)[0], elected.lengths)
        return cls(rows, elected.values, np.repeat(weights[there], elected.lengths))

    @classmethod
    def joined(cls, parts: Sequence[Votes]) -> Votes:
        """Return the votes of all parts (one or more), in order."""
        return cls(*(np.concatenate([getattr(part, of) for part in parts]) for of in ("rows", "labels", "weights")))

    def summed(self, n_labels: int, banned: Ragged | None) -> Votes:
        """Return one vote per pair of query and label: the sum of its votes, in their order; none for banned pairs."""
        keys, weights = self.rows * n_labels + self.labels, self.weights
        if banned is not None:
            kept = ~np.isin(keys, banned.row_ids() * banned.n_cols + banned.values)
            keys, weights = keys[kept], weights[kept]
        # A stable sort adds a label's votes from the nearest neighbour on, whatever the chunk.
        keys, order = _sorted(keys)
        weights = weights[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        rows, labels = np.divmod(keys[first], n_labels)
        return Votes(rows, labels, np.add.reduceat(weights, first) if len(first) else weights)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) int64 keys from 0 on in ascending order, and the stable order that sorts them."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)) >> (63 - bits):
        order = np.argsort(keys, kind="stable")
        return keys[order], order
    # Key and position in one integer: numpy sorts integers with vector instructions, but not stably.
    packed = np.sort(keys << bits | np.arange(len(keys)))
    return packed >> bits, packed & ((1 << bits) - 1)


def knn_vote(
    queries: np.ndarray,
    voters: np.ndarray,
    voter_labels: Ragged,
    how: Inference,
    *,
    filter: Ragged | None = None,
    search: Searcher = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Let each query's nearest training queries vote for their labels.

    The score of label l is ``sum_i softmax(s / temperature)_i [l is a label of neighbour i]`` over the neighbours' inner
    products s, so it lies in [0, 1].

    Args:
        queries: (n, d) float32.
        voters: (v, d) float32, training queries.
        voter_labels: v rows over labels.
        how: ``neighbours``, ``temperature`` and ``top_k``.
        filter: n rows over labels, pairs left out.
        search: of the run.

    Returns:
        ``(labels, scores)``: (n, top_k) int32, best first, ties by smaller id, -1 where nobody votes for more; (n, top_k)
        float32, -inf there.

    Raises:
        VixmlError: voters and their labels differ in number, or what :func:`vixml.retrieval.search.search` refuses.

    Example:
        >>> voters, labels = np.eye(2, dtype=np.float32), Ragged.from_rows([[0, 1], [1]], n_cols=3)
        >>> how = Inference(method="knn", neighbours=2, temperature=1.0, top_k=3)
        >>> ids, scores = knn_vote(np.float32([[1, 0]]), voters, labels, how)
        >>> ids.tolist(), scores.round(3).tolist()
        ([[1, 0, -1]], [[1.0, 0.7310000061988831, -inf]])
    """
    check_voters(voters, voter_labels, "k-nearest-neighbour voting")
    nearest, scores = search(queries, voters, how.neighbours)
    ids, votes = no_labels(len(queries), how.top_k)
    for part in vote_chunks(len(queries), how.neighbours, voter_labels, how.top_k, search.memory_mb):
        weights = softmax(scores[part].astype(np.float64) / how.temperature)
        cast = Votes.cast(nearest[part], weights, voter_labels)
        totals = cast.summed(voter_labels.n_cols, rows_of(filter, part))
        ids[part], votes[part] = rank(totals, len(weights), how.top_k)
    return ids, votes


def check_voters(voters: np.ndarray, voter_labels: Ragged, where: str) -> None:
    """Check that each voter has one row of labels.

    Raises:
        VixmlError: another number of vectors than of rows, or a label out of range.
    """
    expect_ragged(voter_labels, where)
    what = "vectors and labels of the voters do not belong together"
    found, expected = f"{len(voters)} vectors", f"{len(voter_labels)} vectors"
    expect_equal(found, expected, what, where=where, hint=BUILD_AGAIN)


def vote_chunks(
    n_queries: int, neighbours: int, voter_labels: Ragged, others: int, memory_mb: float
) -> Iterator[slice]:
    """Return slices of queries whose votes fit in ``memory_mb``, if a voter has the average number of labels.

    ``others``: further entries per query, e.g. positions of the result.
    """
    a_row = neighbours * max(1.0, float(voter_labels.lengths.mean()) if len(voter_labels) else 1.0) + others
    return steps(n_queries, max(1, int(memory_mb * 2**20 / (BYTES_PER_VOTE * a_row))))


def rank(totals: Votes, n_rows: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the ``top_k`` labels of each query; ``totals`` has one vote per pair of query (0 to ``n_rows - 1``) and label.

    Returns:
        ``(labels, scores)``: (n_rows, top_k) int32, best first, ties by smaller id, -1 where there are no more; float32,
        -inf there.
    """
    ids, scores = no_labels(n_rows, top_k)
    # Rank in float32, as saved: what looks tied is tied, and goes to the smaller id.
    total = totals.weights.astype(np.float32)
    kept = total >= kth_largest(totals.rows, total, n_rows, top_k)[totals.rows]
    row, label, total = totals.rows[kept], totals.labels[kept], total[kept]
    order = np.lexsort((label, -total, row))
    row, label, total = row[order], label[order], total[order]
    starts = np.searchsorted(row, np.arange(n_rows))
    position = np.arange(len(row)) - starts[row]
    kept = position < top_k
    ids[row[kept], position[kept]] = label[kept]
    scores[row[kept], position[kept]] = total[kept]
    return ids, scores


def kth_largest(rows: np.ndarray, values: np.ndarray, n_rows: int, k: int) -> np.ndarray:
    """Return the k-th largest value of each row, -inf where it has fewer: selecting is quicker than sorting.

    ``rows``, (n,) int64, ascend; ``values``, (n,), are of any floating type, and so is the result, (n_rows,).

    Example:
        >>> kth_largest(np.array([0, 0, 0, 2]), np.array([3.0, 5.0, 4.0, 1.0]), 3, 2).tolist()
        [4.0, -inf, -inf]
    """
    starts, found = np.searchsorted(rows, np.arange(n_rows + 1)), np.full(n_rows, -np.inf, dtype=values.dtype)
    longest = int(np.diff(starts).max(initial=0))
    # Rows are filled up to one length, a piece at a time: a table of all would outgrow the cache, or memory.
    for some in steps(n_rows if longest >= k else 0, max(1, TABLE // max(longest, 1))):
        inside = slice(starts[some.start], starts[some.stop])
        table = np.full((some.stop - some.start, longest), -np.inf, dtype=values.dtype)
        columns = np.arange(inside.start, inside.stop) - starts[rows[inside]]
        table[rows[inside] - some.start, columns] = values[inside]
        found[some] = np.partition(table, -k, axis=1)[:, -k]
    return found


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of each row; -inf (no such neighbour) weighs nothing.

    Example:
        >>> softmax(np.array([[0.0, 0.0, -np.inf], [-np.inf] * 3])).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.finfo(np.float64).max)
    weights = np.exp(shifted)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def popularity(
    train_labels: Ragged, n_queries: int, top_k: int, *, filter: Ragged | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the most frequent training labels for every query: a baseline that looks at no query.

    Labels of the filter's pairs, n_queries rows over labels, are left out; the next frequent ones move up.

    Returns:
        ``(labels, scores)`` as :func:`knn_vote`; a score is the share of training queries that have the label. Labels
        that no training query has are not predicted.

    Example:
        >>> popularity(Ragged.from_rows([[2], [0, 2], [1]], n_cols=4), 1, 4)[0].tolist()
        [[2, 0, 1, -1]]
    """
    expect_ragged(train_labels, "training labels")
    expect_whole(n_queries, 0, "not a number of queries", where="n_queries")
    if filter is not None:
        expect_ragged(filter, "filter")
        expect_equal(len(filter), n_queries, "the filter does not fit the queries", where="filter")
    counts = train_labels.counts()
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].astype(np.int32)
    share = (counts[order] / max(len(train_labels), 1)).astype(np.float32)
    ids, scores = no_labels(n_queries, top_k)
    ids[:, : len(order)] = order[:top_k]
    scores[:, : len(order)] = share[:top_k]
    # Only the few queries that have a filter differ from the rest.
    for row in np.flatnonzero(filter.lengths) if filter is not None else ():
        kept = np.flatnonzero(~np.isin(order, filter.row(row)))[:top_k]
        ids[row], scores[row] = -1, -np.inf
        ids[row, : len(kept)], scores[row, : len(kept)] = order[kept], share[kept]
    return ids, scores


def with_images(
    text: np.ndarray, embeddings: ImageEmbeddings, lists: Ragged, weight: float, memory_mb: float = 256
) -> np.ndarray:
    """Append to each text vector the mean of the item's raw image vectors: (n, d + embeddings.dim) float32.

    The row is ``[sqrt(1 - w) text, sqrt(w) mean]``, both parts of unit length, so that the inner product of two rows is
    the weighted mean of their two cosines. An item without images has zeros there: it neither gains nor loses by
    images, and its row is shorter.

    Args:
        text: (n, d) float32 text vectors.
        embeddings: vectors of all images.
        lists: n rows over images (:meth:`ImageEmbeddings.lists`).
        weight: ``w``, from 0 up to, but not including, 1.
        memory_mb: bound for the image vectors read at a time.

    Raises:
        VixmlError: another number of lists than of text vectors.
    """
    what, where = "text vectors and image lists do not belong together", "images of the queries"
    expect_equal(f"{len(lists)} lists", f"{len(text)} lists", what, where=where, hint=BUILD_AGAIN)
    out = np.zeros((len(text), text.shape[1] + embeddings.dim), dtype=np.float32)
    images = out[:, text.shape[1] :]
    an_item = 16 * embeddings.dim * max(1.0, float(lists.lengths.mean() if len(lists) else 1))
    for part in steps(len(text), max(1, int(memory_mb * 2**20 / an_item))):
        out[part, : text.shape[1]] = np.sqrt(1 - weight) * _unit(np.asarray(text[part], dtype=np.float32))
        listed = rows_of(lists, part)
        some = np.flatnonzero(listed.lengths)
        if len(some):
            # The sum has the direction of the mean, and its length is normalised anyway.
            total = np.add.reduceat(_unit(embeddings.gather(listed)), listed.offsets[some], axis=0)
            images[part][some] = np.sqrt(weight) * _unit(total)
    return out


def with_lexical(vectors: np.ndarray, lexical: np.ndarray, weight: float) -> np.ndarray:
    """Append to each vector the item's lexical vector: (n, d + d') float32.

    The row is ``[sqrt(1 - w) vector, sqrt(w) lexical]``, so that the inner product of two rows is the weighted mean of the two
    inner products.

    Args:
        vectors: (n, d) float32, of length 1 at most.
        lexical: (n, d') float16, of length 1 or 0 (:func:`vixml.data.lexical.lexical_vectors`).
        weight: ``w``, in [0, 1).
    """
    out = np.empty((len(vectors), vectors.shape[1] + lexical.shape[1]), dtype=np.float32)
    np.multiply(vectors, np.float32(np.sqrt(1 - weight)), out=out[:, : vectors.shape[1]])
    np.multiply(lexical, np.float32(np.sqrt(weight)), out=out[:, vectors.shape[1] :], dtype=np.float32)
    return out


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


# --- Retrieval-augmented inference: labels and training queries are both retrieved; the latter vote for their labels.


def retrieval_augmented(
    queries: np.ndarray,
    labels: np.ndarray,
    voters: np.ndarray,
    voter_labels: Ragged,
    how: Inference,
    *,
    filter: Ragged | None = None,
    search: Searcher = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels by the labels retrieved, and by the training queries retrieved that have them.

    Arguments, result and errors are as in :func:`knn_vote`, except:

    Args:
        labels: (m, d) float32, label vectors.
        how: ``label_weight`` (lambda; a side of weight 0 proposes no labels, but has its share in the softmax),
            ``retrieved_labels``, ``retrieved_queries``, ``temperature``, ``top_k``, and ``search``: ``separate`` (the paper's),
            or ``joint`` among labels and training queries (RAE-XMC), which keeps ``retrieved_labels`` of both; of equal scores
            labels go first, then the smaller row.
        filter: its pairs are not retrieved either, so that others take their place.

    Example:
        >>> labels, voters = np.float32([[1, 0], [0, 1], [0, 0]]), np.float32([[1, 0]])
        >>> of_voters = Ragged.from_rows([[2]], n_cols=3)
        >>> how = Inference(method="retrieval-augmented", label_weight=0.5, retrieved_labels=1, top_k=3)
        >>> ids, scores = retrieval_augmented(np.float32([[1, 0]]), labels, voters, of_voters, how)
        >>> ids.tolist(), scores.tolist()
        ([[0, 2, -1]], [[0.25, 0.25, -inf]])
    """
    where = "retrieval-augmented inference"
    check_voters(voters, voter_labels, where)
    what = "label vectors and labels of the training queries do not belong together"
    expect_equal(f"{len(labels)} vectors", f"{voter_labels.n_cols} vectors", what, where=where, hint=BUILD_AGAIN)
    joint, n_labels, top_k, ours = how.search == "joint", how.retrieved_labels, how.top_k, how.label_weight
    n_voters = n_labels if joint else how.retrieved_queries
    found, label_scores = search(queries, labels, n_labels, filter)
    nearest, voter_scores = search(queries, voters, n_voters)
    ids, scores = no_labels(len(queries), top_k)
    for part in vote_chunks(len(queries), n_voters, voter_labels, n_labels + top_k, search.memory_mb):
        both = np.concatenate([label_scores[part], voter_scores[part]], axis=1).astype(np.float64)
        if joint:
            both = _best(both, n_labels)
        weights = softmax(both / how.temperature)
        # The joint search drops some of both.
        there = np.where(both > -np.inf, np.concatenate([found[part], nearest[part]], axis=1), -1)
        cast = []
        if ours > 0:
            own, weight = there[:, :n_labels], ours * weights[:, :n_labels]
            cast.append(Votes(np.nonzero(own >= 0)[0], own[own >= 0], weight[own >= 0]))
        if ours < 1:
            cast.append(Votes.cast(there[:, n_labels:], (1 - ours) * weights[:, n_labels:], voter_labels))
        totals = Votes.joined(cast).summed(len(labels), rows_of(filter, part))
        ids[part], scores[part] = rank(totals, len(weights), top_k)
    return ids, scores


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return (n, c) scores with all but the k largest of each row set to -inf; of equal scores the first stay.

    The best k of two lists together are among the best k of each, so nothing has to be searched as one.
    """
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.full_like(scores, -np.inf)
    np.put_along_axis(best, kept, np.take_along_axis(scores, kept, axis=1), axis=1)
    return best
