"""The command line: one command per stage, which its rule calls.

A command parses its options and calls a function. Heavy libraries (torch, transformers, pandas, matplotlib) are imported
inside the commands, so that ``vixml --help`` is instant.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import typer

from vixml import __version__
from vixml.cli import catalogue, check, models, report, stages
from vixml.errors import VixmlError, machine_error
from vixml.runtime import precision_override

INTERRUPTED = "\ninterrupted; run the same command again to resume"
MORE_MEMORY = "end what else runs here, or take a machine with more memory"

app = typer.Typer(
    name="vixml",
    help="Reproduce ViXML, one command per stage. Snakemake calls these commands; each can also be run by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    precision_override()  # a misspelt setting stops every command, not the first one that computes


for _module in (catalogue, stages, models, report, check):
    for _function in _module.COMMANDS:
        app.command()(_function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    Bad input (:class:`VixmlError`, a full disk) is printed as one block without a stack trace and gives status 2; an
    interrupt gives 130. A reader that has seen enough of the output (``vixml summary | head``) is no error. Any other error is a
    defect and keeps its stack trace. ``arguments`` are without the program's name; by default, those of the process.
    """
    # As an exception, a termination lets the stage remove its unfinished folder.
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and (stream.encoding or "").lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="backslashreplace")  # a terminal or log that is not UTF-8 still shows the rest
    status = 0
    with _duplicate(sys.stdout) as output:
        try:
            status = _call(arguments)
            if output is not None:
                sys.stdout.flush()
        except OSError as error:
            if (said := machine_error(error, "the output")) is not None:
                status = _refuse(said)
            elif output is None or not isinstance(error, BrokenPipeError) or not _reader_has_gone(output):
                raise
            if output is not None:  # what is left to write would be an error at the exit of Python
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _call(arguments: Sequence[str] | None) -> int:
    """Run one command; return the exit status."""
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="vixml")
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer and rich answer so to any closed pipe, in silence
            raise stop.__context__ from None
        if stop.code == 130 and isinstance(stop.__context__, typer.Exit):  # typer's answer to an interrupt
            print(INTERRUPTED, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except VixmlError as error:
        return _refuse(error)
    except (MemoryError, RuntimeError) as error:
        # A stage that can be made smaller raises its own error (vixml.memory). torch is loaded already if the error is its.
        from vixml.memory import kind_of_memory, out_of_memory

        if (kind := kind_of_memory(error)) is None:
            raise
        return _refuse(out_of_memory(kind, error, f"vixml {' '.join(sys.argv[1:2])}", MORE_MEMORY))
    except Exception as error:
        if (said := machine_error(error, f"vixml {' '.join(sys.argv[1:2])}")) is None:
            raise
        return _refuse(said)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


@contextmanager
def _duplicate(stream: TextIO | None) -> Iterator[int | None]:
    """Yield another descriptor of a stream, for rich redirects a closed one; None if the stream is no file."""
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reader_has_gone(descriptor: int) -> bool:
    """Return whether nobody will read what is written to a descriptor."""
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are always told
    return bool(poll.poll(0))


def _refuse(error: VixmlError) -> int:
    print(f"\nerror: {error}", file=sys.stderr)
    return 2


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
