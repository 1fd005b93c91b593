"""Low-rank adapters on a language model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora as peft_lora
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from vixml.config.run import Lora


def add_adapters(network: nn.Module, lora: Lora) -> PeftModel:
    """Put adapters on every linear projection of attention and MLP, in place; nothing else trains (paper, appendix A).

    A new adapter changes nothing: its second matrix is zero.
    """
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        target_modules="all-linear",
        bias="none",
    )
    settings._register_custom_module({nn.Linear: AdaptedLinear})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of saving, which this project does without peft
        adapted = get_peft_model(network, settings)
    if network.dtype == torch.bfloat16:
        # Such a network runs under autocast, which casts to half precision. Where peft computes an adapter (with dropout),
        # its cast of every input to float32, undone at once, took a tenth of a training step.
        for module in adapted.modules():
            if isinstance(module, peft_lora.LoraLayer):
                module.cast_input_dtype_enabled = False
    return adapted


class AdaptedLinear(peft_lora.Linear):
    """peft's adapted layer, computed with matrix products only (:class:`AdaptedProduct`).

    peft computes all other cases: dropout, and several, merged or disabled adapters.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``W x + bias + scale B A x``: (..., in) -> (..., out)."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        if (
            args
            or kwargs
            or self.disable_adapters
            or self.merged
            or name not in self.lora_A
            or name in self.lora_variant
            or not isinstance(self.lora_dropout[name], nn.Identity)
        ):
            return super().forward(x, *args, **kwargs)
        base, device = self.get_base_layer(), x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
        bias = None if base.bias is None else base.bias.detach().to(dtype)
        weights = (base.weight.detach(), self.lora_A[name].weight, self.lora_B[name].weight)
        return AdaptedProduct.apply(x.to(dtype), bias, self.scaling[name], *(w.to(dtype) for w in weights))


class AdaptedProduct(torch.autograd.Function):
    """``y = x W' + bias + scale (x A') B'`` with a frozen ``W``, and its gradients.

    The product that computes the adapter's part also adds it, forward to ``y`` and backward to the gradient of ``x``.
    Separate layers would scale and add tensors as wide as ``y`` and ``x`` in additional passes over memory, and add up two
    gradients of ``x``.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, bias: Tensor | None, scale: float, weight: Tensor, a: Tensor, b: Tensor
    ) -> Tensor:
        """Return (..., out) of ``x`` (..., in), ``weight`` (out, in), ``a`` (rank, in), ``b`` (out, rank), one dtype."""
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.T
        y = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        y.addmm_(inner, b.T, alpha=scale)
        ctx.save_for_backward(rows, inner, weight, a, b)
        ctx.scale = scale
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, ``a`` and ``b``; bias and weight are frozen."""
        rows, inner, weight, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (g @ b).mul_(ctx.scale)  # as narrow as the rank
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (g @ weight).addmm_(of_inner, a).view(*gradient.shape[:-1], weight.shape[1])
        return of_x, None, None, None, of_inner.T @ rows, (g.T @ inner).mul_(ctx.scale)
