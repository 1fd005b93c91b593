"""Running out of memory, a GPU's or main memory, as one error that names what to make smaller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vixml.errors import VixmlError

# Beside torch.OutOfMemoryError: RuntimeErrors of CUDA, cuBLAS, NCCL and PyTorch's allocator for processors.
_GPU = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED", re.I
)
_MAIN = re.compile(r"can't allocate memory|not enough memory|cannot allocate memory|std::bad_alloc", re.I)
# A process that assembles batches was ended by the system, which does so where memory is short.
_WORKER = re.compile(r"DataLoader worker .* (killed by signal|exited unexpectedly)", re.I | re.S)
# Or it found no room to hand over its batch.
_SHARED = re.compile(r"DataLoader worker .*(Bus error|shared memory|</torch_)", re.I | re.S)
MORE_SHARED = "give the container more /dev/shm (docker run --shm-size=16g), or set `training.workers: 0`"


@contextmanager
def enough_memory(where: Callable[[], str], smaller: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory inside a ``with`` block into one error.

    In that case ``where`` names run, stage and step, and ``smaller`` the key to lower and its next value, an imperative clause.

    Raises:
        VixmlError: memory ran out; anything else passes through.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (kind := kind_of_memory(error)) is None:
            raise
        way = MORE_SHARED if kind == "shared" else smaller()
        raise out_of_memory(kind, error, where(), way) from error


def kind_of_memory(error: BaseException) -> str | None:
    """Return which memory ran out, ``GPU``, ``main`` or ``shared`` (/dev/shm); None if the error has another cause."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or _GPU.search(text):
        return "GPU"
    if isinstance(error, RuntimeError) and _SHARED.search(text):
        return "shared"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and (_MAIN.search(text) or _WORKER.search(text))
    ):
        return "main"
    return None


def out_of_memory(kind: str, error: BaseException, where: str, smaller: str) -> VixmlError:
    """Return the error to raise; ``smaller`` is an imperative clause."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    asked = re.search(
        r"[Tt]ried to allocate ([\d.,]+ ?\w+)|allocate memory: you tried to allocate ([\d.,]+ ?\w+)", message
    )
    room = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", message)
    found = []
    if kind == "GPU" and (name := _gpu_name()):
        found.append(name)
    if room:
        found.append(f"{room[1]} in all, {room[2]} free")
    found.append(f"{asked[1] or asked[2]} more were asked for" if asked else message[:200])
    hint = f"{smaller}; then run the same command again: what is finished is kept"
    if kind == "GPU":
        hint += ". `nvidia-smi` shows whether another process holds memory of this GPU"
    return VixmlError(f"out of {kind} memory", where=where, found=", ".join(found), hint=hint)


def _gpu_name() -> str | None:
    try:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except Exception:  # after some errors CUDA answers nothing any more
        return None
