"""The vectors of a batch, and the way of their gradient back through the encoder, part by part.

With the contrastive loss every query meets every label of the batch, but an encoder's activations need not all be held
at once: the vectors of all parts are computed first, without them; the loss gives each vector its gradient; then each
part is encoded again and its gradient carried on (gradient caching, arXiv:2101.06983). The gradient is the same as that
of one pass, at the price of a second forward pass. A batch of one part is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vixml.models.siamese import Siamese
from vixml.training.batches import DROPOUT, Batch, Part, generator
from vixml.training.team import Team


class EncodedBatch:
    """Encode a batch; :attr:`vectors` is where the loss begins, :meth:`backward` where its gradient goes on.

    Args:
        model: the Siamese model.
        batch: with its parts.
        team: the processes that share the batch.
        autocast: makes a fresh precision context.
        seed: of the run; dropout is drawn from it, the step and the part, so a part is the same when encoded again.
        epoch: from 0.
        index: the batch's place in the epoch.

    Attributes:
        vectors: (n + m, dim) float32, queries then labels, not normalised; a leaf, so that the loss ends its pass here.
    """

    def __init__(
        self,
        model: Siamese,
        batch: Batch,
        team: Team,
        autocast: Callable[[], AbstractContextManager],
        seed: int,
        epoch: int,
        index: int,
    ) -> None:
        self.model, self.batch, self.autocast = model, batch, autocast
        self.draw = (seed, DROPOUT, epoch, index)
        n = len(batch.queries) + len(batch.labels)
        self.own = team.share(n)
        with torch.no_grad():
            parts = [self._encode(part) for part in batch.parts[:-1]]
        self.held = self._encode(batch.parts[-1]) if batch.parts else None
        if self.held is not None:
            parts.append(self.held.detach())
        if not parts:  # more processes than items
            parts = [torch.zeros(0, model.backbone.dim, device=next(model.parameters()).device)]
        self.vectors = team.gather(torch.cat(parts) if len(parts) > 1 else parts[0], n).requires_grad_()

    def _encode(self, part: Part) -> Tensor:
        torch.manual_seed(int(generator(*self.draw, part.first).integers(2**31)))
        with self.autocast():
            return self.model.encode(part.packed, part.images)

    def backward(self) -> None:
        """Carry the gradient of :attr:`vectors` into the encoder's parameters; does nothing if the loss gave none."""
        if self.vectors.grad is None:
            return
        gradient = self.vectors.grad[self.own]
        # The held part first: its activations make room for those of the next.
        for part in reversed(self.batch.parts):
            first = part.first - self.own.start
            vectors = self._encode(part) if self.held is None else self.held
            self.held = None
            if vectors.requires_grad:
                vectors.backward(gradient[first : first + len(vectors)])
