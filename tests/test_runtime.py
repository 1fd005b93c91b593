"""`auto` takes what the hardware multiplies fast; VIXML_PRECISION replaces every such decision and nothing else."""

from __future__ import annotations

import ast
import contextlib
import os
from pathlib import Path

import pytest
import torch

from vixml.cli import main
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.runtime import (
    ALLOCATOR,
    DTYPES,
    VARIABLE,
    autocast,
    choose_precision,
    coarse_type,
    dtype_of,
    keep_memory_whole,
    multiplies_bf16,
)

ROOT = Path(__file__).resolve().parents[1]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def processor(monkeypatch):
    """Return a function that sets the capabilities of the processor."""
    return lambda **can: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)


@pytest.mark.parametrize(
    ("can", "precision", "coarse"),
    [
        ({"avx2": True}, "fp32", torch.float32),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16", torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16", torch.bfloat16),
        ({}, "fp32", torch.float32),
    ],
)
def test_auto_is_what_the_processor_multiplies(processor, can, precision, coarse):
    processor(**can)
    for device in (CPU, "cpu"):
        assert choose_precision("auto", device) == choose_precision("auto", device, "bfloat16") == precision
        assert coarse_type(device) == coarse


@pytest.mark.parametrize("device", [GPU, "cuda", "cuda:1"])
def test_auto_on_a_gpu(monkeypatch, processor, device):
    processor()
    assert choose_precision("auto", device) == "fp16"
    assert choose_precision("auto", device, "bfloat16") == "bf16", "fp16 autocast refuses bf16 weights"
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert coarse_type(device) == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("can", [{}, {"avx512_bf16": True, "amx_bf16": True}])
@pytest.mark.parametrize("value", DTYPES)
def test_the_variable_replaces_every_auto_and_nothing_else(monkeypatch, processor, device, can, value):
    processor(**can)
    monkeypatch.setenv(VARIABLE, value)
    assert choose_precision("auto", device) == value
    assert coarse_type(device) == (torch.float32 if value == "fp32" else torch.bfloat16)
    for wanted in DTYPES:
        assert choose_precision(wanted, device) == wanted
    assert multiplies_bf16() == bool(can), "the hardware stays what it is"


@pytest.mark.parametrize("value", ["", "auto"])
def test_an_empty_variable_changes_nothing(monkeypatch, processor, value):
    processor(avx512_bf16=True)
    monkeypatch.setenv(VARIABLE, value)
    assert choose_precision("auto", CPU) == "bf16"


@pytest.mark.parametrize("value", ["bfloat16", "FP32", "fp8", " "])
def test_an_unknown_value_is_one_clear_error(monkeypatch, capsys, value):
    monkeypatch.setenv(VARIABLE, value)
    for decide in (choose_precision, coarse_type):
        with pytest.raises(VixmlError, match="unknown precision") as raised:
            decide(*(["auto"] if decide is choose_precision else []), CPU)
        assert VARIABLE in str(raised.value) and repr(value) in str(raised.value) and "fp32" in str(raised.value)
    # Every command stops at once, not the first one that computes.
    assert main(["document-config", "--check"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error:") == 1 and VARIABLE in shown and "what now:" in shown
    assert choose_precision("fp32", CPU) == "fp32"


def test_an_unknown_precision_is_refused():
    with pytest.raises(VixmlError, match="unknown precision"):
        choose_precision("int8", CPU)


def test_frozen_weights_in_bfloat16_are_not_computed_with_in_fp16(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fp16")
    with pytest.raises(VixmlError, match="frozen weights in bfloat16") as raised:
        choose_precision("auto", GPU, "bfloat16")
    assert VARIABLE in str(raised.value)
    with pytest.raises(VixmlError, match="frozen weights in bfloat16") as raised:
        choose_precision("fp16", CPU, "bfloat16")
    assert VARIABLE not in str(raised.value)
    assert RunConfig(encoder={"train": "full", "weights": "bfloat16"}).encoder.frozen_weights == "float32"
    assert RunConfig(encoder={"train": "lora", "weights": "bfloat16"}).encoder.frozen_weights == "bfloat16"


def test_autocast_contexts():
    assert isinstance(autocast("fp32", CPU), contextlib.nullcontext)
    a = torch.ones(2, 2)
    for precision in ("bf16", "fp16"):
        with autocast(precision, CPU):
            assert (a @ a).dtype == dtype_of(precision)
    assert (a @ a).dtype == dtype_of("fp32") == torch.float32


def test_only_this_module_asks_the_processor():
    asked = {"get_capabilities", "_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_bf16_supported"}
    where = {
        path.name
        for folder in ("src", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr in asked
    }
    assert where == {"runtime.py"}


def test_the_setting_is_documented():
    described = RunConfig.model_fields["training"].annotation.model_fields["precision"].description
    assert VARIABLE in described and VARIABLE in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [None, *ALLOCATOR])
def test_the_allocator_is_set_unless_the_user_did(monkeypatch, name):
    for known in ALLOCATOR:
        monkeypatch.setenv(known, "")  # so that it is restored at the end
        monkeypatch.delenv(known)
    if name is not None:
        monkeypatch.setenv(name, "max_split_size_mb:128")
    keep_memory_whole()
    given = {known: os.environ[known] for known in ALLOCATOR if known in os.environ}
    assert given == ({name: "max_split_size_mb:128"} if name else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
