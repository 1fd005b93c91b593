"""BERT without transformers, for inference: a trained encoder opens in tenths of a second instead of seconds.

Importing transformers' models takes longer than reading any small encoder. Operations and names of parameters are those of
transformers' ``BertModel`` in evaluation mode, so vectors are the same. Every other architecture is left to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.models.attention import packed_attention


def is_plain_bert(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` describes an encoder that :class:`Bert` computes."""
    plain = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    return config.get("model_type") == "bert" and all(config.get(key, value) == value for key, value in plain.items())


class Bert(nn.Module):
    """The encoder of BERT (arXiv:1810.04805) without its pooler."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        sizes = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
        sizes |= {
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        }
        self.config = SimpleNamespace(**{key: config.get(key, value) for key, value in sizes.items()})
        dim, eps = self.config.hidden_size, self.config.layer_norm_eps
        self.embeddings = nn.Module()
        kinds = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
        for kind, size in kinds.items():
            # Not drawn at random, which on the device `meta` imports torch's compiler.
            table = torch.empty(getattr(self.config, size), dim)
            setattr(self.embeddings, f"{kind}_embeddings", nn.Embedding(*table.shape, _weight=table))
        self.embeddings.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(self.config) for _ in range(self.config.num_hidden_layers))

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings."""
        return self.embeddings.word_embeddings

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, blocks: Sequence[tuple[int, int, int]], **_: Any
    ) -> SimpleNamespace:
        """Encode a packed stream; arguments and result are those that ``Backbone.forward`` passes to transformers."""
        parts = self.embeddings
        x = inputs_embeds + parts.token_type_embeddings.weight[0]
        x = parts.LayerNorm(x + parts.position_embeddings(position_ids))
        for layer in self.encoder.layer:
            x = layer(x, blocks)
        return SimpleNamespace(last_hidden_state=x)


class _Layer(nn.Module):
    """Self-attention and feed-forward block, each added to its input and normalised."""

    is_causal = False

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        dim, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.attention = nn.Module()
        self.attention.self, self.attention.output = nn.Module(), nn.Module()
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(dim, dim))
        self.intermediate, self.output = nn.Module(), nn.Module()
        self.intermediate.dense = nn.Linear(dim, inner)
        for part, width in ((self.attention.output, dim), (self.output, inner)):
            part.dense, part.LayerNorm = nn.Linear(width, dim), nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, blocks: Sequence[tuple[int, int, int]]) -> Tensor:
        """Map (1, n_tokens, dim) to the same shape."""
        own = self.attention.self
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (own.query, own.key, own.value)
        )
        attended, _ = packed_attention(self, q, k, v, None, blocks=blocks)
        out = self.attention.output
        x = out.LayerNorm(out.dense(attended.flatten(-2)) + x)
        inner = F.gelu(self.intermediate.dense(x))
        return self.output.LayerNorm(self.output.dense(inner) + x)


def open_bert(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Bert:
    """Return the network with these weights, which are not copied.

    Raises:
        RuntimeError: a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):  # no time for random weights
        network = Bert(config)
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval()
