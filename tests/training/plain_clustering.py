"""Balanced 2-means written plainly: in float64, one group after the other (see `vixml.training.clustering`)."""

from __future__ import annotations

import numpy as np


def plain_groups(vectors: np.ndarray, n_groups: int, seed: int, large: int = 5000) -> np.ndarray:
    """Return (n,) group ids; draws the same first centres as ours, level by level."""
    vectors, n = vectors.astype(np.float64), len(vectors)
    n_groups = min(n_groups, n)
    if n_groups == n:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    level = [(list(range(n)), n_groups)]
    while any(share > 1 for _, share in level):
        sizes = np.array([len(members) for members, _ in level])
        first = rng.integers(0, sizes)
        second = (first + rng.integers(1, np.maximum(sizes, 2))) % sizes
        finer, steps = [], 24 if sizes.max() > large else 6
        for (members, share), i, j in zip(level, first, second, strict=True):
            if share == 1:
                finer.append((members, share))
                continue
            to_left = share // 2
            cut = to_left * (len(members) // share) + min(to_left, len(members) % share)
            a, b, before = vectors[members[i]], vectors[members[j]], None
            for step in range(steps):
                ranked = sorted(range(len(members)), key=lambda k, a=a, b=b, m=members: (-(vectors[m[k]] @ (a - b)), k))
                left = [members[k] for k in sorted(ranked[:cut])]
                right = [members[k] for k in sorted(ranked[cut:])]
                if step >= 6 and 1000 * 2 * len(set(left) - before) <= len(members):
                    break
                before = set(left)
                a, b = (unit_mean(vectors[half]) for half in (left, right))
            finer += [(left, to_left), (right, share - to_left)]
        level = finer
    groups = np.empty(n, dtype=np.int64)
    for group, (members, _) in enumerate(level):
        groups[members] = group
    return groups


def unit_mean(vectors: np.ndarray) -> np.ndarray:
    """Return the mean of the rows, normalised; zero stays zero."""
    total = vectors.sum(axis=0)
    return total / max(np.linalg.norm(total), 1e-12)
