"""Gradient caching: encode a batch in parts, then carry the loss's gradient back; and vectors of all training queries."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.models.packing import Packed
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged
from vixml.runtime import autocast, derived_seed, send
from vixml.training.batches import Batch
from vixml.training.distributed import ProcessGroup


class EncodedBatch:
    """Encode a batch part by part, so that memory holds the activations of one part only (gradient caching).

    The loss is computed from :attr:`vectors`; :meth:`backward` carries their gradient into the encoder. All parts but the
    last are encoded twice, with the same dropout.

    Args:
        group: the processes that share the batch.
        stream: seed, purpose, epoch and step; with the part's position they key its dropout.

    Attributes:
        vectors: (n + m, dim) float32, queries then labels, not normalised; a leaf, so the loss's backward pass ends here.
    """

    def __init__(
        self, model: Siamese, batch: Batch, group: ProcessGroup, precision: str, stream: tuple[int, ...]
    ) -> None:
        self.model, self.precision, self.stream = model, precision, stream
        n = len(batch.queries) + len(batch.labels)
        self.share = group.share(n)
        positions = np.cumsum([self.share.start, *map(len, batch.parts)])[:-1].tolist()
        self.parts = list(zip(positions, batch.parts, strict=True))
        with torch.no_grad():
            vectors = [self._encode(*part) for part in self.parts[:-1]]
        self.last = self._encode(*self.parts[-1]) if self.parts else None
        # More processes than items: this one has none.
        last = torch.zeros(0, model.backbone.dim, device=model.device) if self.last is None else self.last.detach()
        self.vectors = group.gather(torch.cat([*vectors, last]) if vectors else last, n).requires_grad_()

    def _encode(self, position: int, part: Packed) -> Tensor:
        torch.manual_seed(derived_seed(*self.stream, position))
        with autocast(self.precision, self.model.device):
            return self.model.encode(part)

    def backward(self) -> None:
        """Carry the gradient of :attr:`vectors` into the encoder's parameters; do nothing if the loss gave none."""
        if self.vectors.grad is None:
            return
        gradient = self.vectors.grad[self.share]
        # The last part first: its activations are in memory, and make room for those of the others.
        for position, part in reversed(self.parts):
            vectors = self._encode(position, part) if self.last is None else self.last
            self.last = None
            if vectors.requires_grad:
                first = position - self.share.start
                vectors.backward(gradient[first : first + len(vectors)])


BLOCK = 1 << 26  # values of stored vectors that are copied or added up at a time


def shared_zeros(n: int, dim: int) -> Tensor:
    """Return (n, dim) float32 zeros in memory that this process shares with those it forks.

    Otherwise each page that a step writes would be copied, for the workers that assemble batches. ``/dev/shm`` and its
    size play no part.

    Raises:
        MemoryError: there is not enough.
    """
    if not n:
        return torch.zeros(0, dim)
    try:
        memory = mmap.mmap(-1, 4 * n * dim)
    except OSError as error:
        raise MemoryError(f"cannot allocate memory: you tried to allocate {4 * n * dim} bytes") from error
    return torch.frombuffer(memory, dtype=torch.float32).view(n, dim)


