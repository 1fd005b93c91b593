"""PRIME's losses as a double loop over rows and columns, written from their definition.

Works on (n, m) float64 scores and plain Python lists; gradients come from autograd through each scalar.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vixml.config.run import Loss


def hard_negatives(scores: Tensor, truth: list[list[bool]], row: int, k: int) -> list[int]:
    """Return the row's ``k`` highest-scoring columns that are no positives."""
    negatives = [j for j in range(scores.shape[1]) if not truth[row][j]]
    return sorted(negatives, key=lambda j: -scores[row, j].item())[:k]


def triplet(scores: Tensor, truth: list[list[bool]], drawn: list[int], config: Loss) -> Tensor:
    """Return the mean over rows of the weighted hinges over violating hard negatives."""
    total = scores.sum() * 0
    for i in range(scores.shape[0]):
        positive = scores[i, drawn[i]]
        violating = []
        for j in hard_negatives(scores, truth, i, config.negatives):
            gap = abs(positive.item() - scores[i, j].item())
            margin = min(max(gap, config.margin_min), config.margin_max)  # a number: no gradient
            hinge = scores[i, j] - positive + margin
            if hinge.item() > 0:
                violating.append((scores[i, j], hinge))
        if violating:
            # Weights, like the margin, are numbers (docs/deviations.md D3).
            share = [math.exp(score.item() / config.temperature) for score, _ in violating]
            for part, (_, hinge) in zip(share, violating, strict=True):
                total = total + part / sum(share) * hinge
    return total / scores.shape[0]


def regulariser(u: Tensor, z: Tensor, truth: list[list[bool]], drawn: list[int], config: Loss) -> Tensor:
    """Return R: positives higher and hard negatives lower under ``z`` than under ``u``, the fixed yardstick."""
    low, high = [], []
    for i in range(u.shape[0]):
        short = config.regulariser_margin - (z[i, drawn[i]] - u[i, drawn[i]].item())
        if short.item() > 0:
            low.append(short)
        for j in hard_negatives(u, truth, i, config.negatives):
            over = config.regulariser_margin + (z[i, j] - u[i, j].item())
            if over.item() > 0:
                high.append(over)
    halves = [sum(half) / len(half) for half in (low, high) if half]
    return sum(halves) if halves else z.sum() * 0


def total(
    queries: Tensor,
    texts: Tensor,
    prototypes: Tensor | None,
    truth: list[list[bool]],
    drawn_label: list[int],
    drawn_query: list[int],
    config: Loss,
    method: str = "PRIME",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``L(q,u) + L(q,z) + L(u,q) + 0.1 R`` and its terms; of NGAME ``L(q,u)`` alone, of DEXA ``L(q,z)``."""
    if method != "PRIME":
        name, labels = {"NGAME": ("q_u", texts), "DEXA": ("q_z", prototypes)}[method]
        term = triplet(_scores(queries, labels), truth, drawn_label, config)
        return term, {name: term}
    turned = [list(column) for column in zip(*truth, strict=True)]
    u = _scores(queries, texts)
    terms = {"q_u": triplet(u, truth, drawn_label, config), "u_q": triplet(u.T, turned, drawn_query, config)}
    z = _scores(queries, prototypes)
    terms["q_z"] = triplet(z, truth, drawn_label, config)
    terms["reg"] = regulariser(u, z, truth, drawn_label, config)
    return terms["q_u"] + terms["q_z"] + terms["u_q"] + config.regulariser * terms["reg"], terms


def _scores(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.stack([(x * y).sum() for y in b]) for x in a])
