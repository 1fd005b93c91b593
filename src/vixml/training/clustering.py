"""Balanced 2-means, level by level: groups of similar queries for mining, groups of labels for free vectors.

Every group of a level is split at once. A group of ``n`` points that must become ``g`` groups is cut into shares
proportional to ``g // 2`` and ``g - g // 2``; the points are ranked by how much nearer they are to one centre than to
the other and the ranking is cut at the share, so sizes differ by at most one however the points lie.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ITERATIONS = 6  # Lloyd steps a level; the objective hardly moves after four


def balanced_groups(vectors: Tensor, n_groups: int, seed: int) -> np.ndarray:
    """Cluster unit vectors into groups of equal size.

    Args:
        vectors: (n, dim) float32, unit rows.
        n_groups: number of groups, any number from 1; with fewer points than groups each point is its own group.
        seed: same seed, same groups.

    Returns:
        (n,) int64 group ids in [0, min(n, n_groups)); sizes differ by at most one.
    """
    n = len(vectors)
    n_groups = max(1, min(n_groups, n))
    if n_groups == n:
        return np.arange(n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    order = np.arange(n)  # points, those of a group side by side
    starts, shares = np.array([0, n]), np.array([n_groups])  # group g holds order[starts[g]:starts[g+1]]
    while shares.max() > 1:
        order, starts, shares = _split(vectors, order, starts, shares, rng)
    groups = np.empty(n, dtype=np.int64)
    groups[order] = np.repeat(np.arange(len(shares)), np.diff(starts))
    return groups


def _split(
    vectors: Tensor, order: np.ndarray, starts: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split every group with a share above one; returns the finer order, starts and shares."""
    sizes = np.diff(starts)
    left = shares // 2
    # The cut that keeps sizes within one of each other at the end, whatever the number of groups.
    base, extra = np.divmod(sizes, np.maximum(shares, 1))
    cut = left * base + np.minimum(left, extra)
    group = np.repeat(np.arange(len(sizes)), sizes)
    rank_in_group = np.arange(len(order)) - np.repeat(starts[:-1], sizes)
    # Two different members of each group are its first centres.
    first = rng.integers(0, sizes)
    second = (first + rng.integers(1, np.maximum(sizes, 2))) % sizes
    points = vectors[torch.from_numpy(order)]
    a, b = points[torch.from_numpy(starts[:-1] + first)], points[torch.from_numpy(starts[:-1] + second)]
    group_t = torch.from_numpy(group)
    for _ in range(ITERATIONS):
        # Unit vectors: nearer to a than to b exactly when x . (a - b) is larger (up to a constant of the group).
        lean = torch.einsum("nd,nd->n", points, (a - b)[group_t]).numpy()
        # Rank within the group; ties by place, so that the result does not depend on the sort.
        ranked = np.lexsort((rank_in_group, -lean, group))
        in_left = np.zeros(len(order), dtype=bool)
        in_left[ranked] = rank_in_group < np.repeat(cut, sizes)
        new_a, new_b = _means(points, group, in_left, len(sizes))
        if torch.equal(new_a, a) and torch.equal(new_b, b):
            break
        a, b = new_a, new_b
    keep = shares < 2
    in_left |= keep[group]
    moved = np.lexsort((rank_in_group, ~in_left, group))
    new_sizes = np.stack([np.where(keep, sizes, cut), np.where(keep, 0, sizes - cut)], axis=1).reshape(-1)
    new_shares = np.stack([np.where(keep, shares, left), np.where(keep, 0, shares - left)], axis=1).reshape(-1)
    alive = new_shares > 0
    return order[moved], np.concatenate([[0], np.cumsum(new_sizes[alive])]), new_shares[alive]


def _means(points: Tensor, group: np.ndarray, in_left: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    """Return the unit mean of each group's left and right part: two (n, dim) tensors."""
    part = torch.from_numpy(group * 2 + ~in_left)
    sums = torch.zeros(2 * n, points.shape[1], dtype=points.dtype).index_add_(0, part, points)
    sums = torch.nn.functional.normalize(sums, dim=1)
    return sums[0::2], sums[1::2]


def group_means(vectors: Tensor, groups: np.ndarray, n_groups: int) -> Tensor:
    """Return the mean vector of each group: (n_groups, dim) float32; empty groups are zero."""
    index = torch.from_numpy(groups)
    sums = torch.zeros(n_groups, vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
    counts = torch.bincount(index, minlength=n_groups).clamp_min(1)
    return sums / counts[:, None]
