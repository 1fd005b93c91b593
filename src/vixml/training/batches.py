"""Batches of queries and labels: a pure function of seed, epoch and index.

Nothing here keeps state, so the same batches come out with any number of workers and after any interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vixml.config.run import RunConfig
from vixml.models.packing import MULTIPLE, Packed, Sequences, pinned
from vixml.ragged import Ragged
from vixml.runtime import DRAW, ORDER, POSITIVE, SAMPLE, generator
from vixml.training.all_labels import Candidates, draw_candidates
from vixml.training.distributed import SINGLE, ProcessGroup


@dataclass(frozen=True)
class TrainingSet:
    """Queries, labels and their truth.

    Attributes:
        queries: (n_train) items.
        labels: (n_labels) items.
        truth: (n_train rows) label ids of each query, ascending.
        rows: (n,) int64, the training queries in use; validation queries are left out.
        weights: (n_labels,) float64, chance of drawing a label relative to the query's other labels.
    """

    queries: Sequences
    labels: Sequences
    truth: Ragged
    rows: np.ndarray
    weights: np.ndarray

    @cached_property
    def used_truth(self) -> Ragged:
        """Return the labels of the queries in use: one row for each of ``rows``."""
        return self.truth if len(self.rows) == len(self.truth) else self.truth.take(self.rows)

    @cached_property
    def trained_labels(self) -> np.ndarray:
        """Return the labels that a query in use has: (t,) int64 ids, ascending."""
        return np.flatnonzero(self.used_truth.counts())


@dataclass(frozen=True)
class Batch:
    """One training batch: ``n`` queries, ``m`` labels.

    Attributes:
        queries: (n,) int64 rows of train.
        labels: (m,) int64 label ids to encode, ascending; with ``training.label_copies: kept`` one per query, copies side by
            side; none where the loss reads no text vector of a label (``all-labels``).
        parts: this process's share of the items, queries first, then labels; a part goes through the encoder at once.
            Empty in training on stored vectors.
        pairs: (n_pairs, 2) int64, every (query, label) of the batch that is in the truth, as positions in the batch.
        drawn_label: (3, n) int64, each query's drawn positive in L(q,u), L(q,z) and R, as positions in ``labels``.
        drawn_query: (m,) int64, each label's drawn positive, as a position in ``queries``.
        candidates: the labels whose own vectors the queries are compared with (``all-labels``), or None.
        has_images: whether any item of the batch has an image, in whichever process's share.
    """

    queries: np.ndarray
    labels: np.ndarray
    parts: tuple[Packed, ...]
    pairs: np.ndarray
    drawn_label: np.ndarray
    drawn_query: np.ndarray
    candidates: Candidates | None = None
    has_images: bool = False

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; a DataLoader calls this in a thread."""
        read = ("labels", "pairs", "drawn_label", "drawn_query")
        arrays = {name: pinned(getattr(self, name)) for name in read}
        candidates = self.candidates and self.candidates.pin_memory()
        return replace(self, **arrays, parts=tuple(part.pin_memory() for part in self.parts), candidates=candidates)


