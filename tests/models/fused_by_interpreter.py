"""Compute one step of each family of decoders with liger-kernel and without, and print how far apart they are.

triton's interpreter (TRITON_INTERPRET=1, read when it is imported) runs the kernels on a processor, so this is a separate process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import liger_kernel.transformers.monkey_patch  # noqa: F401
import numpy as np
import torch
import triton.language as tl
from tiny_models import DECODERS, gradients, make_items, make_model, write_decoder
from triton.runtime import interpreter

from vixml.models import backbone
from vixml.models.prompt import Prompt

_convert = interpreter._implicit_cvt


def convert(argument: object) -> object:
    """Make a tensor of a number, as the compiler does and the interpreter forgets."""
    if isinstance(argument, float):
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)
    return _convert(argument)


interpreter._implicit_cvt = convert


class Pretended:
    """A device that the choice of kernels takes for a GPU."""

    type = "cuda"


def step(folder: Path, wanted: str) -> tuple[str, torch.Tensor, dict[str, torch.Tensor]]:
    """Return the kernels in use, vectors, and the gradients of the adapters."""
    prompt = Prompt(((1, 2), "text", (3,)), causal=True)
    settings = {
        "max_len": 12, "train": "lora", "lora": {"r": 4, "alpha": 8}, "gradient_checkpointing": True, "kernels": wanted,
    }  # fmt: skip
    model = make_model(folder, prompt, None, Pretended(), modality="text", encoder=settings)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    vectors = model.train().encode(make_items([3, 5, 1, 5], prompt=prompt).pack())
    vectors.square().sum().backward()
    return model.backbone.kernels, vectors.detach(), gradients(model.backbone)


# Functions of CUDA's library, which the interpreter lacks.
for name, library in list(sys.modules.items()):
    if name.startswith("liger_kernel.ops"):
        for function, other in (("rsqrt", lambda x: tl.rsqrt(x)), ("tanh", lambda x: 2 * tl.sigmoid(2 * x) - 1)):
            if hasattr(library, function):
                setattr(library, function, other)
backbone._compile = lambda norm, device: None
torch.set_num_threads(1)
found = {}
for family in DECODERS:
    folder = write_decoder(Path(sys.argv[1]) / family, family)
    # Plain first: liger replaces the rotary embedding of the whole family.
    (_, plain, of_plain), (used, fused, of_fused) = step(folder, "plain"), step(folder, "liger")
    apart = [float((of_fused[name] - g).abs().max() / g.abs().max()) for name, g in of_plain.items()]
    found[family] = {
        "kernels": used,
        "vectors": float((fused - plain).abs().max()),
        "gradients": max(apart),
        "same": of_plain.keys() == of_fused.keys(),
        "equal": bool(torch.equal(fused, plain)),
    }
print(json.dumps(found))
