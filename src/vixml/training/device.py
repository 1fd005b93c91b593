"""Where a stage computes, and with how many threads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from vixml.config.run import RunConfig
from vixml.gpu import find_device

SHARED = Path("/dev/shm")


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
