"""Entry points (snakemake, dvc, vixml fit), killed with all of their processes at a file operation of any of them.

Their programs are forked from a server that has imported the libraries (``warm`` of the tests). Each counts its changes of files in
one file of the case's folder ``control``, and the one whose turn it is kills all of them.
"""

from __future__ import annotations

import atexit
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path

import psutil
import same_bytes
import tiny_world
import warm
from entry_points import commit
from test_from_export import export

from vixml.cli import warm as served

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {name: f"entry:{name}" for name in ("snakemake", "vixml", "dvc", "python")}
# Entry point -> how often of ten, its command, and the one before it after a kill, as its page or its message says.
ENTRY_POINTS = {
    "snakemake": (5, ("snakemake", "--cores", "2", "--quiet", "all"), ("snakemake", "--unlock")),
    "dvc": (4, ("dvc", "repro", "--quiet"), ("snakemake", "--unlock")),
    "fit": (1, ("vixml", "fit", "shop", "--cores", "2"), ("snakemake", "--unlock")),
}


# -- in the server's children -----------------------------------------------------------------------------------------


def snakemake() -> int:
    """Run snakemake."""
    return _counted("snakemake.cli")


def vixml() -> int:
    """Run vixml; ``fit`` uses this server, not one of its own."""
    from vixml.cli import fitting

    fitting.warm_programs = lambda: nullcontext(os.path.dirname(sys.argv[0]))
    sys.executable = os.path.join(os.path.dirname(sys.argv[0]), "python")
    return _counted("vixml.cli")


def dvc() -> int:
    """Run dvc."""
    return _counted("dvc.cli")


def python() -> int:
    """Run ``python -m snakemake``."""
    assert sys.argv[1:3] == ["-m", "snakemake"], sys.argv
    del sys.argv[1:3]
    return _counted("snakemake.cli")


def _counted(module: str) -> int:
    from faults import Operations

    control = Path(os.environ["TORTURE_CONTROL"])
    at = int(os.environ.get("TORTURE_AT", "0"))
    with open(control / "processes", "a") as stream:
        stream.write(f"{os.getpid()}\n")
    counter = os.open(control / "operations", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def count(_: int) -> None:
        os.write(counter, b".")
        if os.lseek(counter, 0, os.SEEK_CUR) == at:
            end_all(control, but=os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)

    Operations(count)
    return importlib.import_module(module).main() or 0


# -- in a case --------------------------------------------------------------------------------------------------------


def end_all(control: Path, but: int = 0) -> bool:
    """Kill every process of an entry point, and what they started; return whether there was one."""
    listed = control / "processes"
    found = False
    for number in map(int, listed.read_text().split() if listed.exists() else ()):
        with suppress(psutil.Error):
            process = psutil.Process(number)
            for one in (*process.children(recursive=True), process):
                if one.pid != but and one.status() != psutil.STATUS_ZOMBIE:
                    found = True
                    one.kill()
    return found


def _end_those_in(root: Path) -> bool:
    """Kill the processes that run in a folder, such as shells whose parents are gone; return whether there was one."""
    found = False
    for process in psutil.process_iter(["cwd"]):
        if (process.info["cwd"] or "").startswith(str(root)):
            found = True
            with suppress(psutil.Error):
                process.kill()
    return found


@cache
def programs() -> Path:
    """Start the server of the programs, which ends with this process; return the folder of the programs."""
    folder = Path(tempfile.mkdtemp(prefix="torture-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # children leave by os._exit
    served.write_programs(folder, PROGRAMS)
    command = [sys.executable, __file__, str(folder), str(os.getpid())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    served.wait(folder, server)
    return folder / "bin"


def call(root: Path, command: tuple[str, ...], at: int = 0) -> str:
    """Run a command in a copy of the repository until it ends or is killed at operation ``at``; return what it printed."""
    control = root.with_name("control")
    shutil.rmtree(control, ignore_errors=True)
    control.mkdir()
    environment = os.environ | {
        "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path),
        "TORTURE_CONTROL": str(control), "TORTURE_AT": str(at),
    }  # fmt: skip
    # Into a file: a process that outlives the killed one would keep a pipe open, and is ended below.
    with open(control / "said", "w") as said:
        status = subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        ).returncode
    printed = (control / "said").read_text(errors="replace")
    if at:
        while end_all(control) or _end_those_in(root):
            time.sleep(0.05)
    else:
        assert status == 0, printed
    return printed


def make_unmade(root: Path) -> None:
    """Write a copy of the repository with the miniature's raw files, a catalogue of one's own, and nothing made yet."""
    copy = tiny_world.Copy(tiny_world.clone(ROOT, root))
    tiny_world.write(copy.root)
    export(copy.root)
    commit(copy, "the miniature")


def copied(unmade: Path, root: Path) -> Path:
    """Make links to the files of a copy of the repository."""
    shutil.copytree(unmade, root, symlinks=True, copy_function=os.link)
    shutil.rmtree(root / ".git")
    shutil.copytree(unmade / ".git", root / ".git", symlinks=True)
    return root


def set_up(scratch: Path, of: str) -> tuple[Path, Path, int]:
    """Make, once, the copy in which nothing was made and what an entry point makes of it.

    Returns:
        The copy, the copy in which the entry point has run, and how many file operations it had.
    """
    unmade = scratch / "unmade"
    if not unmade.exists():
        make_unmade(scratch / "unmade-begun")
        os.rename(scratch / "unmade-begun", unmade)
    made = scratch / of / "copy"
    counted = scratch / of / "operations"
    if not counted.exists():
        shutil.rmtree(scratch / of, ignore_errors=True)
        copied(unmade, made)
        if of == "fit":
            call(made, NEW)
        call(made, ENTRY_POINTS[of][1])
        counted.write_text(str((made.with_name("control") / "operations").stat().st_size))
    return unmade, made, int(counted.read_text())


NEW = ("vixml", "new", "shop", "export.csv", "--image-folder", "photos")


def entry_cases(draw: random.Random, scratch: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield entry points that are killed once: what the page says afterwards ends with the same files."""
    kinds = [name for name, (often, _, _) in ENTRY_POINTS.items() for _ in range(often)]
    programs()  # before the first child
    while True:
        of = draw.choice(kinds)
        unmade, made, operations = set_up(scratch, of)
        at = draw.randrange(1, operations)

        def work(folder: Path, a: tuple = (of, unmade, made, at)) -> None:
            _killed_and_again(folder / "copy", *a)

        yield f"{of}, operation {at}", work


def _killed_and_again(root: Path, of: str, unmade: Path, made: Path, at: int) -> None:
    _, command, before = ENTRY_POINTS[of]
    copied(unmade, root)
    if of == "fit":
        call(root, NEW)
    call(root, command, at)
    call(root, before)
    call(root, command)
    different = [name for name, same in same_bytes.compared(made / "results", root / "results").items() if not same]
    assert not different, f"other files afterwards: {different}"
    left = [str(path) for path in root.rglob(".tmp-*")]
    assert not left, f"left behind: {left}"
    if of == "fit":
        assert (root / "shop.model/model.json").exists()


if __name__ == "__main__":
    import entry  # by the name under which the programs find it

    assert entry.PROGRAMS == PROGRAMS

    def forget() -> None:
        """Let Snakemake find its plugins once."""
        sys.modules["snakemake.cli"].get_argument_parser()

    served.serve(Path(sys.argv[1]), int(sys.argv[2]), warm.LIBRARIES, PROGRAMS, forget)
