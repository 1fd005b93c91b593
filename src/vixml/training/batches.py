"""Batches of queries and labels: a pure function of seed, epoch and position.

Nothing here keeps state, so the same batches come out with any number of workers and after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vixml.config.run import RunConfig
from vixml.models.packing import MULTIPLE, Packed, pack, pinned
from vixml.models.prompt import PLAIN, Prompt
from vixml.ragged import Ragged
from vixml.runtime import DRAW, ORDER, POSITIVE, generator
from vixml.training.distributed import SINGLE, ProcessGroup

Gather = Callable[[np.ndarray], np.ndarray]  # image rows -> (n_images, image_dim) float16 vectors


@dataclass(frozen=True)
class TrainingSet:
    """Queries, labels and their truth, as training reads them.

    Attributes:
        query_tokens: (n_train rows) text tokens.
        label_tokens: (n_labels rows) text tokens.
        query_images: rows of image embeddings of each query, or None.
        label_images: rows of image embeddings of each label, or None.
        truth: (n_train rows) label ids of each query, ascending.
        rows: (n,) int64, the training queries in use (validation rows are left out).
        weights: (n_labels,) float64, chance of drawing a label relative to the query's other labels.
        prompt: how sequences are laid out.
    """

    query_tokens: Ragged
    label_tokens: Ragged
    query_images: Ragged | None
    label_images: Ragged | None
    truth: Ragged
    rows: np.ndarray
    weights: np.ndarray
    prompt: Prompt = PLAIN


@dataclass(frozen=True)
class Part:
    """Items of a batch that go through the encoder together.

    Attributes:
        first: position of the first item among the batch's items, queries then labels.
        packed: the items as one stream.
        images: (n_images, image_dim) float16 vectors of ``packed.image_rows``, or None.
    """

    first: int
    packed: Packed
    images: torch.Tensor | None

    def pin_memory(self) -> Part:
        """Move all that a GPU fetches where it can do so without the processor's help."""
        return replace(
            self, packed=self.packed.pin_memory(), images=None if self.images is None else self.images.pin_memory()
        )


