"""The language model over packed sequences: any ``AutoModel``, encoder or decoder, one code path, no compute on padding.

Linear layers, norms and activations see one stream of tokens; attention sees each sequence (vixml.models.attention).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging as transformers_logging

from vixml.config.run import Encoder
from vixml.errors import VixmlError
from vixml.models.attention import FILLED_UP, PACKED, is_causal, rows_of
from vixml.models.kernels import choose_kernels

# --- What is asked of a network's class before it is built.


def without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """Return the arguments that leave a pooler out, where the network has one.

    BERT's pooler belongs to next-sentence prediction; pooling token vectors leaves it without a gradient.

    Example:
        >>> from transformers import BertConfig, LlamaConfig
        >>> without_pooler(BertConfig()), without_pooler(LlamaConfig())
        ({'add_pooling_layer': False}, {})
    """
    known = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


transformers_logging.disable_progress_bar()  # a stage draws its own

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class Backbone(nn.Module):
    """A language model that turns packed sequences into vectors.

    Args:
        model_dir: folder with ``config.json`` and weights as safetensors.
        encoder: which layers are kept, how they are trained, how sequences are pooled.
        device: where it will compute; None: on a processor.

    Attributes:
        dim: length of a vector.
        causal: whether tokens see only what stands before them (a decoder).
        max_positions: longest sequence.
        row_of: (vocabulary,) int64, the row of each token's embedding, or None: then that is its id.
        left_out: parameters of the embeddings that :meth:`keep_tokens` dropped.
        kernels: those in use, ``liger`` or ``plain``, whatever ``encoder.kernels`` asks for.

    Raises:
        VixmlError: no weights, more layers wanted than there are, or an attention that packing cannot carry out.
    """

    def __init__(
        self, model_dir: Path | str, encoder: Encoder | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        encoder = encoder or Encoder()
        if not any((Path(model_dir) / name).exists() for name in WEIGHTS):
            raise VixmlError(
                "a model folder holds no weights",
                where=model_dir,
                expected="model.safetensors",
                hint="run vixml prepare-model; snakemake does so by itself",
            )
        config = _settings(AutoConfig.from_pretrained(model_dir), encoder, model_dir)
        held = torch.float32 if encoder.train == "full" else getattr(torch, encoder.weights)
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # layers that are left out are no surprise
        network = AutoModel.from_pretrained(
            model_dir, config=config, attn_implementation=PACKED, dtype=held, **without_pooler(config)
        )
        transformers_logging.set_verbosity(level)
        self.dim = network.config.hidden_size
        self.max_positions = _longest(network.config)
        self.causal = any(is_causal(module) for module in network.modules())
        self.last = encoder.pooling == "last"
        self.kernels = choose_kernels(encoder.kernels, network, device or torch.device("cpu"))
        if encoder.gradient_checkpointing:
            _recompute_activations(network)
        if encoder.train == "frozen":
            network.requires_grad_(False)
        if encoder.train == "lora":
            from vixml.models.adapters import add_adapters  # imports peft, which takes seconds, only where it is used

            network = add_adapters(network, encoder.lora)
        self.network = network
        self.left_out = 0
        self.register_buffer("row_of", None)

    def keep_tokens(self, token_ids: np.ndarray) -> None:
        """Drop the embeddings of all other tokens: no text of the corpus has them, so nothing that is computed changes.

        They would take their share of each step (gradient, moments, weights) and of each file. Of PICTO's 30,522 they are
        25,284; of a large corpus hardly any.

        Args:
            token_ids: (n_kept,) int64, ascending: every token that will ever be asked for.
        """
        table = self.network.get_input_embeddings()
        if type(table) is not nn.Embedding:  # a kind with more to it, for example a scale
            return
        kept = torch.from_numpy(token_ids)
        rows = torch.full((table.num_embeddings,), -1)
        rows[kept] = torch.arange(len(kept))
        blank = -1 if table.padding_idx is None else int(rows[table.padding_idx])
        weight = table.weight.detach()[kept].clone()
        self.network.set_input_embeddings(
            nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=None if blank < 0 else blank)
        )
        self.row_of = rows
        self.left_out = table.weight.numel() - weight.numel()

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Return word embeddings: (n_ids,) int64 -> (n_ids, dim)."""
        rows = token_ids if self.row_of is None else self.row_of[token_ids]
        return self.network.get_input_embeddings()(rows)

    def forward(
        self, stream: Tensor, position_ids: Tensor, blocks: Sequence[tuple[int, int, int]], prefix: int = 0
    ) -> Tensor:
        """Encode a stream of input vectors.

        Args:
            stream: (n_tokens, dim), word embeddings and projected images in their places.
            position_ids: (n_tokens,) int64.
            blocks: as in :func:`vixml.models.attention.packed_attention`.
            prefix: likewise.

        Returns:
            (n, dim) float32: the mean over all tokens of each sequence, or its last token; in the stream's order, not
            normalised.
        """
        rows = None
        if self.causal and stream.device.type in FILLED_UP:
            rows = rows_of(blocks, prefix, stream.device)  # once for all layers
        hidden = self.network(
            inputs_embeds=stream.unsqueeze(0),
            position_ids=position_ids.unsqueeze(0),
            blocks=blocks,
            prefix=prefix,
            rows=rows,
        ).last_hidden_state[0]
        head, *parts = hidden.split([prefix] + [count * length for _, count, length in blocks])
        sequences = [part.unflatten(0, (count, length)) for part, (_, count, length) in zip(parts, blocks, strict=True)]
        if self.last:
            return torch.cat([part[:, -1].float() for part in sequences])
        if not prefix:
            return torch.cat([part.mean(dim=1, dtype=torch.float32) for part in sequences])
        total = head.sum(dim=0, dtype=torch.float32)
        return torch.cat(
            [(total + part.sum(dim=1, dtype=torch.float32)) / (prefix + part.shape[1]) for part in sequences]
        )


def _settings(config: PretrainedConfig, encoder: Encoder, where: Path | str) -> PretrainedConfig:
    """Return the network's configuration as the run wants it."""
    if encoder.dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout"):
            if hasattr(config, key):
                setattr(config, key, encoder.dropout)
    if encoder.layers is not None:
        if encoder.layers > config.num_hidden_layers:
            raise VixmlError(
                "more layers are wanted than the language model has",
                where=f"encoder.layers, {where}",
                found=encoder.layers,
                expected=f"at most {config.num_hidden_layers}, or null for all",
            )
        config.num_hidden_layers = encoder.layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: encoder.layers]
    if hasattr(config, "use_cache"):
        config.use_cache = False  # nothing is generated here
    if getattr(config, "attn_logit_softcapping", None):
        raise VixmlError(
            "this language model caps its attention scores, which PyTorch's attention kernels do not do",
            where=f"{where}/config.json: attn_logit_softcapping",
            found=config.attn_logit_softcapping,
            expected="null",
            hint="take another model",
        )
    return config


def _recompute_activations(network: nn.Module) -> None:
    """Keep no activations inside the layers. transformers 5.23 renamed the method, and warns of the old name."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _longest(config: PretrainedConfig) -> int:
    """Return the longest sequence: the window's, since attention in a window is full attention within its length."""
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        return min(config.max_position_embeddings, window)
    return config.max_position_embeddings
