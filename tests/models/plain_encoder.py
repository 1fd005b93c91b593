"""The encoder restated plainly: a padded batch through transformers' own model, every position filled by a loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel

from vixml.ragged import Ragged


def load(folder: Path) -> nn.Module:
    """Return transformers' standard model with its standard attention, dropout off."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model.pooler = None  # belongs to next-sentence prediction; decoders have none
    return model.eval()


def encode(
    network: nn.Module,
    tokens: Ragged,
    images: Ragged | None = None,
    projection: nn.Linear | None = None,
    embeddings: Tensor | None = None,
    pieces: Sequence[str | Sequence[int]] = ("images", "text"),
    pooling: str = "mean",
) -> Tensor:
    """Return the mean over attended positions, or the last of them, of the pieces in order: (n, dim), not normalised."""
    embed = network.get_input_embeddings()  # Gemma scales what it looks up
    items = []
    for i in range(len(tokens)):
        vectors: list[Tensor] = []
        for piece in pieces:
            if piece == "images":
                vectors += [projection(embeddings[int(image)]) for image in images.row(i)] if images is not None else []
            else:
                ids = tokens.row(i) if piece == "text" else piece
                vectors += [embed(torch.tensor(int(token))) for token in ids]
        items.append(vectors)
    longest = max(len(vectors) for vectors in items)
    # Padded positions hold noise: whatever attends to them would be seen.
    inputs = [[*vectors, *torch.randn(longest - len(vectors), len(vectors[0]))] for vectors in items]
    mask = [[1] * len(vectors) + [0] * (longest - len(vectors)) for vectors in items]
    position_ids = [list(range(len(vectors))) + [0] * (longest - len(vectors)) for vectors in items]
    hidden = network(
        inputs_embeds=torch.stack([torch.stack(row) for row in inputs]),
        attention_mask=torch.tensor(mask),
        position_ids=torch.tensor(position_ids),
    ).last_hidden_state
    if pooling == "last":
        return torch.stack([hidden[i, len(vectors) - 1] for i, vectors in enumerate(items)])
    return torch.stack([hidden[i, : len(vectors)].mean(dim=0) for i, vectors in enumerate(items)])
