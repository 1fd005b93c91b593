"""Compute P, nDCG, PSP, PSnDCG, R, hit, MAP and MRR at k as the Extreme Classification Repository defines them.

Definitions are those of its reference implementation (xclib, ``xc_metrics.py``), which the published numbers come from;
where the repository's page differs (its PSP formula has no normaliser), the implementation counts.
With ``rel_j`` = 1 where the j-th label of a query's ranking is true, ``n`` its number of true labels, ``w`` the inverse
propensity, ``d_j = 1 / log2(j + 1)`` and means over *all* queries:

====== ==============================================================================================
P      mean of ``sum_{j<=k} rel_j / k``
nDCG   mean of ``sum_{j<=k} rel_j d_j / sum_{j<=min(k, n)} d_j``
PSP    ``sum_{queries} sum_{j<=k} w_j rel_j``, divided by the best value that any ranking could reach
PSnDCG likewise of ``sum_{j<=k} w_j rel_j d_j / sum_{j<=min(k, n)} d_j``
R      mean of ``sum_{j<=k} rel_j / n``
hit    mean of "any ``rel_j``, j <= k"
MAP    mean of ``sum_{j<=k} rel_j P@j / min(k, n)``
MRR    mean of ``1 / (rank of the first true label)``, 0 if it is beyond k
====== ==============================================================================================

A query without true labels scores 0 everywhere, counts in every mean and is reported, as in xclib. Where fewer than k
labels are predicted, those that lack count as wrong. MAP and MRR follow their textbook definitions: the official ViXML
script divides MAP by the hits found within k, so that one lucky hit scores 1, and gives a query without any hit the
full reciprocal rank of 1; the paper prints neither (docs/deviations.md D9).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from vixml.errors import VixmlError, expect_equal, expect_whole, reading
from vixml.ragged import Ragged, expect_ragged

# --- Mark which predicted labels are true, a bounded chunk of queries at a time.


# Bytes that a chunk needs for each predicted or true label of a row: keys, positions, a few float64 tables.
BYTES_PER_CELL = 96
LONG = 128  # from this length on a row's pairs are looked up, not compared one by one
TOGETHER = 1 << 18  # predictions compared at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Hits:
    """A chunk of consecutive queries.

    Attributes:
        rows: the queries, as a slice of the predictions.
        labels: (c, K) int32, best first, filtered labels taken out and later ones moved up; -1 at the end for none.
        hits: (c, K) bool, where ``labels`` are true.
        truth: the true labels of these queries, as given: the filter does not touch them.
        n_removed: predictions that the filter took out.
        n_filtered_true: true pairs in the filter, which no prediction can reach.
    """

    rows: slice
    labels: np.ndarray
    hits: np.ndarray
    truth: Ragged
    n_removed: int
    n_filtered_true: int


def hits_in_chunks(
    predictions: np.ndarray,
    truth: Ragged,
    filter: Ragged | None = None,
    memory_mb: float = 256,
    checked: bool = False,
) -> Iterator[Hits]:
    """Yield the queries in chunks, in order.

    The filter follows the official evaluation (xclib with ``filter_labels_test.txt``): the score of a filtered pair is
    set to zero, which takes it out of the *ranking*; the ground truth stays as it is.

    Args:
        predictions: (n_queries, K) integer label ids, best first, -1 for none.
        truth: n_queries rows over labels, no label twice in a row.
        filter: n_queries rows over labels, pairs that are never scored.
        memory_mb: bound for the temporary tables of a chunk; a chunk has one row at least.
        checked: whether :func:`check_ranking` has seen all predictions.

    Raises:
        VixmlError: numbers of rows or labels differ, a row's true labels contain one twice, or what :func:`check_ranking`
            refuses.
    """
    predictions = _table(predictions)
    _check_shapes(predictions, truth, filter)
    if not isinstance(memory_mb, Real) or not 0 <= memory_mb < math.inf:
        raise VixmlError("not a number of megabytes", where="memory_mb", found=repr(memory_mb)[:40])
    cells = predictions.shape[1] + len(truth.values) / max(len(truth), 1)
    step = max(1, int(memory_mb * 2**20 / (BYTES_PER_CELL * (cells + 1))))
    for start in range(0, len(truth), step):
        rows = slice(start, min(start + step, len(truth)))
        if not checked:
            check_ranking(np.asarray(predictions[rows]), truth.n_cols, start)
        yield _chunk(predictions, truth, filter, rows)


def check_ranking(
    labels: np.ndarray, n_labels: int, first: int = 0, where: object = "predictions", hint: str = ""
) -> None:
    """Check rows of a ranking.

    Args:
        labels: (c, K) label ids, best first, -1 at the end for none.
        n_labels: labels that exist.
        first: number of the first of these queries, for errors.
        where, hint: of the error.

    Raises:
        VixmlError: no whole numbers, a label that does not exist, one after -1, or one twice in a row.
    """
    hint = hint or "predict again"
    if labels.dtype.kind not in "iu":
        found = f"shape {labels.shape}, {labels.dtype}"
        raise VixmlError("predictions are no label ids", where=where, found=found, expected="whole numbers", hint=hint)
    order = np.sort(labels, axis=1)
    gap, twice = np.zeros(labels.shape, dtype=bool), np.zeros(labels.shape, dtype=bool)
    gap[:, 1:] = (labels[:, :-1] < 0) & (labels[:, 1:] >= 0)
    twice[:, 1:] = (order[:, 1:] == order[:, :-1]) & (order[:, 1:] >= 0)
    checks = (
        (labels, (labels < -1) | (labels >= n_labels), "a predicted label does not exist", f"0 to {n_labels - 1}"),
        (labels, gap, "a predicted label follows the end of its row", "-1 last"),
        (order, twice, "a label is predicted twice for a query", "each label once"),
    )
    refuse_wrong(checks, first, where, hint)


def refuse_wrong(
    checks: Iterable[tuple[np.ndarray, np.ndarray, str, str]], first: int, where: object, hint: str
) -> None:
    """Raise an error about the first entry of a (c, K) table where a check marks it as wrong.

    ``checks``: tables, which entries are wrong (bool), what is wrong with them, and what was expected.
    """
    for values, wrong, problem, expected in checks:
        if wrong.any():
            row, position = np.argwhere(wrong)[0]
            place, found = f"{where}, row {first + row}, position {position + 1}", values[row, position].item()
            raise VixmlError(problem, where=place, found=found, expected=expected, hint=hint)


def _chunk(predictions: np.ndarray, truth: Ragged, filter: Ragged | None, rows: slice) -> Hits:
    labels = np.asarray(predictions[rows], dtype=np.int32)
    true = truth.take(np.arange(rows.start, rows.stop))
    true_keys = _sorted_keys(true)
    twice = np.flatnonzero(true_keys[1:] == true_keys[:-1])
    if len(twice):
        row, label = divmod(int(true_keys[twice[0]]), truth.n_cols)
        raise VixmlError(
            "a label occurs twice among the true labels of a query",
            where=f"query {rows.start + row}",
            found=f"label {label}, twice",
            expected="each true label once: otherwise recall and nDCG count it twice",
            hint="build the corpus again",
        )
    removed = filtered_true = 0
    if filter is not None:
        banned = filter.take(np.arange(rows.start, rows.stop))
        gone = _among(labels, banned)
        removed = int(gone.sum())
        filtered_true = int(np.isin(true_keys, _sorted_keys(banned)).sum())
        if removed:
            # A stable sort by "gone" keeps the order of the rest and moves it up; most rows have nothing to move.
            some = np.flatnonzero(gone.any(axis=1))
            order = np.argsort(gone[some], axis=1, kind="stable")
            labels = labels.copy()
            labels[some] = np.take_along_axis(np.where(gone[some], np.int32(-1), labels[some]), order, axis=1)
    return Hits(rows, labels, _among(labels, true), true, removed, filtered_true)


def _sorted_keys(pairs: Ragged) -> np.ndarray:
    """Return each (row, label) pair as one number, ascending: (n_values,) int64."""
    return np.sort(pairs.row_ids() * pairs.n_cols + pairs.values)


def _among(labels: np.ndarray, pairs: Ragged) -> np.ndarray:
    """Return which (row, label) pairs of a (c, K) table are among ``pairs``: (c, K) bool."""
    found = np.zeros(labels.shape, dtype=bool)
    if not len(pairs.values) or not labels.size:
        return found
    lengths = pairs.lengths
    by_length = np.argsort(-lengths, kind="stable")
    n_long, n_any = (int((lengths >= least).sum()) for least in (LONG, 1))
    rows = by_length[:n_long]
    if n_long:
        own, keys = labels[rows], _sorted_keys(pairs.take(rows))
        wanted = np.arange(n_long, dtype=np.int64)[:, None] * pairs.n_cols + own
        position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        # -1 would otherwise be the last label of the row before.
        found[rows] = (keys[position] == wanted) & (own >= 0)
    # One label of every row at a time: comparing it with a row of predictions takes a few instructions.
    step = max(1, TOGETHER // labels.shape[1])
    for start in range(n_long, n_any, step):
        rows = by_length[start : min(start + step, n_any)]
        own, hits = labels[rows], np.zeros((len(rows), labels.shape[1]), dtype=bool)
        first, length = pairs.offsets[rows], lengths[rows]
        for position in range(int(length[0])):
            n = int(np.searchsorted(-length, -position))  # rows that are longer than ``position``
            hits[:n] |= own[:n] == pairs.values[first[:n] + position][:, None]
        found[rows] = hits
    return found


def _table(predictions: np.ndarray) -> np.ndarray:
    """Return predictions as an array; rows of different lengths and masked ones are none."""
    with reading("predictions are no label ids", "predictions", expected="a table of whole numbers, -1 for none"):
        array = np.asanyarray(predictions)
        if isinstance(array, np.ma.MaskedArray):
            raise ValueError("a masked array")
    return array


def _check_shapes(predictions: np.ndarray, truth: Ragged, filter: Ragged | None) -> None:
    expect_ragged(truth, "true labels")
    if filter is not None:
        expect_ragged(filter, "filter")
    if predictions.ndim != 2 or len(predictions) != len(truth):
        raise VixmlError(
            "predictions and true labels do not belong together",
            where="predictions",
            found=f"shape {predictions.shape}",
            expected=f"({len(truth)}, K), one row per query",
            hint="predict again on the split that is scored",
        )
    if filter is not None:
        found, expected = (f"{len(pairs)} rows over {pairs.n_cols} labels" for pairs in (filter, truth))
        what = "the filter of reciprocal pairs and the true labels do not belong together"
        expect_equal(found, expected, what, where="filter", hint="build the corpus again")


KS = (1, 3, 5)
DEEP_KS = (1, 3, 5, 10, 50, 100)


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and counts of queries and pairs behind them.

    Attributes:
        metrics: ``"P@1"`` -> percent, 0 to 100.
        n_queries: queries, all of which count in every mean.
        n_queries_without_positives: of these, queries without a true label.
        n_queries_short: of these, queries with fewer labels than the largest k, after filtering.
        n_filtered_predictions: predictions that the filter took out.
        n_filtered_positives: true pairs in the filter, which no prediction can reach.
    """

    metrics: dict[str, float]
    n_queries: int
    n_queries_without_positives: int
    n_queries_short: int
    n_filtered_predictions: int
    n_filtered_positives: int


