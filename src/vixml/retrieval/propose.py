"""Propose, in coarse arithmetic, the labels that may be a query's best, and say how far the proposals may be wrong.

The product of queries and labels is nearly all of a search's arithmetic: ``2 n m dim`` operations. Processors with AMX or
AVX-512 BF16 and GPUs multiply bfloat16 several times faster than float32, and its error has a bound:
``|q.l - q'.l'| <= |q - q'| |l| + |q'| |l - l'|`` for rounded ``q'`` and ``l'``, whose distances are measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vixml.ragged import Ragged
from vixml.threads import share_out

GROUP = 16  # labels whose largest product is taken first: the best p labels lie in the p best groups
TOGETHER = 256  # queries whose products a thread of a processor holds
UNIT = 2.0**-24  # half the distance from 1 to the next float32
# What writing a product down in this type adds to its error, relative to the product.
WRITTEN = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}
# Proposals beyond k. Enough that real vectors hardly ever need a second search.
SPARE = {torch.float32: 32, torch.bfloat16: 128}


@dataclass(frozen=True)
class Proposals:
    """The best labels of a block of queries by their coarse products.

    Attributes:
        ids: (c, p) int64.
        scores: (c, p) float32, best first, -inf for none.
        error: (c,) float64, how far a coarse product may lie from the true one, but for ``written`` of it.
        written: relative error of writing a product down.
    """

    ids: Tensor
    scores: Tensor
    error: Tensor
    written: float

    def at_most(self) -> Tensor:
        """Return the largest value that each true product can have: (c, p) float64."""
        return self._off(1)

    def at_least(self) -> Tensor:
        """Return the smallest: (c, p) float64."""
        return self._off(-1)

    def _off(self, sign: int) -> Tensor:
        scores = self.scores.double()
        moved = scores + sign * (self.error[:, None] + self.written * scores.abs())
        return torch.where(scores > -torch.inf, moved, scores)  # infinity minus infinity is no number


def propose(
    block: Tensor,
    labels: np.ndarray | Tensor,
    banned: Ragged | None,
    proposed: int,
    step: int,
    dtype: torch.dtype,
    pool: Executor | None,
) -> Proposals:
    """Return the ``proposed`` labels of largest coarse product of each query.

    Args:
        block: (c, dim) float32.
        labels: (m, dim) float32 or float16, may be memory-mapped, or lie on the device; read ``step`` rows at a time.
        banned: c rows of labels left out.
        proposed: labels wanted, at most m.
        step: labels whose products stand in memory together.
        dtype: type of the products, a key of :data:`WRITTEN`.
        pool: threads of a processor.
    """
    c, dim = block.shape
    ids = torch.zeros(c, proposed, dtype=torch.int64, device=block.device)
    scores = torch.full((c, proposed), -torch.inf, device=block.device)
    queries, on_cpu = block.to(dtype), block.device.type == "cpu"
    longest, moved = 0.0, 0.0
    for start in range(0, len(labels), step):
        part = slice(start, min(start + step, len(labels)))
        rounded, length, distance = _rounded(labels[part], dtype, block.device, pool)
        longest, moved = max(longest, length), max(moved, distance)

        def work(first: int, last: int, part: slice = part, rounded: Tensor = rounded) -> None:
            # One table for all its queries: fresh memory costs more than the product that is written to it.
            together = min(last - first, TOGETHER) if on_cpu else last - first
            table = torch.empty(together, rounded.shape[1], dtype=dtype, device=block.device)
            for start in range(first, last, together):
                stop = min(start + together, last)
                products = torch.mm(queries[start:stop], rounded, out=table[: stop - start])
                products[:, part.stop - part.start :] = -torch.inf  # rows that fill the last group up
                if banned is not None:
                    ban(products, banned.take(np.arange(start, stop)), part)
                values, places = _largest(products, proposed)
                some = slice(start, stop)
                merged, chosen = torch.cat([scores[some], values], dim=1).topk(proposed, dim=1)
                ids[some] = torch.cat([ids[some], places + part.start], dim=1).gather(1, chosen)
                scores[some] = merged

        share_out(pool, c, work, shares=torch.get_num_threads() if pool is None else pool._max_workers)
    ids.masked_fill_(scores == -torch.inf, 0)  # a row that fills a group up is no label
    exact = block.double()
    norms = torch.linalg.vector_norm(exact, dim=1)
    rounding = torch.linalg.vector_norm(exact - queries.double(), dim=1)
    # The sum of dim products in float32 (Higham, Accuracy and Stability, 3.1), and what is lost below the smallest number.
    summed = (dim + 4) * UNIT / (1 - (dim + 4) * UNIT)
    tiny = dim * 2.0**-125 * (1 + norms + longest)
    error = rounding * longest + (norms + rounding) * (moved + summed * (longest + moved)) + tiny
    # Norms beyond float32 say nothing: then nothing is certain.
    return Proposals(ids, scores, torch.nan_to_num(error * 1.001, nan=torch.inf, posinf=torch.inf), WRITTEN[dtype])


def _rounded(
    labels: np.ndarray | Tensor, dtype: torch.dtype, device: torch.device, pool: Executor | None
) -> tuple[Tensor, float, float]:
    """Return labels in ``dtype``, a column each (products want them so), with zeros up to a whole group; their largest norm
    and distance to it."""
    m, dim = labels.shape
    rounded = torch.empty(dim, -(-m // GROUP) * GROUP, dtype=dtype, device=device)
    rounded[:, m:] = 0
    largest = torch.zeros(2, m, device=device)

    def work(first: int, last: int) -> None:
        step = min(last - first, max(1, (1 << 17) // dim)) if device.type == "cpu" else last - first
        held = None if isinstance(labels, Tensor) else torch.empty(step, dim)
        for at in range(first, last, step):
            rows = slice(at, min(at + step, last))
            if held is None:
                exact = labels[rows].to(torch.float32, copy=True)
            else:
                # A copy: torch takes no read-only (memory-mapped) arrays.
                np.copyto(held.numpy()[: rows.stop - at], labels[rows])
                exact = held[: rows.stop - at].to(device)
            coarse = exact.to(dtype)
            rounded[:, rows] = coarse.T
            torch.linalg.vector_norm(exact, dim=1, out=largest[0, rows])
            if dtype != torch.float32:
                torch.linalg.vector_norm(exact.sub_(coarse), dim=1, out=largest[1, rows])

    share_out(pool, m, work)
    length, distance = largest.amax(dim=1).tolist()
    # The norms are sums in float32 of squares, which vanish below 1e-23: the last term covers that.
    return rounded, length * 1.001 + 1e-18, distance * 1.001 + (0.0 if dtype == torch.float32 else 1e-18)


def _largest(products: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return the ``wanted`` largest of each row, as float32, and their columns: (r, <= wanted) each, in no order."""
    r, width = products.shape
    groups = width // GROUP
    if groups <= 2 * wanted:
        places = _places(products.float(), min(wanted, width))
        return products.gather(1, places).float(), places
    table = products.view(r, GROUP, groups)
    best = _places(table.amax(dim=1).float(), wanted)
    among = table.gather(2, best[:, None, :].expand(r, GROUP, wanted)).reshape(r, -1).float()
    places = _places(among, wanted)
    return among.gather(1, places), (places // wanted) * groups + best.gather(1, places % wanted)


def _places(values: Tensor, wanted: int) -> Tensor:
    """Return where the ``wanted`` largest of each row of float32 stand, in no order: (r, wanted) int64."""
    if values.device.type == "cpu" and wanted < values.shape[1]:
        # numpy's selection is vectorised: several times faster than torch's.
        return torch.from_numpy(np.argpartition(values.numpy(), -wanted, axis=1)[:, -wanted:])
    return values.topk(wanted, dim=1, sorted=False).indices


def ban(products: Tensor, banned: Ragged, part: slice) -> None:
    """Set filtered pairs of a (c, labels of ``part``) table to -inf, in place."""
    if not len(banned.values):
        return
    inside = (banned.values >= part.start) & (banned.values < part.stop)
    rows = torch.from_numpy(banned.row_ids()[inside]).to(products.device)
    columns = torch.from_numpy(banned.values[inside].astype(np.int64) - part.start).to(products.device)
    products[rows, columns] = -torch.inf


@contextmanager
def honest_products() -> Iterator[None]:
    """Keep float32 products in float32 and sums of bfloat16 products too: the error bounds hold for nothing less."""
    before, matmul = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        matmul.allow_bf16_reduced_precision_reduction = reduced
