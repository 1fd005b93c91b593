"""Processes that decode and draw untrusted files: limited in time and memory, and killed when a file exceeds a limit.

Such a file, or one that crashes a decoder, is missing, with its reason; the others are not affected.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TypeVar

from vixml.errors import VixmlError
from vixml.images.decode import Undrawable, draw_or_prepare

T = TypeVar("T")
Attempt = tuple[bytes | None, str | None]
File = bytes | str  # its bytes, or the reason why there are none
Make = Callable[[File, int], bytes]

# Per file: seconds of processor time, and bytes beyond the idle process's. 67 million pixels take about 3 s and 600 MB.
SECONDS = 20.0
MEMORY = 1 << 30
# Most files and bytes of one portion: few enough for memory, enough that passing costs little compared with 1.5 ms per drawing.
PORTION, PORTION_BYTES = 64, 32 << 20
# A process that uses no processor time, in these multiples of SECONDS, is stuck.
PATIENCE = 15


def portions(
    items: Iterable[T], size: Callable[[T], int] = len, most: int = PORTION, largest: int = PORTION_BYTES
) -> Iterator[list[T]]:
    """Yield items in portions: each ends with its ``most``-th item, or with the one that fills it to the ``largest`` size.

    Example:
        >>> list(portions(["a", "bcd", "e"], most=2, largest=3))
        [['a', 'bcd'], ['e']]
    """
    portion: list[T] = []
    held = 0
    for item in items:
        portion.append(item)
        held += size(item)
        if len(portion) == most or held >= largest:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion


class Workers:
    """Processes that make images from files; the result does not depend on how many. Use it as a context.

    Call :meth:`attempt` in its ``threads``, of which there is one per process.
    """

    def __init__(
        self,
        processes: int,
        size: int,
        make: Make = draw_or_prepare,
        seconds: float = SECONDS,
        memory: int = MEMORY,
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

    def attempt(self, files: Sequence[File]) -> list[Attempt]:
        """Return ``(png, None)`` or ``(None, reason)`` for each file, in order.

        Raises:
            VixmlError: a process does not start, or was killed from outside.
            RuntimeError: an error in our code.
        """
        made: list[Attempt] = []
        while len(made) < len(files):
            rest = files[len(made) :]
            worker = self._take()
            found = worker.run(rest, PATIENCE * self._seconds)
            if found is not None:
                with self._lock:
                    self._idle.append(worker)
                made += found
                continue
            with self._lock:
                self._all.discard(worker)
            reason = self._reason(worker)
            # What it made before is lost with it.
            made += [*self.attempt(rest[: worker.finished]), (None, reason)]
        return made

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
    """One process and the connections to it.

    Attributes:
        finished: files of the last portion that it finished, once it has ended.
        stuck: whether it was killed because it made no progress.
    """

    def __init__(self, work: tuple[Make, int, float, int]) -> None:
        # spawn: a fork of a process with threads (progress bar, arrow, an event loop) may hang.
        context = get_context("spawn")
        self.finished, self.stuck, self._ready = 0, False, False
        self._files, theirs = context.Pipe()
        self._progress, done = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(theirs, done, *work), daemon=True)
        self.process.start()
        theirs.close()
        done.close()

    def run(self, files: Sequence[bytes | str], patience: float) -> list[Attempt] | None:
        """Return the outcome of each file, or None if the process has ended."""
        self.finished = 0
        try:
            if not self._ready:
                self._files.recv()
                self._ready = True
            self._files.send(files)
            while not self._files.poll(patience):
                if not self._progress.poll():
                    self.stuck = True
                    self.process.kill()
                while self._progress.poll() and self._count():
                    pass
            made = self._files.recv()
        except (EOFError, OSError):
            while self._count():
                pass
            return None
        if isinstance(made, str):
            raise RuntimeError(f"a process that prepares images failed:\n{made}")
        while self.finished < len(files):
            self._count()
        return made

    def _count(self) -> int:
        """Count files that were finished: one byte each; 0 once the process has ended."""
        n = len(os.read(self._progress.fileno(), PORTION))
        self.finished += n
        return n

    def end(self) -> int:
        """Wait for the end; return the exit status, or raise an error if it never started."""
        self.process.join()
        self._files.close()
        self._progress.close()
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


def _serve(connection: Connection, progress: Connection, make: Make, size: int, seconds: float, memory: int) -> None:
    """Make images from portions of files until the other side closes the connection or a limit ends the process."""
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
            files = connection.recv()
        except EOFError:
            return
        made: list[Attempt] | str = []
        _limit_memory(memory)
        try:
            for file in files:
                signal.setitimer(signal.ITIMER_PROF, seconds)
                made.append(_attempt(make, file, size, memory))
                os.write(progress.fileno(), b".")
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
    status = Path("/proc/self/statm")
    if status.exists():
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # `ulimit -v` of a cluster cannot be raised again
        limit = hard if more is None else int(status.read_text().split()[0]) * resource.getpagesize() + more
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
