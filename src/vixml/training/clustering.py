"""Balanced 2-means, level by level: groups of similar queries for mining, groups of labels for free vectors.

A group of ``n`` points that must become ``g`` groups is cut into shares proportional to ``g // 2`` and ``g - g // 2``; the
points are ranked by how much nearer they are to one centre than to the other and the ranking is cut at the share, so sizes
differ by at most one however the points lie.

Cost: ``log2(groups)`` levels of six steps, or up to 24 while groups are large, and a step reads every vector twice, once to
rank and once for the means. Arithmetic is small beside that, so the limit is memory: 50,000 x 384 in groups of 16 are 12
levels, up to 11 GFLOP and 22 GB. Hence vectors are copied once per level, so that those of a group lie side by side; no table
of each point's centre is made; a group whose halves no longer change is left alone; and threads share points, not groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.runtime import one_thread_each, share_out

# --- Cut groups of vectors in two by 2-means, all groups of a level at once.


ITERATIONS = 6  # Lloyd steps per level; the objective of a small group hardly moves after four
# A large group settles later: it may take more, until fewer than one in a thousand points change sides. PICTO's 4,524 training
# queries lie below, so that its groups stay those which its results were made with.
LARGE, MORE, SETTLED = 4600, 24, 1000
# Values in a block of gathered vectors. On a processor it stays in the cache beside its centres.
BLOCK = {"cpu": 1 << 16, "cuda": 1 << 26}
WIDE = 256  # groups from this size on are ranked one by one, so that their centre need not be copied for each point
PIECE = 1024  # rows that are added up one after the other; the sums of pieces are added up after that


def cut_in_two(
    vectors: Tensor,
    starts: np.ndarray,
    sizes: np.ndarray,
    cut: np.ndarray,
    apart: Tensor,
    pool: Executor | None = None,
) -> Tensor:
    """Return the order in which each group's left half comes first; both halves keep their order.

    Args:
        vectors: (n, dim) float32, those of a group side by side.
        starts, sizes, cut: (g,) int64 ascending, where groups start, how many rows they have and how many of these go left;
            rows of no group stay where they are.
        apart: (g, dim) float32, the difference of each group's first two centres.
        pool: threads to share the ranking on a processor; None: none.

    Returns:
        (n,) int64: the row that comes to each position.
    """
    device = vectors.device
    # One line per group; lines of shorter groups end in rows that are not theirs.
    rank = torch.arange(int(sizes.max()), device=device)
    starts_t, sizes_t, cut_t = (torch.from_numpy(values).to(device)[:, None] for values in (starts, sizes, cut))
    own, rows = rank < sizes_t, starts_t + rank
    in_left = torch.zeros_like(own)
    # The groups whose halves changed in the last step.
    moving, now_own, now_rows, now_cut = torch.arange(len(starts), device=device), own, rows, cut_t
    steps = MORE if len(rank) > LARGE else ITERATIONS
    for iteration in range(steps):
        lean = torch.full(now_own.shape, -torch.inf, device=device)
        lean[now_own] = lean_of(vectors, now_rows[now_own], now_own.sum(dim=1), apart, pool)
        now_left = _first(lean, now_own, rank, now_cut)
        if iteration:
            moved = (now_left != in_left[moving]).sum(dim=1)
            in_left[moving] = now_left
            # The same halves have the same centres: nothing will change any more.
            changed = moved * SETTLED > (now_own.sum(dim=1) if iteration >= ITERATIONS else 0)
            if not bool(changed.any()):
                break
            moving, now_own, now_rows, now_cut, now_left = (
                lines[changed] for lines in (moving, now_own, now_rows, now_cut, now_left)
            )
        in_left[moving] = now_left
        if iteration < steps - 1:
            a, b = (_unit_means(vectors, now_rows, half, pool) for half in (now_left, now_own & ~now_left))
            apart = a - b
    order = torch.arange(len(vectors), device=device)
    for half, target in ((in_left, rank < cut_t), (own & ~in_left, own & (rank >= cut_t))):
        order[rows[target]] = rows[half]
    return order


def _first(lean: Tensor, own: Tensor, rank: Tensor, cut: Tensor) -> Tensor:
    """Return where the ``cut`` largest values of each row are, ties by rank: (g, m) bool."""
    # One integer that holds the value, largest first, then the rank: no two are equal, so any way of sorting does.
    bits = lean.view(torch.int32).long()
    keys = (torch.where(bits >= 0, -bits, bits & 0x7FFFFFFF) << 31) + rank
    keys.masked_fill_(~own, torch.iinfo(torch.int64).max)
    # On a processor numpy sorts integers several times faster.
    on_cpu = keys.device.type == "cpu"
    ranked = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if on_cpu else keys.sort(dim=1).values
    return keys <= ranked.gather(1, cut - 1)


def lean_of(vectors: Tensor, rows: Tensor, sizes: Tensor, apart: Tensor, pool: Executor | None = None) -> Tensor:
    """Return each row's product with its group's difference of centres.

    Unit vectors: nearer to a than to b exactly when x . (a - b) is larger (up to a constant of the group). Not by a matrix
    product: how a library rounds there changes with the number of rows and of threads.

    Args:
        vectors: (n, dim) float32.
        rows: (m,) int64 ascending, those of a group side by side.
        sizes: (g,) int64, how many rows each group has.
        apart: (g, dim) float32.
        pool: threads to share the work on a processor.

    Returns:
        (m,) float32.
    """
    step = max(1, BLOCK[vectors.device.type] // max(1, vectors.shape[1]))
    lean = torch.empty(len(rows), device=vectors.device)
    if vectors.device.type != "cpu":
        group = torch.repeat_interleave(sizes)
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            torch.sum(vectors[rows[some]].mul_(apart[group[some]]), dim=1, out=lean[some])
        return lean
    blocks = list(_blocks(sizes.numpy(), step))
    arrays = (vectors.numpy(), rows.numpy(), apart.numpy(), lean.numpy())
    share_out(pool, len(blocks), lambda start, end: _lean_of_blocks(*arrays, blocks[start:end]))
    return lean


def _blocks(sizes: np.ndarray, step: int) -> Iterator[tuple[int, int, np.ndarray | int]]:
    """Yield where a block starts and ends, and its group, or the group of each of its rows."""
    if sizes.mean() < WIDE:
        group = np.repeat(np.arange(len(sizes)), sizes)
        for start in range(0, len(group), step):
            yield start, min(start + step, len(group)), group[start : start + step]
        return
    step *= 8  # nothing is gathered: a block need not fit into the cache
    ends = np.cumsum(sizes)
    for g, (end, size) in enumerate(zip(ends.tolist(), sizes.tolist(), strict=True)):
        for start in range(end - size, end, step):
            yield start, min(start + step, end), g


def _lean_of_blocks(
    vectors: np.ndarray,
    rows: np.ndarray,
    apart: np.ndarray,
    lean: np.ndarray,
    blocks: list[tuple[int, int, np.ndarray | int]],
) -> None:
    # Reuse the buffer: allocating is slower than filling it.
    held = np.empty((2, max((end - start for start, end, _ in blocks), default=0), vectors.shape[1]), dtype=np.float32)
    for start, end, group in blocks:
        first, last = int(rows[start]), int(rows[end - 1])
        if last - first == end - 1 - start:
            x = vectors[first : last + 1]
        else:
            x = np.take(vectors, rows[start:end], axis=0, out=held[0, : end - start], mode="clip")
        # numpy adds up each row alone, in one order, whichever of the two it is.
        if isinstance(group, int):
            np.einsum("nd,d->n", x, apart[group], out=lean[start:end])
        else:
            d = np.take(apart, group, axis=0, out=held[1, : end - start], mode="clip")
            np.einsum("nd,nd->n", x, d, out=lean[start:end])


def _unit_means(vectors: Tensor, rows: Tensor, half: Tensor, pool: Executor | None) -> Tensor:
    """Return the unit mean of the rows of each line that are marked in ``half``: (g, dim) float32."""
    return F.normalize(ordered_sums(vectors, rows[half], half.sum(dim=1), pool), dim=1)


def ordered_sums(vectors: Tensor, rows: Tensor, counts: Tensor, pool: Executor | None = None) -> Tensor:
    """Add up runs of vectors, in an order that depends on the rows only.

    Args:
        vectors: (n, dim) float32.
        rows: (m,) int64 of ``vectors``, those of a run side by side.
        counts: (g,) int64, the length of each run; they add up to ``m``.
        pool: threads to share the work on a processor.

    Returns:
        (g, dim) float32; zero for an empty run.
    """
    ends = counts.cumsum(0)
    if not len(counts) or int(counts.max()) <= PIECE:
        return _sums(vectors, rows, ends - counts, pool)
    # Pieces first: a run of millions would be added up by one thread, and with the rounding of a million additions.
    pieces = (counts + PIECE - 1) // PIECE
    piece_ends = pieces.cumsum(0)
    run = torch.repeat_interleave(pieces)
    piece = torch.arange(len(run), device=run.device)
    starts = (ends - counts)[run] + (piece - (piece_ends - pieces)[run]) * PIECE
    return F.embedding_bag(piece, _sums(vectors, rows, starts, pool), piece_ends - pieces, mode="sum")


def _sums(vectors: Tensor, rows: Tensor, starts: Tensor, pool: Executor | None) -> Tensor:
    """Return the sum of each run of rows, from its start to the next: (g, dim) float32."""
    if pool is None:
        return F.embedding_bag(rows, vectors, starts, mode="sum")
    sums = torch.empty(len(starts), vectors.shape[1])
    bounds = [*starts.tolist(), len(rows)]

    def add_up(first: int, last: int) -> None:
        own = rows[bounds[first] : bounds[last]]
        sums[first:last] = F.embedding_bag(own, vectors, starts[first:last] - bounds[first], mode="sum")

    share_out(pool, len(starts), add_up)
    return sums


def in_order(vectors: Tensor, order: Tensor, out: Tensor, pool: Executor | None = None) -> Tensor:
    """Return ``vectors[order]``, written to ``out``."""
    share_out(pool, len(order), lambda start, end: torch.index_select(vectors, 0, order[start:end], out=out[start:end]))
    return out


@dataclass(frozen=True)
class Level:
    """Split of a level's groups, known before any vector is read.

    Attributes:
        starts: (g + 1,) int64, group ``i`` holds the positions ``starts[i]`` to ``starts[i + 1]``.
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
    # Points, those of a group side by side, like ``vectors`` from here on.
    order = torch.arange(n, device=vectors.device)
    # Two buffers take turns: allocating is slower than filling.
    buffers = [torch.empty_like(vectors) for _ in levels[:2]]
    with one_thread_each() if vectors.device.type == "cpu" else nullcontext() as pool:
        for depth, level in enumerate(levels):
            moved = _split(vectors, level, pool)
            vectors, order = in_order(vectors, moved, buffers[depth % 2], pool), order[moved]
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
        # A group with a share of one continues as its right half.
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
