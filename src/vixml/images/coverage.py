"""How many items have a picture: the columns of Table 8."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vixml.data.corpus import SPLITS, Corpus
from vixml.ragged import Ragged


def share_with_images(lists: Ragged, missing: Iterable[int]) -> float:
    """Return how many items, in percent with two decimals, have a picture that is not missing.

    Args:
        lists: (n_items) lists of image ids.
        missing: ids without a picture.

    Example:
        >>> share_with_images(Ragged.from_rows([[0, 1], [1], []], n_cols=2), missing=[1])
        33.33
    """
    there = np.ones(lists.n_cols, dtype=bool)
    there[list(missing)] = False
    rows = np.unique(lists.row_ids()[there[lists.values]])
    return round(100.0 * len(rows) / max(len(lists), 1), 2)


def coverage(corpus: Corpus, missing: Iterable[int]) -> dict[str, float]:
    """Return for each split how many items, in percent, have a picture: those of Table 8."""
    missing = list(missing)
    return {split: share_with_images(corpus.images(split), missing) for split in SPLITS}
