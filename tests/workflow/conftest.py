"""A copy of the repository in which the whole workflow has run once, on the miniature."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_world

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Copy:
    """A copy of the repository and how commands run in it."""

    root: Path

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the copy's own code; return what it printed."""
        paths = os.pathsep.join(filter(None, [str(self.root / "src"), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *options: str) -> dict[str, int]:
        """Return how often each rule would run."""
        shown = self.run("snakemake", "-n", *options)
        if "Nothing to be done" in shown:
            return {}
        table = shown.split("Job stats:")[1].split("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        text = (self.root / path).read_text()
        assert old in text, f"{path} does not hold {old!r}"
        (self.root / path).write_text(text.replace(old, new))


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