def query_order(rows: np.ndarray, groups: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """Return the epoch's order of training queries: (n,) int64, a permutation of ``rows``.

    Args:
        rows: (n,) int64 training rows.
        groups: (n,) int64 group of each of them (NGAME: groups in random order, whole), or None for a plain shuffle.
    """
    rng = generator(seed, ORDER, epoch)
    shuffled = rng.permutation(len(rows))
    if groups is None:
        return rows[shuffled]
    rank = rng.permutation(int(groups.max()) + 1)
    return rows[shuffled[np.argsort(rank[groups[shuffled]], kind="stable")]]


def draw_positives(truth: Ragged, rows: np.ndarray, weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draw one label for every training query, with probability proportional to the labels' weights.

    Args:
        truth: label ids of each query.
        rows: (n,) int64 queries that must have a label.
        weights: (n_labels,) float64, positive.

    Returns:
        (len(truth),) int64 label ids; -1 for queries not in ``rows``.
    """
    share = np.concatenate([[0.0], np.cumsum(weights[truth.values])])
    low, high = share[truth.offsets[rows]], share[truth.offsets[rows + 1]]
    # One number per query of the data set, so that a query's draw does not depend on which others are in use.
    uniform = generator(seed, POSITIVE, epoch).random(len(truth))[rows]
    position = np.searchsorted(share, low + uniform * (high - low), side="right") - 1
    position = np.clip(position, truth.offsets[rows], truth.offsets[rows + 1] - 1)
    drawn = np.full(len(truth), -1, dtype=np.int64)
    drawn[rows] = truth.values[position]
    return drawn


class EpochBatches(Dataset):
    """The batches of one epoch, by index; the last one may be smaller.

    ``groups`` are as in :func:`query_order`; ``group`` are the processes that share each batch; ``with_text`` False leaves the
    parts out (training on stored vectors).
    """

    def __init__(
        self,
        data: TrainingSet,
        config: RunConfig,
        seed: int,
        epoch: int,
        groups: np.ndarray | None = None,
        group: ProcessGroup = SINGLE,
        with_text: bool = True,
    ) -> None:
        self.data, self.config, self.seed, self.epoch = data, config, seed, epoch
        self.group, self.with_text = group, with_text
        self.order = query_order(data.rows, groups, seed, epoch)
        self.positives = draw_positives(data.truth, data.rows, data.weights, seed, epoch)

    def __len__(self) -> int:
        return -(-len(self.order) // self.config.training.batch_size)

    def __getitem__(self, index: int) -> Batch:
        data, size = self.data, self.config.training.batch_size
        queries = self.order[index * size : (index + 1) * size]
        drawn, loss, truth = self.positives[queries], self.config.loss, data.truth.take(queries)
        # Each label once, or once for each query that drew it (docs/deviations.md D1).
        labels = np.unique(drawn) if self.config.training.label_copies == "merged" else np.sort(drawn)
        candidates = None
        if self.config.method == "all-labels":
            rng = generator(self.seed, SAMPLE, self.epoch, index)
            candidates = draw_candidates(truth, data.trained_labels, loss.sampled_labels, rng)
            labels = labels if loss.text_weight else labels[:0]
        # All columns of each query's labels: a range of the ascending list, empty for a label that no query drew.
        first, end = (np.searchsorted(labels, truth.values, side=side) for side in ("left", "right"))
        count = end - first
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs = np.stack([np.repeat(truth.row_ids(), count), np.repeat(first, count) + within], axis=1)
        rng = generator(self.seed, DRAW, self.epoch, index)
        drawn_label = draw_per_group(pairs[:, 0], pairs[:, 1], len(queries), rng)
        drawn_query = draw_per_group(pairs[:, 1], pairs[:, 0], len(labels), rng)
        drawn_labels = [drawn_label] * 3
        if loss.draws == "per-term":
            drawn_labels[1:] = (draw_per_group(pairs[:, 0], pairs[:, 1], len(queries), rng) for _ in range(2))
        items = ((data.queries.images, queries), (data.labels.images, labels))
        return Batch(
            queries,
            labels.astype(np.int64),
            tuple(self._parts(queries, labels)) if self.with_text else (),
            pairs,
            np.stack(drawn_labels),
            drawn_query,
            candidates,
            any(lists is not None and (lists.offsets[rows + 1] > lists.offsets[rows]).any() for lists, rows in items),
        )

    def _parts(self, queries: np.ndarray, labels: np.ndarray) -> Iterator[Packed]:
        """Yield this process's share of the items in parts of ``training.items_at_once``."""
        share = self.group.share(len(queries) + len(labels))
        size = self.config.training.items_at_once or max(share.stop - share.start, 1)
        for first in range(share.start, share.stop, size):
            end = min(first + size, share.stop)
            some_labels = labels[max(first - len(queries), 0) : max(end - len(queries), 0)]
            items = self.data.queries.take(queries[first:end]).followed_by(self.data.labels.take(some_labels))
            yield items.pack(MULTIPLE)


def draw_per_group(groups: np.ndarray, members: np.ndarray, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one member of each group uniformly: (n_groups,) int64; (0,) without pairs.

    Args:
        groups: (n,) int64 group of each pair.
        members: (n,) int64 member of each pair.
        n_groups: every group in [0, n_groups) must occur; or there are no pairs at all, and nothing is drawn.
        rng: used once.
    """
    if not len(groups):
        return members
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups, minlength=n_groups)
    starts = np.cumsum(counts) - counts
    pick = np.minimum((rng.random(n_groups) * counts).astype(np.int64), counts - 1)
    return members[order[starts + pick]]


def iterate(batches: EpochBatches, start: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Yield the batches from ``start`` on, in order.

    ``workers`` processes assemble them (0: this one); ``pin`` puts them in pinned memory, for a GPU.
    """
    yield from DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # The default draws from the global generator; then dropout would differ after a resume.
        generator=torch.Generator(),
    )


def _unchanged(batch: Batch) -> Batch:
    """Return the batch; the loader's default would make tensors of its arrays."""
    return batch
