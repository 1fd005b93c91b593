"""Several processes that train one run: each encodes its share of every batch, all of them see all of its vectors.

Queries and labels of a batch are negatives of one another, so the loss needs the vectors of the whole batch. They are
gathered, every process computes the same loss, and carries the gradient of its own share back through the encoder. The
gradient is that of one process with the same batch.

    vixml train picto vixml-minilm-l3 --processes 4
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from vixml.errors import VixmlError
from vixml.gpus import lease


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train a run together; rank 0 writes files and speaks to the user.

    Attributes:
        rank: from 0.
        size: how many there are.
        device: where vectors must lie to be sent.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    def share(self, n: int) -> slice:
        """Return which of ``n`` items this process encodes; shares differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, own: Tensor, n: int) -> Tensor:
        """Put the shares of all processes together.

        Args:
            own: (share of n, dim) vectors of :meth:`share`.
            n: items of all processes.

        Returns:
            (n, dim) on the device of ``own``, without gradient. Alone: ``own`` itself, detached.
        """
        own = own.detach()
        if self.size == 1:
            return own
        sizes = [s.stop - s.start for s in (ProcessGroup(rank, self.size).share(n) for rank in range(self.size))]
        # Collectives want equal shapes: the shorter shares are filled up.
        filled = torch.zeros(max(sizes), *own.shape[1:], dtype=own.dtype, device=self.device)
        filled[: len(own)] = own
        parts = [torch.empty_like(filled) for _ in sizes]
        distributed.all_gather(parts, filled)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(own.device)

    def require_equal(self, number: int, what: str) -> None:
        """Check that a whole number that each process read or computed on its own is the same in all of them.

        Were it not, each would encode its share of another batch, and nobody would notice.

        Raises:
            VixmlError: it is not.
        """
        if self.size == 1:
            return
        own = torch.tensor([number], device=self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        numbers = [int(one) for one in found]
        if len(set(numbers)) > 1:
            raise VixmlError(
                f"the processes of a training do not agree on {what}",
                found=f"{', '.join(map(str, numbers))}, process by process",
                hint="all of them must see the same folders, so these must lie on a disk that every node has",
            )

    def first(self, values: np.ndarray) -> np.ndarray:
        """Return the first process's ``values``, (n,) int64; the others' own, as many, may differ by rounding."""
        if self.size == 1:
            return values
        sent = torch.from_numpy(values).to(self.device, copy=True)
        distributed.broadcast(sent, 0)
        return sent.cpu().numpy()

    def sum_gradients(self, shared: Iterable[Parameter], whole: Iterable[Parameter]) -> None:
        """Sum gradients over all processes, in place.

        Args:
            shared: parameters of which each process holds the gradient of its share of the batch. Without one (nothing in
                this share asks for the parameter) a process adds zero.
            whole: parameters of which each process holds the gradient of the whole batch. Their mean is taken, so that
                rounding can never part the processes.
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
# What NCCL and gloo say where the other end of a connection is gone.
_GONE = re.compile(r"connection (closed|reset|refused)|broken pipe|NCCL|gloo|process group|recvValue|TCPStore", re.I)


@contextmanager
def lost_processes(group: ProcessGroup) -> Iterator[None]:
    """Turn the errors that a process meets when another one has ended into one error: the other's own says why.

    Raises:
        VixmlError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not _GONE.search(str(error)):
            raise
        raise VixmlError(
            "another process of this training ended",
            where=f"process {group.rank + 1} of {group.size}",
            found=str(error).splitlines()[0][:200],
            hint="its own message says why; the same command resumes from the checkpoint",
        ) from error


def start_processes(n: int, device: str) -> None:
    """Replace this process by ``n`` that run the same command together, each on a GPU of its own if there are any.

    Does nothing in a process that was started so, by this function or by another ``torchrun`` (several nodes, docs/hpc.md).
    """
    if n == 1 or "WORLD_SIZE" in os.environ:
        return
    if device != "cpu" and torch.version.cuda:
        lease(n)  # of the new processes too: they replace this one
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    sys.stdout.flush()
    os.execv(sys.executable, [*launcher, "-m", "vixml", *sys.argv[1:]])


def join(device: torch.device) -> ProcessGroup:
    """Join the processes that ``torchrun`` started, or return :data:`SINGLE` where it did not start this one."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) < 2:
        return SINGLE
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = torch.device("cuda", torch.cuda.current_device())
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)


def leave() -> None:
    """Wait for the other processes and leave their group."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
