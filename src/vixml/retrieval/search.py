"""Find the top-K labels of each query by inner product, exactly.

The result is defined independently of its computation: labels ordered by the inner product in float64, rounded to float32,
ties by smaller label id. A float32 matrix product alone cannot give that: its last bits change with the shape of the blocks,
the library and the device. So blocks only *propose*, in the fastest arithmetic of the device, some more labels than asked for,
and float64 *decides* among these; an error bound says when the proposals certainly include the true top K. The rare query where
they may not (more near-ties at position K than spare proposals) is searched again: with proposals in float32, and if that is
not enough, wholly in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vixml.errors import VixmlError, expect_equal, expect_whole
from vixml.ragged import Ragged, expect_ragged
from vixml.runtime import coarse_type, one_thread_each, send, share_out

# --- Input and output: arrays of results, a filter's rows, and checks of shapes, types and finite numbers.


def no_labels(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the result of ``n`` queries that found nothing yet: (n, k) int32 ids of -1; (n, k) float32 scores of -inf."""
    what, hint = "a search must keep one label or more", "correct inference.top_k"
    expect_whole(k, 1, what, where="k", hint=hint, most=1_000_000)
    return np.full((n, k), -1, dtype=np.int32), np.full((n, k), -np.inf, dtype=np.float32)


def rows_of(pairs: Ragged | None, rows: slice | np.ndarray) -> Ragged | None:
    """Return some rows of a filter or of lists of images; None stays None."""
    if pairs is None:
        return None
    return pairs.take(np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)