def evaluate(
    predictions: np.ndarray,
    truth: Ragged,
    inverse_propensity: np.ndarray,
    *,
    filter: Ragged | None = None,
    ks: Sequence[int] = KS,
    deep_ks: Sequence[int] = DEEP_KS,
    memory_mb: float = 256,
    checked: bool = False,
) -> Evaluation:
    """Score a ranking.

    Args:
        predictions: (n_queries, K) int32 label ids, best first, -1 for none. No label twice in a row.
        truth: n_queries rows over labels.
        inverse_propensity: (n_labels,) float64 above 0, from *train* counts.
        filter: pairs that are never scored (see :func:`vixml.evaluation.metrics.hits_in_chunks`).
        ks: where P, nDCG, PSP and PSnDCG are taken.
        deep_ks: where R, hit, MAP and MRR are taken.
        memory_mb: bound for temporary tables; results agree to the last few of 15 digits whatever it is.
        checked: whether :func:`check_ranking` has seen all predictions, as those that a stage loads.

    Raises:
        VixmlError: no queries, no true label at all, no k or one that is no whole number above 0, propensities of another
            size or not above 0, or what :func:`hits_in_chunks` refuses.

    Example:
        >>> truth = Ragged.from_rows([[0, 2], [1]], n_cols=3)
        >>> found = evaluate(np.array([[2, 1], [0, 1]]), truth, np.ones(3), ks=(1, 2), deep_ks=(2,)).metrics
        >>> {name: round(value, 2) for name, value in found.items()}
        {'P@1': 50.0, 'P@2': 50.0, 'nDCG@1': 50.0, 'nDCG@2': 62.2, 'PSP@1': 50.0, 'PSP@2': 66.67, 'PSnDCG@1': 50.0, \
'PSnDCG@2': 62.2, 'R@2': 75.0, 'hit@2': 100.0, 'MAP@2': 50.0, 'MRR@2': 75.0}
    """
    expect_ragged(truth, "true labels")
    with reading("metrics are taken at no list of k", "ks and deep_ks", expected="lists of whole numbers"):
        ks, deep_ks = list(ks), list(deep_ks)
    weights = _check(truth, inverse_propensity, [*ks, *deep_ks])
    sums = _Sums(sorted(set(ks)), sorted(set(deep_ks)), weights)
    for chunk in hits_in_chunks(predictions, truth, filter, memory_mb, checked):
        sums.add(chunk)
    return Evaluation(sums.percentages(len(truth)), len(truth), *sums.counts)


