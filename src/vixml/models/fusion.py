"""Late fusion: a text vector and image vectors, each encoded alone, then joined by self-attention (MUFIN; docs/deviations.md D20)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vixml.config.run import LateFusion as Settings


class LateFusion(nn.Module):
    """One pre-norm transformer layer over ``[text; image 1; image 2; ...]`` of an item, mean-pooled.

    Both of its branches start at zero, and so does the projection of the images (vixml.models.siamese): training starts
    from the text vector. From a layer or a projection at random all items look alike at first, and PICTO's trainings fell
    into the collapsed state and stayed there.

    Args:
        dim: length of the vectors.
        settings: heads, width, dropout.
    """

    def __init__(self, dim: int, settings: Settings) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            dim,
            settings.heads,
            settings.feedforward,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        nn.init.zeros_(self.layer.self_attn.out_proj.weight)
        nn.init.zeros_(self.layer.linear2.weight)
        nn.init.zeros_(self.layer.linear2.bias)

    def forward(self, text: Tensor, images: Tensor, items: Tensor) -> Tensor:
        """Fuse every item's vectors.

        Items with equally many images are one block, so that an absent image is nowhere and nothing is masked.

        Args:
            text: (n, dim) text vectors, not normalised.
            images: (n_images, dim) projected image vectors, item by item.
            items: (n_images,) int64, the item of each image, ascending; on the CPU, where what goes together is decided
                without waiting for a GPU.

        Returns:
            (n, dim) float32, not normalised.
        """
        counts = torch.bincount(items, minlength=len(text))
        starts = counts.cumsum(0) - counts
        order, out = [], []
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero().flatten()
            places = (starts[rows, None] + torch.arange(count)).to(text.device, non_blocking=True)
            tokens = torch.cat([text[rows.to(text.device, non_blocking=True), None], images[places]], dim=1)
            out.append(self.layer(tokens).mean(dim=1, dtype=torch.float32))
            order.append(rows)
        return torch.cat(out)[torch.cat(order).argsort().to(text.device, non_blocking=True)]
