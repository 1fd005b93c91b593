"""A copy of the repository in which the whole workflow has run once, on the miniature; a conda and a SLURM for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import one_node_slurm
import pytest
import tiny_world
from tiny_world import Copy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Copy:
    """Run the whole workflow on the miniature."""
    copy = Copy(tiny_world.clone(ROOT, tmp_path_factory.mktemp("repository")))
    tiny_world.write(copy.root)
    copy.run("snakemake", "--cores", "2")
    return copy


@pytest.fixture
def copy(finished) -> Copy:
    """Return the finished copy; whatever a test edits in its code and configuration is put back."""
    kept = {p: p.read_bytes() for part in ("src", "config", "rules") for p in (finished.root / part).rglob("*.*")}
    yield finished
    for path, content in kept.items():
        if path.suffix != ".pyc" and (not path.exists() or path.read_bytes() != content):
            path.write_bytes(content)


@pytest.fixture(scope="module")
def conda(tmp_path_factory):
    """Put the stand-in for conda on PATH."""
    folder = tmp_path_factory.mktemp("conda")
    program, stand_in = folder / "bin" / "conda", Path(__file__).with_name("stand_in_conda.py")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(program.parent), prepend=":")
        patch.setenv("STAND_IN_CONDA_PREFIX", str(folder / "prefix"))
        yield


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Start a SLURM of one node; skipped where it is not installed, but for continuous integration."""
    why = one_node_slurm.missing()
    if why is not None:
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    with one_node_slurm.cluster(tmp_path_factory.mktemp("slurm")) as folder:
        yield folder
