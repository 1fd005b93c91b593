"""Show a running workflow on a terminal: one bar for all jobs, one line per running job, warnings and problems in full.

Without a terminal, with ``NO_COLOR`` or ``CI`` set, or with ``--verbose`` or ``--printshellcmds``, Snakemake prints its plain
lines. The output of each job is in its log either way.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vixml.text import duration

# Set while the display runs: jobs write to their logs alone (rules/common.smk).
VARIABLE = "VIXML_DISPLAY"
INTERRUPTED = "on user request"
TAIL = 4096  # bytes of a log that are looked at
FAILED = 30  # lines of a failed job's log that are shown
WARNED = 10  # lines of a job's warnings that are shown: a collapsed run warns after each epoch
STEPS = re.compile(r": (\d+)/(\d+)")


def wanted(environment: dict[str, str] | os._Environ[str]) -> bool:
    """Return whether the output is a terminal and the environment does not request plain lines."""
    plain = any(environment.get(name) for name in ("NO_COLOR", "CI")) or environment.get("TERM") == "dumb"
    return sys.stderr.isatty() and not plain


class Display(logging.Handler):
    """Show the events of Snakemake as a few lines that are redrawn.

    ``jobs`` is called once Snakemake knows them: number -> expected share of the time.
    """

    def __init__(self, jobs: Callable[[], dict[int, float]], console: Console | None = None) -> None:
        super().__init__(logging.INFO)
        self.jobs, self.console = jobs, console or Console(stderr=True)
        self.weights: dict[int, float] = {}
        self.done: set[int] = set()
        self.running: dict[int, tuple[str, str, float]] = {}  # number -> (what, log, since)
        self.started = time.monotonic()
        self.live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=2, transient=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one event of Snakemake."""
        event = str(getattr(record, "event", None) or "")
        if event == "run_info":
            self.weights = self.jobs()
        elif event == "job_info":
            what = record.rule_msg or record.rule_name
            self.running[record.jobid] = (what, next(iter(record.log), ""), time.monotonic())
            self.live.refresh()  # a short job shows, too
        elif event == "job_finished":
            what, log, _ = self.running.pop(record.job_id, ("", "", 0.0))
            self.done.add(record.job_id)
            self.repeat_warnings(what, log)
        elif event == "job_error":
            what, log, _ = self.running.pop(record.jobid, (record.rule_name, "", 0.0))
            last = last_lines(log, FAILED)
            self.repeat_warnings(what, log, last)
            self.console.print(Text(f"Failed: {what}", style="bold red"))
            self.console.print(Text("\n".join(last) or "it left no log"), soft_wrap=True)
            self.console.print(Text(f"log: {log}", style="dim"), soft_wrap=True)
        elif record.msg and (record.levelno >= logging.WARNING or event == "error"):
            self.console.print(Text(record.getMessage(), style="yellow"), soft_wrap=True)

    def repeat_warnings(self, what: str, log: str, told: Sequence[str] = ()) -> None:
        """Print the warnings of a job, which has written them to its log alone, but for lines that are printed anyway."""
        found = [line for line in warnings_in(log) if line not in told]
        if len(found) > WARNED:
            found[WARNED:] = [f"... and {len(found) - WARNED} more lines"]
        if found:
            self.console.print(Text("\n".join([f"{what}:", *found]), style="yellow"), soft_wrap=True)
            self.console.print(Text(f"log: {log}", style="dim"), soft_wrap=True)

    def draw(self) -> Group:
        """Return the bar and the lines of the running jobs."""
        jobs = Table.grid(padding=(0, 1), expand=True)
        jobs.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        jobs.add_column(no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        under_way = 0.0
        for number, (what, log, since) in list(self.running.items()):
            progress = next(iter(last_lines(log, 1)), "")
            if steps := STEPS.search(progress):
                under_way += self.weights.get(number, 1.0) * int(steps[1]) / max(1, int(steps[2]))
            jobs.add_row(f"  {what}", progress or duration((time.monotonic() - since) / 3600))
        # Copies: rich draws in a thread of its own, and jobs end meanwhile.
        share = (sum(self.weights.get(number, 1.0) for number in self.done.copy()) + under_way) / max(
            sum(self.weights.values()), 1e-9
        )
        spent = time.monotonic() - self.started
        left = f", about {duration(spent * (1 / share - 1) / 3600)} left" if 0.02 < share < 1 and spent > 10 else ""
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        head.add_row(
            ProgressBar(total=1.0, completed=min(1.0, share)),
            f"{len(self.done)} of {len(self.weights)} jobs, {duration(spent / 3600)}{left}",
        )
        return Group(head, jobs)


@contextmanager
def display_jobs(
    jobs: Callable[[], dict[int, float]], environment: dict[str, str] | os._Environ[str] = os.environ
) -> Iterator[Display]:
    """Show the jobs of a workflow while a ``with`` block runs them."""
    logger = logging.getLogger("snakemake.logging")
    display = Display(jobs)
    muted = [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]
    for handler in muted:
        logger.removeHandler(handler)
    logger.addHandler(display)
    environment[VARIABLE] = "1"
    try:
        with display.live:
            yield display
    finally:
        environment.pop(VARIABLE, None)
        logger.removeHandler(display)
        for handler in muted:
            logger.addHandler(handler)
        for what, log, _ in display.running.values():  # of an interrupted workflow
            display.repeat_warnings(what, log)


class Interruption(logging.Handler):
    """Remember whether Snakemake was interrupted by its user."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one message."""
        self.seen |= INTERRUPTED in str(record.msg)


def last_lines(log: Path | str, n: int) -> list[str]:
    """Return the last lines of a log that are not blank; each state of a progress bar is a line.

    Example:
        >>> last_lines("/no/such/file", 1)
        []
    """
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL * max(1, n // 4)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in _plain(text.replace("\r", "\n")).splitlines() if line.strip()][-n:]


def warnings_in(log: Path | str) -> list[str]:
    """Return the lines of a log's warnings (:func:`vixml.progress.warn`): further lines of one are indented.

    Example:
        >>> warnings_in("/no/such/file")
        []
    """
    found, within = [], False
    try:
        with open(log, encoding="utf-8", errors="replace") as file:  # each state of a progress bar is a line, too
            for line in map(_plain, file):
                within = line.startswith("WARNING") or (within and line.startswith("  "))
                found += [line.rstrip()] * within
    except OSError:
        return []
    return found


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
