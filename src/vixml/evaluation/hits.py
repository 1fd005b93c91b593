"""Mark which predicted labels are true, a bounded chunk of queries at a time.

Everything that is scored goes through here, so the filter of reciprocal pairs is applied in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vixml.errors import VixmlError
from vixml.ragged import Ragged

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
        n_removed: how many predictions the filter took out.
        n_filtered_true: how many true pairs stand in the filter, so that no prediction can ever reach them.
    """

    rows: slice
    labels: np.ndarray
    hits: np.ndarray
    truth: Ragged
    n_removed: int
    n_filtered_true: int


def hits_in_chunks(
    predictions: np.ndarray, truth: Ragged, filter: Ragged | None = None, memory_mb: float = 256
) -> Iterator[Hits]:
    """Yield the queries in chunks, in order.

    The filter follows the official evaluation (xclib with ``filter_labels_test.txt``): the score of a filtered pair is
    set to zero, which takes it out of the *ranking*; the ground truth stays as it is.

    Args:
        predictions: (n_queries, K) integer label ids, best first, -1 for none.
        truth: n_queries rows over labels, no label twice in a row.
        filter: n_queries rows over labels, pairs that are never scored.
        memory_mb: bound for the temporary tables of a chunk; a chunk has one row at least.

    Raises:
        VixmlError: numbers of rows or labels differ, or a label stands twice among a row's true labels.
    """
    _check_shapes(predictions, truth, filter)
    cells = predictions.shape[1] + len(truth.values) / max(len(truth), 1)
    step = max(1, int(memory_mb * 2**20 / (BYTES_PER_CELL * (cells + 1))))
    for start in range(0, len(truth), step):
        yield _chunk(predictions, truth, filter, slice(start, min(start + step, len(truth))))


def _chunk(predictions: np.ndarray, truth: Ragged, filter: Ragged | None, rows: slice) -> Hits:
    labels = np.asarray(predictions[rows], dtype=np.int32)
    own = truth.take(np.arange(rows.start, rows.stop))
    true_keys = _sorted_keys(own)
    twice = np.flatnonzero(true_keys[1:] == true_keys[:-1])
    if len(twice):
        row, label = divmod(int(true_keys[twice[0]]), truth.n_cols)
        raise VixmlError(
            "a label stands twice among the true labels of a query",
            where=f"query {rows.start + row}",
            found=f"label {label}, twice",
            expected="each true label once: otherwise recall and nDCG count it twice",
            hint="build the corpus again",
        )
    removed = filtered_true = 0
    if filter is not None:
        banned = filter.take(np.arange(rows.start, rows.stop))
        gone = _stand_in(labels, banned)
        removed = int(gone.sum())
        filtered_true = int(np.isin(true_keys, _sorted_keys(banned)).sum())
        if removed:
            # A stable sort by "gone" keeps the order of the rest and moves it up; most rows have nothing to move.
            some = np.flatnonzero(gone.any(axis=1))
            order = np.argsort(gone[some], axis=1, kind="stable")
            labels = labels.copy()
            labels[some] = np.take_along_axis(np.where(gone[some], np.int32(-1), labels[some]), order, axis=1)
    return Hits(rows, labels, _stand_in(labels, own), own, removed, filtered_true)


def _sorted_keys(pairs: Ragged) -> np.ndarray:
    """Return each (row, label) pair as one number, ascending: (n_values,) int64."""
    return np.sort(pairs.row_ids() * pairs.n_cols + pairs.values)


def _stand_in(labels: np.ndarray, pairs: Ragged) -> np.ndarray:
    """Return which (row, label) pairs of a (c, K) table stand among ``pairs``: (c, K) bool."""
    found = np.zeros(labels.shape, dtype=bool)
    if not len(pairs.values) or not labels.size:
        return found
    lengths = pairs.lengths
    by_length = np.argsort(-lengths, kind="stable")
    n_long, n_any = (int((lengths >= least).sum()) for least in (LONG, 1))
    rows = by_length[:n_long]
    if n_long:
        found[rows] = _look_up(labels[rows], pairs.take(rows))
    # A label more of every row at once: a row of predictions is compared with it in a few instructions.
    step = max(1, TOGETHER // labels.shape[1])
    for start in range(n_long, n_any, step):
        rows = by_length[start : min(start + step, n_any)]
        own, hits = labels[rows], np.zeros((len(rows), labels.shape[1]), dtype=bool)
        first, length = pairs.offsets[rows], lengths[rows]
        for place in range(int(length[0])):
            n = int(np.searchsorted(-length, -place))  # rows that are longer than ``place``
            hits[:n] |= own[:n] == pairs.values[first[:n] + place][:, None]
        found[rows] = hits
    return found


def _look_up(labels: np.ndarray, pairs: Ragged) -> np.ndarray:
    keys = _sorted_keys(pairs)
    wanted = np.arange(len(labels), dtype=np.int64)[:, None] * pairs.n_cols + labels
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    # -1 would otherwise be the last label of the row before.
    return (keys[place] == wanted) & (labels >= 0)


def _check_shapes(predictions: np.ndarray, truth: Ragged, filter: Ragged | None) -> None:
    if predictions.ndim != 2 or len(predictions) != len(truth):
        raise VixmlError(
            "predictions and true labels do not belong together",
            where="predictions",
            found=f"shape {predictions.shape}",
            expected=f"({len(truth)}, K), a row a query",
            hint="predict again on the split that is scored",
        )
    if filter is not None and (len(filter), filter.n_cols) != (len(truth), truth.n_cols):
        raise VixmlError(
            "the filter of reciprocal pairs and the true labels do not belong together",
            where="filter",
            found=f"{len(filter)} rows over {filter.n_cols} labels",
            expected=f"{len(truth)} rows over {truth.n_cols} labels",
            hint="build the corpus again",
        )
