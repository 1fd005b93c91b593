"""Fused kernels where they can be used; elsewhere plain kernels and one warning."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from tiny_models import write_decoder
from torch import nn
from transformers.models.llama import modeling_llama

from vixml.config.run import Encoder
from vixml.models import backbone
from vixml.models.backbone import Backbone

GPU = torch.device("cuda")
LORA = {"train": "lora", "lora": {"r": 4, "alpha": 4}, "gradient_checkpointing": True}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("llama"), "llama")


def build(decoder, device=GPU):
    return Backbone(decoder, Encoder.model_validate({"kernels": "liger", **LORA}), device)


@pytest.fixture
def library(monkeypatch):
    """Replace liger-kernel by a module that records the calls, which needs no GPU."""
    asked = []
    package = types.ModuleType("liger_kernel.transformers")
    package.LigerRMSNorm = nn.RMSNorm
    parent = types.ModuleType("liger_kernel")
    parent.__path__ = package.__path__ = []
    patch = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    patch._apply_liger_kernel_to_instance = lambda model, **options: asked.append((model.config.model_type, options))
    for module in (parent, package, patch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(backbone, "_compile", lambda norm, device: None)
    patch.asked = asked
    return patch


def test_they_leave_the_forward_pass_alone(decoder, library, capsys):
    assert build(decoder).kernels == "liger"
    assert library.asked == [("llama", {"cross_entropy": False, "fused_linear_cross_entropy": False})]
    assert "WARNING" not in capsys.readouterr().err


def missing(monkeypatch, library):
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)


def without_triton(monkeypatch, library):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "liger_kernel.transformers":
                raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.delitem(sys.modules, "liger_kernel.transformers")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


def broken(monkeypatch, library):
    del sys.modules["liger_kernel.transformers"].LigerRMSNorm


def unknown_family(monkeypatch, library):
    library.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": None}


def no_compiler(monkeypatch, library):
    def fail(norm, device):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(backbone, "_compile", fail)


def other_transformers(monkeypatch, library):
    """It fails halfway, after it has replaced a class and a method."""

    def fail(model, **options):
        modeling_llama.apply_rotary_pos_emb = None
        model.norm.forward = None
        raise AttributeError("module has no attribute LlamaMLP")

    library._apply_liger_kernel_to_instance = fail


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (missing, "liger_kernel.transformers is not installed; `pip install"),
        (without_triton, "triton is not installed; `pip install"),
        (broken, "liger-kernel cannot be imported"),
        (unknown_family, "has none for the family llama"),
        (no_compiler, "Failed to find C compiler"),
        (other_transformers, "does not fit this version of transformers"),
    ],
)
def test_elsewhere_plain_kernels_and_one_warning(decoder, library, monkeypatch, capsys, how, reason):
    rope = modeling_llama.apply_rotary_pos_emb
    how(monkeypatch, library)
    model, shown = build(decoder), capsys.readouterr().err
    assert model.kernels == "plain" and not library.asked
    assert shown.count("WARNING") == 1 and "encoder.kernels: liger is asked for" in shown and reason in shown
    assert modeling_llama.apply_rotary_pos_emb is rope
    assert not any("forward" in vars(module) for module in model.network.modules())


def test_a_processor_computes_with_plain_ones(decoder, library, capsys):
    assert build(decoder, torch.device("cpu")).kernels == "plain"
    assert "need a GPU, and this stage computes on cpu" in capsys.readouterr().err
    assert not library.asked


def test_they_are_tried_before_a_model_relies_on_them(decoder, library, monkeypatch, capsys):
    """The real trial, on a machine without a GPU: it fails, and is no error."""
    monkeypatch.undo()
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert build(decoder).kernels == "plain"
    assert "WARNING" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is for machines with a GPU")
def test_they_compute_what_plain_kernels_do(tmp_path):
    """liger-kernel itself, each family with adapters and recomputed activations, on a processor by triton's interpreter."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "fused_by_interpreter.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
    )
    if "only 0-dimensional arrays" in done.stderr:
        pytest.skip("this triton's interpreter does not work beside numpy 2.4")
    assert done.returncode == 0, done.stderr[-3000:]
    for family, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["kernels"] == "liger" and found["same"] and not found["equal"], family
        assert found["vectors"] < 1e-5 and found["gradients"] < 1e-4, family