def steps(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    """Yield slices of at most ``step`` rows from ``start`` to ``stop``."""
    for at in range(start, stop, step):
        yield slice(at, min(at + step, stop))


def check_rows(name: str, array: np.ndarray) -> None:
    """Check that every row is finite: NaN and infinity show in a sum of squares."""
    for rows in steps(len(array), max(1, (1 << 22) // max(array.shape[1], 1))):
        part = np.asarray(array[rows], dtype=np.float32)
        if np.isfinite(np.einsum("ij,ij->", part, part)):
            continue
        # Or the sum was too large for float32, which is no fault.
        wrong = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", part, part, dtype=np.float64)))
        if len(wrong):
            raise VixmlError(
                f"a vector among the {name} is not finite",
                where=f"{name}, row {rows.start + wrong[0]}",
                found="NaN or infinity",
                expected="finite numbers",
                hint="encode again; if it comes back, the training diverged: see its log.jsonl",
            )


def check_search(queries: np.ndarray, labels: np.ndarray | Tensor, k: int, filter: Ragged | None) -> None:
    """Check shapes, types, k and filter of a search (:func:`vixml.retrieval.search.search`)."""
    for name, array in (("queries", queries), ("labels", labels)):
        plain = isinstance(array, np.ndarray | Tensor) and not isinstance(array, np.ma.MaskedArray)
        if plain and isinstance(array, Tensor):
            plain = array.layout == torch.strided and array.device.type != "meta" and not array.requires_grad
        if not plain:
            raise VixmlError(
                "no plain array of vectors", where=name, found=type(array).__name__, expected="an array, or a tensor without "
                "gradient", hint="`.detach()` a tensor that is trained, fill a masked or sparse one",
            )  # fmt: skip
        if str(array.dtype).removeprefix("torch.") not in ("float32", "float16"):
            what, expected = "vectors of an unexpected type", "float32 or float16"
            raise VixmlError(what, where=name, found=array.dtype, expected=expected)
    if queries.ndim != 2 or labels.ndim != 2 or not 0 < queries.shape[1] == labels.shape[1]:
        raise VixmlError(
            "queries and labels are not vectors of one length",
            where="search",
            found=f"shapes {queries.shape} and {labels.shape}",
            expected="(n, d) and (m, d), d above 0",
            hint="encode both with one model",
        )
    no_labels(0, k)  # refuses a k that is none
    if filter is not None:
        expect_ragged(filter, "filter")
        found, expected = f"{len(filter)} rows over {filter.n_cols}", f"{len(queries)} rows over {len(labels)}"
        what = "the filter of reciprocal pairs does not fit queries and labels"
        expect_equal(f"{found} labels", f"{expected} labels", what, where="filter", hint="build the corpus again")


# --- Propose, in coarse arithmetic, the labels that may be a query's best, with a bound of the error.


GROUP = 16  # labels whose largest product is taken first: the best p labels lie in the p best groups
TOGETHER = 256  # queries whose products a thread of a processor holds
UNIT = 2.0**-24  # half the distance from 1 to the next float32
# Relative error of a product that is stored in this type.
WRITTEN = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}
# Proposals beyond k. Enough that real vectors hardly ever need a second search.
SPARE = {torch.float32: 32, torch.bfloat16: 128}


@dataclass(frozen=True)
class Proposals:
    """The best labels of a block of queries by their coarse products.

    Attributes:
        ids: (c, p) int64.
        scores: (c, p) float32, best first, -inf for none.
        error: (c,) float64, bound of the absolute error of a coarse product before it is stored.
        written: relative error of storing a product.
    """

    ids: Tensor
    scores: Tensor
    error: Tensor
    written: float

    def at_most(self) -> Tensor:
        """Return the largest value that each true product can have: (c, p) float64."""
        return self._off(1)

    def at_least(self) -> Tensor:
        """Return the smallest value: (c, p) float64."""
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
        step: labels whose products are in memory together.
        dtype: type of the products, a key of :data:`WRITTEN`.
        pool: threads of a processor.
    """
    c, dim = block.shape
    ids = torch.zeros(c, proposed, dtype=torch.int64, device=block.device)
    scores = torch.full((c, proposed), -torch.inf, device=block.device)
    queries, on_cpu = block.to(dtype), block.device.type == "cpu"
    longest, moved = 0.0, 0.0
    for part in steps(len(labels), step):
        rounded, length, distance = _rounded(labels[part], dtype, block.device, pool)
        longest, moved = max(longest, length), max(moved, distance)

        def work(first: int, last: int, part: slice = part, rounded: Tensor = rounded) -> None:
            # Reuse the table for all queries of this thread: allocating is slower than the product.
            together = min(last - first, TOGETHER) if on_cpu else last - first
            table = torch.empty(together, rounded.shape[1], dtype=dtype, device=block.device)
            for some in steps(last, together, first):
                products = torch.mm(queries[some], rounded, out=table[: some.stop - some.start])
                products[:, part.stop - part.start :] = -torch.inf  # padding of the last group
                ban(products, rows_of(banned, some), part)
                values, positions = _largest(products, proposed)
                merged, chosen = torch.cat([scores[some], values], dim=1).topk(proposed, dim=1)
                ids[some] = torch.cat([ids[some], positions + part.start], dim=1).gather(1, chosen)
                scores[some] = merged

        share_out(pool, c, work, shares=torch.get_num_threads() if pool is None else pool._max_workers)
    ids.masked_fill_(scores == -torch.inf, 0)  # padding of a group is no label
    exact = block.double()
    norms = torch.linalg.vector_norm(exact, dim=1)
    rounding = torch.linalg.vector_norm(exact - queries.double(), dim=1)
    # Error of the sum of dim products in float32 (Higham, Accuracy and Stability, 3.1), and of numbers below the smallest.
    summed = (dim + 4) * UNIT / (1 - (dim + 4) * UNIT)
    tiny = dim * 2.0**-125 * (1 + norms + longest)
    error = rounding * longest + (norms + rounding) * (moved + summed * (longest + moved)) + tiny
    # With norms beyond float32, nothing is certain.
    return Proposals(ids, scores, torch.nan_to_num(error * 1.001, nan=torch.inf, posinf=torch.inf), WRITTEN[dtype])


def _rounded(
    labels: np.ndarray | Tensor, dtype: torch.dtype, device: torch.device, pool: Executor | None
) -> tuple[Tensor, float, float]:
    """Return labels in ``dtype``, one per column, with zeros up to a whole group; their largest norm and rounding error."""
    m, dim = labels.shape
    rounded = torch.empty(dim, -(-m // GROUP) * GROUP, dtype=dtype, device=device)
    rounded[:, m:] = 0
    largest = torch.zeros(2, m, device=device)

    def work(first: int, last: int) -> None:
        step = min(last - first, max(1, (1 << 17) // dim)) if device.type == "cpu" else last - first
        buffer = None if isinstance(labels, Tensor) else torch.empty(step, dim)
        for rows in steps(last, step, first):
            if buffer is None:
                exact = labels[rows].to(torch.float32, copy=True)
            else:
                # A copy: torch takes no read-only (memory-mapped) arrays.
                np.copyto(buffer.numpy()[: rows.stop - rows.start], labels[rows])
                exact = buffer[: rows.stop - rows.start].to(device)
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
        positions = _positions(products.float(), min(wanted, width))
        return products.gather(1, positions).float(), positions
    table = products.view(r, GROUP, groups)
    best = _positions(table.amax(dim=1).float(), wanted)
    among = table.gather(2, best[:, None, :].expand(r, GROUP, wanted)).reshape(r, -1).float()
    positions = _positions(among, wanted)
    return among.gather(1, positions), (positions // wanted) * groups + best.gather(1, positions % wanted)


def _positions(values: Tensor, wanted: int) -> Tensor:
    """Return the columns of the ``wanted`` largest of each row of float32, in no order: (r, wanted) int64."""
    if values.device.type == "cpu" and wanted < values.shape[1]:
        # numpy's selection is vectorised: several times faster than torch's.
        return torch.from_numpy(np.argpartition(values.numpy(), -wanted, axis=1)[:, -wanted:])
    return values.topk(wanted, dim=1, sorted=False).indices


def ban(products: Tensor, banned: Ragged | None, part: slice) -> None:
    """Set filtered pairs of a (c, labels of ``part``) table to -inf, in place."""
    if banned is None or not len(banned.values):
        return
    inside = (banned.values >= part.start) & (banned.values < part.stop)
    pairs = np.stack([banned.row_ids()[inside], banned.values[inside] - np.int64(part.start)])
    rows, columns = send(torch.from_numpy(pairs), products.device)
    products[rows, columns] = -torch.inf


@contextmanager
def full_precision_products() -> Iterator[None]:
    """Keep float32 products, and sums of bfloat16 products, in float32: the error bounds hold for nothing less."""
    before, matmul = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        matmul.allow_bf16_reduced_precision_reduction = reduced


WORTH_ROUNDING = 1 << 24, 64  # products, queries


def search(
    queries: np.ndarray,
    labels: np.ndarray | Tensor,
    k: int,
    *,
    filter: Ragged | None = None,
    memory_mb: float = 512,
    device: str | torch.device = "cpu",
    checked: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's k labels of largest inner product.

    Args:
        queries: (n, d) float32 (or float16), may be memory-mapped.
        labels: (m, d) likewise; or the result of :func:`on_device`, for many searches.
        k: labels per query.
        filter: n rows over m labels: pairs left out, so that k others take their place as long as there are k.
        memory_mb: bound for temporary tables; the result does not depend on it.
        device: where to compute. A GPU holds the labels as well where they fit into half of its free memory.
        checked: whether an earlier search has checked the labels for NaN and infinity.

    Returns:
        ``(ids, scores)``: (n, k) int32, best first, -1 where fewer than k labels exist; (n, k) float32, -inf there.

    Raises:
        VixmlError: shapes that do not fit, NaN or infinity in an input (the row is named), k below 1.

    Example:
        >>> ids, scores = search(np.eye(2, dtype=np.float32), np.float32([[1, 0], [2, 1], [2, 3]]), 2)
        >>> ids.tolist(), scores.tolist()
        ([[1, 2], [2, 1]], [[2.0, 2.0], [3.0, 1.0]])
    """
    check_search(queries, labels, k, filter)
    device = torch.device(device)
    n, m, dim = len(queries), len(labels), queries.shape[1]
    ids, scores = no_labels(n, k)
    check_rows("queries", queries)
    if not checked and isinstance(labels, np.ndarray):
        check_rows("labels", labels)
    if not n or not m:
        return ids, scores
    width = min(k, m)
    source = labels if isinstance(labels, Tensor) else on_device(labels, device)
    # Where products are few, rounding the labels costs more than it saves. The second type is for queries that the first leaves open.
    worth_it = n * m >= WORTH_ROUNDING[0] and n >= WORTH_ROUNDING[1]
    types = dict.fromkeys([*([coarse_type(device)] if worth_it else []), torch.float32])
    q_step, l_step = block_sizes(n, m, dim, min(k + max(SPARE[dtype] for dtype in types), m), memory_mb)
    on_cpu = device.type == "cpu"
    with full_precision_products(), one_thread_each() if on_cpu else nullcontext() as pool:
        for rows in steps(n, q_step):
            block = _load(queries, rows, device)
            banned = rows_of(filter, rows)
            best = torch.zeros(len(block), width, dtype=torch.int64, device=device)
            top = torch.full((len(block), width), -torch.inf, device=device)
            again = torch.arange(len(block), device=device)
            for dtype in types:
                only = banned if len(again) == len(block) else rows_of(banned, again.cpu().numpy())
                proposed = min(k + SPARE[dtype], m)
                labels_step = max(1, 2 * l_step // dtype.itemsize)
                found = propose(block[again], source, only, proposed, labels_step, dtype, pool)
                at_least = found.at_least()[:, width - 1]
                # Best first: those that are certainly worse than position k are at the end.
                kept = (found.at_most() >= at_least[:, None]).sum(dim=1).clamp_min(width).tolist()
                near = (found.ids, found.scores)
                best[again], top[again] = _decide(block[again], source, near, kept, width, memory_mb, pool)
                # The last proposal must be below position k by more than both errors; -inf: nothing was left out.
                last = found.at_most()[:, -1]
                unsure = (last >= at_least) & (last > -torch.inf) if proposed < m else torch.zeros_like(last).bool()
                again = again[unsure]
                if not len(again):
                    break
            for part in steps(len(again), max(1, q_step // 4)):
                some = again[part]
                only = rows_of(banned, some.cpu().numpy())
                best[some], top[some] = _search_in_float64(block[some], source, only, width, max(1, l_step // 6))
            ids[rows, :width] = torch.where(top > -torch.inf, best, -1).int().cpu().numpy()
            scores[rows, :width] = top.cpu().numpy()
    return ids, scores


def on_device(labels: np.ndarray, device: torch.device) -> np.ndarray | Tensor:
    """Return the labels in a GPU's memory if half of it is enough, else as they are.

    Every block of queries reads all labels, and random ones again for the exact products: over the bus that would take far
    longer than the products.
    """
    if device.type != "cuda" or 2 * labels.nbytes > torch.cuda.mem_get_info(device)[0]:
        return labels
    copied = torch.empty(labels.shape, dtype=torch.from_numpy(labels[:0].copy()).dtype, device=device)
    for part in steps(len(labels), 1 << 17):
        copied[part] = torch.from_numpy(np.array(labels[part])).to(device)
    return copied


def block_sizes(n: int, m: int, dim: int, proposed: int, memory_mb: float) -> tuple[int, int]:
    """Return how many queries and labels a block holds, so that its tables stay within ``memory_mb``.

    Counted in bfloat16; float32 takes half as many labels at a time, float64 a sixth.
    """
    budget = int(memory_mb * 2**20)
    # A quarter for the labels' vectors, half for the table of products.
    l_step = max(1, min(m, budget // 4 // (2 * dim), 1 << 17))
    # A row: its products and copies of them, the proposals of two blocks (value and id), its vector.
    row = 3 * l_step + 48 * proposed + 8 * dim
    return max(1, min(n, budget // 2 // row)), l_step


def _decide(
    block: Tensor,
    labels: np.ndarray | Tensor,
    proposed: tuple[Tensor, Tensor],
    kept: Sequence[int],
    width: int,
    memory_mb: float,
    pool: Executor | None,
) -> tuple[Tensor, Tensor]:
    """Order the first ``kept`` ids that are proposed by their float64 product: (c, width) int64 and float32.

    ``proposed``: (c, p) ids and scores; those with a score of -inf are left out.
    """
    best = torch.zeros(len(block), width, dtype=torch.int64, device=block.device)
    top = torch.full((len(block), width), -torch.inf, device=block.device)
    # Pieces of a few MB stay in the processor's cache: six times faster than pieces of 250 MB.
    piece = min(8 if block.device.type == "cpu" else 256, memory_mb / 8) * 2**20
    step = int(max(1, piece // (12 * max(1, block.shape[1] * proposed[0].shape[1]))))

    def work(first: int, last: int) -> None:
        buffers: list[Tensor] = []
        for rows in steps(last, step, first):
            near, coarse = (table[rows, : max(kept[rows])] for table in proposed)
            exact = products(block[rows], labels, near, buffers)
            best[rows], top[rows] = _first(near, exact.masked_fill_(coarse == -torch.inf, -torch.inf), width)

    share_out(pool, len(block), work)
    return best, top


def products(block: Tensor, labels: np.ndarray | Tensor, near: Tensor, buffers: list[Tensor]) -> Tensor:
    """Return the float64 products of (r, dim) queries with (r, p) labels each, as float32.

    Args:
        block: (r, dim) float32.
        labels: (m, dim).
        near: (r, p) int64.
        buffers: memory of one thread, empty at first; reused, because allocating is slower than the products.
    """
    if isinstance(labels, Tensor):
        return torch.bmm(labels[near].double(), block.double()[:, :, None])[:, :, 0].float()
    ids, size = near.cpu().numpy(), near.numel() * block.shape[1]
    if not buffers or buffers[0].numel() < size:
        dtype = torch.from_numpy(labels[:0].copy()).dtype
        buffers[:] = [torch.empty(size, dtype=dtype), torch.empty(size, dtype=torch.float64, device=block.device)]
    shape = (*near.shape, block.shape[1])
    vectors, exact = (memory[:size].view(shape) for memory in buffers)
    np.take(labels, ids, axis=0, out=vectors.numpy(), mode="clip")
    # A row times a matrix: as a matrix times a column, MKL takes seven times as long.
    return torch.bmm(block.double()[:, None, :], exact.copy_(vectors).transpose(1, 2))[:, 0].float()


def decide(
    queries: np.ndarray, labels: np.ndarray, near: np.ndarray, k: int, filter: Ragged | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order proposed labels as :func:`search` orders all; arguments and result are as there.

    ``near``: (n, p) int64 labels, each at most once per row, -1 for none.
    """
    if near.dtype.kind not in "iu" or near.min(initial=0) < -1 or near.max(initial=0) >= max(len(labels), 1):
        raise VixmlError("proposals are no labels", where="near", found=near.dtype, expected=f"-1 to {len(labels) - 1}")
    n, p = near.shape
    ids, scores = no_labels(n, k)
    left_out = near < 0
    if filter is not None and len(filter.values):
        keys = np.arange(n)[:, None] * len(labels) + near
        left_out |= np.isin(keys, filter.row_ids() * len(labels) + filter.values)
    width, block = min(k, p), torch.from_numpy(np.array(queries, dtype=np.float32))
    proposed = torch.from_numpy(np.maximum(near, 0)), torch.from_numpy(np.where(left_out, -np.inf, 0))
    with one_thread_each() as pool:
        best, top = _decide(block, labels, proposed, [p] * n, width, memory_mb=64, pool=pool)
    ids[:, :width] = torch.where(top > -torch.inf, best, -1).int().numpy()
    scores[:, :width] = top.numpy()
    return ids, scores


def _search_in_float64(
    block: Tensor, labels: np.ndarray | Tensor, banned: Ragged | None, width: int, step: int
) -> tuple[Tensor, Tensor]:
    """Search among all labels in float64: (c, width) int64 and float32."""
    best = torch.zeros(len(block), 0, dtype=torch.int64, device=block.device)
    top = torch.zeros(len(block), 0, device=block.device)
    for part in steps(len(labels), step):
        exact = (block.double() @ _load(labels, part, block.device).double().T).float()
        ban(exact, banned, part)
        ids = torch.arange(part.start, part.stop, device=block.device).expand(len(block), -1)
        ids, exact = _first(ids, exact, width)
        best, top = _first(torch.cat([best, ids], dim=1), torch.cat([top, exact], dim=1), width)
    return best, top


def _first(ids: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Keep the ``width`` best columns of (c, p) ids and float32 scores, sorted; of equal scores the smaller id."""
    # topk promises nothing about ties, so make them impossible: one integer of the score, then the id.
    bits = scores.contiguous().view(torch.int32).long()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    positions = (ordered * 2**31 - ids).topk(min(width, ids.shape[1]), dim=1).indices
    return ids.gather(1, positions), scores.gather(1, positions)


def _load(array: np.ndarray | Tensor, rows: slice, device: torch.device) -> Tensor:
    if isinstance(array, Tensor):
        return array[rows].float()
    # A copy: torch takes no read-only (memory-mapped) arrays.
    return send(torch.from_numpy(np.array(array[rows], dtype=np.float32)), device)
