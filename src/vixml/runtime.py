"""Precision, device, threads and random generators: how this machine computes a stage.

``auto``, in a run's ``training.precision`` or in an option, is the precision that the hardware multiplies natively, or that of
``VIXML_PRECISION`` (``fp32``, ``bf16`` or ``fp16``), by which one machine can repeat the results of another. A precision that a
run or an option names is never replaced. The command line reads this module, so torch is imported in functions only.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vixml.errors import VixmlError
from vixml.gpus import LEASED, lease, nvidia_smi
from vixml.progress import warn
from vixml.text import size

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController
    from torch import Tensor

Item, Result = TypeVar("Item"), TypeVar("Result")

# Separate streams of random numbers; the value is part of the result, so these numbers never change.
ORDER, POSITIVE, DRAW, CLUSTER, INIT, DROPOUT, SAMPLE, REFIT = range(8)


def generator(seed: int, purpose: int, *index: int) -> np.random.Generator:
    """Return the random numbers that belong to ``(seed, purpose, index...)`` and to nothing else."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, *index])))


def derived_seed(seed: int, purpose: int, *index: int) -> int:
    """Return a seed, below 2^31, that belongs to ``(seed, purpose, index...)`` and to nothing else."""
    return int(generator(seed, purpose, *index).integers(2**31))


VARIABLE = "VIXML_PRECISION"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def precision_override() -> str | None:
    """Return the value of ``VIXML_PRECISION``, None where it is unset, empty or ``auto``.

    Raises:
        VixmlError: it is none of the known precisions.
    """
    value = os.environ.get(VARIABLE, "")
    if value in ("", "auto"):
        return None
    return _known(value, f"environment variable {VARIABLE}", f"set {VARIABLE} to one of them, or unset it")


def choose_precision(wanted: str, device: torch.device | str, weights: str = "float32") -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is resolved by ``VIXML_PRECISION``, else by the device.

    On a GPU that is fp16 (the paper's encoders), or bf16 beside frozen ``weights`` of dtype bfloat16 (its decoders); on
    processors built for bf16 that; else fp32 (D10).

    Raises:
        VixmlError: an unknown precision, or fp16 for frozen weights in bfloat16.
    """
    override = None if wanted == "auto" else _known(wanted, "precision", None, "auto, ")
    where, hint = "precision", "take bf16, or auto"
    if override is None:
        override = precision_override()
        where, hint = f"environment variable {VARIABLE}", f"unset {VARIABLE} for this run, or set it to bf16"
    if override == "fp16" and weights == "bfloat16":
        what = "frozen weights in bfloat16 cannot be computed with in fp16"
        expected = "bf16 or fp32 for this run, whose encoder.weights is bfloat16"
        raise VixmlError(what, where=where, found=override, expected=expected, hint=hint)
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


# --- Whether PyTorch can compute on this machine's GPU, and why not.


SYSTEM = Path("/")  # where devices are looked for
INSTALL = "install a build of torch for this machine's GPU and driver (PyTorch's install page)"


def find_device(wanted: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; ``auto`` beside a GPU that cannot be used prints a warning.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU that PyTorch can use.
    """
    import torch

    if wanted not in {"auto", "cpu", "cuda"}:
        raise VixmlError("unknown device", where="--device", found=wanted, expected="auto, cpu or cuda")
    if wanted == "cpu":
        return torch.device("cpu")
    keep_memory_whole()
    # Before CUDA starts. Processes that someone else's torchrun started take the card of their number.
    ours = LEASED in os.environ or "LOCAL_RANK" not in os.environ
    if ours and torch.version.cuda and not torch.cuda.is_initialized():
        lease()
    trouble = gpu_trouble()
    if trouble is None:
        return torch.device("cuda")
    if wanted == "cuda":
        raise VixmlError(
            "no GPU can be used, but one is required",
            where="device: cuda (profiles/gpu and profiles/slurm ask for it)",
            found=f"{trouble.gpu or 'no NVIDIA GPU in this machine'}; {trouble.why}",
            hint=f"{trouble.fix}; `device=cpu` in `config` of the profile (of one command: `--device cpu`) computes on "
            "the processor; what is finished is kept",
        )
    if trouble.gpu is not None:
        warn(
            f"there is a GPU ({trouble.gpu}) that PyTorch cannot use: {trouble.why}. This stage computes on the "
            f"processor, many times slower. What now: {trouble.fix}; `device: cpu` silences this line, `device: cuda` "
            "makes it an error."
        )
    return torch.device("cpu")


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # the first is new in torch 2.9


def keep_memory_whole() -> None:
    """Let torch grow its blocks of GPU memory, unless the environment configures its allocator; call it before CUDA starts.

    Batches differ in length. With blocks of fixed size, a GPU that is nearly full runs out with several GB free in pieces.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


@dataclass(frozen=True)
class GpuTrouble:
    """Reason why PyTorch cannot compute on a GPU, and the remedy, an imperative clause.

    ``gpu`` and its driver, as far as they are known, are None if there is none, or if the environment hides all of them.
    """

    gpu: str | None
    why: str
    fix: str


def gpu_trouble() -> GpuTrouble | None:
    """Return why PyTorch cannot compute on a GPU, or None if it can. It is tried: to be visible is not enough."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # torch warns of a driver that is too old, then reports no GPU
        visible = torch.cuda.is_available()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        try:
            # Each of several processes takes another card: a context on the first one would cost memory there.
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
    why = [_first_line(one.message) for one in caught]
    if not why:
        try:
            torch.cuda.init()
        except Exception as error:
            why = [_first_line(error)]
    found = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}: {'; '.join(why) or 'it sees no GPU'}"
    fix = f"update the driver (`nvidia-smi` names the newest CUDA that it knows), or {INSTALL}"
    if hidden is not None:
        found, fix = f"{found} (CUDA_VISIBLE_DEVICES={hidden!r})", "set CUDA_VISIBLE_DEVICES to a GPU of this machine"
    return GpuTrouble(cards, found, fix)


