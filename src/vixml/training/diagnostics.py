"""Diagnostics of an epoch: similarity of vectors, norms, and P@1 on held-out training queries.

The loss has a collapsed state: with all similarities equal it is ``3 * 0.1 + 0.1 * 0.2 = 0.32`` (0.31 where R is the mean
of its halves) and its gradient through the normalisation vanishes. Test data is never read here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.config.run import Loss, RunConfig
from vixml.errors import VixmlError
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged

COSINE_COLLAPSED = 0.99
# Labels encoded if no query is held out: enough for a mean, without encoding a million labels each epoch.
WATCHED = 4096
PRODUCTS = 1 << 26  # of queries and labels, in memory at a time


@dataclass(frozen=True)
class WatchedQueries:
    """Queries and their labels.

    Attributes:
        vectors: (n, dim) float32 unit rows.
        truth: (n rows) label ids.
    """

    vectors: Tensor
    truth: Ragged


def watched(n_labels: int, n_held_out: int) -> np.ndarray:
    """Return the labels that an epoch's diagnostics encode, ascending: all of them if there are held-out queries to rank.

    Example:
        >>> len(watched(10_000, 5)), len(watched(10_000, 0)), watched(9000, 0)[[0, -1]].tolist()
        (10000, 4096, [0, 8999])
    """
    if n_held_out or n_labels <= WATCHED:
        return np.arange(n_labels)
    return np.linspace(0, n_labels - 1, WATCHED).astype(np.int64)


def mean_cosine(unit: Tensor) -> float:
    """Return the mean cosine over distinct pairs of rows: (n, dim) float32 unit rows.

    Uses ``|sum of rows|^2 = n + sum over pairs``, so it costs one pass. For a single row the answer is 0.
    """
    n = len(unit)
    if n < 2:
        return 0.0
    # In pieces: the sum makes a copy in float64.
    total = sum(some.sum(0, dtype=torch.float64) for some in unit.split(max(1, PRODUCTS // max(unit.shape[1], 1))))
    return float((total.square().sum() - n) / (n * (n - 1)))


def precision_at_1(queries: WatchedQueries, labels: Tensor) -> float:
    """Return P@1 in percent by label search over ``labels``, (n_labels, dim) float32 unit rows."""
    best = [(some @ labels.T).argmax(dim=1) for some in _in_pieces(queries.vectors, len(labels))]
    return hits(torch.cat(best), queries.truth)


def _in_pieces(queries: Tensor, width: int) -> Sequence[Tensor]:
    """Split queries so that their scores with ``width`` others fit in memory."""
    return queries.split(max(1, PRODUCTS // max(width, 1)))


def knn_precision_at_1(
    queries: WatchedQueries, train: WatchedQueries, neighbours: int = 20, temperature: float = 0.05
) -> float:
    """Return P@1 in percent if the ``neighbours`` nearest training queries vote for their labels.

    A vote's weight is the softmax of the neighbours' similarities, divided by ``temperature``.
    """
    k = min(neighbours, len(train.vectors))
    pieces = _in_pieces(queries.vectors, len(train.vectors))
    nearest = [(some @ train.vectors.T).topk(k, dim=1) for some in pieces]
    scores, rows = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    weights = torch.softmax(scores / temperature, dim=1)
    best = torch.empty(len(rows), dtype=torch.int64)
    for i in range(len(rows)):
        voters = train.truth.take(rows[i].numpy())
        votes = torch.zeros(train.truth.n_cols)
        votes.index_add_(0, torch.from_numpy(voters.values).long(), weights[i][torch.from_numpy(voters.row_ids())])
        best[i] = votes.argmax()
    return hits(best, queries.truth)


def hits(best: Tensor, truth: Ragged) -> float:
    """Return the percentage of rows whose best label, (n,) int64, is in the truth; NaN without rows."""
    if not len(truth):
        return float("nan")
    rows = truth.row_ids()
    hit = torch.zeros(len(truth), dtype=torch.bool)
    hit[torch.from_numpy(rows[best.numpy()[rows] == truth.values])] = True
    return 100.0 * float(hit.float().mean())


def collapsed_loss(config: Loss, prime: bool) -> float:
    """Return the loss with all similarities equal: 0.31 in the official form, 0.32 where R is a sum, 0.3 for NGAME and DEXA."""
    if not prime:
        return config.margin_min
    halves = 1 if config.regulariser_halves == "mean" else 2
    return 3 * config.margin_min + config.regulariser * halves * config.regulariser_margin


def collapse_warning(report: dict[str, Any], config: RunConfig) -> str | None:
    """Return a warning if an epoch ended in the collapsed state: the loss of equal similarities, and parallel vectors."""
    if config.method == "all-labels":
        return None
    loss, cosine = report["loss"], report["cosine_queries"]
    parallel = min(cosine, report.get("cosine_prototypes", report["cosine_u"])) > COSINE_COLLAPSED
    if not parallel or abs(loss - collapsed_loss(config.loss, config.method == "PRIME")) >= 0.02:
        return None
    return (
        f"epoch {report['epoch']}: the run has collapsed: loss {loss:.3f} is that of equal similarities and the mean cosine "
        f"of queries is {cosine:.3f}. Lower the learning rates, lengthen the warm-up, or see docs/deviations.md."
    )


def require_finite(loss: float, vectors: Tensor, epoch: int) -> None:
    """Stop a diverged run, by the epoch's mean loss and the query vectors, (n, dim) float32, as stored during it.

    The loss alone does not show it: a comparison with NaN is false, so no negative violates and the loss is zero.

    Raises:
        VixmlError: NaN or infinity in either.
    """
    broken = int((~torch.isfinite(vectors.sum(dim=1))).sum())
    if broken or not math.isfinite(loss):
        raise VixmlError(
            "the run has diverged",
            where=f"epoch {epoch}",
            found=f"mean loss {loss}, {broken} of {len(vectors)} query vectors with NaN or infinity",
            hint="lower optimizer.lr and optimizer.lr_new, lengthen the warm-up, or set optimizer.clip_norm",
        )


def prototype_inputs(model: Siamese, u: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the mean norms of the three tokens that enter PRIME's prototype network.

    ``u`` are the text vectors of ``labels``, (n, dim) float32, not normalised; ``labels``, (n,) int64, are on the model's device.
    """
    free = model.prototypes.free.weight.detach()[model.cluster[labels]]
    known = model.centroid[labels[model.has_centroid[labels]]]
    return {
        "norm_u": float(u.norm(dim=1).mean()),
        "norm_free": float(free.norm(dim=1).mean()),
        "norm_centroid": float(known.norm(dim=1).mean()) if len(known) else 0.0,
    }


