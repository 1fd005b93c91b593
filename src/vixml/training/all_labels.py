"""A softmax over all labels, each with a vector of its own (ours, docs/deviations.md D34).

For a query with score ``s_l`` of label l, divided by the temperature, and positives P, the loss of a pair is

    -log( exp(s_p) / (exp(s_p) + sum over l not in P of exp(s_l)) )        for p in P

so other positives are no negatives (decoupled softmax; Gupta et al., Dual-encoders for Extreme Multi-label Classification,
arXiv:2310.10636). The loss of a batch is the mean over its pairs, as many as a query has labels: of the reductions to a
softmax, this one is consistent for precision at k (Menon et al., Multilabel reductions, NeurIPS 2019).

Labels without a training query have no positive, so no vector is fitted to them, and they are no negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.models.packing import pinned
from vixml.ragged import Ragged
from vixml.runtime import REFIT, SAMPLE, generator

MOST_SAMPLED = 1_000_000  # the bound of `loss.sampled_labels`
NO_NEGATIVE = -1e4  # a score far below all others; finite, so that a row without negatives has a gradient of zero


@dataclass(frozen=True)
class Candidates:
    """The labels that a batch of ``n`` queries is compared with.

    Attributes:
        labels: (c,) int64 label ids, ascending; None: all labels.
        pairs: (n_pairs, 2) int64, each true pair as position in the batch and position in ``labels``, ascending.
        log_weight: (c,) float32, logarithm of the number of labels that each stands for; None: each for itself.
    """

    labels: np.ndarray | None
    pairs: np.ndarray
    log_weight: np.ndarray | None = None

    def pin_memory(self) -> Candidates:
        """Return the candidates in pinned memory."""
        arrays = (self.labels, self.pairs, self.log_weight)
        return Candidates(*(None if array is None else pinned(array) for array in arrays))


def fewer_labels(config: RunConfig, n_labels: int) -> str:
    """Return advice for a softmax that ran out of memory: an imperative clause with a key and its next smaller value."""
    sampled = config.loss.sampled_labels
    now = n_labels if sampled is None else min(sampled, n_labels)
    drawn = min(max(1, now // 2), MOST_SAMPLED)
    shown = f"now {'all ' if sampled is None else ''}{now} labels; another training, from its beginning"
    return f"set `loss.sampled_labels: {drawn}` in the run's file ({shown})"


def draw_candidates(truth: Ragged, trained: np.ndarray, sampled: int | None, rng: np.random.Generator) -> Candidates:
    """Return the labels that a batch is compared with: all, or its positives and a random sample of the others.

    Args:
        truth: (n rows) label ids of each query, ascending.
        trained: (t,) int64 ids of all labels that have a training query, ascending.
        sampled: number of labels to draw beside the positives; None: all.
        rng: used once if labels are drawn.
    """
    labels, log_weight = trained, None
    is_other = np.ones(truth.n_cols, dtype=bool)
    is_other[truth.values] = False
    others = trained[is_other[trained]] if sampled is not None else trained[:0]
    if sampled is not None and sampled < len(others):
        drawn = rng.choice(others, sampled, replace=False, shuffle=False)
        labels = np.sort(np.concatenate([np.flatnonzero(~is_other), drawn]))
        log_weight = np.where(is_other[labels], math.log(len(others) / sampled), 0).astype(np.float32)
    pairs = np.stack([truth.row_ids(), np.searchsorted(labels, truth.values)], axis=1).astype(np.int64)
    return Candidates(labels if len(labels) < truth.n_cols else None, pairs, log_weight)


def decoupled_softmax(scores: Tensor, pairs: Tensor, temperature: float, log_weight: Tensor | None = None) -> Tensor:
    """Return the mean loss over true pairs, a scalar; 0 without pairs.

    A row whose positives are all candidates has no negative: its loss and its gradient are 0.

    Args:
        scores: (n, c) float32 inner products of unit vectors.
        pairs: (n_pairs, 2) int64, row and column of every true pair, each once.
        temperature: divides the scores.
        log_weight: (c,) float32, added to a negative's score: the logarithm of the number of labels that it stands for.
    """
    scores = scores / temperature
    rows, cells = pairs[:, 0], pairs[:, 0] * scores.shape[1] + pairs[:, 1]
    positive = scores.flatten().index_select(0, cells)
    negatives = scores if log_weight is None else scores + log_weight
    negatives = negatives.flatten().index_fill(0, cells, NO_NEGATIVE).view_as(scores)
    # An embedding adds up the gradients of a row's pairs in one order at every call, on a GPU too; indexing does not.
    others = F.embedding(rows, negatives.logsumexp(dim=1, keepdim=True))[:, 0]
    return F.softplus(others - positive).sum() / max(len(pairs), 1)


def label_loss(queries: Tensor, vectors: Tensor, candidates: Candidates, temperature: float) -> Tensor:
    """Return the softmax loss of queries against the label vectors of their candidates, a scalar.

    ``queries`` are (n, dim) float32 unit rows; ``vectors``, (n_labels, dim) float32, are not normalised.
    """

    def sent(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(queries.device, non_blocking=True)

    some = vectors if candidates.labels is None else F.embedding(sent(candidates.labels), vectors)
    log_weight = None if candidates.log_weight is None else sent(candidates.log_weight)
    return decoupled_softmax(queries @ F.normalize(some, dim=1).T, sent(candidates.pairs), temperature, log_weight)


def refit(
    vectors: Parameter, queries: Tensor, truth: Ragged, config: RunConfig, seed: int, advance: Callable[[int], object]
) -> None:
    """Fit label vectors to the queries' vectors, which stay as they are: AdamW with linear decay.

    Args:
        vectors: (n_labels, dim) float32, where to start; overwritten.
        queries: (n, dim) float32 unit rows on the CPU.
        truth: (n rows) label ids of each query.
        advance: is told the number of queries of each step.
    """
    training, trained, n = config.training, np.flatnonzero(truth.counts()), len(truth)
    learned = Parameter(vectors.detach().clone())
    optimizer = torch.optim.AdamW([learned], eps=config.optimizer.eps, weight_decay=0.0, fused=True)
    starts = range(0, n, training.batch_size)
    total = len(starts) * training.refit_epochs
    for epoch in range(training.refit_epochs):
        order = generator(seed, REFIT, epoch).permutation(n)
        for step, start in enumerate(starts, epoch * len(starts)):
            rows = order[start : start + training.batch_size]
            rng = generator(seed, SAMPLE, training.epochs + epoch, start)
            candidates = draw_candidates(truth.take(rows), trained, config.loss.sampled_labels, rng)
            some = queries[torch.from_numpy(rows)].to(learned.device)
            optimizer.param_groups[0]["lr"] = config.optimizer.lr_labels * (total - step) / total
            optimizer.zero_grad()
            label_loss(some, learned, candidates, config.loss.temperature).backward()
            optimizer.step()
            advance(len(rows))
    vectors.detach().copy_(learned.detach())
