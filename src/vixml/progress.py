"""Show how far a long stage is: a bar on a terminal, a plain line every ten seconds elsewhere (a job's log file).

``VIXML_PROGRESS=0`` silences both; ``VIXML_PLAIN=1`` asks for lines on a terminal too, which several jobs may share.
Nothing here reaches a result.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vixml.text import shown

LINE_SECONDS = 10.0
NOTE_SECONDS = 0.5


def warn(sentence: str) -> None:
    """Print a warning that a reader must not miss; nothing silences it, and the display of a workflow repeats it from the log."""
    lines = shown(sentence).replace("\n", "\n  ")  # so that it is known where the warning ends
    print(f"WARNING: {lines}", file=sys.stderr, flush=True)


class Quiet:
    """Show nothing; the interface of the others."""

    def __call__(self, n: int, note: Callable[[], str] | None = None) -> None:
        """Record that ``n`` more items are done; ``note`` is called only when something is shown."""

    def skip(self, n: int) -> None:
        """Record that ``n`` items were done by an interrupted run; they do not count for the speed."""

    def say(self, line: str) -> None:
        """Print a separate line."""


class Lines(Quiet):
    """Print ``text: done/total`` at most every ten seconds; nothing for what is over sooner."""

    def __init__(self, text: str, total: int) -> None:
        self.text, self.total, self.done, self.first = text, total, 0, 0
        self.started = self.shown = time.monotonic()

    def __call__(self, n: int, note: Callable[[], str] | None = None) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        fresh = self.done - self.first
        left = (now - self.started) * (self.total - self.done) / fresh if fresh else 0.0
        words = f", {note()}" if note is not None else ""
        self.say(f"{self.text}: {self.done}/{self.total}{words}, about {left:.0f} s left")

    def skip(self, n: int) -> None:
        self.done, self.first = self.done + n, self.first + n

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Drawn(Quiet):
    """Draw a bar on the terminal."""

    def __init__(self, shown: Any, task: Any) -> None:
        self.shown, self.task, self.noted = shown, task, 0.0

    def __call__(self, n: int, note: Callable[[], str] | None = None) -> None:
        now = time.monotonic()
        if note is not None and now - self.noted > NOTE_SECONDS:
            self.noted = now
            self.shown.update(self.task, advance=n, note=note())
        else:
            self.shown.advance(self.task, n)

    def skip(self, n: int) -> None:
        self.shown.advance(self.task, n)

    def say(self, line: str) -> None:
        self.shown.console.print(line, highlight=False, markup=False)


@contextmanager
def bar(text: str, total: int) -> Iterator[Quiet]:
    """Yield a function to call with the number of items that were done since the last call.

    Example:
        >>> with bar("counting", 3) as advance:
        ...     advance(3)
    """
    if os.environ.get("VIXML_PROGRESS") == "0":
        yield Quiet()
    elif sys.stderr.isatty() and os.environ.get("VIXML_PLAIN") != "1":
        # rich is imported only where it is seen.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as shown:
            yield Drawn(shown, shown.add_task(text, total=total, note=""))
    else:
        yield Lines(text, total)
