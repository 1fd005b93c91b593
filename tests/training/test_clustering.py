"""Balanced clustering: sizes, determinism, and clusters that are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_clustering import plain_groups
from torch.nn import functional as F

from vixml.config.load import load_world
from vixml.training import clustering
from vixml.training.clustering import balanced_groups, group_means, ordered_sums
from vixml.training.mining import LARGE


def unit(n, dim=8, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def objective(vectors, groups):
    """Return the mean similarity of points to the mean of their group: which balanced k-means raises."""
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


def test_group_means():
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    means = group_means(vectors, np.array([2, 2, 0]), 4)
    assert means.tolist() == [[5.0, 5.0], [0.0, 0.0], [2.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("n", [2, 3, 17, 64, 101, 333])
@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 16, 64, 100])
@pytest.mark.parametrize("dim", [1, 3, 32])
def test_as_written_plainly(n, wanted, dim):
    vectors = unit(n, dim, seed=n)
    if dim == 1:  # plus and minus one: nearly everything is tied
        vectors = vectors.sign()
    np.testing.assert_array_equal(balanced_groups(vectors, wanted, 1), plain_groups(vectors.numpy(), wanted, 1))


@pytest.mark.parametrize("n", [150, 1200])
def test_a_large_group_takes_more_steps_until_it_settles(monkeypatch, n):
    vectors = unit(n, 12, seed=3)
    short = balanced_groups(vectors, n // 10, 1)
    monkeypatch.setattr(clustering, "LARGE", 70)
    long = balanced_groups(vectors, n // 10, 1)
    np.testing.assert_array_equal(long, plain_groups(vectors.numpy(), n // 10, 1, large=70))
    if n == 1200:
        assert objective(vectors, long) > objective(vectors, short)


def test_picto_is_clustered_as_for_its_published_results():
    assert load_world("config").datasets["picto"].expect.n_train == 4524 < LARGE


def test_equal_vectors_are_ranked_by_place_as_written_plainly():
    # Few different rows, exact in any precision, and one of zeros.
    rows = torch.tensor([[1.0, 0], [0, 1], [0, -1], [0, 0], [-1, 0]])
    vectors = rows[torch.randint(5, (97,), generator=torch.Generator().manual_seed(0))]
    for wanted in (2, 9, 40):
        groups = balanced_groups(vectors, wanted, 3)
        np.testing.assert_array_equal(groups, plain_groups(vectors.numpy(), wanted, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype):
    vectors = unit(60, 24).to(dtype)
    np.testing.assert_array_equal(balanced_groups(vectors, 7, 0), balanced_groups(vectors.float(), 7, 0))


def in_small_pieces(monkeypatch):
    """Make blocks and pieces so small that a few hundred points need many of each."""
    monkeypatch.setitem(clustering.BLOCK, "cpu", 100)
    monkeypatch.setattr(clustering, "WIDE", 20)


def test_blocks_and_threads_change_nothing(monkeypatch):
    vectors, before = unit(1501, 48), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = balanced_groups(vectors, 90, 4)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(balanced_groups(vectors, 90, 4), expected)
            assert torch.get_num_threads() == threads, "left as it was"
        in_small_pieces(monkeypatch)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(balanced_groups(vectors, 90, 4), expected)
    finally:
        torch.set_num_threads(before)


def test_the_callers_vectors_are_left_alone(monkeypatch):
    in_small_pieces(monkeypatch)
    vectors = unit(400, 16)
    kept = vectors.clone()
    balanced_groups(vectors.requires_grad_(), 40, 0)
    assert torch.equal(vectors, kept)


def test_means_of_millions_are_added_up_in_pieces(monkeypatch):
    monkeypatch.setattr(clustering, "PIECE", 4)
    vectors, counts = torch.randn(60, 5), torch.tensor([1, 9, 0, 4, 25])
    rows = torch.randperm(60)[:39]
    sums = ordered_sums(vectors, rows, counts)
    expected = torch.stack([vectors[part].double().sum(dim=0) for part in rows.split(counts.tolist())])
    torch.testing.assert_close(sums.double(), expected, rtol=0, atol=1e-5)
    assert (sums[2] == 0).all()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        assert torch.equal(ordered_sums(vectors, rows, counts, pool), sums)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_well():
    vectors = unit(2000, 64)
    first = balanced_groups(vectors.cuda(), 130, 0)
    np.testing.assert_array_equal(balanced_groups(vectors.cuda(), 130, 0), first)
    assert objective(vectors, first) > objective(vectors, balanced_groups(vectors, 130, 0)) - 1e-3


def test_vectors_that_may_be_overwritten_give_the_same_groups_with_a_copy_less():
    from vixml.plan.count_memory import LiveBytes

    vectors, peaks = unit(6000, 256), {}
    expected = balanced_groups(vectors, 400, 1)
    for overwrite in (False, True):
        some = vectors.clone()
        with LiveBytes() as counter:
            counter.add(some)
            groups = balanced_groups(some, 400, 1, overwrite)
        np.testing.assert_array_equal(groups, expected)
        assert torch.equal(some, vectors) != overwrite
        peaks[overwrite] = counter.peak / vectors.nbytes
    assert peaks[True] < 2.4 < 3 < peaks[False] < 3.4, peaks
