"""The language model over packed sequences: any ``AutoModel``, encoder or decoder, without compute on padding.

Linear layers, norms and activations see one stream of tokens; attention sees each sequence (vixml.models.attention). On a
GPU, liger-kernel's fused kernels can replace PyTorch's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vixml.config.run import Encoder
from vixml.data.network_config import expect_sizes, read_settings
from vixml.errors import VixmlError, reading
from vixml.manifest import expect_nothing_else, holds
from vixml.models.attention import FILLED_UP, PACKED, is_causal, join_blocks, packed_attention
from vixml.models.bert import is_plain_bert, open_bert
from vixml.progress import warn

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """Return the build arguments that leave out a network's pooler, if it has one.

    BERT's pooler is for next-sentence prediction; pooling token vectors leaves it without a gradient.

    Example:
        >>> from transformers import BertConfig, LlamaConfig
        >>> without_pooler(BertConfig()), without_pooler(LlamaConfig())
        ({'add_pooling_layer': False}, {})
    """
    from transformers import MODEL_MAPPING

    known = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


def expect_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], what: str, *, where: Path, hint: str) -> None:
    """Check that two sets of tensors, name -> tensor or its shape, have the same names and shapes.

    Raises:
        VixmlError: they differ; the first name that does is in ``where``.
    """
    for name in sorted(found.keys() | expected.keys()):
        pair = (tensors.get(name, "no such tensor") for tensors in (found, expected))
        one, other = (tuple(tensor.shape) if hasattr(tensor, "shape") else tensor for tensor in pair)
        if one != other:
            raise VixmlError(what, where=f"{where}: {name}", found=one, expected=other, hint=hint)


WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class Backbone(nn.Module):
    """A language model that turns packed sequences into vectors.

    Args:
        model_dir: folder with ``config.json`` and weights as safetensors.
        encoder: which layers are kept, how they are trained, how sequences are pooled.
        device: where it will compute; None: on the CPU.
        lean: for inference only: open a BERT without transformers (:mod:`vixml.models.bert`), with the same vectors.

    Attributes:
        causal: whether tokens see only the tokens before them (a decoder).
        row_of: (vocabulary,) int64, the row of each token's embedding; None: the row is the token's id.
        left_out: number of parameters that :meth:`keep_tokens` dropped.
        kernels: the kernels in use, ``liger`` or ``plain``, whatever ``encoder.kernels`` asks for.

    Raises:
        VixmlError: no weights, ``encoder.layers`` exceeds the model's, or an attention that packing does not support.
    """

    def __init__(
        self,
        model_dir: Path | str,
        encoder: Encoder | None = None,
        device: torch.device | None = None,
        lean: bool = False,
    ) -> None:
        super().__init__()
        encoder = encoder or Encoder()
        expect_nothing_else(model_dir)
        if not any(holds(model_dir, name) for name in WEIGHTS):
            hint = "run vixml prepare-model; snakemake does so by itself"
            raise VixmlError("a model folder has no weights", where=model_dir, expected=WEIGHTS[0], hint=hint)
        expect_sizes(read_settings(Path(model_dir) / "config.json"), Path(model_dir) / "config.json")
        with reading("a language model cannot be opened", model_dir, hint="make it again: vixml prepare-model"):
            network = _open_lean(Path(model_dir), encoder) if lean else None
            if network is None:
                network = _open(model_dir, encoder)
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
            from vixml.models.adapters import add_adapters  # imports peft, which takes seconds

            network = add_adapters(network, encoder.lora)
        self.network = network
        self.left_out = 0
        self.register_buffer("row_of", None)

    def keep_tokens(self, token_ids: np.ndarray) -> None:
        """Drop the embeddings of all other tokens, which no text of the corpus has.

        Results stay the same; steps (gradient, moments, weights) and files become smaller. PICTO lacks 25,284 of 30,522 tokens,
        a large corpus hardly any. ``token_ids``, (n_kept,) int64, ascend.
        """
        table = self.network.get_input_embeddings()
        if type(table) is not nn.Embedding:  # a subclass does more than look up: Gemma's scales
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
            stream: (n_tokens, dim), word embeddings and projected images.
            position_ids: (n_tokens,) int64.
            blocks, prefix: as in :func:`vixml.models.attention.packed_attention`.

        Returns:
            (n, dim) float32 in the stream's order, not normalised: the mean over all tokens of each sequence, or its last
            token (``encoder.pooling``).
        """
        rows = None
        if self.causal and stream.device.type in FILLED_UP:
            rows = join_blocks(blocks, prefix, stream.device)  # once for all layers
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


def _open(model_dir: Path | str, encoder: Encoder) -> nn.Module:
    """Open a network with transformers."""
    from transformers import AttentionInterface, AutoConfig, AutoModel
    from transformers.utils import logging

    # Without a mask function: with one, transformers checks in every forward pass of a decoder whether the position ids are
    # those of packed sequences, and waits for the GPU's answer.
    AttentionInterface.register(PACKED, packed_attention)
    logging.disable_progress_bar()  # a stage shows its progress
    config = _settings(AutoConfig.from_pretrained(model_dir), encoder, model_dir)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # or it warns of the layers that are left out
    how = {"attn_implementation": PACKED, "dtype": getattr(torch, encoder.frozen_weights), "output_loading_info": True}
    how |= without_pooler(config)
    network, report = AutoModel.from_pretrained(model_dir, config=config, **how)
    logging.set_verbosity(level)
    # transformers draws missing tensors at random and only warns.
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"no tensors for {', '.join(missing[:3])}")
    return network


