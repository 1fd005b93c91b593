"""Whether PyTorch can compute on this machine's GPU, and why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from vixml.errors import VixmlError
from vixml.progress import warn

SYSTEM = Path("/")  # where devices are looked for
INSTALL = "install a build of torch for this machine's GPU and driver (PyTorch's install page)"


def find_device(wanted: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; ``auto`` beside a GPU that cannot be used says so, loudly.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU that PyTorch can use.
    """
    if wanted not in {"auto", "cpu", "cuda"}:
        raise VixmlError("unknown device", where="--device", found=wanted, expected="auto, cpu or cuda")
    if wanted == "cpu":
        return torch.device("cpu")
    trouble = gpu_trouble()
    if trouble is None:
        return torch.device("cuda")
    if wanted == "cuda":
        raise VixmlError(
            "no GPU can be used, and one is asked for",
            where="device: cuda (profiles/gpu and profiles/slurm ask for it)",
            found=f"{trouble.gpu or 'no NVIDIA GPU in this machine'}; {trouble.why}",
            hint=f"{trouble.fix}; `--config device=cpu` (of one command: `--device cpu`) computes on the processor; "
            "what is finished is kept",
        )
    if trouble.gpu is not None:
        warn(
            f"there is a GPU ({trouble.gpu}) that PyTorch cannot use: {trouble.why}. This stage computes on the "
            f"processor, many times slower. What now: {trouble.fix}; `device: cpu` silences this line, `device: cuda` "
            "makes it an error."
        )
    return torch.device("cpu")


@dataclass(frozen=True)
class GpuTrouble:
    """Why PyTorch cannot compute on a GPU.

    Attributes:
        gpu: the GPU of this machine and its driver, as far as they can be told; None if there is none, or if the
            environment hides all of them.
        why: what stands between it and PyTorch.
        fix: what to do, an imperative clause.
    """

    gpu: str | None
    why: str
    fix: str


def gpu_trouble() -> GpuTrouble | None:
    """Return why PyTorch cannot compute on a GPU, or None if it can. It is tried: to be visible is not enough."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # torch warns of a driver that is too old, and then says that there is no GPU
        visible = torch.cuda.is_available()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        try:
            # Of several processes each takes its own: a context on the first card would cost memory there.
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
        except Exception as error:  # a card that this build has no kernels for, or that another process has to itself
            cards = gpu_hardware() or "a GPU"
            return GpuTrouble(cards, _first_line(error), f"free the GPU (`nvidia-smi` shows who uses it), or {INSTALL}")
        return None
    if hidden is not None and hidden.strip() in {"", "-1"}:
        return GpuTrouble(None, f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    cards = gpu_hardware()
    if cards is None:
        return GpuTrouble(None, f"torch {torch.__version__} sees none", "take a machine with a GPU")
    if torch.version.cuda is None:
        return GpuTrouble(cards, f"torch {torch.__version__} is a build without CUDA", INSTALL)
    why = [_first_line(one.message) for one in said]
    if not why:
        try:
            torch.cuda.init()
        except Exception as error:
            why = [_first_line(error)]
    found = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}: {'; '.join(why) or 'it sees no GPU'}"
    if hidden is not None:
        return GpuTrouble(
            cards, f"{found} (CUDA_VISIBLE_DEVICES={hidden!r})", "set CUDA_VISIBLE_DEVICES to a GPU of this machine"
        )
    return GpuTrouble(
        cards, found, f"update the driver (`nvidia-smi` names the newest CUDA that it knows), or {INSTALL}"
    )


def gpu_hardware() -> str | None:
    """Return the NVIDIA GPUs of this machine, by driver or by bus, whether or not PyTorch can use them; None: there is none."""
    said = None
    if tool := shutil.which("nvidia-smi"):
        query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run([tool, *query], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = f"nvidia-smi failed: {_first_line(error)}"
        else:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            if not done.returncode:
                # Equal cards are named once.
                cards = [f"{n} x {card}" if n > 1 else card for card, n in Counter(lines).items()]
                return "; ".join(cards).replace(", ", ", driver ") or None
            said = f"nvidia-smi failed: {lines[0] if lines else f'status {done.returncode}'}"
    if any((SYSTEM / "dev").glob("nvidia[0-9]*")) or any((SYSTEM / "proc/driver/nvidia/gpus").glob("*")):
        return f"an NVIDIA GPU ({said or 'no nvidia-smi on PATH'})"
    for card in (SYSTEM / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (card / "vendor").read_text().strip(), (card / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # a display controller by NVIDIA
            return f"an NVIDIA GPU without a driver ({said or 'no nvidia-smi on PATH'})"
    return None


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
