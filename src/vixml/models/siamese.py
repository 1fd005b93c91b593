"""The Siamese model: one encoder for queries and labels, images fused early or late, prototypes on top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models.backbone import Backbone
from vixml.models.fusion import LateFusion
from vixml.models.packing import Packed
from vixml.models.prompt import PLAIN, Prompt
from vixml.models.prototype import AuxiliaryVectors, PrototypeNetwork


class Siamese(nn.Module):
    """Encoder, image projection, fusion and prototypes of one run.

    Args:
        config: the run.
        model_dir: weights and configuration of the language model.
        n_labels: number of labels.
        image_dim: length of an image vector, or None for text only.
        prompt: how sequences are laid out.
        device: where it will compute, which decides on its kernels; it is built on the processor.

    Attributes:
        cluster: (n_labels,) int64 buffer, each label's free vector (PRIME, DEXA).
        centroid: (n_labels, dim) float32 buffer, mean vector of each label's training queries (PRIME).
        has_centroid: (n_labels,) bool buffer, False for labels without a training query (PRIME).
        centre: (dim,) float32 buffer, the mean vector that is subtracted at inference (``encoder.centre``).
        encoding: items of the latest pass through the encoder: where memory ran out, they were too many.
    """

    encoding = 0

    def __init__(
        self,
        config: RunConfig,
        model_dir: Path | str,
        n_labels: int,
        image_dim: int | None,
        prompt: Prompt | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        prompt = prompt or PLAIN
        self.backbone = Backbone(model_dir, config.encoder, device)
        _check(config, self.backbone, prompt, image_dim)
        dim = self.backbone.dim
        self.projection = nn.Linear(image_dim, dim) if image_dim else None
        self.late = LateFusion(dim, config.images.late) if image_dim and prompt.late else None
        if self.late is not None:
            # Raw image vectors have one large part in common: at random, all items with images would look alike (D20).
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        p, n_free = config.prototype, min(config.prototype.free_vectors, n_labels)
        self.prototypes: PrototypeNetwork | AuxiliaryVectors | None = None
        self.has_centroids = config.method == "PRIME"
        if config.method == "PRIME":
            self.prototypes = PrototypeNetwork(dim, n_free, p.heads, p.feedforward, p.dropout, p.unit_text)
        elif config.method == "DEXA":
            self.prototypes = AuxiliaryVectors(dim, n_free)
        if self.prototypes is not None:
            self.register_buffer("cluster", torch.zeros(n_labels, dtype=torch.int64))
        if self.has_centroids:
            self.register_buffer("centroid", torch.zeros(n_labels, dim))
            self.register_buffer("has_centroid", torch.zeros(n_labels, dtype=torch.bool))
        self.centred = config.encoder.centre
        if self.centred:
            self.register_buffer("centre", torch.zeros(dim))
            self.register_buffer("centre_sum", torch.zeros(dim))  # of all vectors since the last refresh
            self.register_buffer("centre_count", torch.zeros((), dtype=torch.int64))
        self.frozen = config.encoder.train == "frozen"

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
            (n, dim) float32 in the caller's order, *not* normalised; with ``encoder.centre``, :meth:`centred_vectors`
            comes next.
        """
        self.encoding = len(packed)
        device = next(self.backbone.parameters()).device
        stream = self.backbone.embed_tokens(torch.from_numpy(packed.token_ids).to(device, non_blocking=True))
        pictures = None
        if len(packed.image_rows):
            if self.projection is None:
                raise ValueError("the batch holds images but the model was built for text only")
            # Half as many bytes travel; the device widens them.
            pictures = self.projection(torch.as_tensor(image_vectors).to(device, non_blocking=True).float())
            if packed.image_items is None:
                stream = torch.cat([stream, pictures.to(stream.dtype)])
        stream = stream.index_select(0, torch.from_numpy(packed.gather).to(device, non_blocking=True))
        positions = torch.from_numpy(packed.positions).to(device, non_blocking=True)
        blocks = [tuple(row) for row in packed.blocks.tolist()]
        pooled = self.backbone(stream, positions, blocks, packed.prefix)
        pooled = pooled.index_select(0, torch.from_numpy(packed.restore).to(device, non_blocking=True))
        if self.late is not None:
            items = packed.image_items if packed.image_items is not None else np.zeros(0, dtype=np.int64)
            if pictures is None:
                pictures = pooled.new_zeros(0, pooled.shape[1])
            pooled = self.late(pooled, pictures.to(pooled.dtype), torch.from_numpy(items))
        return pooled

    def centred_vectors(self, vectors: Tensor) -> Tensor:
        """Return unit vectors less the mean vector if the run wants that (``encoder.centre``), else ``vectors``.

        Args:
            vectors: (n, dim) float32 of :meth:`encode`. In training mode all of a batch: their own mean is subtracted, and
                remembered; else the stored one.
        """
        if not self.centred:
            return vectors
        unit = F.normalize(vectors.float(), dim=1)
        if not self.training:
            return unit - self.centre
        mean = unit.mean(dim=0)
        self.centre_sum += mean.detach() * len(unit)
        self.centre_count += len(unit)
        return unit - mean

    def refresh_centre(self) -> None:
        """Store the mean of all vectors seen since the last call, for inference."""
        if self.centred and self.centre_count:
            self.centre.copy_(self.centre_sum / self.centre_count)
            self.centre_sum.zero_()
            self.centre_count.zero_()

    def prototype(self, u: Tensor, labels: Tensor) -> Tensor:
        """Return prototypes ``z`` of ``labels``.

        Args:
            u: (n, dim) float32, the labels' text vectors, not normalised.
            labels: (n,) int64 label ids.

        Returns:
            (n, dim) float32, unit rows. In PRIME a label without training queries has its own text vector for a centroid
            (docs/deviations.md D7).
        """
        if self.prototypes is None:
            raise ValueError("this run has no prototypes")
        if not self.has_centroids:
            return self.prototypes(u, self.cluster[labels])
        own = F.normalize(u, dim=-1)
        centroid = torch.where(self.has_centroid[labels, None], self.centroid[labels], own)
        return self.prototypes(u, self.cluster[labels], centroid)

    def learned_state(self) -> dict[str, Tensor]:
        """Return every tensor that does not lie in the language model's folder: what a run's files must hold.

        With adapters or a frozen encoder, these are a small part of the model.
        """
        frozen = {f"backbone.{name}" for name, p in self.backbone.named_parameters() if not p.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def load_learned_state(self, tensors: dict[str, Tensor]) -> None:
        """Read what :meth:`learned_state` gave; names and shapes must be the same."""
        self.load_state_dict({**self.state_dict(), **tensors})


def _check(config: RunConfig, backbone: Backbone, prompt: Prompt, image_dim: int | None) -> None:
    images = config.images.per_item if image_dim and not prompt.late else 0
    longest = config.encoder.max_len + images + len(prompt.words)
    if longest > backbone.max_positions:
        raise VixmlError(
            "sequences are longer than the language model's positions",
            where="encoder.max_len + images.per_item + the template's words",
            found=longest,
            expected=f"at most {backbone.max_positions}",
            hint="lower encoder.max_len",
        )
    if prompt.causal != backbone.causal:
        kinds = {True: "causal", False: "bidirectional"}
        raise VixmlError(
            "the tokens were made for another kind of language model",
            where="attention, in config/models.yaml",
            found=kinds[prompt.causal],
            expected=f"{kinds[backbone.causal]}, as the network's layers are",
            hint="correct the model's entry; snakemake then makes its tokens again",
        )
