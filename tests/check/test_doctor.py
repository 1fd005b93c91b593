"""The description of the machine, what a killed run left behind, and what entry points of the workflow need."""

from __future__ import annotations

import builtins
import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from result_files import REPO, write_result

from vixml.check import doctor
from vixml.check.doctor import (
    block,
    explain_lock,
    locked,
    processes,
    queued,
    require_array,
    require_conda,
    require_remote,
    require_slurm,
)
from vixml.cli import main
from vixml.errors import VixmlError

LINES = [
    "vixml", "python", "system", "processor", "memory", "disk", "gpu", "torch", "packages", "snakemake", "tools", "config",
    "results", "checkpoints", "lock",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder: neither a lock nor results of this repository matter."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def path(folder, monkeypatch) -> Path:
    """Return the only folder on PATH, empty; a real squeue may wait long."""
    monkeypatch.setenv("PATH", str(folder / "bin"))
    (folder / "bin").mkdir()
    return folder / "bin"


@pytest.fixture
def lock(folder, path) -> Path:
    """Return the lock file of a folder that Snakemake holds locked."""
    file = folder / ".snakemake" / "locks" / "0.output.lock"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def lines(results: Path = Path("results"), config_dir: Path = Path("none")) -> dict[str, str]:
    """Return each line of the description, with its further rows. Reading a configuration takes longest; most tests need none."""
    text = block(results, config_dir)
    assert text.startswith("```\n") and text.endswith("\n```")
    parts = re.split(r"^(\w+):", text.removeprefix("```\n").removesuffix("\n```"), flags=re.MULTILINE)[1:]
    found = {name: value.strip() for name, value in zip(parts[::2], parts[1::2], strict=True)}
    assert list(found) == LINES and all(found.values())
    return found


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@contextmanager
def running(folder: Path, name: str, *words: str) -> Iterator[int]:
    """Run a program until the end of the block; yield its process id."""
    program(folder, name, "read line")
    process = subprocess.Popen([folder / name, *words], cwd=folder, stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.communicate()


# -- the description --------------------------------------------------------------------------------------------------


def test_every_line_has_content():
    found = lines(config_dir=REPO / "config")
    assert re.match(r"\d+\.\d+\.\d+, commit ", found["vixml"])
    assert re.search(r"\d cores? usable of \d", found["processor"])
    assert re.search(r"\d [MGT]B, [\d.]+ [MGT]B available", found["memory"]) and "B free of" in found["disk"]
    assert re.search(r"; CUDA: (works|not available|CANNOT BE USED)", found["torch"])
    assert "numpy " in found["packages"] and "MISSING" not in found["packages"] and "gguf " in found["packages"]
    for name in ("conda", "dvc", "sinfo"):
        assert re.search(rf"\b{name} (yes|no)\b", found["tools"])
    assert found["config"].startswith("ok: best.yaml, config.yaml, ") and "picto.yaml" in found["config"]
    assert "datasets.yaml" not in found["config"]
    assert found["results"] == "results does not exist"
    assert found["checkpoints"] == found["lock"] == "none"


def test_the_command_prints_the_description(capsys):
    assert main(["doctor", "--config-dir", str(REPO / "config")]) == 0
    assert capsys.readouterr().out.startswith("```\nvixml: ")


def test_without_git_and_without_any_tool(path):
    found = lines()
    assert "commit unknown" in found["vixml"]
    assert found["gpu"] == "none: nvidia-smi is not on PATH"
    assert found["tools"] == ", ".join(f"{name} no" for name in doctor.TOOLS)


def test_gpus_are_those_that_the_driver_lists(monkeypatch, path):
    program(path, "nvidia-smi", "echo 'Card X, 81559 MiB, 570.1'; echo 'Card X, 81559 MiB, 570.1'")
    assert lines()["gpu"] == "2 x Card X, 81559 MiB, 570.1"
    program(path, "nvidia-smi", "echo 'driver not loaded' >&2; exit 9")
    assert lines()["gpu"] == "nvidia-smi failed: driver not loaded"
    program(path, "nvidia-smi", "exit 9")
    assert lines()["gpu"] == "nvidia-smi failed: status 9, and no message"


@pytest.mark.parametrize(
    "error", [ImportError("libtorch.so: no such file"), OSError("bad ELF"), RuntimeError("two\nlines")]
)
def test_a_broken_torch_is_reported(monkeypatch, error):
    real = builtins.__import__

    def broken(name, *rest, **options):
        if name == "torch":
            raise error
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert lines()["torch"] == f"unknown: {type(error).__name__}: {error}".splitlines()[0]


def test_broken_lines_leave_the_others_alone(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setitem(sys.modules, "torch", None)
    for target in ("git_state", "machine", "read_yaml"):
        monkeypatch.setattr(doctor, target, broken)
    for name in ("platform.platform", "shutil.which", "shutil.disk_usage", "psutil.virtual_memory"):
        monkeypatch.setattr(f"vixml.check.doctor.{name}", broken)
    for module, name in ((doctor.importlib.metadata, "version"), (Path, "read_text"), (Path, "glob")):
        monkeypatch.setattr(module, name, broken)
    found = lines(config_dir=REPO / "config")
    assert {name for name, text in found.items() if "unknown: " not in text} == {"python", "results"}


def test_differences_from_the_lock_file_are_marked(folder):
    (folder / "requirements.lock").write_text("# pins\nnumpy==1.0.0\nPyYAML==0.1\n", encoding="utf-8")
    found = lines()["packages"]
    assert re.search(r"numpy \S+ \(LOCK 1\.0\.0\)", found) and "(LOCK 0.1)" in found
    assert found.count("LOCK") == 2


def test_the_build_of_torch_is_no_difference(folder, monkeypatch):
    (folder / "requirements.lock").write_text("torch==2.13.0\n", encoding="utf-8")
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.13.0+cu130")
    assert "torch 2.13.0+cu130," in lines()["packages"]


def test_a_wrong_configuration_is_reported_by_its_first_line(folder):
    copied = folder / "own"
    copied.mkdir()
    for file in (REPO / "config").iterdir():
        (copied / file.name).symlink_to(file)
    (copied / "wrong.yaml").write_text("targets: []\ntabels: []\n", encoding="utf-8")
    (copied / "broken.yaml").write_text("targets: [\n", encoding="utf-8")
    found = lines(config_dir=copied)["config"].splitlines()
    assert found[0].startswith("ok: best.yaml, config.yaml") and "wrong" not in found[0]
    assert any("wrong.yaml: unknown key 'tabels'" in text for text in found)
    assert any("broken.yaml: not valid YAML" in text for text in found)
    assert lines(config_dir=folder / "none")["config"].startswith("unknown: a configuration file is missing")


def test_results_and_checkpoints_are_counted(folder):
    results = folder / "results"
    write_result(results, "picto", "text-minilm-l3", 0, {"P@1": 1.0}, minutes=1.0)
    run = results / "runs" / "picto" / "vixml-minilm-l3" / "seed1"
    for name in ("model", "checkpoint"):
        (run / name).mkdir(parents=True)
    (run / "checkpoint" / "state.pt").write_bytes(bytes(60_000_000))
    (results / "tables").mkdir()
    found = lines(results)
    assert found["results"] == "1 model (1 unfinished), 1 score, 0 tables (1 unfinished)"
    assert found["checkpoints"] == "picto/vixml-minilm-l3/seed1: 60 MB, written 0 minutes ago"


def test_no_secret_and_no_home_folder_is_printed(monkeypatch, folder):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(folder))
    found = block(folder / "results", REPO / "config")
    assert "secret" not in found and str(folder) not in found
    assert "for ~/results" in found


# -- what a killed run left behind ------------------------------------------------------------------------------------


def test_a_lock_without_a_process_is_explained(folder, lock):
    assert locked(folder)
    shown = explain_lock(folder)
    assert "locked by a run that was killed, or that runs on another machine; nothing of it runs on this one" in shown
    assert "started on another machine, look there first" in shown
    assert "what now: snakemake --unlock" in shown
    assert lines()["lock"].startswith("This folder is locked by a run that was killed")
    lock.unlink()
    assert explain_lock(folder) == ""


def test_a_lock_of_another_user_may_be_in_use(folder, lock, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda owner=os.getuid(): owner + 1)
    shown = explain_lock(folder)
    assert "of another user" in shown and "killed" not in shown
    assert shown.endswith("ask them (ls -l .snakemake/locks says whom); only if that run has ended: snakemake --unlock")


def test_a_lock_in_use_names_its_process(folder, lock):
    with running(folder, "snakemake") as pid:
        assert processes(folder, "snakemake") == [pid]
        assert explain_lock(folder).endswith(f"kill -INT {pid}") and "killed" not in explain_lock(folder)
        assert lines()["lock"].startswith(f"Snakemake already runs in this folder, process {pid}.")


def test_the_snakemake_of_one_job_holds_no_lock(folder, lock):
    with running(folder, "snakemake", "--mode", "remote"):
        assert processes(folder, "snakemake") == []


def test_jobs_that_outlive_their_snakemake_are_named(folder, lock):
    with running(folder, "vixml") as pid:
        assert f"what now: kill {pid}\n" in explain_lock(folder)
        assert processes(folder.parent, "vixml") == [], "jobs of another folder do not matter"
    assert "kill" not in explain_lock(folder).replace("killed", "")


def test_jobs_in_the_queue_are_those_of_this_folder(folder, lock, path):
    program(path, "squeue", f"printf '7 {folder}\\n8_1 {folder}\\n9 {folder}/elsewhere\\n'")
    assert queued(folder) == ["7", "8_1"]
    shown = explain_lock(folder)
    assert "what now: scancel 7 8_1\n" in shown
    assert "started on another machine, look there first" in shown, "it may wait for these jobs"


# -- what entry points need: one message that says what is missing and what to do ------------------------------------------


def test_a_conda_client_is_required(path):
    with pytest.raises(VixmlError, match="needs a conda client") as caught:
        require_conda()
    assert "leave --use-conda out" in caught.value.hint
    program(path, "conda", "exit 0")
    require_conda()


def test_slurm_is_required(path):
    with pytest.raises(VixmlError, match="this machine has none") as caught:
        require_slurm(["main"])
    assert caught.value.found == "no `sinfo`, `sbatch`, `squeue` on PATH"
    for name in ("sbatch", "squeue"):
        program(path, name, "exit 0")
    unable = "sinfo: error: Unable to contact slurm controller"
    for script, found in ((f"echo '{unable}' >&2; exit 1", unable), ("exit 3", "status 3, and no message")):
        program(path, "sinfo", script)
        with pytest.raises(VixmlError, match="does not answer") as caught:
            require_slurm(["main"])
        assert caught.value.found == found


def test_a_partition_must_be_one_that_slurm_lists(path):
    for name in ("sbatch", "squeue"):
        program(path, name, "exit 0")
    program(path, "sinfo", "printf 'gpu\nlong\nlong\n'")
    require_slurm([])
    require_slurm(["gpu,long"])
    with pytest.raises(VixmlError, match="no partition 'main'") as caught:
        require_slurm(["gpu,main"])
    assert caught.value.found == "sinfo lists: gpu, long"
    assert "slurm_partition: gpu" in caught.value.hint and "would replace all of the profile's" in caught.value.hint


def test_an_array_that_would_never_fill_is_refused():
    require_array("train_model", jobs=3, limit=1000, at_once=8)
    require_array("train_model", jobs=74, limit=8, at_once=8)
    with pytest.raises(VixmlError, match="array of 74 jobs of train_model would never be submitted") as caught:
        require_array("train_model", jobs=74, limit=1000, at_once=8)
    assert "--slurm-array-limit 8" in caught.value.hint


@pytest.fixture
def repository(folder) -> Path:
    root = folder / "repository"
    root.mkdir()
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    return root


def add_default(root: Path, name: str, address: str) -> None:
    subprocess.run(["dvc", "remote", "add", "-q", "--default", name, address], cwd=root, check=True)


def test_a_remote_must_be_named_and_exist(repository, folder):
    with pytest.raises(VixmlError, match="no default remote") as caught:
        require_remote(repository)
    assert "dvc remote add --default" in caught.value.hint
    place = folder / "disk" / "vixml"
    add_default(repository, "shared", str(place))
    with pytest.raises(VixmlError, match="'shared' is not there") as caught:
        require_remote(repository)
    assert str(place.parent) in caught.value.found
    place.parent.mkdir()
    assert require_remote(repository) == str(place)
    with pytest.raises(VixmlError, match="'shared' is not there"):
        require_remote(repository, filled=True)
    place.mkdir()
    require_remote(repository, "shared", filled=True)
    with pytest.raises(VixmlError, match="knows no remote 'sharde'") as caught:
        require_remote(repository, "sharde")
    assert caught.value.found == "remotes: shared"


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), OSError(errno.EHOSTDOWN, "down"), KeyError("x")]
)
def test_whatever_a_store_raises_is_about_the_remote(repository, folder, monkeypatch, error):
    def exists(*_):
        raise error

    add_default(repository, "shared", str(folder / "disk"))
    monkeypatch.setattr("dvc_objects.fs.local.LocalFileSystem.exists", exists)
    with pytest.raises(VixmlError, match="cannot be reached") as caught:
        require_remote(repository)
    assert "credentials" in caught.value.hint and type(error).__name__ in caught.value.found


def test_the_message_names_a_missing_plugin_of_a_remote(repository, capsys):
    add_default(repository, "cloud", "s3://bucket/vixml")
    assert main(["check-remote", "--repository", str(repository)]) == 2
    shown = capsys.readouterr().err
    assert "cannot be reached" in shown and "pip install dvc-s3" in shown and "Traceback" not in shown


def test_a_folder_without_dvc_is_one_message(folder, capsys):
    assert main(["check-remote", "--repository", str(folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_prints_the_address_of_the_remote(repository, folder, capsys):
    add_default(repository, "shared", str(folder / "vixml"))
    assert main(["check-remote", "--repository", str(repository)]) == 0
    assert capsys.readouterr().out == f"the remote is there: {os.path.join(folder, 'vixml')}\n"
