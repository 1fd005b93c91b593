"""Which kernels a language model computes with: PyTorch's own, or liger-kernel's fused ones where they can be had."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn

from vixml.progress import warn

# Its fused losses belong to a model with a head: by default they would replace the forward pass of this one.
WITHOUT_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def choose_kernels(wanted: str, network: nn.Module, device: torch.device) -> str:
    """Put fused kernels on a network where they are wanted and can be had; else say loudly why they are not.

    They compute the same up to rounding and name the same weights, so a run without them is the same run, slower. Call it
    before adapters are added.

    Args:
        wanted: ``encoder.kernels``.
        network: a language model, on the processor still.
        device: where it will compute.

    Returns:
        ``liger`` or ``plain``: the kernels in use.
    """
    if wanted == "plain":
        return wanted
    reason = _fuse(network, device)
    if reason is None:
        return wanted
    warn(
        f"encoder.kernels: {wanted} is asked for, and plain kernels are used, with the same results but slower and with more "
        f"memory: {reason}"
    )
    return "plain"


def _fuse(network: nn.Module, device: torch.device) -> str | None:
    """Put liger-kernel's kernels on a network; return why that cannot be, in which case the network is as it was."""
    if device.type != "cuda":
        return f"they need a GPU, and this stage computes on {device.type}"
    try:
        # It needs triton, which comes with torch's builds for CUDA and compiles each kernel when it is first used.
        from liger_kernel.transformers import LigerRMSNorm
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as FAMILIES
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed; `pip install 'vixml[gpu]'`, or `pip install liger-kernel`"
    except Exception as error:  # a triton that does not fit the driver raises anything
        return f"liger-kernel cannot be imported ({_said(error)}); `pip install --upgrade liger-kernel`"
    family = network.config.model_type
    if family not in FAMILIES:
        return f"liger-kernel has none for the family {family}"
    try:
        _try(LigerRMSNorm, device)
    except Exception as error:  # no C compiler, a card that is too old, a driver that is
        return (
            f"liger-kernel does not run on this machine ({_said(error)}); triton needs a C compiler and a recent driver"
        )
    library = sys.modules[type(network).__module__]
    before = dict(vars(library))
    try:
        _apply_liger_kernel_to_instance(network, **WITHOUT_LOSSES)
    except Exception as error:  # it replaces classes and methods of transformers by name
        vars(library).update(before)
        for module in network.modules():
            for name in ("forward", "extra_repr", "_get_name"):
                vars(module).pop(name, None)
        return f"liger-kernel does not fit this version of transformers ({_said(error)}); `pip install --upgrade liger-kernel`"
    return None


def _try(norm: Callable[[int], nn.Module], device: torch.device) -> None:
    """Compile and run the smallest of its kernels, forward and backward."""
    x = torch.ones(2, 16, device=device, requires_grad=True)
    norm(16).to(device)(x).sum().item()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
