"""The block for maintainers: every line is there, whatever is broken, and nothing private is."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from result_files import REPO, write_result

from vixml.check import doctor
from vixml.check.doctor import block
from vixml.cli import main

LINES = [
    "vixml", "python", "system", "processor", "memory", "disk", "gpu", "torch", "packages", "snakemake", "tools", "config",
    "results", "checkpoints", "lock",
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Stand in an empty folder: neither a lock nor results of this repository matter."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(results: Path = Path("results"), config_dir: Path = Path("none")) -> dict[str, str]:
    """Return what each line says; rows below it belong to it. Most tests need no configuration, whose reading takes longest."""
    text = block(results, config_dir)
    assert text.startswith("```\n") and text.endswith("\n```")
    parts = re.split(r"^(\w+):", text.removeprefix("```\n").removesuffix("\n```"), flags=re.MULTILINE)[1:]
    found = {name: said.strip() for name, said in zip(parts[::2], parts[1::2], strict=True)}
    assert list(found) == LINES and all(found.values())
    return found


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_every_line_says_something():
    found = lines(config_dir=REPO / "config")
    assert re.match(r"\d+\.\d+\.\d+, commit ", found["vixml"])
    assert re.search(r"\d cores? usable of \d", found["processor"]) and " GB available" in found["memory"]
    assert "GB free of" in found["disk"]
    assert re.search(r"; CUDA: (works|not available|fails)", found["torch"])
    assert "numpy " in found["packages"] and "MISSING" not in found["packages"] and "gguf " in found["packages"]
    for name in ("conda", "dvc", "sinfo"):
        assert re.search(rf"\b{name} (yes|no)\b", found["tools"])
    assert found["config"].startswith("ok: config.yaml, ") and "picto.yaml" in found["config"]
    assert "datasets.yaml" not in found["config"]
    assert found["results"] == "results does not exist"
    assert found["checkpoints"] == found["lock"] == "none"


def test_the_verb_prints_the_block(capsys):
    assert main(["doctor", "--config-dir", str(REPO / "config")]) == 0
    assert capsys.readouterr().out.startswith("```\nvixml: ")


def test_without_git_and_without_any_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = lines()
    assert "commit unknown" in found["vixml"]
    assert found["gpu"] == "none: nvidia-smi is not on PATH"
    assert found["tools"] == ", ".join(f"{name} no" for name in doctor.TOOLS)


def test_gpus_are_told_as_the_driver_tells_them(monkeypatch, tmp_path):
    program(tmp_path, "nvidia-smi", "echo 'Card X, 81559 MiB, 570.1'; echo 'Card X, 81559 MiB, 570.1'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert lines()["gpu"] == "2 x Card X, 81559 MiB, 570.1"
    program(tmp_path, "nvidia-smi", "echo 'driver not loaded' >&2; exit 9")
    assert lines()["gpu"] == "nvidia-smi failed: driver not loaded"


@pytest.mark.parametrize(
    "error", [ImportError("libtorch.so: no such file"), OSError("bad ELF"), RuntimeError("two\nlines")]
)
def test_a_broken_torch_is_told(monkeypatch, error):
    real = builtins.__import__

    def broken(name, *rest, **options):
        if name == "torch":
            raise error
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert lines()["torch"] == f"cannot be told: {type(error).__name__}: {error}".splitlines()[0]


def test_everything_may_be_broken(monkeypatch):
    """Each line is made apart: not one of them takes another with it."""

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setitem(sys.modules, "torch", None)
    for target in ("git_state", "machine", "read_yaml", "_locked"):
        monkeypatch.setattr(doctor, target, broken)
    for module, name in ((doctor.platform, "platform"), (doctor.shutil, "which"), (doctor.shutil, "disk_usage")):
        monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr(doctor.importlib.metadata, "version", broken)
    monkeypatch.setattr(Path, "read_text", broken)
    monkeypatch.setattr(Path, "glob", broken)
    found = lines(config_dir=REPO / "config")
    told = [name for name, said in found.items() if "cannot be told: " in said]
    assert set(LINES) - set(told) == {"python", "results"}


def test_differences_from_the_lock_are_marked(place):
    (place / "requirements.lock").write_text("# pins\nnumpy==1.0.0\nPyYAML==0.1\n", encoding="utf-8")
    found = lines()["packages"]
    assert re.search(r"numpy \S+ \(LOCK 1\.0\.0\)", found) and "(LOCK 0.1)" in found
    assert found.count("LOCK") == 2


def test_the_build_of_torch_is_no_difference(place, monkeypatch):
    (place / "requirements.lock").write_text("torch==2.13.0\n", encoding="utf-8")
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.13.0+cu130")
    assert "torch 2.13.0+cu130," in lines()["packages"]


def test_a_wrong_configuration_is_named_by_its_first_line(place):
    config = place / "config"
    config.symlink_to(REPO / "config")
    copied = place / "own"
    copied.mkdir()
    for path in (REPO / "config").iterdir():
        (copied / path.name).symlink_to(path)
    (copied / "wrong.yaml").write_text("targets: []\ntabels: []\n", encoding="utf-8")
    (copied / "broken.yaml").write_text("targets: [\n", encoding="utf-8")
    found = lines(config_dir=copied)["config"].splitlines()
    assert found[0].startswith("ok: config.yaml") and "wrong" not in found[0]
    assert any("wrong.yaml: unknown key 'tabels'" in text for text in found)
    assert any("broken.yaml: not valid YAML" in text for text in found)
    assert lines(config_dir=place / "none")["config"].startswith("cannot be told: a configuration file is missing")


def test_results_and_checkpoints_are_counted(place):
    results = place / "results"
    write_result(results, "picto", "text-minilm-l3", 0, {"P@1": 1.0}, minutes=1.0)
    folder = results / "runs" / "picto" / "vixml-minilm-l3" / "seed1"
    (folder / "model").mkdir(parents=True)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "state.pt").write_bytes(bytes(60_000_000))
    found = lines(results)
    assert found["results"] == "1 model (1 unfinished), 1 score"
    assert found["checkpoints"] == "picto/vixml-minilm-l3/seed1: 0.1 GB, written 0 minutes ago"


def test_a_lock_is_stale_if_no_snakemake_runs_here(place):
    locks = place / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").touch()
    assert lines()["lock"] == "STALE, no snakemake runs here: clear it with `snakemake --unlock`"
    program(place, "snakemake", "read line")
    process = subprocess.Popen([place / "snakemake"], cwd=place, stdin=subprocess.PIPE)
    try:
        assert lines()["lock"] == f"held by a running snakemake (process {process.pid})"
    finally:
        process.communicate()


def test_no_secret_and_no_home_is_printed(monkeypatch, place):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(place))
    found = block(place / "results", REPO / "config")
    assert "secret" not in found and str(place) not in found
    assert "for ~/results" in found
