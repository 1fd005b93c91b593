"""What represents a label beside its text: PRIME's prototype network (arXiv:2410.20401), DEXA's auxiliary vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PrototypeNetwork(nn.Module):
    """One post-norm transformer layer over the three tokens ``[u_r, v_cluster(r), c_r]``, mean-pooled, normalised.

    Args:
        dim: length of the vectors.
        free_vectors: number of learnable vectors, shared by the labels of a cluster.
        heads: attention heads.
        feedforward: width of the feed-forward part.
        dropout: dropout inside the layer.
        unit_text: normalise ``u`` before it enters (docs/deviations.md D17).
    """

    def __init__(
        self,
        dim: int,
        free_vectors: int,
        heads: int = 8,
        feedforward: int = 1024,
        dropout: float = 0.1,
        unit_text: bool = False,
    ) -> None:
        super().__init__()
        self.unit_text = unit_text
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)
        self.layer = nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, activation="gelu", batch_first=True)

    def forward(self, u: Tensor, cluster: Tensor, centroid: Tensor) -> Tensor:
        """Return prototypes.

        Args:
            u: (n, dim) float32, label text vectors as the encoder gives them, *not* normalised.
            cluster: (n,) int64, each label's free vector.
            centroid: (n, dim) float32, mean of the label's training queries.

        Returns:
            (n, dim) float32 unit rows ``z``.
        """
        if self.unit_text:
            u = F.normalize(u.float(), dim=-1)
        three = torch.stack([u, self.free(cluster), centroid.to(u.dtype)], dim=1)
        return F.normalize(self.layer(three).mean(dim=1).float(), dim=-1)


class AuxiliaryVectors(nn.Module):
    """DEXA: the normalised sum of a label's text vector and one free vector of its cluster (docs/deviations.md D19).

    Args:
        dim: length of the vectors.
        free_vectors: number of learnable vectors, shared by the labels of a cluster.
    """

    def __init__(self, dim: int, free_vectors: int) -> None:
        super().__init__()
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)

    def forward(self, u: Tensor, cluster: Tensor) -> Tensor:
        """Return prototypes.

        Args:
            u: (n, dim) text vectors, not normalised; they are normalised here, so that a free vector's length counts
                against 1.
            cluster: (n,) int64, each label's free vector.

        Returns:
            (n, dim) float32 unit rows ``z``.
        """
        return F.normalize(F.normalize(u.float(), dim=-1) + self.free(cluster), dim=-1)
