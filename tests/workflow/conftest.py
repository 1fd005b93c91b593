"""A copy of the repository in which the whole workflow has run once, on the miniature."""

from __future__ import annotations

from pathlib import Path

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
