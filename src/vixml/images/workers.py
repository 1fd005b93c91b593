"""Processes that decode and draw untrusted files: limited in time and memory, and killed when a file exceeds a limit.

Such a file, or one that crashes a decoder, is missing, with its reason; the others are not affected.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Lock

from vixml.errors import VixmlError
from vixml.images.decode import Undrawable, draw_or_prepare

Attempt = tuple[bytes | None, str | None]
File = bytes | str  # its bytes, or the reason why there are none
Make = Callable[[File, int], bytes]

# Per file: seconds of processor time, and bytes beyond the idle process's. 67 million pixels take about 3 s and 600 MB.
SECONDS = 20.0
MEMORY = 1 << 30
# A process that uses no processor time, in these multiples of SECONDS, is stuck.
PATIENCE = 15


class Workers:
    """Processes that make images from files; the result does not depend on how many. Use it as a context.

    Call :meth:`attempt` in its ``threads``, of which there is one per process.
    """

    def __init__(
        self, processes: int, size: int, make: Make = draw_or_prepare, seconds: float = SECONDS, memory: int = MEMORY
    ) -> None:
        self._work, self._seconds = (make, size, seconds, memory), seconds
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock, self._closed = Lock(), False
        self.threads = ThreadPoolExecutor(max(1, processes), thread_name_prefix="images")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.process.kill()
        self.threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.end()

    def attempt(self, file: File) -> Attempt:
        """Return ``(png, None)`` or ``(None, reason)`` of a file.

        Raises:
            VixmlError: a process does not start, or was killed from outside.
            RuntimeError: an error in our code.
        """
        worker = self._take()
        made = worker.run(file, PATIENCE * self._seconds)
        with self._lock:
            if made is None:
                self._all.discard(worker)
            else:
                self._idle.append(worker)
        if isinstance(made, str):  # the process lives: it caught the error
            raise RuntimeError(f"a process that prepares images failed:\n{made}")
        return (None, self._reason(worker)) if made is None else made

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            if self._idle:
                return self._idle.pop()
            worker = _Worker(self._work)
            self._all.add(worker)
            return worker

    def _reason(self, worker: _Worker) -> str:
        """Return why a file ended its process."""
        code = worker.end()
        if worker.stuck:
            return f"takes too long: more than {PATIENCE * self._seconds:.0f} s"
        if code == -signal.SIGPROF:
            return f"takes too long: more than {self._seconds:g} s of processor time"
        if code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE):
            return f"crashes its decoder: {signal.Signals(-code).name}"
        raise VixmlError(
            "a process that prepares images died",
            where="render-images or fetch-images",
            found=f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}",
            hint="out of memory? run the same command again: what was fetched is kept; --threads 1 takes less",
        )


class _Worker:
    """One process and the connection to it; ``stuck``: it was killed because it made no progress."""

    def __init__(self, work: tuple[Make, int, float, int]) -> None:
        # spawn: a fork of a process with threads (progress bar, arrow, an event loop) may hang.
        context = get_context("spawn")
        self.stuck, self._ready = False, False
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *work), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, file: File, patience: float) -> Attempt | str | None:
        """Return the outcome of a file, the traceback of an error in our code, or None if the process has ended."""
        try:
            if not self._ready:
                self._connection.recv()
                self._ready = True
            self._connection.send(file)
            if not self._connection.poll(patience):
                self.stuck = True
                self.process.kill()
                return None
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def end(self) -> int:
        """Wait for the end; return the exit status, or raise an error if it never started."""
        self.process.join()
        self._connection.close()
        code = self.process.exitcode
        assert code is not None
        if not self._ready and code > 0:
            raise VixmlError(
                "a process that prepares images does not start",
                where=sys.executable,
                found=f"exit status {code}; its error is above",
                hint="try `python -c 'import vixml.images.workers, resvg_py'`",
            )
        return code


def _serve(connection: Connection, make: Make, size: int, seconds: float, memory: int) -> None:
    """Make images from files until the other side closes the connection or a limit ends the process."""
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    # A renderer's last words are no message of ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            file = connection.recv()
        except EOFError:
            return
        _limit_memory(memory)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            made: Attempt | str = _attempt(make, file, size, memory)
        except Exception:
            made = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit_memory(None)
        connection.send(made)


def _attempt(make: Make, file: File, size: int, memory: int) -> Attempt:
    try:
        return make(file, size), None
    except Undrawable as error:
        return None, str(error)
    except MemoryError:
        return None, f"takes too much memory: more than {memory >> 20} MB"


def _limit_memory(more: int | None) -> None:
    """Limit this process's memory to what it has now and ``more`` bytes; None lifts the limit. Linux only."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # `ulimit -v` of a cluster cannot be raised again
    limit = hard
    if more is not None:
        try:
            with open("/proc/self/statm", "rb") as status:
                limit = int(status.read().split()[0]) * resource.getpagesize() + more
        except FileNotFoundError:
            return
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
