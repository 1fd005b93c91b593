"""The precision that a stage computes in: the one place that asks what the hardware multiplies fast.

``auto``, in a run's ``training.precision`` or in an option, takes what the hardware multiplies natively. The environment variable
``VIXML_PRECISION`` (``fp32``, ``bf16`` or ``fp16``) replaces every ``auto`` decision, so that one machine can repeat what another
computed: torch computes bfloat16 on any processor, only slowly where it is emulated. A precision that a run or an option
names is never replaced. What was chosen is written in manifests.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from vixml.errors import VixmlError

if TYPE_CHECKING:
    import torch

VARIABLE = "VIXML_PRECISION"
# torch's names; torch itself is imported where it is needed, since the command line reads this module.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def precision_override() -> str | None:
    """Return what ``VIXML_PRECISION`` says, None where it is unset, empty or ``auto``.

    Raises:
        VixmlError: it is none of the known precisions.
    """
    value = os.environ.get(VARIABLE, "")
    if value in ("", "auto"):
        return None
    return _known(value, f"environment variable {VARIABLE}", f"set {VARIABLE} to one of them, or unset it")


def choose_precision(wanted: str, device: torch.device | str, weights: str = "float32") -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is resolved by ``VIXML_PRECISION``, else by the device.

    On a GPU that is fp16 (the paper's encoders), or bf16 beside frozen weights in it (its decoders); on processors built for
    bf16 that; else fp32 (D10).

    Args:
        wanted: one of the three, or ``auto``.
        device: where it will be computed.
        weights: how frozen weights are held, ``encoder.weights`` of a run.

    Raises:
        VixmlError: an unknown precision, or fp16 for frozen weights in bfloat16.
    """
    if wanted != "auto":
        return _known(wanted, "precision", None, "auto, ")
    override = precision_override()
    if override == "fp16" and weights == "bfloat16":
        raise VixmlError(
            "frozen weights in bfloat16 cannot be computed with in fp16",
            where=f"environment variable {VARIABLE}",
            found=override,
            expected="bf16 or fp32 for this run, whose encoder.weights is bfloat16",
            hint=f"unset {VARIABLE} for this run, or set it to bf16",
        )
    if override is not None:
        return override
    if _is_gpu(device):
        return "bf16" if weights == "bfloat16" else "fp16"
    return "bf16" if multiplies_bf16() else "fp32"


def coarse_type(device: torch.device | str) -> torch.dtype:
    """Return the type in which a search proposes labels, of those whose error it bounds: the fastest one of the device.

    ``VIXML_PRECISION`` replaces that choice too: fp32 by float32, either half precision by bfloat16. Results are the same.
    """
    import torch

    override = precision_override()
    if override is not None:
        return torch.float32 if override == "fp32" else torch.bfloat16
    quick = torch.cuda.is_bf16_supported(including_emulation=False) if _is_gpu(device) else multiplies_bf16()
    return torch.bfloat16 if quick else torch.float32


def multiplies_bf16() -> bool:
    """Return whether this processor has instructions for bfloat16; where it has not, float32 is faster."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def dtype_of(precision: str) -> torch.dtype:
    """Return torch's type of a precision."""
    import torch

    return getattr(torch, DTYPES[precision])


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the autocast context of a precision; parameters and optimizer stay in float32."""
    import torch

    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=dtype_of(precision))


def _is_gpu(device: torch.device | str) -> bool:
    return str(device).startswith("cuda")


def _known(precision: str, where: str, hint: str | None, also: str = "") -> str:
    if precision in DTYPES:
        return precision
    raise VixmlError(
        "unknown precision", where=where, found=repr(precision), expected=also + ", ".join(DTYPES), hint=hint
    )
