"""Triplet loss with online hard negatives, dynamic margin and PRIME's regulariser (PRIME, arXiv:2410.20401).

For a matrix of scores ``S`` between rows (anchors) and columns (candidates), each row draws one positive ``p`` and takes
the hardest non-positives ``n``:

    margin = clamp(|s_p - s_n|, margin_min, margin_max)      (no gradient)
    hinge  = max(0, s_n - s_p + margin)
    weight = softmax(s_n / temperature) over the negatives with hinge > 0
    loss   = mean over rows of  sum over negatives of  weight * hinge

The total is ``L(q,u) + L(q,z) + L(u,q) + regulariser * R`` in PRIME (text vectors ``u``, prototypes ``z``), ``L(q,u)`` in
NGAME and ``L(q,z)`` in DEXA.

Where the paper leaves a choice, a configuration key makes it; config/presets/official.yaml has the choices of the official
code (docs/deviations.md): ``weight_gradient`` (D3), ``ties`` (D21), and R's negatives, gradient and halves (D2, D22).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vixml.config.run import Loss, Method


@dataclass(frozen=True)
class Positives:
    """The true pairs of a batch of ``n`` queries and ``m`` labels, and those drawn for the loss.

    Attributes:
        is_positive: (n, m) bool, every pair of the batch that is in the ground truth.
        drawn_label: (3, n) int64, the positive label drawn for each query in ``L(q,u)``, ``L(q,z)`` and ``R``.
        drawn_query: (m,) int64, the positive query drawn for each label.
    """

    is_positive: Tensor
    drawn_label: Tensor
    drawn_query: Tensor


@dataclass(frozen=True)
class Triplets:
    """Scores of each row's drawn positive and hardest negatives.

    Attributes:
        positive: (n,) score of the drawn positive.
        negatives: (n, k) scores of the hardest non-positives; undefined where ``valid`` is False.
        columns: (n, k) int64, their columns.
        valid: (n, k) bool, False where a row has fewer than k non-positives.
    """

    positive: Tensor
    negatives: Tensor
    columns: Tensor
    valid: Tensor


def mine(scores: Tensor, is_positive: Tensor, drawn: Tensor, k: int) -> Triplets:
    """Pick each row's drawn positive and its ``k`` highest-scoring non-positives; gradients flow through the scores.

    Args:
        scores: (n, m) float32.
        is_positive: (n, m) bool, every pair of the batch that is in the ground truth.
        drawn: (n,) int64, one positive column per row.
        k: negatives per row; a row with fewer non-positives has fewer (docs/deviations.md D29).
    """
    k = min(k, scores.shape[1])
    with torch.no_grad():
        hardest, columns = scores.masked_fill(is_positive, -torch.inf).topk(k, dim=1)
        valid = torch.isfinite(hardest)
    return scores_at(scores, drawn, columns, valid)


def scores_at(scores: Tensor, drawn: Tensor, columns: Tensor, valid: Tensor) -> Triplets:
    """Return the scores of given triplets; arguments are those of :func:`mine` and :class:`Triplets`."""
    return Triplets(scores.gather(1, drawn[:, None])[:, 0], scores.gather(1, columns), columns, valid)


def triplet_loss(triplets: Triplets, config: Loss) -> Tensor:
    """Return the mean loss over rows, a scalar.

    A row without a violating negative counts as zero. With ``ties: half`` its negatives have equal weights, and those whose
    hinge is exactly 0 pass half the gradient, as ``max(0, x)`` does in PyTorch: scores 0.5 | 0.3, 0.35 give a loss of 0
    and a gradient of (-0.5, 0.25, 0.25). An empty batch, or one whose rows have no negatives (a batch of one), gives zero
    with a gradient of zero.

    Args:
        triplets: of ``n`` rows.
        config: margins, temperature, ``ties`` and ``weight_gradient``.
    """
    positive, negatives = triplets.positive[:, None], triplets.negatives
    margin = (positive - negatives).detach().abs().clamp(config.margin_min, config.margin_max)
    gap = torch.where(triplets.valid, negatives - positive + margin, -1)
    violating = gap > 0
    scores = negatives if config.weight_gradient else negatives.detach()
    # Finite, so that a row without a violator has equal weights over its negatives, and one without negatives gives no NaN.
    logits = (scores / config.temperature).where(violating, torch.where(triplets.valid, -1e4, -2e4))
    per_row = (torch.softmax(logits, dim=1) * _hinge(gap, config)).sum(dim=1)
    return per_row.sum() / max(len(per_row), 1)


def _hinge(gap: Tensor, config: Loss) -> Tensor:
    """Return ``max(0, gap)``; a gap of exactly 0 passes half the gradient or none (``loss.ties``)."""
    return torch.maximum(gap, torch.zeros_like(gap)) if config.ties == "half" else gap.relu()


def regulariser(u: Triplets, z: Triplets, config: Loss) -> Tensor:
    """Return ``R``: prototypes should score positives higher, and hard negatives lower, than text vectors do.

    Args:
        u: scores of text vectors.
        z: scores of prototypes, for the same positives and negatives.
        config: margin, where the gradient flows (D2), and whether the halves are added or averaged (D22).

    Returns:
        A scalar: the sum or mean of two halves, each the mean over its violating entries (zero without any).
    """
    u_positive, u_negatives = u.positive, u.negatives
    if config.regulariser_gradient == "z":
        u_positive, u_negatives = u_positive.detach(), u_negatives.detach()
    low = u_positive - z.positive + config.regulariser_margin
    high = torch.where(z.valid, z.negatives - u_negatives + config.regulariser_margin, -1)
    halves = [_hinge(gap, config).sum() / (gap > 0).sum().clamp_min(1) for gap in (low, high)]
    return sum(halves) / (2 if config.regulariser_halves == "mean" else 1)


def total_loss(
    queries: Tensor,
    texts: Tensor,
    prototypes: Tensor | None,
    positives: Positives,
    config: Loss,
    method: Method = "PRIME",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its terms.

    Args:
        queries: (n, dim) float32 unit rows.
        texts: (m, dim) float32 unit rows, text vectors ``u`` of the batch's labels.
        prototypes: (m, dim) float32 unit rows ``z``, or None for NGAME.
        config: margins, temperature, weights, and the form of the terms.

    Returns:
        The total (a scalar) and the method's terms by name: ``q_u``, ``q_z``, ``u_q``, ``reg`` (unweighted).
    """
    is_positive, (in_u, in_z, in_r) = positives.is_positive, positives.drawn_label
    if method in ("NGAME", "DEXA"):
        name, labels, drawn = ("q_u", texts, in_u) if method == "NGAME" else ("q_z", prototypes, in_z)
        term = triplet_loss(mine(queries @ labels.T, is_positive, drawn, config.negatives), config)
        return term, {name: term}
    scores_u, scores_z = queries @ texts.T, queries @ prototypes.T
    by_u = mine(scores_u, is_positive, in_u, config.negatives)
    by_z = mine(scores_z, is_positive, in_z, config.negatives)
    by_label = mine(scores_u.T, is_positive.T, positives.drawn_query, config.negatives)
    terms = {name: triplet_loss(by, config) for name, by in (("q_u", by_u), ("u_q", by_label), ("q_z", by_z))}
    hard = by_z if config.regulariser_negatives == "z" else by_u
    at_u, at_z = (scores_at(scores, in_r, hard.columns, hard.valid) for scores in (scores_u, scores_z))
    terms["reg"] = regulariser(at_u, at_z, config)
    return terms["q_u"] + terms["q_z"] + terms["u_q"] + config.regulariser * terms["reg"], terms
