"""The Siamese model: one encoder for queries and labels, images fused early, prototypes on top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models.backbone import Backbone
from vixml.models.packing import Packed
from vixml.models.prototype import PrototypeNetwork


class Siamese(nn.Module):
    """Encoder, image projection and prototype network of one run.

    Args:
        config: the run.
        model_dir: weights and configuration of the language model.
        n_labels: number of labels.
        image_dim: length of an image vector, or None for text only.

    Attributes:
        cluster: (n_labels,) int64 buffer, each label's free vector.
        centroid: (n_labels, dim) float32 buffer, mean vector of each label's training queries.
        has_centroid: (n_labels,) bool buffer, False for labels without a training query.
    """

    def __init__(self, config: RunConfig, model_dir: Path | str, n_labels: int, image_dim: int | None) -> None:
        super().__init__()
        self.backbone = Backbone(model_dir, config.encoder.dropout)
        longest = config.encoder.max_len + (config.images.per_item if image_dim else 0)
        if longest > self.backbone.max_positions:
            raise VixmlError(
                "sequences are longer than the language model's positions",
                where="encoder.max_len + images.per_item",
                found=longest,
                expected=f"at most {self.backbone.max_positions}",
                hint="lower encoder.max_len",
            )
        dim = self.backbone.dim
        self.projection = nn.Linear(image_dim, dim) if image_dim else None
        self.prototypes: PrototypeNetwork | None = None
        if config.method == "PRIME":
            p = config.prototype
            n_free = min(p.free_vectors, n_labels)
            self.prototypes = PrototypeNetwork(dim, n_free, p.heads, p.feedforward, p.dropout)
            self.register_buffer("cluster", torch.zeros(n_labels, dtype=torch.int64))
            self.register_buffer("centroid", torch.zeros(n_labels, dim))
            self.register_buffer("has_centroid", torch.zeros(n_labels, dtype=torch.bool))
        self.frozen = config.encoder.train == "frozen"
        if self.frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Siamese:
        """Switch dropout on or off; a frozen encoder stays deterministic."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, packed: Packed, image_vectors: np.ndarray | Tensor | None = None) -> Tensor:
        """Encode packed sequences.

        Args:
            packed: ``n`` sequences.
            image_vectors: (n_images, image_dim), the vectors of ``packed.image_rows``; needed if there are any.

        Returns:
            (n, dim) float32 in the caller's order, *not* normalised.
        """
        device = next(self.backbone.parameters()).device
        stream = self.backbone.embed_tokens(torch.from_numpy(packed.token_ids).to(device, non_blocking=True))
        if len(packed.image_rows):
            if self.projection is None:
                raise ValueError("the batch holds images but the model was built for text only")
            vectors = torch.as_tensor(image_vectors).to(device, torch.float32, non_blocking=True)
            stream = torch.cat([stream, self.projection(vectors).to(stream.dtype)])
        stream = stream.index_select(0, torch.from_numpy(packed.gather).to(device, non_blocking=True))
        positions = torch.from_numpy(packed.positions).to(device, non_blocking=True)
        blocks = [tuple(row) for row in packed.blocks.tolist()]
        pooled = self.backbone(stream, positions, blocks)
        return pooled.index_select(0, torch.from_numpy(packed.restore).to(device, non_blocking=True))

    def prototype(self, u: Tensor, labels: Tensor) -> Tensor:
        """Return prototypes ``z`` of ``labels``.

        Args:
            u: (n, dim) float32, the labels' text vectors, not normalised.
            labels: (n,) int64 label ids.

        Returns:
            (n, dim) float32, unit rows. A label without training queries has its own text vector for a centroid
            (docs/deviations.md D7).
        """
        if self.prototypes is None:
            raise ValueError("this run has no prototype network")
        own = torch.nn.functional.normalize(u, dim=-1)
        centroid = torch.where(self.has_centroid[labels, None], self.centroid[labels], own)
        return self.prototypes(u, self.cluster[labels], centroid)
