"""Small language models with random weights in the true format, models of runs on them, and items to encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from vixml.config.run import RunConfig
from vixml.models.packing import Sequences
from vixml.models.prompt import PLAIN, Prompt
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged

VOCABULARY, POSITIONS = 60, 48
N_LABELS, N_IMAGES, IMAGE_DIM = 6, 7, 11
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip


def write_bert(folder: Path, *, seed: int = 0, dropout: float = 0.1, **changes) -> Path:
    """Write a BERT of two layers of width 32 as ``config.json`` and ``model.safetensors``."""
    torch.manual_seed(seed)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    settings = SMALL | rates | changes
    return _write(BertModel(BertConfig(**settings), add_pooling_layer=False), folder)


DECODERS = ("qwen2", "qwen3", "llama", "gemma3_text")


def write_decoder(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a causal decoder with grouped-query heads, one of :data:`DECODERS`."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **SMALL, head_dim=8, num_key_value_heads=2, pad_token_id=0)
    return _write(AutoModel.from_config(config), folder)


def write_distilbert(folder: Path, seed: int = 0) -> Path:
    """Write a DistilBERT of two layers of width 32."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = AutoConfig.for_model("distilbert", **sizes, max_position_embeddings=POSITIONS)
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


def make_config(**changes: Any) -> RunConfig:
    """Return a run with a small prototype network, with whole sections changed."""
    return RunConfig.model_validate({"prototype": {"heads": 4, "feedforward": 16, "free_vectors": 4}} | changes)


def make_model(
    folder: Path,
    prompt: Prompt = PLAIN,
    image_dim: int | None = IMAGE_DIM,
    device: Any = None,
    seed: int = 0,
    **changes: Any,
) -> Siamese:
    """Return the model of :func:`make_config`'s run with the language model in ``folder``, drawn from the seed."""
    torch.manual_seed(seed)
    return Siamese(make_config(**changes), folder, N_LABELS, image_dim, prompt, device)


def make_items(
    lengths: Sequence[int], counts: Sequence[int] | None = None, prompt: Prompt = PLAIN, seed: int = 0
) -> Sequences:
    """Return items with texts of the given lengths and, unless ``counts`` is None, so many images each."""
    rng = np.random.default_rng(seed)
    tokens = random_lists(rng, list(lengths), VOCABULARY)
    if counts is None:
        return Sequences(tokens, prompt=prompt)
    images = random_lists(rng, list(counts), N_IMAGES, low=0)
    vectors = rng.standard_normal((N_IMAGES, IMAGE_DIM)).astype(np.float32)
    return Sequences(tokens, images, prompt, lambda rows: vectors[rows])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients that there are, by parameter."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