class _Sums:
    """Sums over queries, chunk by chunk, from which the means follow."""

    def __init__(self, ks: list[int], deep_ks: list[int], weights: np.ndarray) -> None:
        self.ks, self.deep_ks, self.weights = ks, deep_ks, weights
        order = np.argsort(-weights, kind="stable")
        self.by_weight, self.rank = weights[order], np.empty(len(weights), dtype=np.int64)
        self.rank[order] = np.arange(len(weights))
        self.depth = max([*ks, *deep_ks])
        self.discount = 1 / np.log2(np.arange(2, self.depth + 2))
        # ideal[n - 1]: the DCG of n true labels ranked first.
        self.ideal = np.cumsum(self.discount)
        self.total: dict[tuple[str, int], Any] = {}
        self.counts = [0, 0, 0, 0]

    def _put(self, name: str, k: int, values: np.ndarray) -> None:
        self.total[name, k] = self.total.get((name, k), 0.0) + values.sum()

    def add(self, chunk: Hits) -> None:
        n = chunk.truth.lengths
        width = min(self.depth, chunk.labels.shape[1])
        short = (chunk.labels >= 0).sum(axis=1) < self.depth
        for position, value in enumerate(((n == 0).sum(), short.sum(), chunk.n_removed, chunk.n_filtered_true)):
            self.counts[position] += int(value)
        # Columns that were not predicted count as wrong.
        shallow = np.zeros((len(n), max(self.ks, default=0)), dtype=np.float64)
        both = min(width, shallow.shape[1])
        shallow[:, :both] = chunk.hits[:, :both]
        self._add_shallow(chunk, shallow, n)
        self._add_deep(chunk.hits[:, :width], n)

    def _add_shallow(self, chunk: Hits, hits: np.ndarray, n: np.ndarray) -> None:
        depth = hits.shape[1]
        weighted = hits.copy()
        width = min(depth, chunk.labels.shape[1])
        # Where the label is -1 the hit is 0, so the weight looked up there (the last label's) does not matter.
        weighted[:, :width] *= self.weights[chunk.labels[:, :width]]
        best = _best_weights(chunk.truth, self.by_weight, self.rank, depth)
        discount = self.discount[:depth]
        for k in self.ks:
            self._put("P", k, hits[:, :k] / k)
            self._put("PSP", k, weighted[:, :k])
            self._put("PSP best", k, best[:, :k])
            # A query without true labels has no hits: any divisor gives its 0.
            ideal = self.ideal[np.clip(n, 1, k) - 1]
            for name, gains in (("nDCG", hits), ("PSnDCG", weighted), ("PSnDCG best", best)):
                self._put(name, k, gains[:, :k] @ discount[:k] / ideal)

    def _add_deep(self, hits: np.ndarray, n: np.ndarray) -> None:
        # Few of the positions are hits: all is counted from these.
        rows, positions = np.nonzero(hits)
        hits_of_row = np.bincount(rows, minlength=len(n))
        nth = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(hits_of_row) - hits_of_row, hits_of_row)
        precision = nth / (positions + 1)
        first = np.full(len(n), np.inf)
        first[rows[nth == 1]] = positions[nth == 1] + 1
        for k in self.deep_ks:
            inside = positions < k
            found = np.bincount(rows[inside], minlength=len(n))
            self._put("R", k, found / np.maximum(n, 1))
            self._put("hit", k, found > 0)
            self._put("MAP", k, np.bincount(rows[inside], precision[inside], len(n)) / np.clip(n, 1, k))
            self._put("MRR", k, np.where(first <= k, 1 / first, 0.0))

    def percentages(self, n_queries: int) -> dict[str, float]:
        result = {}
        for names, ks in ((("P", "nDCG", "PSP", "PSnDCG"), self.ks), (("R", "hit", "MAP", "MRR"), self.deep_ks)):
            for name in names:
                for k in ks:
                    divisor = self.total.get((f"{name} best", k), n_queries)
                    # Sums in another order can pass their best value by a last digit.
                    result[f"{name}@{k}"] = min(100.0, float(100 * self.total[name, k] / divisor))
        return result


