"""Comparison of rankings with the scores of a naive computation."""

from __future__ import annotations

import numpy as np
import pytest


def agree(ids, scores, expected):
    """Check each row: the best labels by the expected scores, best first, ties by smaller id, then -1."""
    for row, by_label in enumerate(expected):
        length = min(len(by_label), ids.shape[1])
        found = ids[row, :length].tolist()
        assert (ids[row, length:] == -1).all() and (scores[row, length:] == -np.inf).all()
        assert len(set(found)) == length and set(found) <= set(by_label)
        assert scores[row, :length] == pytest.approx([by_label[label] for label in found], abs=2e-6)
        best = sorted(by_label.values(), reverse=True)[:length]
        assert scores[row, :length] == pytest.approx(best, abs=2e-6)
        falling = np.diff(scores[row, :length])
        assert (falling <= 0).all() and (np.diff(ids[row, :length])[falling == 0] > 0).all()
