"""Inverse propensities: how much a true label counts that is seldom observed (Jain et al., KDD 2016)."""

from __future__ import annotations

import numpy as np

from vixml.errors import VixmlError, expect_whole


def inverse_propensity(counts: np.ndarray, n_train: int, a: float, b: float) -> np.ndarray:
    """Return ``1 + C (N_l + B)^-A`` with ``C = (log N - 1)(B + 1)^A``.

    Args:
        counts: (n_labels,) how many *training* queries have each label, ``N_l``.
        n_train: number of training queries, ``N``.
        a: ``A``, 0.6 for the Amazon data sets.
        b: ``B``, 2.6 for the Amazon data sets.

    Returns:
        (n_labels,) float64, at least 1.

    Raises:
        VixmlError: counts or constants of another kind, or fewer than three training queries, for which the formula gives less
            than 1.

    Example:
        >>> inverse_propensity(np.array([0, 10, 1000]), 10_000, 0.6, 2.6).round(3).tolist()
        [10.981, 4.872, 1.28]
    """
    counts = np.asarray(counts)
    expect_whole(n_train, 1, "the number of training queries is no number of things", where="n_train")
    if n_train < 3:
        raise VixmlError(
            "propensities need three training queries or more", where="train", found=n_train,
            expected="3: the formula has log(n) - 1", hint="are the tables whole?",
        )  # fmt: skip
    outside = counts.size and (counts.min() < 0 or counts.max() > n_train)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or outside:
        found = f"shape {counts.shape}, {counts.dtype}" + (f", {counts.min()} to {counts.max()}" if counts.size else "")
        expected = f"(n_labels,) whole numbers from 0 to n_train = {n_train}"
        raise VixmlError("these are no counts of training queries", where="counts", found=found, expected=expected)
    if not (np.isfinite(a) and np.isfinite(b) and b >= 0):
        raise VixmlError("propensities need a finite A, and a finite B of 0 or more", where="a, b", found=f"{a}, {b}")
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * np.power(np.asarray(counts, dtype=np.float64) + b, -a)
