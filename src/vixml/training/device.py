"""Where a stage computes, and with how many threads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from vixml.errors import VixmlError

SHARED = Path("/dev/shm")


def choose_device(wanted: str, threads: int) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda`` and set the number of processor threads.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU.
    """
    # Over-subscribed threads are many times slower than too few; the workflow gives each job its own number.
    torch.set_num_threads(threads)
    # oneDNN compiles and keeps a kernel for each shape. Streams come in few lengths (vixml.models.packing.MULTIPLE), but
    # attention's products have many; 1,024 kernels, its default, would fill a GiB. Read at its first operation, so this is
    # early enough.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    if wanted not in {"auto", "cpu", "cuda"}:
        raise VixmlError("unknown device", where="--device", found=wanted, expected="auto, cpu or cuda")
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise VixmlError(
            "no GPU is visible to PyTorch",
            where="--device cuda",
            found=f"torch {torch.__version__}",
            hint="use --device cpu, or install a CUDA build of torch on a machine with a GPU",
        )
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")


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