@dataclass(frozen=True)
class Batch:
    """One training batch: ``n`` queries, ``m`` labels.

    Attributes:
        queries: (n,) int64 rows of train.
        labels: (m,) int64 label ids, ascending; with ``training.label_copies: kept`` one per query, copies side by side.
        parts: this process's share of the items, queries first, then labels; none in training on stored vectors.
        pairs: (n_pairs, 2) int64, every (query, label) of the batch that is in the truth, as positions in the batch.
        drawn_label: (3, n) int64, each query's drawn positive in L(q,u), L(q,z) and R, as positions in ``labels``.
        drawn_query: (m,) int64, each label's drawn positive, as a position in ``queries``.
        has_images: whether any of its items has an image, in whichever process's share.
    """

    queries: np.ndarray
    labels: np.ndarray
    parts: tuple[Part, ...]
    pairs: np.ndarray
    drawn_label: np.ndarray
    drawn_query: np.ndarray
    has_images: bool = False

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; a DataLoader calls this in a thread of its own."""
        fetched = ("labels", "pairs", "drawn_label", "drawn_query")
        own = {name: pinned(getattr(self, name)) for name in fetched}
        return replace(self, **own, parts=tuple(part.pin_memory() for part in self.parts))


def query_order(rows: np.ndarray, groups: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """Return the epoch's order of training queries.

    Args:
        rows: (n,) int64 training rows.
        groups: (n,) int64 group of each of them (NGAME: groups in random order, whole), or None for a plain shuffle.
        seed: of the run.
        epoch: from 0.

    Returns:
        (n,) int64, a permutation of ``rows``.
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
        seed: of the run.
        epoch: from 0.

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

    Args:
        data: the training set.
        config: the run: batch size, copies of labels, draws, items of a part.
        order: (n,) int64, the epoch's queries in order.
        positives: (n_train,) int64, the label drawn for each query.
        seed: of the run.
        epoch: from 0.
        gather: image rows -> (n_images, image_dim) float16 vectors; needed with images.
        group: the processes that share each batch.
        with_text: False leaves the parts out (training on stored vectors).
    """

    def __init__(
        self,
        data: TrainingSet,
        config: RunConfig,
        order: np.ndarray,
        positives: np.ndarray,
        seed: int,
        epoch: int,
        gather: Gather | None = None,
        group: ProcessGroup = SINGLE,
        with_text: bool = True,
    ) -> None:
        self.data, self.config, self.order, self.positives = data, config, order, positives
        self.seed, self.epoch, self.gather, self.group, self.with_text = seed, epoch, gather, group, with_text
        self.batch_size = config.training.batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        data = self.data
        queries = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        drawn = self.positives[queries]
        # Each label once, or once for each query that drew it (docs/deviations.md D1).
        labels = np.unique(drawn) if self.config.training.label_copies == "merged" else np.sort(drawn)
        truth = data.truth.take(queries)
        # All columns of each query's labels: a range of the ascending list, empty for a label that nobody drew.
        first, end = (np.searchsorted(labels, truth.values, side=side) for side in ("left", "right"))
        count = end - first
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs = np.stack([np.repeat(truth.row_ids(), count), np.repeat(first, count) + within], axis=1)
        rng = generator(self.seed, DRAW, self.epoch, index)

        def draw_label() -> np.ndarray:
            return draw_per_group(pairs[:, 0], pairs[:, 1], len(queries), rng)

        drawn_label = draw_label()
        drawn_query = draw_per_group(pairs[:, 1], pairs[:, 0], len(labels), rng)
        per_term = self.config.loss.draws == "per-term"
        return Batch(
            queries,
            labels.astype(np.int64),
            tuple(self._parts(queries, labels)) if self.with_text else (),
            pairs,
            np.stack([drawn_label, *(draw_label() if per_term else drawn_label for _ in range(2))]),
            drawn_query,
            self._has_images(queries, labels),
        )

    def _has_images(self, queries: np.ndarray, labels: np.ndarray) -> bool:
        lists = ((self.data.query_images, queries), (self.data.label_images, labels))
        return any(own is not None and bool((own.offsets[rows + 1] > own.offsets[rows]).any()) for own, rows in lists)

    def _parts(self, queries: np.ndarray, labels: np.ndarray) -> Iterator[Part]:
        data = self.data
        own = self.group.share(len(queries) + len(labels))
        size = self.config.training.items_at_once or max(own.stop - own.start, 1)
        for first in range(own.start, own.stop, size):
            items = slice(first, min(first + size, own.stop))
            of_queries = queries[items]
            of_labels = labels[max(items.start - len(queries), 0) : max(items.stop - len(queries), 0)]
            images = None
            if data.query_images is not None and data.label_images is not None:
                images = concatenate(data.query_images.take(of_queries), data.label_images.take(of_labels))
            tokens = concatenate(data.query_tokens.take(of_queries), data.label_tokens.take(of_labels))
            packed = pack(tokens, images, data.prompt, MULTIPLE)
            vectors = torch.from_numpy(self.gather(packed.image_rows)) if len(packed.image_rows) else None
            yield Part(first, packed, vectors)


def draw_per_group(groups: np.ndarray, members: np.ndarray, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one member of each group uniformly.

    Args:
        groups: (n,) int64 group of each pair.
        members: (n,) int64 member of each pair.
        n_groups: every group in [0, n_groups) must occur.
        rng: used once.

    Returns:
        (n_groups,) int64.
    """
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups, minlength=n_groups)
    starts = np.cumsum(counts) - counts
    pick = np.minimum((rng.random(n_groups) * counts).astype(np.int64), counts - 1)
    return members[order[starts + pick]]


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Return the rows of ``first``, then those of ``second``."""
    return Ragged(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        max(first.n_cols, second.n_cols),
    )


def iterate(batches: EpochBatches, start: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Yield the batches from ``start`` on, assembled by ``workers`` processes (0: this one), always in order.

    Args:
        batches: of the epoch.
        start: index of the first.
        workers: processes.
        pin: whether a GPU will fetch them.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # Its own generator: the default would draw from the global one, and dropout would differ after a resume.
        generator=torch.Generator(),
    )
    yield from loader


def _unchanged(batch: Batch) -> Batch:
    return batch