def gpu_hardware() -> str | None:
    """Return the NVIDIA GPUs of this machine, by driver or by bus, whether or not PyTorch can use them; None: there is none."""
    lines, failure = nvidia_smi("name,driver_version")
    if failure is None:
        # Equal cards are named once.
        cards = [f"{n} x {card}" if n > 1 else card for card, n in Counter(lines).items()]
        return "; ".join(cards).replace(", ", ", driver ") or None
    if any((SYSTEM / "dev").glob("nvidia[0-9]*")) or any((SYSTEM / "proc/driver/nvidia/gpus").glob("*")):
        return f"an NVIDIA GPU ({failure})"
    for card in (SYSTEM / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (card / "vendor").read_text().strip(), (card / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # a display controller by NVIDIA
            return f"an NVIDIA GPU without a driver ({failure})"
    return None


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# --- Share work out among the threads of a processor, each of which works alone.


SHARES = 8  # parts of the work: more than threads, so that a slow thread delays less


@contextmanager
def one_thread_each() -> Iterator[Executor | None]:
    """Give every torch operation one thread inside a ``with`` block, whose value is a pool of as many as torch had.

    None where that is one. The caller's number of threads is set again at the end.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if before == 1:
            yield None
        else:
            with ThreadPoolExecutor(before) as pool:
                yield pool
    finally:
        torch.set_num_threads(before)


def one_blas_thread() -> AbstractContextManager[object]:
    """Give products and decompositions of numpy and scipy one thread: a sum's order depends on the number of threads."""
    return _blas().limit(limits=1)


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg.lapack  # noqa: F401 - only a library that is loaded can be limited
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def share_out(pool: Executor | None, n: int, work: Callable[[int, int], object], shares: int = SHARES) -> None:
    """Call ``work`` with ranges that cover 0 to ``n``, in the threads of ``pool`` if there is one.

    Example:
        >>> share_out(None, 7, lambda start, end: print(start, end))
        0 7
    """
    if pool is None:
        work(0, n)
        return
    step = max(1, -(-n // shares))
    for job in [pool.submit(work, start, min(start + step, n)) for start in range(0, n, step)]:
        job.result()


def map_in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    """Yield ``work(item)`` of each item, in order; at most ``most`` calls wait, so memory does not grow with the items."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# --- Where a stage computes, and with how many threads.


SHARED = Path("/dev/shm")
SCARCE = 2 << 30  # bytes free there, below which no process assembles batches: a container has 64 MB by default


def choose_device(wanted: str, threads: int) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda`` and set the number of processor threads.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU that PyTorch can use.
    """
    import torch

    # Over-subscribed threads are many times slower than too few; the workflow gives each job a number of threads.
    torch.set_num_threads(threads)
    # oneDNN compiles and keeps a kernel for each shape. Streams come in few lengths (vixml.models.packing.MULTIPLE), but
    # attention's products have many; 1,024 kernels, its default, would fill a GiB. Read at its first operation, so this is
    # early enough.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    return find_device(wanted)


def batch_workers(wanted: int | None, device: torch.device) -> int:
    """Return how many processes assemble batches (``training.workers``); None: by what there is.

    They pass image vectors through shared memory. A warning says so where that is scarce.
    """
    import torch

    if wanted == 0 or (wanted is None and device.type == "cpu"):
        return 0
    free = shutil.disk_usage(SHARED).free if SHARED.exists() else SCARCE
    if free >= SCARCE:
        return min(4, max(1, torch.get_num_threads() - 1)) if wanted is None else wanted
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the processes of one training share it
        effect = "no processes assemble batches, and the GPU waits for them"
        if wanted is not None:
            effect = f"the {wanted} processes that assemble batches (`training.workers`) may end with a bus error"
        warn(
            f"{SHARED} has {size(free)} free, less than {size(SCARCE)}: {effect}. What now: give the container more "
            "(docker run --shm-size=16g); `training.workers: 0` silences this line."
        )
    return wanted or 0


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor of main memory to a device without waiting for what the device does."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
