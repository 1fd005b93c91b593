"""A copy of the repository in which the whole workflow has run once, on the miniature; a conda and a SLURM for it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import one_node_slurm
import pytest
import tiny_world
from filelock import FileLock
from tiny_world import Copy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _no_old_cluster():
    """Remove what tests that were killed left behind."""
    one_node_slurm.remove_left_behind()


@pytest.fixture(scope="session")
def once(shared) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return how a folder is made by whichever process needs it first, for all of them; nobody changes it afterwards."""

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, begun = shared / name, shared / f"{name}-begun"
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                make(begun)
                begun.rename(folder)
        return folder

    return made


@pytest.fixture(scope="module", autouse=True)
def _warm(request):
    """Let tests that are not slow use programs that start at once."""
    marks = getattr(request.module, "pytestmark", [])
    with pytest.MonkeyPatch.context() as patch:
        if all(mark.name != "slow" for mark in (marks if isinstance(marks, list) else [marks])):
            patch.setenv("PATH", request.getfixturevalue("programs"), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def finished(once, programs, tmp_path_factory) -> Copy:
    """Return a copy in which the whole workflow has run on the miniature."""

    def run(root: Path) -> None:
        copy = Copy(tiny_world.clone(ROOT, root))
        tiny_world.write(copy.root)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", programs, prepend=os.pathsep)
            copy.run("snakemake", "--cores", "2")

    root = tmp_path_factory.mktemp("finished") / "repository"
    return Copy(Path(shutil.copytree(once("workflow-run", run), root, symlinks=True)))


@pytest.fixture
def copy(finished) -> Copy:
    """Return the finished copy; whatever a test edits in its code and configuration is put back."""
    kept = {p: p.read_bytes() for part in ("src", "config", "rules") for p in (finished.root / part).rglob("*.*")}
    yield finished
    for path, content in kept.items():
        if path.suffix != ".pyc" and (not path.exists() or path.read_bytes() != content):
            path.write_bytes(content)


@pytest.fixture
def apart(finished, tmp_path) -> Copy:
    """Return a finished copy of its own, which a test may change for good."""
    return Copy(Path(shutil.copytree(finished.root, tmp_path / "repository", symlinks=True)))


@pytest.fixture(scope="module")
def conda(shared, tmp_path_factory):
    """Put the stand-in for conda on PATH; all processes share its store of packages."""
    folder = tmp_path_factory.mktemp("conda")
    program, stand_in = folder / "bin" / "conda", Path(__file__).with_name("stand_in_conda.py")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(program.parent), prepend=":")
        patch.setenv("STAND_IN_CONDA_PREFIX", str(shared / "conda-prefix"))
        yield


@pytest.fixture(scope="session")
def cluster(shared):
    """Start a SLURM of one node; skipped where it is not installed, but for continuous integration."""
    why = one_node_slurm.missing()
    if why is not None:
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    folder, users = shared / "slurm", shared / "slurm-users"

    def used_by(more: int) -> int:
        """Return how many processes use it, after this one came or went."""
        n = (int(users.read_text(encoding="utf-8")) if users.exists() else 0) + more
        users.write_text(str(n), encoding="utf-8")
        return n

    # There is one place for SLURM's configuration on a machine: the first process starts it, the last one stops it, and
    # another run of the tests waits until then.
    machine = FileLock(one_node_slurm.LOCK)
    with FileLock(shared / "slurm.lock"):
        if used_by(0) == 0:
            machine.acquire()
            one_node_slurm.start(folder)
        used_by(1)
    try:
        yield folder
    finally:
        with FileLock(shared / "slurm.lock"):
            if used_by(-1) == 0:
                one_node_slurm.stop(folder)
                machine.release()
