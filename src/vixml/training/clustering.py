"""Balanced 2-means, level by level: groups of similar queries for mining, groups of labels for free vectors.

A group of ``n`` points that must become ``g`` groups is cut into shares proportional to ``g // 2`` and ``g - g // 2``; the
points are ranked by how much nearer they are to one centre than to the other and the ranking is cut at the share, so sizes
differ by at most one however the points lie.

What it costs: ``log2(groups)`` levels of six steps, or up to 24 while groups are large, and a step reads every vector twice,
once to rank and once for the means. Arithmetic is small beside that, so the limit is memory: 50,000 x 384 in groups of 16 are
12 levels, up to 11 GFLOP and 22 GB. Hence vectors are laid out anew, side by side with their group, once a level; no table of each point's centre is made; a group
whose halves no longer change is left alone; and threads share the points out, not the groups.
"""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vixml.threads import one_thread_each
from vixml.training.halves import cut_in_two, in_order


@dataclass(frozen=True)
class Level:
    """How the groups of a level are split: known before any vector is seen.

    Attributes:
        starts: (g + 1,) int64, group ``i`` holds the places ``starts[i]`` to ``starts[i + 1]``.
        shares: (g,) int64, the groups that each must become.
        cut: (g,) int64, how many of its points go left.
        first, second: (g,) int64, the members that are its first centres, two different ones.
    """

    starts: np.ndarray
    shares: np.ndarray
    cut: np.ndarray
    first: np.ndarray
    second: np.ndarray


def balanced_groups(vectors: Tensor, n_groups: int, seed: int) -> np.ndarray:
    """Cluster unit vectors into groups of equal size.

    Args:
        vectors: (n, dim), unit rows, on any device; computed with in float32.
        n_groups: number of groups, any number from 1; with fewer points than groups each point is its own group.
        seed: same seed, same groups, whatever the number of threads (on one kind of device).

    Returns:
        (n,) int64 group ids in [0, min(n, n_groups)); sizes differ by at most one.
    """
    n = len(vectors)
    n_groups = max(1, min(n_groups, n))
    if n_groups >= n:
        return np.arange(n, dtype=np.int64)
    vectors = vectors.detach().float().contiguous()
    levels, starts = _levels(n, n_groups, np.random.default_rng(seed))
    order = torch.arange(
        n, device=vectors.device
    )  # points, those of a group side by side, like ``vectors`` from here on
    # Two buffers take turns: fresh memory costs more than what is written to it.
    buffers = [torch.empty_like(vectors) for _ in levels[:2]]
    with one_thread_each() if vectors.device.type == "cpu" else nullcontext() as pool:
        for place, level in enumerate(levels):
            moved = _split(vectors, level, pool)
            vectors, order = in_order(vectors, moved, buffers[place % 2], pool), order[moved]
    groups = np.empty(n, dtype=np.int64)
    groups[order.cpu().numpy()] = np.repeat(np.arange(n_groups), np.diff(starts))
    return groups


def _levels(n: int, n_groups: int, rng: np.random.Generator) -> tuple[list[Level], np.ndarray]:
    """Return all levels, and where the groups start after the last."""
    levels: list[Level] = []
    starts, shares = np.array([0, n]), np.array([n_groups])
    while shares.max() > 1:
        sizes, left = np.diff(starts), shares // 2
        # The cut that keeps sizes within one of each other at the end, whatever the number of groups.
        base, extra = np.divmod(sizes, shares)
        cut = left * base + np.minimum(left, extra)
        first = rng.integers(0, sizes)
        second = (first + rng.integers(1, np.maximum(sizes, 2))) % sizes
        levels.append(Level(starts, shares, cut, first, second))
        sizes = np.stack([cut, sizes - cut], axis=1).reshape(-1)
        shares = np.stack([left, shares - left], axis=1).reshape(-1)
        # A group with a share of one goes on as its right half.
        starts, shares = np.concatenate([[0], np.cumsum(sizes[shares > 0])]), shares[shares > 0]
    return levels, starts


def _split(vectors: Tensor, level: Level, pool: Executor | None) -> Tensor:
    """Return the order of rows that splits the groups of a level."""
    split = level.shares > 1
    starts, sizes = level.starts[:-1][split], np.diff(level.starts)[split]
    a, b = (
        vectors[torch.from_numpy(starts + member[split]).to(vectors.device)] for member in (level.first, level.second)
    )
    return cut_in_two(vectors, starts, sizes, level.cut[split], a - b, pool)


def group_means(vectors: Tensor, groups: np.ndarray, n_groups: int) -> Tensor:
    """Return the mean vector of each group: (n_groups, dim) float32; empty groups are zero."""
    index = torch.from_numpy(groups)
    sums = torch.zeros(n_groups, vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
    counts = torch.bincount(index, minlength=n_groups).clamp_min(1)
    return sums / counts[:, None]
