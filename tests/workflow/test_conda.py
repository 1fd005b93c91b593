"""`--use-conda` with a stand-in for conda (see stand_in_conda.py for what that proves)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("stand_in_conda.py")


@pytest.mark.slow
def test_jobs_run_in_the_environment_of_their_rule(copy, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "conda"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("STAND_IN_CONDA_PREFIX", str(tmp_path / "prefix"))
    assert copy.planned("--use-conda") == {}, "switching conda on is no reason to run anything again"
    shown = copy.run("snakemake", "results/tables/manifest.json", "--cores", "1", "--use-conda", "--force")
    assert "Activating conda environment" in shown
    environment = next((copy.root / ".snakemake" / "conda").glob("*/bin/vixml"))
    assert str(copy.root / ".snakemake") in environment.read_text(), "vixml was installed by the post-deploy script"
    assert copy.planned() == {}, "nor is switching it off again"
