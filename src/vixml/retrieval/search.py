"""Find the top-K labels of each query by inner product, exactly.

The result is defined without reference to how it is computed: labels ordered by the inner product taken in float64 and
rounded to float32, ties by smaller label id. A float32 matrix product alone cannot give that: its last bits change with
the shape of the blocks, the library and the device. So blocks only *propose*, in float32, a few more labels than asked
for, and float64 *decides* among these; an error bound says when the proposals certainly hold the true top K, and the rare
query where they may not (more near-ties at place K than spare proposals) is searched again wholly in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from vixml.errors import VixmlError
from vixml.ragged import Ragged

# Proposals beyond k. Enough that real vectors hardly ever need the second search, few enough to cost nothing.
SPARE = 32
UNIT = 2.0**-24  # half the distance from 1 to the next float32


def search(
    queries: np.ndarray,
    labels: np.ndarray,
    k: int,
    *,
    filter: Ragged | None = None,
    memory_mb: float = 512,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's k labels of largest inner product.

    Args:
        queries: (n, d) float32 (or float16), may be memory-mapped.
        labels: (m, d) likewise.
        k: labels wanted of each query.
        filter: n rows over m labels: pairs left out, so that k others take their place as long as there are k.
        memory_mb: bound for temporary tables; the result does not depend on it.
        device: where to compute.

    Returns:
        ``(ids, scores)``: (n, k) int32, best first, -1 where fewer than k labels exist; (n, k) float32, -inf there.

    Raises:
        VixmlError: shapes that do not fit, NaN or infinity in an input (the row is named), k below 1.

    Example:
        >>> ids, scores = search(np.eye(2, dtype=np.float32), np.float32([[1, 0], [2, 1], [2, 3]]), 2)
        >>> ids.tolist(), scores.tolist()
        ([[1, 2], [2, 1]], [[2.0, 2.0], [3.0, 1.0]])
    """
    _check(queries, labels, k, filter)
    device = torch.device(device)
    n, m, dim = len(queries), len(labels), queries.shape[1]
    ids = np.full((n, k), -1, dtype=np.int32)
    scores = np.full((n, k), -np.inf, dtype=np.float32)
    _norms("queries", queries)
    largest = _norms("labels", labels)
    if not n or not m:
        return ids, scores
    width = min(k, m)
    proposed = min(k + SPARE, m)
    q_step, l_step = block_sizes(n, m, dim, proposed, memory_mb)
    # |float32 product - true product| <= bound |q| |l| (Higham, Accuracy and Stability, 3.1), twice: at place k and at
    # the label compared with it; four more roundings for the norms and the result, and what float32
    # loses below its smallest normal number.
    bound = 2 * (dim + 4) * UNIT / (1 - (dim + 4) * UNIT) * largest
    with torch.inference_mode(), _full_precision():
        for rows in _steps(n, q_step):
            block = _load(queries, rows, device)
            banned = None if filter is None else filter.take(np.arange(rows.start, rows.stop))
            near, found = _propose(block, labels, banned, proposed, l_step)
            best, top = _decide(block, labels, near, found, width, memory_mb)
            if proposed < m:
                slack = bound * torch.linalg.vector_norm(block.double(), dim=1) + dim * 2.0**-125
                # The last proposal must lie below place k by more than both could be wrong; -inf: nothing was left out.
                unsure = (found[:, -1].double() >= found[:, width - 1].double() - slack) & (found[:, -1] > -torch.inf)
                again = unsure.nonzero().flatten()
                for part in _steps(len(again), max(1, q_step // 4)):
                    some = again[part]
                    only = None if banned is None else banned.take(some.cpu().numpy())
                    best[some], top[some] = _search_in_float64(block[some], labels, only, width, l_step)
            ids[rows, :width] = torch.where(top > -torch.inf, best, -1).int().cpu().numpy()
            scores[rows, :width] = top.cpu().numpy()
    return ids, scores


def block_sizes(n: int, m: int, dim: int, proposed: int, memory_mb: float) -> tuple[int, int]:
    """Return how many queries and labels a block holds, so that its tables stay within ``memory_mb``."""
    budget = int(memory_mb * 2**20)
    # A quarter for the labels' vectors (float32 and the float64 of a second search), half for the table of products.
    l_step = max(1, min(m, budget // 4 // (12 * dim), 1 << 16))
    # A row: its products and topk's copy, the proposals of two blocks (value and id), its vector.
    row = 8 * l_step + 48 * proposed + 8 * dim
    return max(1, min(n, budget // 2 // row)), l_step


def _propose(
    block: Tensor, labels: np.ndarray, banned: Ragged | None, proposed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return the labels that score best in float32: (c, proposed) int64 and float32, -inf for none.

    Best first, unless every label is proposed.
    """
    near = torch.zeros(len(block), 0, dtype=torch.int64, device=block.device)
    found = torch.zeros(len(block), 0, device=block.device)
    for part in _steps(len(labels), step):
        products = block @ _load(labels, part, block.device).T
        _ban(products, banned, part)
        values, places = products.topk(min(proposed, products.shape[1]), dim=1)
        found, near = torch.cat([found, values], dim=1), torch.cat([near, places + part.start], dim=1)
        if found.shape[1] > proposed:
            found, places = found.topk(proposed, dim=1)
            near = near.gather(1, places)
    return near, found


def _decide(
    block: Tensor, labels: np.ndarray, near: Tensor, found: Tensor, width: int, memory_mb: float
) -> tuple[Tensor, Tensor]:
    """Order the proposals by their float64 product: (c, width) int64 and float32."""
    best = torch.empty(len(block), width, dtype=torch.int64, device=block.device)
    top = torch.empty(len(block), width, device=block.device)
    # Pieces of a few MB stay in the processor's cache: six times faster than pieces of 250 MB.
    step = max(1, min(8, memory_mb / 4) * 2**20 // (12 * block.shape[1] * near.shape[1]))
    for rows in _steps(len(block), int(step)):
        vectors = torch.from_numpy(np.asarray(labels[near[rows].cpu().numpy()])).to(block.device).double()
        exact = torch.bmm(vectors, block[rows].double()[:, :, None])[:, :, 0].float()
        best[rows], top[rows] = _first(near[rows], exact.masked_fill(found[rows] == -torch.inf, -torch.inf), width)
    return best, top


def _search_in_float64(
    block: Tensor, labels: np.ndarray, banned: Ragged | None, width: int, step: int
) -> tuple[Tensor, Tensor]:
    """Search among all labels in float64: (c, width) int64 and float32."""
    best = torch.zeros(len(block), 0, dtype=torch.int64, device=block.device)
    top = torch.zeros(len(block), 0, device=block.device)
    for part in _steps(len(labels), step):
        exact = (block.double() @ _load(labels, part, block.device).double().T).float()
        _ban(exact, banned, part)
        ids = torch.arange(part.start, part.stop, device=block.device).expand(len(block), -1)
        ids, exact = _first(ids, exact, width)
        best, top = _first(torch.cat([best, ids], dim=1), torch.cat([top, exact], dim=1), width)
    return best, top


def _first(ids: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Keep the ``width`` best columns of (c, p) ids and float32 scores, sorted; of equal scores the smaller id."""
    # topk promises nothing about ties, so ties are made impossible: one integer that holds the score, then the id.
    bits = scores.contiguous().view(torch.int32).long()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    places = (ordered * 2**31 - ids).topk(min(width, ids.shape[1]), dim=1).indices
    return ids.gather(1, places), scores.gather(1, places)


def _ban(products: Tensor, banned: Ragged | None, part: slice) -> None:
    """Set filtered pairs of a (c, labels of ``part``) table to -inf, in place."""
    if banned is None or not len(banned.values):
        return
    inside = (banned.values >= part.start) & (banned.values < part.stop)
    rows = torch.from_numpy(banned.row_ids()[inside]).to(products.device)
    columns = torch.from_numpy(banned.values[inside].astype(np.int64) - part.start).to(products.device)
    products[rows, columns] = -torch.inf


def _steps(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _load(array: np.ndarray, rows: slice, device: torch.device) -> Tensor:
    # A copy: torch takes no read-only (memory-mapped) arrays.
    return torch.from_numpy(np.array(array[rows], dtype=np.float32)).to(device)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep float32 products in float32: the error bound does not hold for TF32 or bfloat16 products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _norms(name: str, array: np.ndarray) -> float:
    """Return the largest norm of a row, and check every row: NaN and infinity show in the norm."""
    largest = 0.0
    for rows in _steps(len(array), max(1, (1 << 22) // max(array.shape[1], 1))):
        part = np.asarray(array[rows], dtype=np.float32)
        squares = np.einsum("ij,ij->i", part, part, dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(squares))
        if len(wrong):
            raise VixmlError(
                f"a vector among the {name} is not finite",
                where=f"{name}, row {rows.start + wrong[0]}",
                found="NaN or infinity",
                expected="finite numbers",
                hint="encode again; if it comes back, the training diverged: see its log.jsonl",
            )
        largest = max(largest, float(squares.max(initial=0.0)) ** 0.5)
    return largest


def _check(queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None) -> None:
    if queries.ndim != 2 or labels.ndim != 2 or queries.shape[1] != labels.shape[1]:
        raise VixmlError(
            "queries and labels are not vectors of one length",
            where="search",
            found=f"shapes {queries.shape} and {labels.shape}",
            expected="(n, d) and (m, d)",
            hint="encode both with one model",
        )
    for name, array in (("queries", queries), ("labels", labels)):
        if array.dtype not in (np.float32, np.float16):
            raise VixmlError(
                "vectors of an unexpected type", where=name, found=array.dtype, expected="float32 or float16"
            )
    if k < 1:
        raise VixmlError(
            "a search keeps one label or more", where="k", found=k, hint="set inference.top_k to 1 or more"
        )
    if filter is not None and (len(filter), filter.n_cols) != (len(queries), len(labels)):
        raise VixmlError(
            "the filter of reciprocal pairs does not fit queries and labels",
            where="filter",
            found=f"{len(filter)} rows over {filter.n_cols} labels",
            expected=f"{len(queries)} rows over {len(labels)} labels",
            hint="build the corpus again",
        )