def _open_lean(model_dir: Path, encoder: Encoder) -> nn.Module | None:
    """Open a plain BERT without transformers; None: it is something else."""
    config, weights = read_settings(model_dir / "config.json"), model_dir / WEIGHTS[0]
    layers, dtype = config.get("num_hidden_layers"), getattr(torch, encoder.frozen_weights)
    whole = encoder.train != "lora" and (encoder.layers or layers) == layers and holds(model_dir, weights.name)
    if not whole or not is_plain_bert(config):
        return None
    try:
        return open_bert(config, {name: tensor.to(dtype) for name, tensor in load_file(weights).items()})
    except RuntimeError:  # other names of tensors, which transformers may know
        return None


def _settings(config: PretrainedConfig, encoder: Encoder, where: Path | str) -> PretrainedConfig:
    """Return the network's configuration with the run's dropout and number of layers."""
    if encoder.dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout"):
            if hasattr(config, key):
                setattr(config, key, encoder.dropout)
    if encoder.layers is not None:
        if encoder.layers > config.num_hidden_layers:
            what, most = "encoder.layers exceeds the language model's layers", config.num_hidden_layers
            expected = f"at most {most}, or null for all"
            raise VixmlError(what, where=f"encoder.layers, {where}", found=encoder.layers, expected=expected)
        config.num_hidden_layers = encoder.layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: encoder.layers]
    if hasattr(config, "use_cache"):
        config.use_cache = False  # no text is generated
    if found := getattr(config, "attn_logit_softcapping", None):
        what = "this language model caps its attention scores, which PyTorch's attention kernels do not support"
        key = f"{where}/config.json: attn_logit_softcapping"
        raise VixmlError(what, where=key, found=found, expected="null", hint="take another model")
    return config


def _recompute_activations(network: nn.Module) -> None:
    """Keep no activations inside the layers. transformers 5.23 renamed the method and warns of the old name."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _longest(config: PretrainedConfig) -> int:
    """Return the longest sequence; it fits in the sliding window, within which attention is full attention."""
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        return min(config.max_position_embeddings, window)
    return config.max_position_embeddings


# --- Fused kernels.

# liger-kernel's fused losses are for a model with a head; by default they would replace the forward pass.
WITHOUT_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def choose_kernels(wanted: str, network: nn.Module, device: torch.device) -> str:
    """Put liger-kernel's fused kernels on a network if the run asks for them; return ``liger`` or ``plain``, those in use.

    They compute the same up to rounding and name the same weights, so a run without them is the same run, slower: a warning
    says so. Call this before adapters are added.
    """
    if wanted == "plain":
        return wanted
    reason = _fuse(network, device)
    if reason is None:
        return wanted
    warn(
        f"encoder.kernels: {wanted} is asked for, but plain kernels are used, with the same results, more time and more "
        f"memory: {reason}"
    )
    return "plain"


def _fuse(network: nn.Module, device: torch.device) -> str | None:
    """Put fused kernels on a network; return the reason if they cannot be used, and leave the network as it was."""
    if device.type != "cuda":
        return f"they need a GPU, and this stage computes on {device.type}"
    try:
        # It needs triton, which comes with CUDA builds of torch and compiles each kernel at its first use.
        from liger_kernel.transformers import LigerRMSNorm
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as FAMILIES
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed; `pip install 'vixml[gpu]'`, or `pip install liger-kernel`"
    except Exception as error:  # a triton that does not fit the driver raises anything
        return f"liger-kernel cannot be imported ({_first_line(error)}); `pip install --upgrade liger-kernel`"
    family = network.config.model_type
    if family not in FAMILIES:
        return f"liger-kernel has none for the family {family}"
    try:
        _compile(LigerRMSNorm, device)
    except Exception as error:  # no C compiler, or too old a GPU or driver
        return f"liger-kernel does not run on this machine ({_first_line(error)}); triton needs a C compiler and a recent driver"
    library = sys.modules[type(network).__module__]
    before = dict(vars(library))
    try:
        _apply_liger_kernel_to_instance(network, **WITHOUT_LOSSES)
    except Exception as error:  # it replaces classes and methods of transformers by name
        vars(library).update(before)
        for module in network.modules():
            for name in ("forward", "extra_repr", "_get_name"):
                vars(module).pop(name, None)
        return f"liger-kernel does not fit this version of transformers ({_first_line(error)}); `pip install --upgrade liger-kernel`"
    return None


def _compile(norm: Callable[[int], nn.Module], device: torch.device) -> None:
    """Compile and run liger-kernel's smallest kernel, forward and backward."""
    x = torch.ones(2, 16, device=device, requires_grad=True)
    norm(16).to(device)(x).sum().item()


def _first_line(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
