"""What a killed run left behind is told from what runs now."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vixml.check.doctor import explain_lock, locked, processes, queued


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder that Snakemake holds locked, on a machine without SLURM: a real one may keep squeue waiting."""
    monkeypatch.setenv("PATH", "")
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").touch()
    return tmp_path


def start(folder: Path, name: str, *words: str) -> subprocess.Popen:
    (folder / name).write_text("#!/bin/sh\nread line\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return subprocess.Popen([folder / name, *words], cwd=folder, stdin=subprocess.PIPE)


def test_a_lock_that_nobody_holds_is_explained(folder):
    assert locked(folder)
    shown = explain_lock(folder)
    assert "locked by a run that was killed; nothing runs here any more" in shown
    assert "what now: snakemake --unlock" in shown
    (folder / ".snakemake" / "locks" / "0.output.lock").unlink()
    assert explain_lock(folder) == ""


def test_a_lock_that_is_held_names_its_holder(folder):
    process = start(folder, "snakemake")
    try:
        assert processes(folder, "snakemake") == [process.pid]
        assert explain_lock(folder).endswith(f"kill -INT {process.pid}")
        assert "killed" not in explain_lock(folder)
    finally:
        process.communicate()


def test_the_snakemake_of_one_job_on_a_node_is_no_holder(folder):
    process = start(folder, "snakemake", "--mode", "remote")
    try:
        assert processes(folder, "snakemake") == []
    finally:
        process.communicate()


def test_jobs_that_outlive_their_snakemake_are_named(folder):
    process = start(folder, "vixml")
    try:
        assert f"what now: kill {process.pid}\n" in explain_lock(folder)
        assert processes(folder.parent, "vixml") == [], "another folder's jobs are its own matter"
    finally:
        process.communicate()
    assert "kill" not in explain_lock(folder).replace("killed", "")


def test_jobs_in_the_queue_are_those_of_this_folder(folder, monkeypatch):
    program = folder / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '7 {folder}\\n8_1 {folder}\\n9 {folder}/elsewhere\\n'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert queued(folder) == ["7", "8_1"]
    assert "what now: scancel 7 8_1\n" in explain_lock(folder)
