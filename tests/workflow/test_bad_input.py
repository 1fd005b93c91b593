"""An entry point that this machine does not have is refused in one message, before any job starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def without(folder: Path, *names: str) -> str:
    """Return a PATH that has every program of this machine but ``names``."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            if program.name not in names and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("absent", "options", "what", "hint"),
    [
        (["conda"], ["--cores", "all", "--use-conda"], "needs a conda client", "leave --use-conda out"),
        (["sinfo", "sbatch"], ["--profile", "profiles/slurm"], "this machine has none", "on a node of the cluster"),
    ],
)
def test_an_entry_point_that_is_missing(copy, tmp_path, monkeypatch, absent, options, what, hint):
    before = (copy.root / "results/report.html").stat().st_mtime_ns
    monkeypatch.setenv("PATH", without(tmp_path / "bin", *absent))
    shown = copy.run("snakemake", *options, "--forcerun", "make_report", "--", "paper_tables", check=False)
    assert what in shown and hint in shown and shown.count("what now:") == 1
    assert "Traceback" not in shown and "Finished jobid" not in shown
    assert (copy.root / "results/report.html").stat().st_mtime_ns == before
    assert not any((copy.root / ".snakemake/locks").glob("*")), "nothing stays locked"
