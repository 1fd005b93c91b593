"""Read a predictions folder and refuse data that would be scored wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vixml.data.corpus import training_rows
from vixml.errors import VixmlError, expect_equal
from vixml.evaluation.metrics import check_ranking, refuse_wrong
from vixml.files import load_array
from vixml.manifest import holds

REPAIR = "delete the folder and run the predict stage again"
CHUNK = 4096


@dataclass(frozen=True)
class Predictions:
    """Rankings of the queries of one split.

    Attributes:
        labels: (n_queries, K) int32, best first, -1 at the end where there are fewer; memory-mapped.
        scores: (n_queries, K) float32, memory-mapped.
        rows: (n_queries,) int64 rows of train for a validation split, None for test.
    """

    labels: np.ndarray
    scores: np.ndarray
    rows: np.ndarray | None


def load_predictions(folder: Path | str, n_queries: int, n_labels: int) -> Predictions:
    """Read ``labels.npy``, ``scores.npy`` and, for validation, ``rows.npy``, and check every row.

    Args:
        folder: written by ``predict``.
        n_queries: items of the split that the queries come from: of test all are queries, of train those in ``rows.npy``.
        n_labels: of the corpus.

    Raises:
        VixmlError: wrong type or number of rows, a label out of range or twice in a row, a label after -1, a score that
            is NaN or larger than the one before it. The first such query is named.
    """
    folder = Path(folder)
    labels, scores = load_array(folder / "labels.npy"), load_array(folder / "scores.npy")
    rows = training_rows(folder / "rows.npy", n_queries, REPAIR) if holds(folder, "rows.npy") else None
    expected = n_queries if rows is None else len(rows)
    if labels.ndim != 2 or labels.dtype != np.int32 or len(labels) != expected:
        raise VixmlError(
            "predictions do not fit the corpus",
            where=folder / "labels.npy",
            found=f"shape {labels.shape}, {labels.dtype}",
            expected=f"({expected}, K) int32, one row per query",
            hint=REPAIR,
        )
    found, fitting = f"shape {scores.shape}, {scores.dtype}", f"shape {labels.shape}, float32"
    expect_equal(found, fitting, "scores do not fit the predicted labels", where=folder / "scores.npy", hint=REPAIR)
    for start in range(0, len(labels), CHUNK):
        some = scores[start : start + CHUNK]
        check_ranking(np.asarray(labels[start : start + CHUNK]), n_labels, start, folder / "labels.npy", REPAIR)
        rising = np.zeros(some.shape, dtype=bool)
        rising[:, 1:] = some[:, 1:] > some[:, :-1]
        checks = (
            (some, np.isnan(some), "a score is not a number", "finite scores"),
            (some, rising, "scores rise along a row", "best first"),
        )
        refuse_wrong(checks, start, folder / "scores.npy", REPAIR)
    return Predictions(labels, scores, rows)
