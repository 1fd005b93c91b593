"""Language models small enough for a test: random weights, true format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from vixml.ragged import Ragged

VOCABULARY = 60
POSITIONS = 48


def write_bert(folder: Path, *, seed: int = 0, dropout: float = 0.1, **changes) -> Path:
    """Write a BERT of two layers of width 32 as ``config.json`` and ``model.safetensors``."""
    torch.manual_seed(seed)
    settings = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return _write(BertModel(BertConfig(**settings | changes), add_pooling_layer=False), folder)


DECODERS = ("qwen2", "qwen3", "llama", "gemma3_text")


def write_decoder(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a causal decoder with grouped-query heads, one of :data:`DECODERS`."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        head_dim=8,
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
    )
    return _write(AutoModel.from_config(config), folder)


def write_distilbert(folder: Path, seed: int = 0) -> Path:
    """Write a DistilBERT of two layers of width 32."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "distilbert",
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=POSITIONS,
    )
    return _write(AutoModel.from_config(config), folder)


def _write(model: torch.nn.Module, folder: Path) -> Path:
    # The published initialisation (0.02) hardly tells tokens apart; wider weights make every term count.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower():
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def random_lists(rng: np.random.Generator, lengths: list[int], n_cols: int, low: int = 1) -> Ragged:
    """Return lists of the given lengths with values in [low, n_cols) (0 is BERT's padding token)."""
    return Ragged.from_rows([rng.integers(low, n_cols, n) for n in lengths], n_cols)
