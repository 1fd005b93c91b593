"""Inverse propensities: how much a true label counts that is seldom observed (Jain et al., KDD 2016)."""

from __future__ import annotations

import numpy as np

from vixml.errors import VixmlError


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
        VixmlError: fewer than three training queries, for which the formula gives less than 1.

    Example:
        >>> inverse_propensity(np.array([0, 10, 1000]), 10_000, 0.6, 2.6).round(3).tolist()
        [10.981, 4.872, 1.28]
    """
    if n_train < 3:
        raise VixmlError(
            "propensities need three training queries or more", where="train", found=n_train,
            expected="3: the formula has log(n) - 1", hint="are the tables whole?",
        )  # fmt: skip
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * np.power(np.asarray(counts, dtype=np.float64) + b, -a)
