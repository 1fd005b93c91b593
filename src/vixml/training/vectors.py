"""Gradient caching: encode a batch in parts, then carry the loss's gradient back; and vectors of all training queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.models.packing import Packed
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged
from vixml.runtime import autocast, derived_seed
from vixml.training.batches import Batch
from vixml.training.distributed import ProcessGroup


class EncodedBatch:
    """Encode a batch part by part, so that memory holds the activations of one part only (gradient caching).

    The loss is computed from :attr:`vectors`; :meth:`backward` carries their gradient into the encoder. All parts but the
    last are encoded twice, with the same dropout.

    Args:
        model: the Siamese model.
        batch: the batch.
        group: the processes that share the batch.
        precision: ``fp32``, ``bf16`` or ``fp16``.
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


class StoredVectors:
    """One vector per training query, as last seen, in main memory.

    A step's vectors are copied off the GPU without waiting for them, and stored while the next step runs.

    Args:
        tensor: (n_train, dim) float32 on the CPU.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._pending: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store ``vectors`` (n, dim), on any device, in ``rows`` (n,) int64."""
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


def label_means(queries: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """Return each label's centroid, the mean of its training queries (no moving average).

    Args:
        queries: (n, dim) float32 unit rows.
        truth: (n rows) label ids.

    Returns:
        (n_labels, dim) float32, zero for labels without a query, and (n_labels,) bool, whether there is one.
    """
    counts = torch.from_numpy(truth.counts())
    queries_of = truth.transpose()
    values, offsets = queries_of.values.astype(np.int64), queries_of.offsets[:-1]
    sums = F.embedding_bag(torch.from_numpy(values), queries, torch.from_numpy(offsets), mode="sum")
    return sums / counts.clamp_min(1)[:, None], counts > 0
