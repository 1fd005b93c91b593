"""Prepare fetched pictures in other processes, as many at once as wait: handing one over takes longer than preparing it."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType

from vixml.errors import VixmlError
from vixml.images.bitmap import prepare
from vixml.images.svg import Undrawable

Prepared = tuple[bytes | None, str | None]
# Files handed over at once, at most: of a few MB each, a portion must not fill the memory.
PORTION = 32


class Preparers:
    """Processes that prepare pictures. Use it as a context, inside an event loop.

    Args:
        processes: how many; the result does not depend on it.
        size: side in pixels of a prepared picture.
    """

    def __init__(self, processes: int, size: int) -> None:
        self.size = size
        # One portion more than processes, so that none waits for the next.
        self._free = processes + 1
        self._waiting: deque[tuple[bytes, asyncio.Future[Prepared]]] = deque()
        # spawn: a fork of a process that runs an event loop may hang.
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))

    def __enter__(self) -> Preparers:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def prepared(self, data: bytes) -> Prepared:
        """Return a picture as :func:`vixml.images.bitmap.prepare` makes it, or None and the reason.

        Raises:
            VixmlError: a process died.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((data, future))
        self._hand_over()
        try:
            return await future
        except BrokenProcessPool as error:
            raise VixmlError(
                "a process that prepares pictures died",
                where="fetch-images",
                found=str(error),
                hint="out of memory? run the same command again: what was fetched is kept; --threads 1 takes less",
            ) from error

    def _hand_over(self) -> None:
        if not self._free or not self._waiting:
            return
        self._free -= 1
        portion = [self._waiting.popleft() for _ in range(min(PORTION, len(self._waiting)))]
        files, futures = [data for data, _ in portion], [future for _, future in portion]
        try:
            asked = asyncio.get_running_loop().run_in_executor(self._pool, prepare_all, files, self.size)
        except BrokenProcessPool as error:  # the processes are dead: those who wait must not wait for ever
            asked = asyncio.get_running_loop().create_future()
            asked.set_exception(error)
        asked.add_done_callback(lambda done: self._hand_back(futures, done))

    def _hand_back(self, futures: list[asyncio.Future[Prepared]], done: asyncio.Future[list[Prepared]]) -> None:
        self._free += 1
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for number, future in enumerate(futures):
            if future.done():  # whoever waited was cancelled
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[number])
        self._hand_over()


def prepare_all(files: list[bytes], size: int) -> list[Prepared]:
    """Prepare some pictures; a failure is a reason beside ``None``."""
    found: list[Prepared] = []
    for data in files:
        try:
            found.append((prepare(data, size), None))
        except Undrawable as error:
            found.append((None, str(error)))
    return found
