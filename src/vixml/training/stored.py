"""The vector of every training query as it was last seen, kept in main memory while a GPU goes on computing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Stored:
    """One vector a training query.

    A step's vectors are copied off the GPU without waiting for them, and put in their rows while the next step runs.

    Attributes:
        tensor: (n_train, dim) float32 on the CPU. Read it through :meth:`read`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.pending: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store ``vectors`` (n, dim), on any device, in ``rows`` (n,) int64."""
        places = torch.from_numpy(rows)
        if vectors.device.type == "cpu":
            self.tensor[places] = vectors
            return
        self._finish()
        landing = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        landing.copy_(vectors, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending = (places, landing, event)

    def read(self) -> Tensor:
        """Return all vectors, those on their way included."""
        self._finish()
        return self.tensor

    def _finish(self) -> None:
        if self.pending is not None:
            places, landing, event = self.pending
            event.synchronize()
            self.tensor[places] = landing
            self.pending = None
