"""Commands for tests in which starting a process is not the subject, forked from one that has imported the libraries already.

Importing torch and transformers takes 9 s of processor time, Snakemake 2 s, and the miniature's workflow starts some twenty
processes. The server (vixml.cli.warm) imports the libraries once, but keeps nothing of vixml; a child imports it from the given folder.
The slow tests run the true commands for the whole demo, in conda's environments, and wherever they kill; they find the same bytes.
``warm-python`` runs a script in the same way.
"""

from __future__ import annotations

import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vixml.cli import warm

LIBRARIES = (
    *warm.LIBRARIES, "peft", "faiss", "onnx", "rich.rule", "typer.rich_utils", "snakemake.cli", "snakemake.api", "snakemake.report",
    "smart_open", "yte", "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.stage", "dvc.fs", "dvc_http", "dvc_data.index",
    "scmrepo.git",
)  # fmt: skip
PROGRAMS = warm.PROGRAMS | {
    "snakemake": "snakemake.cli:main",
    "dvc": "dvc.cli:main",
    "warm-python": f"{__name__}:run_script",
}


def start(folder: Path, watched: int) -> None:
    """Start a server in ``folder``, and write the clients to ``folder/bin``; it ends when the process ``watched`` has."""
    warm.write_programs(folder, PROGRAMS)
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(Path(__file__)), str(folder), str(watched)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    warm.wait(folder, server)


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


def forget() -> None:
    """Forget vixml, so that each child imports that of its repository; let Snakemake find its plugins."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vixml"]:
        if name != "vixml.torchvision_fix":  # it declares once per process
            del sys.modules[name]
    sys.modules["snakemake.cli"].get_argument_parser()


if __name__ == "__main__":
    warm.serve(Path(sys.argv[1]), int(sys.argv[2]), LIBRARIES, PROGRAMS, forget)
