"""Show how far a long stage is: a bar on a terminal, a plain line every ten seconds elsewhere (a job's log file).

``VIXML_PROGRESS=0`` silences both. Nothing here reaches a result.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
LINE_SECONDS = 10.0


def track(items: Iterable[T], *, total: int, text: str) -> Iterator[T]:
    """Yield ``items``, showing how many were taken.

    Args:
        items: anything to go through.
        total: how many there are.
        text: what is being done, e.g. ``"drawing pictures"``.
    """
    with bar(text, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more items are done.

    Args:
        text: what is being done.
        total: number of items.

    Example:
        >>> with bar("counting", 3) as advance:
        ...     advance(3)
    """
    if os.environ.get("VIXML_PROGRESS") == "0":
        yield lambda n: None
    elif sys.stderr.isatty():
        # rich is imported only where it is seen.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as shown:
            task = shown.add_task(text, total=total)
            yield lambda n: shown.advance(task, n)
    else:
        yield _Lines(text, total).advance


class _Lines:
    """Print ``text: done/total`` at most every ten seconds; nothing for what is over sooner."""

    def __init__(self, text: str, total: int) -> None:
        self.text, self.total, self.done = text, total, 0
        self.started = self.shown = time.monotonic()

    def advance(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = (now - self.started) * (self.total - self.done) / self.done if self.done else 0.0
        print(f"{self.text}: {self.done}/{self.total}, about {left:.0f} s left", file=sys.stderr, flush=True)
