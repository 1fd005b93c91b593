"""Where a stage computes, and with how many threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.progress import warn

SHARED = Path("/dev/shm")
SYSTEM = Path("/")  # where devices are looked for
INSTALL = "install a build of torch for this machine's GPU and driver (PyTorch's install page)"


def choose_device(wanted: str, threads: int) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda`` and set the number of processor threads.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU that PyTorch can use.
    """
    # Over-subscribed threads are many times slower than too few; the workflow gives each job its own number.
    torch.set_num_threads(threads)
    # oneDNN compiles and keeps a kernel for each shape. Streams come in few lengths (vixml.models.packing.MULTIPLE), but
    # attention's products have many; 1,024 kernels, its default, would fill a GiB. Read at its first operation, so this is
    # early enough.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    return find_device(wanted)


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


def fewer_items(config: RunConfig, items: int, training: bool = False) -> str:
    """Return what to make smaller after the encoder ran out of memory: an imperative clause with a key and its next value.

    Args:
        config: of the run.
        items: how many went through the encoder together; 0: none did.
        training: whether they were a batch's, or a part's: then the part that ran out may be the last one, of fewer.
    """
    now = config.training.items_at_once
    now = items if now is None or (items and not training) else now
    if now > 1:
        return f"set `training.items_at_once: {now // 2}` in the run's file (now {now} items; same gradient)"
    ways = ["take a GPU with more memory (`vixml plan` says what the run needs)"]
    if not config.encoder.gradient_checkpointing:
        ways.insert(0, "set `encoder.gradient_checkpointing: true`")
    if config.encoder.train != "full" and config.encoder.weights == "float32":
        ways.insert(0, "set `encoder.weights: bfloat16`")
    return ", or ".join(ways)


def batch_workers(wanted: int | None, device: torch.device) -> int:
    """Return how many processes assemble batches (``training.workers``); None: by what there is."""
    if wanted is not None:
        return wanted
    # They hand image vectors over in shared memory, of which a container has 64 MB where nobody asked for more.
    scarce = SHARED.exists() and shutil.disk_usage(SHARED).free < 2 << 30
    if device.type == "cpu" or scarce:
        return 0
    return min(4, max(1, torch.get_num_threads() - 1))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor of main memory to a device without waiting for what the device does."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
