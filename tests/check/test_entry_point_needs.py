"""The requirements of an entry point are checked before any work: one message that says what is missing and what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vixml.check.doctor import require_array, require_conda, require_remote, require_slurm
from vixml.cli import main
from vixml.errors import VixmlError


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """The only folder on PATH, empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_conda_client_is_asked_for(path):
    with pytest.raises(VixmlError, match="needs a conda client") as caught:
        require_conda()
    assert "leave --use-conda out" in caught.value.hint
    program(path, "conda", "exit 0")
    require_conda()


def test_slurm_is_asked_for(path):
    with pytest.raises(VixmlError, match="this machine has none") as caught:
        require_slurm(["main"])
    assert caught.value.found == "no `sinfo`, `sbatch`, `squeue` on PATH"
    for name in ("sbatch", "squeue"):
        program(path, name, "exit 0")
    program(path, "sinfo", "echo 'sinfo: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(VixmlError, match="does not answer") as caught:
        require_slurm(["main"])
    assert "Unable to contact" in caught.value.found


def test_a_partition_is_looked_for_among_those_that_slurm_lists(path):
    for name in ("sbatch", "squeue"):
        program(path, name, "exit 0")
    program(path, "sinfo", "printf 'gpu\nlong\nlong\n'")
    require_slurm([])
    require_slurm(["gpu,long"])
    with pytest.raises(VixmlError, match="no partition 'main'") as caught:
        require_slurm(["gpu,main"])
    assert caught.value.found == "sinfo lists: gpu, long"
    assert "slurm_partition=gpu" in caught.value.hint


def test_an_array_that_would_never_fill_is_refused():
    require_array("train_model", jobs=3, limit=1000, at_once=8)
    require_array("train_model", jobs=74, limit=8, at_once=8)
    with pytest.raises(VixmlError, match="array of 74 jobs of train_model would never be submitted") as caught:
        require_array("train_model", jobs=74, limit=1000, at_once=8)
    assert "--slurm-array-limit 8" in caught.value.hint


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    return root


def add(root: Path, *words: str) -> None:
    subprocess.run(["dvc", "remote", "add", "-q", *words], cwd=root, check=True)


def test_a_remote_must_be_named_and_be_there(repository, tmp_path):
    with pytest.raises(VixmlError, match="no default remote") as caught:
        require_remote(repository)
    assert "dvc remote add --default" in caught.value.hint
    add(repository, "--default", "shared", str(tmp_path / "disk" / "vixml"))
    with pytest.raises(VixmlError, match="'shared' is not there") as caught:
        require_remote(repository)
    assert str(tmp_path / "disk") in caught.value.found
    (tmp_path / "disk").mkdir()
    assert require_remote(repository) == str(tmp_path / "disk" / "vixml")
    with pytest.raises(VixmlError, match="'shared' is not there"):
        require_remote(repository, filled=True)
    (tmp_path / "disk" / "vixml").mkdir()
    require_remote(repository, "shared", filled=True)
    with pytest.raises(VixmlError, match="knows no remote 'sharde'") as caught:
        require_remote(repository, "sharde")
    assert caught.value.found == "remotes: shared"


def test_a_remote_whose_plugin_is_missing_says_which(repository, capsys):
    add(repository, "--default", "cloud", "s3://bucket/vixml")
    assert main(["check-remote", "--repository", str(repository)]) == 2
    shown = capsys.readouterr().err
    assert "cannot be reached" in shown and "pip install dvc-s3" in shown and "Traceback" not in shown


def test_no_repository_is_said_so(tmp_path, capsys):
    assert main(["check-remote", "--repository", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_verb_says_where_the_remote_is(repository, tmp_path, capsys):
    add(repository, "--default", "shared", str(tmp_path / "vixml"))
    assert main(["check-remote", "--repository", str(repository)]) == 0
    assert capsys.readouterr().out == f"the remote is there: {os.path.join(tmp_path, 'vixml')}\n"
