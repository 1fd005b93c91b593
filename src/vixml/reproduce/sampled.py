"""Rows of a large array to look at: a sample, the same one every time, a piece at a time."""

from __future__ import annotations

import numpy as np

ROWS = 16384  # rows of a matrix whose norms are looked at
PIECE = 1024  # of these, how many at a time


def sample(n: int, at_most: int) -> np.ndarray:
    """Return rows to look at, ascending: all of ``n``, or ``at_most`` of them, the same ones every time.

    Example:
        >>> sample(3, 5).tolist(), len(sample(1000, 5)), bool((sample(1000, 5) == sample(1000, 5)).all())
        ([0, 1, 2], 5, True)
    """
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, at_most, replace=False, shuffle=False))


def pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Return rows in pieces of ``size``, the last one shorter."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]
