"""Commands for tests in which starting a process is not the subject: forked from one that has imported the libraries already.

Importing torch and transformers takes 9 s of processor time, Snakemake 2 s, and the miniature's workflow starts some twenty
processes. A server imports the libraries once, but nothing of vixml; ``snakemake``, ``vixml`` and ``dvc`` on PATH are then small clients: the
server forks a child with their arguments, folder, environment and open files, which imports vixml from the given folder.
The slow tests run the true commands for the whole demo, in conda's environments, and wherever they kill; they find the same bytes.
``warm-python`` runs a script in the same way.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBRARIES = (
    "vixml.torchvision_fix",  # before transformers; it declares once per process, so that children keep it
    "transformers.models.bert.modeling_bert", "torch._dynamo", "peft", "pandas", "pyarrow.parquet", "faiss", "onnx", "PIL.Image",
    "matplotlib.figure", "jinja2", "pydantic", "typer", "rich.progress", "rich.rule", "typer.rich_utils", "yaml", "snakemake.cli",
    "snakemake.api", "snakemake.report", "smart_open", "yte", "dvc.cli.parser", "dvc.repo",
    "dvc.repo.reproduce", "dvc.stage", "dvc.fs", "dvc_http", "dvc_data.index", "scmrepo.git",
)  # fmt: skip
ENTRY = {
    "snakemake": ("snakemake.cli", "main"), "vixml": ("vixml.cli", "main"), "dvc": ("dvc.cli", "main"), "warm-python": (__name__, "run_script"),
}  # fmt: skip
CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
place = os.getcwd()
os.chdir({folder!r})
server.connect("socket")
os.chdir(place)
message = json.dumps([sys.argv, place, dict(os.environ), os.umask(0o022)]).encode()
server.sendmsg([len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(message)
sys.exit(int.from_bytes(server.recv(1) or b"\\1", "big"))
"""


def start(folder: Path, watched: int) -> None:
    """Start a server in ``folder``, and write the clients to ``folder/bin``; it ends when the process ``watched`` has."""
    (folder / "bin").mkdir(parents=True)
    for name in ENTRY:
        program = folder / "bin" / name
        program.write_text(CLIENT.format(python=sys.executable, folder=str(folder)), encoding="utf-8")
        program.chmod(0o755)
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(Path(__file__)), str(folder), str(watched)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    deadline = time.monotonic() + 600
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline, (folder / "log").read_text(encoding="utf-8")
        time.sleep(0.05)


def script(folder: Path, work: Callable[[Any], object], argument: object) -> Path:
    """Write a script that calls ``work(argument)``, a function of a test's module, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    pickled, path = folder / "work.pickle", folder / "script.py"
    pickled.write_bytes(pickle.dumps((work, argument)))
    lines = ["import pickle, sys", "from pathlib import Path", f"sys.path[:0] = {sys.path!r}"]
    lines += [f"work, argument = pickle.loads(Path({str(pickled)!r}).read_bytes())", "work(argument)"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run_script() -> None:
    """Run the script that the first argument names."""
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


def serve(folder: Path, watched: int) -> None:
    """Answer clients until the process ``watched`` is gone."""
    for name in LIBRARIES:
        importlib.import_module(name)
    del sys.modules["vixml"]
    sys.modules["snakemake.cli"].get_argument_parser()  # finds Snakemake's plugins
    os.chdir(folder)  # the path of a socket is at most 108 bytes long
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen(64)
    server.settimeout(1)
    (folder / "ready").touch()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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
            _work(client)
        client.close()


def _work(client: socket.socket) -> None:
    """Run one command in this process, and end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    client.settimeout(None)
    head, descriptors, _, _ = socket.recv_fds(client, 8, 3)
    length, message = int.from_bytes(head, "big"), b""
    while len(message) < length:
        message += client.recv(length - len(message))
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
    module, function = ENTRY[Path(arguments[0]).name]
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
    client.sendall(bytes([status & 255]))
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
