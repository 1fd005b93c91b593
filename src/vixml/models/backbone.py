"""The language model over packed sequences: any ``AutoModel``, one code path, no compute on padding.

Linear layers, norms and activations see one stream of tokens. Attention goes through transformers' own hook for
attention kernels: sequences of one length are a dense block, for which PyTorch's scaled-dot-product kernel needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from vixml.errors import VixmlError

transformers_logging.disable_progress_bar()  # a stage draws its own

PACKED = "vixml_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: Sequence[tuple[int, int, int]],
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each packed sequence.

    Args:
        module: the attention layer; its ``is_causal`` decides the direction.
        query: (1, heads, n_tokens, head_dim); key and value may have fewer heads (grouped queries).
        key: (1, kv_heads, n_tokens, head_dim).
        value: (1, kv_heads, n_tokens, head_dim).
        attention_mask: ignored, there is nothing to mask.
        blocks: ``(first place, sequences, length)`` of each group of equally long sequences.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores; None means ``head_dim ** -0.5``.

    Returns:
        (1, n_tokens, heads, head_dim), and None for the weights.
    """
    causal = bool(getattr(module, "is_causal", False))
    grouped = query.shape[1] != key.shape[1]
    # Split, not slice: the gradient of a split is one concatenation, that of slices a sum of zero-filled streams.
    sizes = [count * length for _, count, length in blocks]
    pieces = []
    for (_, count, length), *parts in zip(
        blocks, *(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True
    ):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        if length == 1:
            # One token attends to itself alone with weight 1, whatever the scores.
            out = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1) if grouped else v
        else:
            out = F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scaling, is_causal=causal, enable_gqa=grouped
            )
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


class Backbone(nn.Module):
    """A language model that turns packed sequences into mean-pooled vectors.

    Args:
        model_dir: folder with ``config.json`` and ``model.safetensors``.
        dropout: dropout inside the network; None keeps the checkpoint's own.
    """

    def __init__(self, model_dir: Path | str, dropout: float | None = None) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(model_dir)
        if dropout is not None:
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout"):
                if hasattr(config, key):
                    setattr(config, key, dropout)
        # BERT's pooler belongs to next-sentence prediction; mean pooling leaves it without a gradient.
        extra = {"add_pooling_layer": False} if config.model_type in {"bert", "roberta"} else {}
        if not (Path(model_dir) / "model.safetensors").exists():
            raise VixmlError(
                "a model folder holds no weights",
                where=model_dir,
                expected="model.safetensors",
                hint="run vixml prepare-model; snakemake does so by itself",
            )
        self.network = AutoModel.from_pretrained(
            model_dir, config=config, attn_implementation=PACKED, dtype=torch.float32, **extra
        )
        self.dim = self.network.config.hidden_size
        self.max_positions = self.network.config.max_position_embeddings

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Return word embeddings: (n_text,) int64 -> (n_text, dim)."""
        return self.network.get_input_embeddings()(token_ids)

    def forward(self, stream: Tensor, positions: Tensor, blocks: Sequence[tuple[int, int, int]]) -> Tensor:
        """Encode a stream of input vectors.

        Args:
            stream: (n_tokens, dim) float32, word embeddings and projected images in their places.
            positions: (n_tokens,) int64.
            blocks: as in :func:`packed_attention`.

        Returns:
            (n, dim) float32, the mean over all tokens of each sequence, in the stream's order, not normalised.
        """
        hidden = self.network(
            inputs_embeds=stream.unsqueeze(0), position_ids=positions.unsqueeze(0), blocks=blocks
        ).last_hidden_state[0]
        parts = hidden.split([count * length for _, count, length in blocks])
        means = [
            part.unflatten(0, (count, length)).mean(dim=1, dtype=torch.float32)
            for part, (_, count, length) in zip(parts, blocks, strict=True)
        ]
        return torch.cat(means)
