"""Triplet loss with online hard negatives, dynamic margin and PRIME's regulariser (PRIME, arXiv:2410.20401).

For a matrix of scores ``S`` between rows (anchors) and columns (candidates), each row draws one positive ``p`` and takes
the hardest non-positives ``n``:

    margin = clamp(|s_p - s_n|, margin_min, margin_max)      (no gradient)
    hinge  = max(0, s_n - s_p + margin)
    weight = softmax(s_n / temperature) over the negatives with hinge > 0      (no gradient, docs/deviations.md D3)
    loss   = mean over rows of  sum over negatives of  weight * hinge

The total is ``L(q,u) + L(q,z) + L(u,q) + regulariser * R`` in PRIME (text vectors ``u``, prototypes ``z``), ``L(q,u)`` in
NGAME and ``L(q,z)`` in DEXA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vixml.config.run import Loss, Method


@dataclass(frozen=True)
class Triplets:
    """Scores of each row's drawn positive and hardest negatives.

    Attributes:
        positive: (n,) score of the drawn positive.
        negatives: (n, k) scores of the hardest non-positives; undefined where ``valid`` is False.
        columns: (n, k) int64, where they stand.
        valid: (n, k) bool, False where a row has fewer than k non-positives.
    """

    positive: Tensor
    negatives: Tensor
    columns: Tensor
    valid: Tensor


def mine(scores: Tensor, is_positive: Tensor, drawn: Tensor, k: int) -> Triplets:
    """Pick each row's drawn positive and its ``k`` highest-scoring non-positives.

    Args:
        scores: (n, m) float32.
        is_positive: (n, m) bool, every pair of the batch that is in the ground truth.
        drawn: (n,) int64, one positive column a row.
        k: negatives wanted; fewer columns give fewer.

    Returns:
        The triplets; gradients flow through the scores.
    """
    k = min(k, scores.shape[1])
    with torch.no_grad():
        hardest, columns = scores.masked_fill(is_positive, -torch.inf).topk(k, dim=1)
        valid = torch.isfinite(hardest)
    positive = scores.gather(1, drawn[:, None])[:, 0]
    return Triplets(positive, scores.gather(1, columns), columns, valid)


def triplet_loss(triplets: Triplets, config: Loss) -> Tensor:
    """Return the mean loss over rows, a scalar.

    Rows without a violating negative count as zero. An empty batch, or one whose rows have no negatives at all (a
    batch of one), gives zero with a gradient of zero.
    """
    positive, negatives = triplets.positive[:, None], triplets.negatives
    margin = (positive - negatives).detach().abs().clamp(config.margin_min, config.margin_max)
    hinge = negatives - positive + margin
    violating = triplets.valid & (hinge > 0)
    # Softmax over violating negatives only; -inf rows would give NaN, so rows without any are masked afterwards.
    logits = (negatives.detach() / config.temperature).masked_fill(~violating, -1e4)
    weight = torch.softmax(logits, dim=1) * violating
    per_row = (weight * hinge.clamp_min(0).masked_fill(~violating, 0)).sum(dim=1)
    return per_row.sum() / max(len(per_row), 1)


def regulariser(u: Triplets, z_positive: Tensor, z_negatives: Tensor, margin: float) -> Tensor:
    """Return ``R``: prototypes should score positives higher, and hard negatives lower, than text vectors do.

    The text vector's scores are the yardstick, so no gradient flows into them: otherwise the cheapest way to a better
    prototype would be a worse text vector (docs/deviations.md D2).

    Args:
        u: triplets mined on the text vectors' scores.
        z_positive: (n,) scores of the same pairs under the prototypes.
        z_negatives: (n, k) likewise.
        margin: by how much.

    Returns:
        A scalar: the mean over violating positives plus the mean over violating negatives.
    """
    low = margin - (z_positive - u.positive.detach())
    high = margin + (z_negatives - u.negatives.detach())
    return _mean_where(low, low > 0) + _mean_where(high, (high > 0) & u.valid)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)


def total_loss(
    queries: Tensor,
    texts: Tensor,
    prototypes: Tensor | None,
    is_positive: Tensor,
    drawn_label: Tensor,
    drawn_query: Tensor,
    config: Loss,
    method: Method = "PRIME",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its terms.

    Args:
        queries: (n, dim) float32 unit rows.
        texts: (m, dim) float32 unit rows, text vectors ``u`` of the batch's distinct labels.
        prototypes: (m, dim) float32 unit rows ``z``, or None for NGAME.
        is_positive: (n, m) bool.
        drawn_label: (n,) int64, the positive label drawn for each query.
        drawn_query: (m,) int64, the positive query drawn for each label.
        config: margins, temperature, weights.
        method: whose loss.

    Returns:
        The total (a scalar) and its terms by name: ``q_u``, ``q_z``, ``u_q``, ``reg`` (unweighted), as far as the method
        has them.
    """
    if method in ("NGAME", "DEXA"):
        name, labels = ("q_u", texts) if method == "NGAME" else ("q_z", prototypes)
        term = triplet_loss(mine(queries @ labels.T, is_positive, drawn_label, config.negatives), config)
        return term, {name: term}
    scores_u = queries @ texts.T
    by_query = mine(scores_u, is_positive, drawn_label, config.negatives)
    by_label = mine(scores_u.T, is_positive.T, drawn_query, config.negatives)
    terms = {"q_u": triplet_loss(by_query, config), "u_q": triplet_loss(by_label, config)}
    scores_z = queries @ prototypes.T
    terms["q_z"] = triplet_loss(mine(scores_z, is_positive, drawn_label, config.negatives), config)
    z_positive = scores_z.gather(1, drawn_label[:, None])[:, 0]
    terms["reg"] = regulariser(by_query, z_positive, scores_z.gather(1, by_query.columns), config.regulariser_margin)
    return terms["q_u"] + terms["q_z"] + terms["u_q"] + config.regulariser * terms["reg"], terms
