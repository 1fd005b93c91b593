"""Limits that decide results and are no settings: digests cover this module, unlike the rest of ``config``."""

from __future__ import annotations

LINEAR_TERMS = 1 << 14  # at most: a system of that size takes 1 GB and half a minute
LINEAR_TEXTS, LINEAR_LABELS = 50_000, 65_536  # of a linear model at most: minutes, and 512 terms for so many labels
FEWEST_TO_CHOOSE = 500  # held-out queries; with fewer, what is chosen is worse than the preset


def has_linear(n_train: int, n_labels: int) -> bool:
    """Return whether a linear model on TF-IDF is fitted to so many training texts and labels."""
    return n_train <= LINEAR_TEXTS and n_labels <= LINEAR_LABELS
