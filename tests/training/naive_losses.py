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
    """Return the mean over rows of the weighted hinges over hard negatives."""
    total = scores.sum() * 0
    for i in range(scores.shape[0]):
        positive, hinges = scores[i, drawn[i]], []
        for j in hard_negatives(scores, truth, i, config.negatives):
            gap = abs(positive.item() - scores[i, j].item())
            margin = min(max(gap, config.margin_min), config.margin_max)  # a number: no gradient
            hinges.append((scores[i, j], scores[i, j] - positive + margin))
        violating = [(score, hinge) for score, hinge in hinges if hinge.item() > 0]
        if violating:
            total = total + weighted(violating, config)
        elif config.ties == "half":  # no violator: equal weights, and half the gradient of those at 0
            total = total + sum(above(hinge, config) for _, hinge in hinges) / max(len(hinges), 1)
    return total / scores.shape[0]


def weighted(violating: list[tuple[Tensor, Tensor]], config: Loss) -> Tensor:
    """Return one row's loss: its violating hinges by the softmax of their scores, numbers or with a gradient (D3)."""
    if config.weight_gradient:
        share = [(score / config.temperature).exp() for score, _ in violating]
    else:
        share = [math.exp(score.item() / config.temperature) for score, _ in violating]
    return sum(part / sum(share) * hinge for part, (_, hinge) in zip(share, violating, strict=True))


def above(gap: Tensor, config: Loss) -> Tensor:
    """Return ``max(0, gap)`` with the gradient that the configuration gives a gap of exactly 0 (D21)."""
    if gap.item() == 0 and config.ties == "half":
        return gap / 2
    return gap if gap.item() > 0 else gap.detach() * 0


def regulariser(u: Tensor, z: Tensor, truth: list[list[bool]], drawn: list[int], config: Loss) -> Tensor:
    """Return R: positives higher and hard negatives lower under ``z`` than under ``u``."""
    if config.regulariser_gradient == "z":
        u = u.detach()
    low, high = [], []
    for i in range(u.shape[0]):
        low.append(config.regulariser_margin - (z[i, drawn[i]] - u[i, drawn[i]]))
        for j in hard_negatives(z if config.regulariser_negatives == "z" else u, truth, i, config.negatives):
            high.append(config.regulariser_margin + (z[i, j] - u[i, j]))
    halves = [
        sum(above(gap, config) for gap in half) / max(sum(gap.item() > 0 for gap in half), 1)
        for half in (low, high)
        if half
    ]
    return sum(halves) / (2 if config.regulariser_halves == "mean" else 1) + z.sum() * 0


def total(
    queries: Tensor,
    texts: Tensor,
    prototypes: Tensor | None,
    truth: list[list[bool]],
    drawn_label: list[list[int]],
    drawn_query: list[int],
    config: Loss,
    method: str = "PRIME",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``L(q,u) + L(q,z) + L(u,q) + 0.1 R`` and its terms; of NGAME ``L(q,u)`` alone, of DEXA ``L(q,z)``."""
    in_u, in_z, in_r = drawn_label
    if method != "PRIME":
        name, labels, drawn = {"NGAME": ("q_u", texts, in_u), "DEXA": ("q_z", prototypes, in_z)}[method]
        term = triplet(_scores(queries, labels), truth, drawn, config)
        return term, {name: term}
    turned = [list(column) for column in zip(*truth, strict=True)]
    u, z = _scores(queries, texts), _scores(queries, prototypes)
    terms = {"q_u": triplet(u, truth, in_u, config), "u_q": triplet(u.T, turned, drawn_query, config)}
    terms["q_z"] = triplet(z, truth, in_z, config)
    terms["reg"] = regulariser(u, z, truth, in_r, config)
    return terms["q_u"] + terms["q_z"] + terms["u_q"] + config.regulariser * terms["reg"], terms


def _scores(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.stack([(x * y).sum() for y in b]) for x in a])
