"""Balanced 2-means, level by level: groups of similar queries for mining, groups of labels for free vectors.

A group of ``n`` points that must become ``g`` groups is bisected into shares proportional to ``g // 2`` and ``g - g // 2``:
the points are ranked by how much nearer they are to one centre than to the other, and the ranking is cut at the share. So
sizes differ by at most one, whatever the points.

Cost: ``log2(groups)`` levels of six steps, or up to 24 while groups are large; a step reads every vector twice, to rank and
for the means. Arithmetic is small beside that, so memory is the limit: 50,000 x 384 in groups of 16 are 12 levels, up to 11
GFLOP and 22 GB. Therefore vectors are copied once per level, so that those of a group are neighbours; there is no table of
each point's centre; a group that no longer changes is skipped; and threads share points, not groups. A GPU holds two copies of
the vectors, and two vectors per group: 2.25 million x 2048 in groups of 16 take 39 GB.
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
from vixml.training.mining import ITERATIONS, LARGE, MORE, SETTLED

# Values in a block of gathered vectors. On a processor it stays in the cache beside its centres.
BLOCK = {"cpu": 1 << 16, "cuda": 1 << 26}
WIDE = 256  # groups from this size on are ranked one by one, so that their centre need not be copied for each point
PIECE = 1024  # rows that are added up one after the other; then the sums of pieces are added up


@dataclass(frozen=True)
class Level:
    """The ``g`` groups of a level that are bisected, (g,) int64 each; known before any vector is read."""

    starts: np.ndarray  # where each group starts, ascending
    sizes: np.ndarray  # its number of points
    left: np.ndarray  # how many of them go left
    first: np.ndarray  # the point that is its first centre
    second: np.ndarray  # and another one, its second


def balanced_groups(vectors: Tensor, n_groups: int, seed: int, overwrite: bool | None = None) -> np.ndarray:
    """Cluster unit vectors into groups of equal size.

    Args:
        vectors: (n, dim), unit rows, on any device; computed with in float32.
        n_groups: number of groups, from 1; with fewer points than groups, each point is a group.
        seed: same seed, same groups, whatever the number of threads (on one kind of device).
        overwrite: whether ``vectors`` may be overwritten, which saves a third copy of them; None: if they are on a GPU.

    Returns:
        (n,) int64 group ids in [0, min(n, n_groups)); sizes differ by at most one.
    """
    n = len(vectors)
    n_groups = max(1, min(n_groups, n))
    if n_groups >= n:
        return np.arange(n, dtype=np.int64)
    overwrite = vectors.device.type != "cpu" if overwrite is None else overwrite
    vectors = vectors.detach().float().contiguous()
    levels, sizes = _levels(n, n_groups, np.random.default_rng(seed))
    # The point at each position, like ``vectors`` from here on.
    order = torch.arange(n, device=vectors.device)
    # Two buffers take turns: allocating is slower than filling.
    buffers = [torch.empty_like(vectors) for _ in levels[: 1 if overwrite else 2]] + [vectors]
    with one_thread_each() if vectors.device.type == "cpu" else nullcontext() as pool:
        for depth, level in enumerate(levels):
            moved = _bisect(vectors, level, pool)
            vectors, order = _in_order(vectors, moved, buffers[depth % 2], pool), order[moved]
    groups = np.empty(n, dtype=np.int64)
    groups[order.cpu().numpy()] = np.repeat(np.arange(n_groups), sizes)
    return groups


def group_means(vectors: Tensor, groups: np.ndarray, n_groups: int) -> Tensor:
    """Return the mean vector of each group: (n, dim) and (n,) int64 -> (n_groups, dim); empty groups are zero."""
    index = torch.from_numpy(groups)
    sums = torch.zeros(n_groups, vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
    counts = torch.bincount(index, minlength=n_groups).clamp_min(1)
    return sums / counts[:, None]


def _levels(n: int, n_groups: int, rng: np.random.Generator) -> tuple[list[Level], np.ndarray]:
    """Return all levels, and the sizes of the groups after the last."""
    levels: list[Level] = []
    sizes, shares = np.array([n]), np.array([n_groups])  # of each group: points, and the groups that it must become
    while shares.max() > 1:
        starts, half = np.cumsum(sizes) - sizes, shares // 2
        # The cut that keeps final sizes within one of each other, whatever the number of groups.
        base, extra = np.divmod(sizes, shares)
        left = half * base + np.minimum(half, extra)
        first = rng.integers(0, sizes)
        second = (first + rng.integers(1, np.maximum(sizes, 2))) % sizes
        split = shares > 1
        levels.append(Level(*(values[split] for values in (starts, sizes, left, starts + first, starts + second))))
        sizes = np.stack([left, sizes - left], axis=1).reshape(-1)
        shares = np.stack([half, shares - half], axis=1).reshape(-1)
        # A group with a share of one continues as its right part.
        sizes, shares = sizes[shares > 0], shares[shares > 0]
    return levels, sizes


def _bisect(vectors: Tensor, level: Level, pool: Executor | None) -> Tensor:
    """Return the order that puts each group's left part first: (n,) int64, the row at each position.

    Both parts keep their order, and rows of other groups keep their position. ``pool`` shares the work on a processor.
    """
    device = vectors.device
    starts, sizes, left, first, second = (
        torch.from_numpy(values).to(device)
        for values in (level.starts, level.sizes, level.left, level.first, level.second)
    )
    apart = vectors[first].sub_(vectors[second])  # each group's difference of centres
    # One line per group; lines of shorter groups are padded.
    rank = torch.arange(int(level.sizes.max()), device=device)
    valid, rows, left = rank < sizes[:, None], starts[:, None] + rank, left[:, None]
    in_left = torch.zeros_like(valid)
    # The groups that changed in the last step.
    active, now_valid, now_rows, now_left = torch.arange(len(starts), device=device), valid, rows, left
    steps = MORE if len(rank) > LARGE else ITERATIONS
    for iteration in range(steps):
        scores = torch.full(now_valid.shape, -torch.inf, device=device)
        scores[now_valid] = _scores(vectors, now_rows[now_valid], now_valid.sum(dim=1), apart, pool)
        chosen = _largest(scores, now_valid, rank, now_left)
        if iteration:
            moved = (chosen != in_left[active]).sum(dim=1)
            in_left[active] = chosen
            # The same parts have the same centres: nothing will change any more.
            changed = moved * SETTLED > (now_valid.sum(dim=1) if iteration >= ITERATIONS else 0)
            if not bool(changed.any()):
                break
            active, now_valid, now_rows, now_left, chosen = (
                lines[changed] for lines in (active, now_valid, now_rows, now_left, chosen)
            )
        in_left[active] = chosen
        if iteration < steps - 1:
            apart = _unit_means(vectors, now_rows, chosen, pool)
            apart -= _unit_means(vectors, now_rows, now_valid & ~chosen, pool)
    order = torch.arange(len(vectors), device=device)
    for part, target in ((in_left, rank < left), (valid & ~in_left, valid & (rank >= left))):
        order[rows[target]] = rows[part]
    return order


def _largest(scores: Tensor, valid: Tensor, rank: Tensor, count: Tensor) -> Tensor:
    """Return where the ``count`` largest scores of each line are, ties by rank: (g, m) bool."""
    # One integer of score, largest first, then rank: no two are equal, so any sorting algorithm will do.
    bits = scores.view(torch.int32).long()
    keys = (torch.where(bits >= 0, -bits, bits & 0x7FFFFFFF) << 31) + rank
    keys.masked_fill_(~valid, torch.iinfo(torch.int64).max)
    # On a processor numpy sorts integers several times faster.
    on_cpu = keys.device.type == "cpu"
    ranked = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if on_cpu else keys.sort(dim=1).values
    return keys <= ranked.gather(1, count - 1)


def _scores(vectors: Tensor, rows: Tensor, sizes: Tensor, apart: Tensor, pool: Executor | None) -> Tensor:
    """Return each row's product with its group's difference of centres: (m,) float32.

    A unit vector x is nearer to a than to b exactly when x . (a - b) is larger (up to a constant of the group). Not by a
    matrix product, whose rounding depends on the number of rows and of threads.

    Args:
        vectors: (n, dim) float32.
        rows: (m,) int64 ascending, those of a group side by side.
        sizes: (g,) int64, number of rows of each group.
        apart: (g, dim) float32.
        pool: as in :func:`_bisect`.
    """
    step = max(1, BLOCK[vectors.device.type] // max(1, vectors.shape[1]))
    scores = torch.empty(len(rows), device=vectors.device)
    if vectors.device.type != "cpu":
        group = torch.repeat_interleave(sizes)
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            torch.sum(vectors[rows[some]].mul_(apart[group[some]]), dim=1, out=scores[some])
        return scores
    blocks = list(_blocks(sizes.numpy(), step))
    arrays = (vectors.numpy(), rows.numpy(), apart.numpy(), scores.numpy())
    share_out(pool, len(blocks), lambda start, end: _score_blocks(*arrays, blocks[start:end]))
    return scores


Block = tuple[int, int, np.ndarray | int]  # where it starts and ends, and its group, or the group of each of its rows


def _blocks(sizes: np.ndarray, step: int) -> Iterator[Block]:
    """Yield blocks of at most ``step`` rows, or of eight times as many without gathering."""
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


def _score_blocks(
    vectors: np.ndarray, rows: np.ndarray, apart: np.ndarray, scores: np.ndarray, blocks: list[Block]
) -> None:
    """Write the scores of some blocks."""
    # Reuse the buffers: allocating is slower than filling.
    buffers = np.empty(
        (2, max((end - start for start, end, _ in blocks), default=0), vectors.shape[1]), dtype=np.float32
    )
    for start, end, group in blocks:
        first, last = int(rows[start]), int(rows[end - 1])
        if last - first == end - 1 - start:
            x = vectors[first : last + 1]
        else:
            x = np.take(vectors, rows[start:end], axis=0, out=buffers[0, : end - start], mode="clip")
        # Either way numpy adds up each row alone, in the same order.
        if isinstance(group, int):
            np.einsum("nd,d->n", x, apart[group], out=scores[start:end])
        else:
            d = np.take(apart, group, axis=0, out=buffers[1, : end - start], mode="clip")
            np.einsum("nd,nd->n", x, d, out=scores[start:end])


def _unit_means(vectors: Tensor, rows: Tensor, part: Tensor, pool: Executor | None) -> Tensor:
    """Return the unit mean of the rows of each line that are marked in ``part``: (g, dim) float32."""
    sums = ordered_sums(vectors, rows[part], part.sum(dim=1), pool)
    return sums.div_(sums.norm(dim=1, keepdim=True).clamp_min(1e-12))


def ordered_sums(vectors: Tensor, rows: Tensor, counts: Tensor, pool: Executor | None = None) -> Tensor:
    """Add up runs of vectors, in an order that depends on the rows only: (g, dim) float32; zero for an empty run.

    Args:
        vectors: (n, dim) float32.
        rows: (m,) int64 of ``vectors``, those of a run side by side.
        counts: (g,) int64, the length of each run; they add up to ``m``.
    """
    ends = counts.cumsum(0)
    if not len(counts) or int(counts.max()) <= PIECE:
        return _sums(vectors, rows, ends - counts, pool)
    # Pieces first: one thread would add up a run of millions, with the rounding of a million additions.
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
        some = rows[bounds[first] : bounds[last]]
        sums[first:last] = F.embedding_bag(some, vectors, starts[first:last] - bounds[first], mode="sum")

    share_out(pool, len(starts), add_up)
    return sums


def _in_order(vectors: Tensor, order: Tensor, out: Tensor, pool: Executor | None) -> Tensor:
    """Return ``vectors[order]``, written to ``out``."""
    share_out(pool, len(order), lambda start, end: torch.index_select(vectors, 0, order[start:end], out=out[start:end]))
    return out
