"""Programs that start at once: forked from a process that has imported the libraries already.

A workflow starts one process per job, and importing torch and transformers takes most of the time of a small job. A server imports
the libraries once; the programs in its folder ``bin`` are small clients, for whose arguments, folder, environment and open files the
server forks a child.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LIBRARIES = (
    "vixml.torchvision_fix",  # before transformers; it declares once per process, so that children keep it
    "transformers.models.bert.modeling_bert", "torch._dynamo", "pandas", "pyarrow.parquet", "PIL.Image", "matplotlib.figure",
    "jinja2", "pydantic", "typer", "rich.progress", "yaml",
)  # fmt: skip
PROGRAMS = {"vixml": "vixml.cli:main"}
# The kernel splits the first line at blanks and limits its length, so it names the shell; to Python, the next two are one string.
CLIENT = """\
#!/bin/sh
'''exec' {python} -IS "$0" "$@"
' '''
import array, json, os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.default_int_handler)
server = socket.socket(socket.AF_UNIX)
place = os.getcwd()
os.chdir({folder!r})
server.connect("socket")
os.chdir(place)
message = json.dumps([sys.argv, place, dict(os.environ), os.umask(0o022)]).encode()
server.sendmsg([len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(message)
try:
    status = server.recv(1)
except KeyboardInterrupt:
    # Whoever interrupts this removes what the command leaves behind, so it has to end first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.shutdown(socket.SHUT_WR)
    status = server.recv(1) or b"\\x82"
sys.exit(int.from_bytes(status or b"\\1", "big"))
"""


@contextmanager
def warm_programs() -> Iterator[str]:
    """Run a server while a ``with`` block lasts; yield its folder of programs, for the front of PATH."""
    with tempfile.TemporaryDirectory(prefix="vixml-") as folder:  # private: nobody else reaches the socket
        command = [sys.executable, "-m", "vixml.cli.warm", folder, str(os.getpid())]
        write_programs(Path(folder), PROGRAMS)
        # Its log is that of a failure to import; without a server, a program fails, and so does its job.
        with open(Path(folder) / "log", "w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            wait(Path(folder), server)
            yield str(Path(folder) / "bin")
        finally:
            server.terminate()
            server.wait()


def write_programs(folder: Path, programs: Mapping[str, str]) -> None:
    """Write the clients to ``folder/bin``."""
    (folder / "bin").mkdir(parents=True)
    for name in programs:
        program = folder / "bin" / name
        program.write_text(CLIENT.format(python=shlex.quote(sys.executable), folder=str(folder)), encoding="utf-8")
        program.chmod(0o755)


def wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server in a folder answers.

    Raises:
        RuntimeError: it ended; the message is its log.
    """
    while not (folder / "ready").exists():
        if server.poll() is not None:
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        time.sleep(0.05)


def serve(
    folder: Path, watched: int, libraries: Sequence[str], programs: Mapping[str, str], imported: Callable[[], None]
) -> None:
    """Answer clients, in ``folder``, until the process ``watched`` is gone.

    ``libraries`` are imported first, then ``imported`` is called once; ``programs``: name -> ``module:function``.
    """
    for name in libraries:
        importlib.import_module(name)
    imported()
    os.chdir(folder)  # the path of a socket is at most 108 bytes long
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen(64)
    server.settimeout(1)
    (folder / "ready").touch()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # those who are interrupted still need it to end in order
    while True:
        try:
            client, _ = server.accept()
        except TimeoutError:
            try:
                os.kill(watched, 0)
            except ProcessLookupError:
                return
            continue
        if os.fork() == 0:
            server.close()
            _work(client, programs)
        client.close()


def _work(client: socket.socket, programs: Mapping[str, str]) -> None:
    """Run one command in this process, and end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client.settimeout(None)
    head, descriptors, _, _ = socket.recv_fds(client, 8, 3)
    length, message = int.from_bytes(head, "big"), b""
    while len(message) < length:
        part = client.recv(length - len(message))
        if not part:  # the client ended in the middle
            os._exit(1)
        message += part
    arguments, place, environment, mask = json.loads(message)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(place)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[0:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    time.tzset()
    done = threading.Event()
    threading.Thread(target=_end_with, args=(client, done), daemon=True).start()
    module, function = programs[Path(arguments[0]).name].split(":")
    status = 1
    try:
        status = getattr(importlib.import_module(module), function)() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    done.set()
    client.sendall(bytes([status & 255]))
    os._exit(0)


def _end_with(client: socket.socket, done: threading.Event) -> None:
    """Terminate this process when its client is gone: whoever ended that meant the command."""
    with suppress(OSError):
        client.recv(1)
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), LIBRARIES, PROGRAMS, lambda: None)
