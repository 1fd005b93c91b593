"""Choose the settings of a training from the size of a catalogue."""

from __future__ import annotations

import math
from typing import Any

from vixml.config.limits import FEWEST_TO_CHOOSE

FEWEST_TO_HOLD_OUT = 4_000  # training items; of fewer, 500 are too large a share to train without
SPLIT_QUERIES, LARGEST_SPLIT = 800, 0.2  # held out by several trainings in all, and the share of one
FEWEST_TO_TRAIN = 3  # training items: propensities follow from log(n) - 1


def training_defaults(n_train: int, n_labels: int, max_images: int = 0, words: int = 20) -> dict[str, Any]:
    """Return keys of a run that depend on the size of the data.

    Rules:
        steps: 400 (300 items and fewer) to 1,500 (100,000 and more), in proportion to the logarithm of the number of items.
        batch: so large that these steps are about ten epochs, because more of them made small catalogues worse
            (docs/results.md); but 2 sqrt(items) at most; as a power of two in [8, 2048].
        epochs: so many that these steps result; at least one.
        warm-up: a tenth of the steps for the language model, a fiftieth for the new parts.
        sampled labels: 65,536 of more than twice as many, so that a batch's scores fit into memory.
        free vectors (PRIME): about one per two labels, as a power of two up to the paper's 65,536.
        images per item: what there is, up to the paper's three.
        mining: from 50,000 items on, after a third of at least nine epochs; below, in-batch negatives are hard enough.
        validation: a tenth of train, but 520 items at least and 1,000 at most, to choose inference; nothing of fewer than 4,000
            items, whose inference is chosen on further trainings (:func:`validation_splits`).
        max_len: 1.5 tokens per word of a long text, in [16, 128].

    ``max_images``: most images of an item, 0 for none; ``words``: of a long text (the 90th percentile).

    Example:
        >>> [training_defaults(n, n // 3)["training"] for n in (300, 12_800)]  # doctest: +NORMALIZE_WHITESPACE
        [{'epochs': 11, 'batch_size': 8, 'validation': 0.0}, {'epochs': 12, 'batch_size': 128, 'validation': 0.0781}]
    """
    held_out = min(max(n_train / 10, FEWEST_TO_CHOOSE + 20), 1000) if n_train >= FEWEST_TO_HOLD_OUT else 0
    validation = round(held_out / n_train, 4)
    seen = max(n_train - int(validation * n_train), 2)
    share = min(max((math.log10(n_train) - math.log10(300)) / (5 - math.log10(300)), 0.0), 1.0)
    wanted = 400 + 1100 * share
    batch = min(_power_of_two(min(10 * seen / wanted, 2 * math.sqrt(seen)), 8, 2048), max(2, seen))
    per_epoch = math.ceil(seen / batch)
    epochs = max(1, min(math.ceil(wanted / per_epoch), 1500 // per_epoch))
    steps = epochs * per_epoch
    mined = n_train >= 50_000 and epochs >= 9
    return {
        "encoder": {"max_len": min(max(16, 8 * math.ceil(1.5 * words / 8)), 128)},
        "images": {"per_item": min(3, max(max_images, 1))},
        "loss": {"sampled_labels": 65536 if n_labels > 131_072 else None},
        "prototype": {"free_vectors": _power_of_two(n_labels / 2, 1, 65536)},
        "mining": {"start": epochs // 3, "update": 3, "size": 16, "double_at": []} if mined else None,
        "optimizer": {"warmup_steps": max(steps // 10, 1), "warmup_steps_new": max(steps // 50, 1)},
        "training": {"epochs": epochs, "batch_size": batch, "validation": validation},
    }


def validation_splits(n_train: int) -> tuple[int, float]:
    """Return how many more trainings choose the inference of a small catalogue, and the share of train that each holds out.

    About 800 queries in all: between a tenth and a fifth of train in each of two to five trainings. Of fewer than 500 items none,
    because fewer than 500 queries choose nothing.

    Example:
        >>> [validation_splits(n) for n in (300, 500, 1_000, 2_400, 3_900, 4_000)]
        [(0, 0.0), (5, 0.2), (4, 0.2), (2, 0.1667), (2, 0.1026), (0, 0.0)]
    """
    if not FEWEST_TO_CHOOSE <= n_train < FEWEST_TO_HOLD_OUT:
        return 0, 0.0
    splits = min(max(math.ceil(SPLIT_QUERIES / (LARGEST_SPLIT * n_train)), 2), 5)
    return splits, round(min(max(SPLIT_QUERIES / (splits * n_train), 0.1), LARGEST_SPLIT), 4)


def _power_of_two(value: float, least: int, most: int) -> int:
    """Return the nearest power of two, by its exponent, within bounds."""
    return min(max(2 ** round(math.log2(max(value, 1))), least), most)
