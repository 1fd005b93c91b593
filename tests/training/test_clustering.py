"""Balanced clustering: sizes, determinism, and that it finds what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vixml.training.clustering import balanced_groups, group_means


def unit(n, dim=8, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def objective(vectors, groups):
    """Return the mean similarity of points to the mean of their group: what balanced k-means raises."""
    means = group_means(vectors, groups, int(groups.max()) + 1)
    return float((vectors * means[torch.from_numpy(groups)]).sum(dim=1).mean())


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(1, 80), st.integers(0, 3))
def test_sizes_differ_by_at_most_one(n, wanted, seed):
    groups = balanced_groups(unit(n, 4, seed), wanted, seed)
    assert groups.shape == (n,) and groups.dtype == np.int64
    sizes = np.bincount(groups)
    assert len(sizes) == min(n, wanted), "every group is there, ids count from zero"
    assert sizes.max() - sizes.min() <= 1


def test_fewer_points_than_groups_stand_alone():
    assert balanced_groups(unit(3), 10, 0).tolist() == [0, 1, 2]
    assert balanced_groups(unit(1), 1, 0).tolist() == [0]


def test_equal_points_are_split_evenly():
    groups = balanced_groups(torch.ones(21, 4) / 2, 4, 0)
    assert sorted(np.bincount(groups)) == [5, 5, 5, 6]


def test_same_seed_same_groups_whatever_else_is_random():
    vectors = unit(64)
    first = balanced_groups(vectors, 8, 5)
    torch.rand(3), np.random.rand(3)
    np.testing.assert_array_equal(balanced_groups(vectors, 8, 5), first)
    assert (balanced_groups(vectors, 8, 6) != first).any()


@pytest.mark.parametrize(("clusters", "least"), [(2, 1.0), (3, 1.0), (4, 1.0), (8, 0.9)])
def test_planted_clusters_are_found(clusters, least):
    for seed in range(4):
        truth = np.random.default_rng(seed).permutation(np.repeat(np.arange(clusters), 25))
        noise = 0.3 / 4 * torch.randn(len(truth), 16, generator=torch.Generator().manual_seed(seed))
        vectors = F.normalize(unit(clusters, 16, seed)[truth] + noise, dim=1)
        groups = balanced_groups(vectors, clusters, seed)
        purity = np.mean([np.bincount(truth[groups == g]).max() / 25 for g in range(clusters)])
        assert purity >= least, f"seed {seed}"


@pytest.mark.parametrize("wanted", [2, 5, 16, 31])
def test_better_than_any_random_groups(wanted):
    vectors = unit(100)
    ours = balanced_groups(vectors, wanted, 0)
    rng = np.random.default_rng(0)
    best = max(objective(vectors, rng.permutation(ours)) for _ in range(50))
    assert objective(vectors, ours) > best


def test_group_means():
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    means = group_means(vectors, np.array([2, 2, 0]), 4)
    assert means.tolist() == [[5.0, 5.0], [0.0, 0.0], [2.0, 1.0], [0.0, 0.0]]
