"""Inverse propensities: how much a true label counts that is seldom observed (Jain et al., KDD 2016)."""

from __future__ import annotations

from numbers import Real

import numpy as np

from vixml.errors import VixmlError, expect_whole, reading


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
    with reading("these are no counts of training queries", "counts", expected="(n_labels,) whole numbers"):
        counts = np.asarray(counts)
    what = "propensities need three training queries or more: their formula has log(n) - 1"
    expect_whole(n_train, 3, what, where="train", hint="are the tables whole?")
    whole = counts.dtype.kind in "iu"
    if counts.ndim != 1 or not whole or counts.min(initial=0) < 0 or counts.max(initial=0) > n_train:
        found = f"shape {counts.shape}, {counts.dtype}" + (
            f", {counts.min()} to {counts.max()}" if whole and counts.size else ""
        )
        expected = f"(n_labels,) whole numbers from 0 to n_train = {n_train}"
        raise VixmlError("these are no counts of training queries", where="counts", found=found, expected=expected)
    numbers = all(isinstance(value, Real) and not isinstance(value, bool) for value in (a, b))
    if not (numbers and 0 <= a <= 10 and 0 <= b <= 1e6):
        raise VixmlError(
            "propensities need an A from 0 to 10, and a B from 0 to 1,000,000",
            where="a, b",
            found=f"{a!r:.40}, {b!r:.40}",
        )
    if not b and not counts.min(initial=1):
        raise VixmlError(
            "B of 0 gives a label without training queries an infinite weight", where="propensity.b", found=b,
            hint="set it above 0, e.g. to the default, 2.6",
        )  # fmt: skip
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * np.power(np.asarray(counts, dtype=np.float64) + b, -a)