def diagnose(
    model: Siamese,
    labels: np.ndarray,
    label_u: Tensor,
    label_z: Tensor | None,
    validation: WatchedQueries,
    train: WatchedQueries,
) -> dict[str, float]:
    """Return the epoch's diagnostics.

    Args:
        labels: (n,) int64, those of :func:`watched`.
        label_u: (n, dim) float32, their text vectors, not normalised.
        label_z: (n, dim) float32 unit rows, their prototypes, or None.
        validation: held-out training queries (may be empty).
        train: the training queries in use, with vectors as stored during the epoch.

    Returns:
        Mean cosines, norms and, with held-out queries, P@1 in percent by text vector, prototype, centroid and nearest
        neighbours.
    """
    unit_u = F.normalize(label_u, dim=1)
    report = {"cosine_queries": mean_cosine(train.vectors), "cosine_u": mean_cosine(unit_u)}
    if label_z is not None:
        report["cosine_prototypes"] = mean_cosine(label_z)
        if model.has_centroids:
            report |= prototype_inputs(model, label_u, torch.from_numpy(labels).to(model.device))
    if len(validation.vectors):
        report["P@1/u"] = precision_at_1(validation, unit_u)
        if label_z is not None:
            report["P@1/z"] = precision_at_1(validation, label_z)
        if label_z is not None and model.has_centroids:
            known = model.has_centroid.cpu()[:, None]  # the vectors of all labels are in main memory
            centroid = F.normalize(torch.where(known, model.centroid.cpu(), unit_u), dim=1)
            report["P@1/centroid"] = precision_at_1(validation, centroid)
        report["P@1/knn"] = knn_precision_at_1(validation, train)
    return {key: round(value, 5) for key, value in report.items()}
