"""Vectors of a batch with the gradient's way back through the encoder, and of all training queries as last seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.models.siamese import Siamese
from vixml.ragged import Ragged
from vixml.runtime import generator
from vixml.training.batches import Batch, Part
from vixml.training.distributed import ProcessGroup


class EncodedBatch:
    """Encode a batch part by part, so that the activations of one part alone are in memory (gradient caching).

    The loss begins at :attr:`vectors`; :meth:`backward` takes their gradient on into the encoder. All parts but the last
    are encoded twice.

    Args:
        model: the Siamese model.
        batch: with its parts.
        group: the processes that share the batch.
        autocast: makes a fresh precision context.
        stream: seed, purpose, epoch and step: with the part they key its dropout, so a part is the same when encoded again.

    Attributes:
        vectors: (n + m, dim) float32, queries then labels, not normalised; a leaf, so that the loss ends its pass here.
    """

    def __init__(
        self,
        model: Siamese,
        batch: Batch,
        group: ProcessGroup,
        autocast: Callable[[], AbstractContextManager],
        stream: tuple[int, ...],
    ) -> None:
        self.model, self.batch, self.autocast, self.stream = model, batch, autocast, stream
        n = len(batch.queries) + len(batch.labels)
        self.share = group.share(n)
        with torch.no_grad():
            parts = [self._encode(part) for part in batch.parts[:-1]]
        self.held = self._encode(batch.parts[-1]) if batch.parts else None
        if self.held is not None:
            parts.append(self.held.detach())
        if not parts:  # more processes than items
            parts = [torch.zeros(0, model.backbone.dim, device=next(model.parameters()).device)]
        self.vectors = group.gather(torch.cat(parts) if len(parts) > 1 else parts[0], n).requires_grad_()

    def _encode(self, part: Part) -> Tensor:
        torch.manual_seed(int(generator(*self.stream, part.first).integers(2**31)))
        with self.autocast():
            return self.model.encode(part.packed, part.images)

    def backward(self) -> None:
        """Carry the gradient of :attr:`vectors` into the encoder's parameters; do nothing if the loss gave none."""
        if self.vectors.grad is None:
            return
        gradient = self.vectors.grad[self.share]
        # The held part first: its activations make room for those of the next.
        for part in reversed(self.batch.parts):
            first = part.first - self.share.start
            vectors = self._encode(part) if self.held is None else self.held
            self.held = None
            if vectors.requires_grad:
                vectors.backward(gradient[first : first + len(vectors)])


class StoredVectors:
    """One vector per training query, as last seen, in main memory.

    A step's vectors are copied off the GPU without waiting for them, and put in their rows while the next step runs.

    Attributes:
        tensor: (n_train, dim) float32 on the CPU. Read it through :meth:`read`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.pending: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store ``vectors`` (n, dim), on any device, in ``rows`` (n,) int64."""
        positions = torch.from_numpy(rows)
        if vectors.device.type == "cpu":
            self.tensor[positions] = vectors
            return
        self._finish()
        landing = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        landing.copy_(vectors, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending = (positions, landing, event)

    def read(self) -> Tensor:
        """Return all vectors, those on their way included."""
        self._finish()
        return self.tensor

    def _finish(self) -> None:
        if self.pending is not None:
            positions, landing, event = self.pending
            event.synchronize()
            self.tensor[positions] = landing
            self.pending = None


def label_means(queries: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """Return each label's centroid, the mean of its training queries (no moving average).

    Args:
        queries: (n, dim) float32 unit rows.
        truth: (n rows) label ids.

    Returns:
        (n_labels, dim) float32, zero for labels without a query, and (n_labels,) bool, whether there is one.
    """
    counts = torch.from_numpy(truth.counts())
    holders = truth.transpose()
    sums = F.embedding_bag(
        torch.from_numpy(holders.values.astype(np.int64)), queries, torch.from_numpy(holders.offsets[:-1]), mode="sum"
    )
    return sums / counts.clamp_min(1)[:, None], counts > 0
