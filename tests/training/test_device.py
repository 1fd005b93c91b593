"""Choosing a device; a GPU that is present but cannot be used is never ignored in silence."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vixml import runtime
from vixml.check import doctor
from vixml.cli import main
from vixml.errors import VixmlError
from vixml.runtime import choose_device, find_device


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose programs, devices and build of torch the test chooses."""

    def put(path, text="", mode=0o755):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(mode)

    def smi(script="echo 'NVIDIA H100, 470.57'"):
        put("bin/nvidia-smi", f"#!/bin/sh\n{script}\n")

    def build(cuda, error=None):
        monkeypatch.setattr(torch.version, "cuda", cuda)

        def init():
            if error:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "init", init)

    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(runtime, "SYSTEM", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return SimpleNamespace(put=put, smi=smi, build=build)


def test_without_a_gpu(machine, capsys):
    assert choose_device("auto", 1).type == find_device("auto").type == "cpu"
    assert torch.get_num_threads() == 1 and not capsys.readouterr().err
    with pytest.raises(VixmlError, match="no GPU can be used") as caught:
        choose_device("cuda", 1)
    assert "no NVIDIA GPU in this machine" in caught.value.found and "device=cpu" in caught.value.hint
    with pytest.raises(VixmlError, match="unknown device"):
        choose_device("tpu", 1)


OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.mark.parametrize(
    ("set_up", "reason", "fix"),
    [
        (lambda m: (m.smi(), m.build("13.0", OLD)), ["NVIDIA H100, driver 470.57", "too old", "CUDA 13.0"], "update the driver"),
        (lambda m: (m.smi(), m.build(None)), ["NVIDIA H100", "a build without CUDA"], "install a build of torch"),
        (lambda m: (m.put("dev/nvidia0"), m.build(None)), ["an NVIDIA GPU (no nvidia-smi on PATH)"], "install a build"),
        (lambda m: (m.put("proc/driver/nvidia/gpus/0000:01"), m.build("13.0")), ["an NVIDIA GPU"], "update the driver"),
        (
            lambda m: (m.smi("echo 'cannot talk to the driver' >&2; exit 9"), m.put("dev/nvidia0"), m.build("13.0", "No CUDA")),
            ["nvidia-smi failed: cannot talk to the driver", "No CUDA"],
            "update the driver",
        ),
        (
            lambda m: (
                m.put("sys/bus/pci/devices/0000:01/vendor", "0x10de\n"),
                m.put("sys/bus/pci/devices/0000:01/class", "0x030200\n"),
                m.build("13.0", "Found no NVIDIA driver on your system."),
            ),
            ["an NVIDIA GPU without a driver", "Found no NVIDIA driver"],
            "update the driver",
        ),
    ],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used(machine, capsys, set_up, reason, fix):
    set_up(machine)
    assert choose_device("auto", 1).type == "cpu"
    shown = capsys.readouterr().err
    assert shown.count("WARNING") == 1 and fix in shown and all(words in shown for words in reason)
    assert find_device("auto").type == "cpu" and "WARNING" in capsys.readouterr().err, "pooling warns too"
    for choose in (lambda: choose_device("cuda", 1), lambda: find_device("cuda").type):
        with pytest.raises(VixmlError, match="no GPU can be used") as caught:
            choose()
        assert fix in caught.value.hint and all(words in caught.value.found for words in reason)
    assert choose_device("cpu", 1).type == "cpu" and not capsys.readouterr().err
    assert reason[-1] in doctor.torch_build()


def test_a_visible_gpu_that_fails_is_not_taken(machine, monkeypatch, capsys):
    """A GPU that the build has no kernels for: CUDA reports that only when something is computed."""
    machine.smi()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail(*shape, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "ones", fail)
    assert choose_device("auto", 1).type == "cpu"
    assert "no kernel image is available" in capsys.readouterr().err


def test_a_gpu_that_works_is_taken(machine, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    real = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: real(*shape))
    assert choose_device("auto", 1).type == choose_device("cuda", 1).type == find_device("cuda").type == "cuda"
    assert choose_device("cpu", 1).type == "cpu" and not capsys.readouterr().err


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_user_hides_is_no_trouble(machine, monkeypatch, capsys, hidden):
    machine.smi()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device("auto", 1).type == "cpu" and not capsys.readouterr().err
    with pytest.raises(VixmlError) as caught:
        choose_device("cuda", 1)
    assert "CUDA_VISIBLE_DEVICES" in caught.value.found and "unset" in caught.value.hint


def test_the_profile_of_a_gpu_asks_for_one():
    profiles = Path(__file__).resolve().parents[2] / "profiles"
    for name in ("gpu", "slurm"):
        assert "device=cuda" in (profiles / name / "config.yaml").read_text()


def test_a_command_ends_with_one_error(machine, capsys, tmp_path):
    machine.smi()
    machine.build(None)
    folder = str(tmp_path)
    options = [f"--{name}={folder}" for name in ("corpus", "index", "out")]
    status = main(["predict", "picto", "text-minilm-l3", *options, "--device", "cuda"])
    shown = capsys.readouterr().err
    assert status == 2 and shown.count("error:") == 1 and "Traceback" not in shown and "build without CUDA" in shown
