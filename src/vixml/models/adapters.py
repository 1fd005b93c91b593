"""What may be put on a language model: low-rank adapters, fused kernels."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from vixml.config.run import Lora
from vixml.errors import VixmlError


def add_adapters(network: nn.Module, lora: Lora) -> PeftModel:
    """Put adapters on every linear projection of attention and MLP; they are all that trains (paper, appendix A).

    A new adapter changes nothing: its second matrix is zero.

    Args:
        network: a language model.
        lora: rank, scale, dropout.
    """
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        target_modules="all-linear",
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft speaks of saving, which this project does itself
        adapted = get_peft_model(network, settings)
    if network.dtype == torch.bfloat16:
        # Such a network runs under autocast, which casts to half precision itself: peft's cast of every input to float32,
        # undone at once, took a tenth of a training step.
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False
    return adapted


def use_fused_kernels(network: nn.Module) -> None:
    """Replace norms, rotary embedding and MLP by liger-kernel's fused ones, where it knows the architecture.

    Call it before adapters are added: its MLP then calls the adapted projections.

    Raises:
        VixmlError: liger-kernel is not installed (it needs a GPU).
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise VixmlError(
            "fused kernels are wanted but liger-kernel is not installed",
            where="encoder.kernels",
            found="liger",
            hint="pip install liger-kernel on a machine with a GPU, or set encoder.kernels to plain: same results, slower",
        ) from error
    # Its fused losses belong to a model with a head: by default they would replace the forward pass of this one.
    _apply_liger_kernel_to_instance(model=network, cross_entropy=False, fused_linear_cross_entropy=False)