def _best_weights(truth: Ragged, by_weight: np.ndarray, rank: np.ndarray, depth: int) -> np.ndarray:
    """Return each query's true labels' weights, largest first, 0 where there are fewer: (c, depth) float64.

    ``by_weight`` (n_labels,) are all weights, largest first; ``rank`` is the position of each label's among them.
    """
    rows = truth.row_ids()
    # One number per pair: sorting numbers is many times faster than sorting by two columns.
    order = np.sort(rows * truth.n_cols + rank[truth.values])
    position = np.arange(len(order)) - np.repeat(truth.offsets[:-1], truth.lengths)
    kept = position < depth
    rows = rows[kept]
    best = np.zeros((len(truth), depth))
    best[rows, position[kept]] = by_weight[order[kept] - rows * truth.n_cols]
    return best


def _check(truth: Ragged, inverse_propensity: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Return the inverse propensities as float64."""
    if not len(truth.values):
        found, hint = f"{len(truth)} queries, none with a true label", "choose a split that has labels"
        raise VixmlError("there is nothing to score", where="true labels", found=found, hint=hint)
    if not ks:
        raise VixmlError("metrics are taken at no k", where="ks and deep_ks", hint="name one")
    for k in ks:
        hint = "correct the list of k"
        expect_whole(k, 1, "metrics are taken at k of 1 or more", where="ks and deep_ks", hint=hint, most=1_000_000)
    what, where = "inverse propensities do not fit the labels", "inverse propensities"
    expected = f"({truth.n_cols},), numbers from 1e-100 to 1e100"  # their sums stay finite and above 0
    hint = "make them from the training labels of the same corpus; fewer than 3 training queries give none"
    with reading(what, where, expected=expected, hint=hint):
        given = np.asarray(inverse_propensity)
    found, numbers = f"shape {given.shape}, {given.dtype}", given.dtype.kind in "fiu"
    if not numbers or given.shape != (truth.n_cols,) or not ((given >= 1e-100) & (given <= 1e100)).all():
        found += f", {given.min(initial=np.inf):.4g} to {given.max(initial=-np.inf):.4g}" if numbers else ""
        raise VixmlError(what, where=where, found=found, expected=expected, hint=hint)
    return given.astype(np.float64)
