"""Several processes that train one run: each encodes its share of every batch.

Queries and labels of a batch are negatives of one another, so the loss needs the vectors of the whole batch. They are
gathered; every process computes the same loss and carries the gradient of its share back through the encoder. The
gradient is that of one process with the same batch.

    vixml train picto vixml-minilm-l3 --processes 4
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from vixml.errors import VixmlError
from vixml.gpus import lease


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train a run together, and this one's rank; rank 0 writes files and shows progress.

    Attributes:
        rank: from 0.
        size: number of processes.
        device: where tensors must be to be sent.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    def share(self, n: int) -> slice:
        """Return which of ``n`` items this process encodes; shares differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, vectors: Tensor, n: int, to_all: bool = True) -> Tensor:
        """Put the shares of all processes together.

        Args:
            vectors: (share of n, dim) of this process's :meth:`share`.
            n: items of all processes.
            to_all: whether every process gets them, or rank 0 alone.

        Returns:
            (n, dim) on the device of ``vectors``, without gradient; (0, dim) for a process that gets none; of a single
            process, ``vectors`` detached.
        """
        vectors = vectors.detach()
        if self.size == 1:
            return vectors
        shares = [ProcessGroup(rank, self.size).share(n) for rank in range(self.size)]
        most, dim = max(share.stop - share.start for share in shares), vectors.shape[1]
        whole = vectors.new_empty(n if to_all or self.rank == 0 else 0, dim)
        step = max(1, BLOCK // max(dim, 1))  # vectors of a million items do not fit on a GPU
        for start in range(0, most, step):
            # Collectives need equal shapes: shorter shares are padded.
            sent = torch.zeros(min(step, most - start), dim, dtype=vectors.dtype, device=self.device)
            some = vectors[start : start + step]
            sent[: len(some)] = some
            parts = [torch.empty_like(sent) for _ in shares]
            distributed.all_gather(parts, sent)
            if len(whole):
                for share, part in zip(shares, parts, strict=True):
                    target = whole[share][start : start + step]
                    target.copy_(part[: len(target)])
        return whole

    def require_equal(self, number: int, what: str) -> None:
        """Check that all processes read or computed the same whole number.

        Otherwise each would encode its share of another batch, without an error.

        Raises:
            VixmlError: the numbers differ.
        """
        if self.size == 1:
            return
        sent = torch.tensor([number], device=self.device)
        found = [torch.empty_like(sent) for _ in range(self.size)]
        distributed.all_gather(found, sent)
        numbers = [int(one) for one in found]
        if len(set(numbers)) > 1:
            raise VixmlError(
                f"the processes of a training do not agree on {what}",
                found=f"{', '.join(map(str, numbers))}, by rank",
                hint="all of them must read the same folders: put these on a disk that every node shares",
            )

    def first(self, values: np.ndarray) -> np.ndarray:
        """Return rank 0's ``values``, (n,) int64, in every process."""
        if self.size == 1:
            return values
        sent = torch.from_numpy(values).to(self.device, copy=True)
        distributed.broadcast(sent, 0)
        return sent.cpu().numpy()

    def broadcast(self, *tensors: Tensor) -> None:
        """Overwrite tensors, on the device of the group, with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)

    def sum_gradients(self, shared: Iterable[Parameter], whole: Iterable[Parameter]) -> None:
        """Sum gradients over all processes, in place.

        Args:
            shared: parameters of which each process has the gradient of its share of the batch; a process without a
                gradient (nothing in its share used the parameter) adds zero.
            whole: parameters of which each process has the gradient of the whole batch. Their mean is taken, so that
                rounding never lets the processes diverge.
        """
        if self.size == 1:
            return
        gradients = []
        for parameter in (shared := [p for p in shared if p.requires_grad]):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for parameter in whole:
            if parameter.grad is not None:
                gradients.append(parameter.grad.div_(self.size))
        pending = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
        for one in pending:
            one.wait()


SINGLE = ProcessGroup()
# NCCL's and gloo's messages when the other end of a connection has ended.
_GONE = re.compile(r"connection (closed|reset|refused)|broken pipe|NCCL|gloo|process group|recvValue|TCPStore", re.I)
_SLOW = re.compile(r"timed? ?out", re.I)
# How long a process waits for the others. One that ended is noticed at once, so this limits only what takes long in one: a
# checkpoint of 37 GB takes two hours at 5 MB/s. The default of NCCL is ten minutes.
WAIT = timedelta(hours=3)
BLOCK = 1 << 26  # values of each process that are sent at a time


@contextmanager
def lost_processes(group: ProcessGroup) -> Iterator[None]:
    """Turn the errors that a process meets when another one has ended into one error.

    Raises:
        VixmlError: another process has ended, or takes longer than :data:`WAIT`.
    """
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not _GONE.search(str(error)):
            raise
        slow = _SLOW.search(str(error))
        raise VixmlError(
            f"another process of this training did not answer for {WAIT}"
            if slow
            else "another process of this training ended",
            where=f"process {group.rank + 1} of {group.size}",
            found=str(error).splitlines()[0][:200],
            hint=("see what that process waits for: a slow disk, a network that fails" if slow else "see its message")
            + "; the same command resumes from the checkpoint",
        ) from error


def start_processes(n: int, device: str) -> None:
    """Run this command in ``n`` processes, each on a GPU of its own if there are any, and end with their exit status.

    Does nothing in a process that was started so, by this function or by another ``torchrun`` (several nodes, docs/hpc.md).

    Raises:
        SystemExit: they have ended.
    """
    if n == 1 or "WORLD_SIZE" in os.environ:
        return
    if device != "cpu" and torch.version.cuda:
        lease(n)  # for the others too, which take part only after they have imported torch
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    sys.stdout.flush()
    # This process stays: whoever waits for it, or interrupts it, means them all.
    started = subprocess.Popen([*launcher, "-m", "vixml", *sys.argv[1:]], preexec_fn=_ends_with(os.getpid()))
    try:
        status = started.wait()
    except BaseException:  # interrupted or terminated; the launcher ends its processes, also if it gets a signal twice
        started.terminate()
        started.wait()
        raise
    raise SystemExit(status if status >= 0 else 128 - status)


def _ends_with(parent: int) -> Callable[[], None] | None:
    """Return what a new process calls so that it is terminated when its parent is killed; None where that cannot be had."""
    if sys.platform != "linux":
        return None
    prctl, set_signal = ctypes.CDLL(None).prctl, 1  # PR_SET_PDEATHSIG

    def call() -> None:
        prctl(set_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before
            os._exit(1)

    return call


def join(device: torch.device) -> ProcessGroup:
    """Join the processes that ``torchrun`` started; return :data:`SINGLE` if it did not start this one."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) < 2:
        return SINGLE
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = torch.device("cuda", torch.cuda.current_device())
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)


def leave() -> None:
    """Wait for the other processes and leave their group."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