class StoredVectors:
    """One vector per training query, as last seen, in main memory.

    A step's vectors are copied off the GPU without waiting for them, and stored while the next step runs. Of several
    processes that train together, rank 0 alone has them: those of the others are empty.

    Args:
        tensor: (n_train, dim) float32 on the CPU; or (0, dim): nothing is stored.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._pending: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def fill(self, vectors: Tensor) -> None:
        """Store the unit vectors of all queries: (n_train, dim) float32 on the CPU, not normalised."""
        for some in _blocks(*self._tensor.shape):
            self._tensor[some] = F.normalize(vectors[some], dim=1)

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store ``vectors`` (n, dim), on any device, in ``rows`` (n,) int64."""
        if not len(self._tensor):
            return
        positions = torch.from_numpy(rows)
        if vectors.device.type == "cpu":
            self._tensor[positions] = vectors
            return
        self.read()
        copy = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        copy.copy_(vectors, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (positions, copy, event)

    def read(self) -> Tensor:
        """Return all vectors, those still being copied included."""
        if self._pending is not None:
            positions, copy, event = self._pending
            event.synchronize()
            self._tensor[positions] = copy
            self._pending = None
        return self._tensor

    def take(self, rows: np.ndarray, device: torch.device | None = None) -> Tensor:
        """Return the vectors of ``rows``, (n,) int64 ascending, on a device: (n, dim) float32, not to be written.

        On the CPU those of all rows are no copy; on their way to a GPU no more than :data:`BLOCK` values are.
        """
        stored = self.read()
        if device is None or device.type == "cpu":
            return _rows(stored, rows)
        out = torch.empty(len(rows), stored.shape[1], device=device)
        for some in _blocks(*out.shape):
            out[some] = send(_rows(stored, rows[some]), device)
        return out


def _blocks(n: int, dim: int) -> Iterator[slice]:
    """Yield slices of ``n`` vectors, of at most :data:`BLOCK` values each."""
    step = max(1, BLOCK // max(dim, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _rows(vectors: Tensor, rows: np.ndarray) -> Tensor:
    """Return ``vectors[rows]`` of ascending rows; where these are neighbours, without a copy."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return vectors[int(rows[0]) : int(rows[-1]) + 1]
    return vectors[torch.from_numpy(rows)]


def label_means(
    vectors: Tensor, truth: Ragged, rows: np.ndarray | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each label's centroid, the mean of its training queries (no moving average).

    A GPU adds them up in another order than a processor, each of them in the same order at every call.

    Args:
        vectors: (n, dim) float32 unit rows on the CPU.
        truth: label ids of each query.
        rows: (len(truth),) int64 ascending, each query's row of ``vectors``; None: they are its rows.
        out: (n_labels, dim) float32, to be overwritten; its device adds up. None: a new one, on the CPU.

    Returns:
        (n_labels, dim) float32, zero for labels without a query, and (n_labels,) bool on the CPU, whether there is one.
    """
    counts = torch.from_numpy(truth.counts())
    rows = np.arange(len(truth)) if rows is None else rows
    if out is not None and out.device.type != "cpu":
        means = out.zero_()
        add_up(means, vectors, truth, rows)
    else:
        queries_of = truth.transpose()
        values, offsets = rows[queries_of.values], queries_of.offsets[:-1]
        sums = F.embedding_bag(torch.from_numpy(values), vectors, torch.from_numpy(offsets), mode="sum")
        means = sums if out is None else out.copy_(sums)
    return means.div_(counts.clamp_min(1)[:, None].to(means.device)), counts > 0


def add_up(sums: Tensor, vectors: Tensor, truth: Ragged, rows: np.ndarray) -> None:
    """Add its queries' vectors to the row of each label, block by block.

    The same bytes at every call: a block is sorted by label and query, one thread adds up a label's vectors in that order,
    and each label has one sum per block.

    Args:
        sums: (n_labels, dim) float32, on the device that computes.
        vectors, truth, rows: as in :func:`label_means`.
    """
    step, first, offsets = max(1, BLOCK // sums.shape[1]), 0, truth.offsets
    while first < len(truth):
        # At most `step` vectors, and as many pairs, each of which may be a sum of its own; but one query at least.
        end = int(np.searchsorted(offsets, offsets[first] + step, side="right")) - 1
        end = min(max(end, first + 1), first + step, len(truth))
        query = np.repeat(np.arange(end - first), np.diff(offsets[first : end + 1]))
        pairs = np.stack([truth.values[offsets[first] : offsets[end]], query])
        if pairs.size:
            block = send(_rows(vectors, rows[first:end]), sums.device)
            labels, query = send(torch.from_numpy(pairs), sums.device)
            labels, order = labels.sort(stable=True)
            found, counts = labels.unique_consecutive(return_counts=True)
            sums[found] += F.embedding_bag(query[order], block, counts.cumsum(0) - counts, mode="sum")
        first = end
