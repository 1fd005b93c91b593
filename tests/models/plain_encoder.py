"""The encoder written plainly: a padded batch through transformers' own model, every position filled by a loop."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel

from vixml.models.packing import Sequences


def load(folder: Path) -> nn.Module:
    """Return transformers' standard model with its standard attention, dropout off."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model.pooler = None  # belongs to next-sentence prediction; decoders have none
    return model.eval()


def encode(network: nn.Module, items: Sequences, projection: nn.Linear | None = None, pooling: str = "mean") -> Tensor:
    """Return the mean over attended positions, or the last of them, of each item: (n, dim), not normalised."""
    embed = network.get_input_embeddings()  # Gemma scales what it looks up
    inputs = []
    for i in range(len(items)):
        vectors: list[Tensor] = []
        for piece in items.prompt.pieces:
            if piece == "images":
                images = [] if items.images is None else items.gather(items.images.row(i))
                vectors += [projection(torch.from_numpy(image)) for image in images]
            else:
                vectors += [
                    embed(torch.tensor(int(token))) for token in (items.tokens.row(i) if piece == "text" else piece)
                ]
        inputs.append(vectors)
    longest = max(len(vectors) for vectors in inputs)
    # Padded positions hold noise: attention to them would show.
    padded = [[*vectors, *torch.randn(longest - len(vectors), len(vectors[0]))] for vectors in inputs]
    mask = [[1] * len(vectors) + [0] * (longest - len(vectors)) for vectors in inputs]
    position_ids = [list(range(len(vectors))) + [0] * (longest - len(vectors)) for vectors in inputs]
    hidden = network(
        inputs_embeds=torch.stack([torch.stack(row) for row in padded]),
        attention_mask=torch.tensor(mask),
        position_ids=torch.tensor(position_ids),
    ).last_hidden_state
    if pooling == "last":
        return torch.stack([hidden[i, len(vectors) - 1] for i, vectors in enumerate(inputs)])
    return torch.stack([hidden[i, : len(vectors)].mean(dim=0) for i, vectors in enumerate(inputs)])
