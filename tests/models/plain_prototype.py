"""The label prototype network restated as matrix algebra, from the description in docs and paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prototypes(weights: dict[str, Tensor], heads: int, u: Tensor, cluster: Tensor, centroid: Tensor) -> Tensor:
    """Return ``z``: one post-norm transformer layer over ``[u_r, v_cluster(r), c_r]``, mean-pooled, normalised."""
    w = {name.removeprefix("layer."): value for name, value in weights.items()}
    wq, wk, wv = w["self_attn.in_proj_weight"].chunk(3)
    bq, bk, bv = w["self_attn.in_proj_bias"].chunk(3)
    rows = []
    for r in range(len(u)):
        x = torch.stack([u[r], w["free.weight"][cluster[r]], centroid[r]])  # (3, dim)
        q, k, v = x @ wq.T + bq, x @ wk.T + bk, x @ wv.T + bv
        size = q.shape[1] // heads
        mixed = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            mixed.append(scores.exp() / scores.exp().sum(dim=1, keepdim=True) @ v[:, part])
        attended = torch.cat(mixed, dim=1) @ w["self_attn.out_proj.weight"].T + w["self_attn.out_proj.bias"]
        x = _norm(x + attended, w["norm1.weight"], w["norm1.bias"])
        inner = x @ w["linear1.weight"].T + w["linear1.bias"]
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))  # GELU
        x = _norm(x + inner @ w["linear2.weight"].T + w["linear2.bias"], w["norm2.weight"], w["norm2.bias"])
        mean = x.mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight + bias
