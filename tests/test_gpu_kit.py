"""The GPU kit: every kind of part at tiny size on the processor, and how the command deals with parts that fail."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vixml.files import read_json, write_json

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def kit(monkeypatch):
    """Return the module; names of benchmarks are taken for this test only."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(BENCHMARKS.parent)
    import gpu_kit

    yield gpu_kit
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


PARTS = ("decoder-0.5b-liger", "memory-qwen2.5-7b", "encoder-minilm", "mining", "search", "pooling", "centroids")


@pytest.mark.parametrize("name", PARTS)
def test_a_part(kit, tmp_path, capsys, name):
    assert kit.run_part(name, tmp_path, "cpu", tiny=True) == 0
    shown = capsys.readouterr().out
    assert "check passed" in shown
    (path,) = tmp_path.iterdir()
    document = read_json(path)
    assert path.name == f"kit-{name}-cpu.json" and {"card", "date", "machine", "versions", "source"} <= set(document)
    (row,) = document["rows"]
    assert row["ours"]["median"] > 0 and row["limit"] > 0 and row["check"]["passed"] and row["path"] in shown
    assert ("to reach" in shown) == ("reach" in row)


def test_projection_needs_the_other_parts(kit, tmp_path, capsys):
    assert kit.run_part("projection", tmp_path, "cpu", tiny=True) == 4
    assert "--parts mining centroids decoder-3b projection" in capsys.readouterr().out
    for name, median in (("decoder-3b", 500.0), ("mining", 36.0), ("centroids", 0.0)):
        row = {"ours": {"median": median}, "device": "cpu"}
        document = {"benchmark": f"kit-{name}", "tiny": True, "rows": [row]}
        write_json(tmp_path / f"kit-{name}-cpu.json", document)
    assert kit.run_part("projection", tmp_path, "cpu", tiny=True) == 0
    (row,) = read_json(tmp_path / "kit-projection-cpu.json")["rows"]
    assert row["hours"]["steps"] == pytest.approx(40 * 2_248_619 / 500 / 3600, rel=1e-3)
    assert row["hours"]["mining"] == pytest.approx(18 * 36 / 3600)
    assert row["ours"]["median"] == pytest.approx(sum(row["hours"].values()))


def test_a_part_that_is_wrong_fails_its_check(kit, tmp_path, monkeypatch, capsys):
    import kit_vectors

    monkeypatch.setattr(kit_vectors, "search", lambda queries, *_, **__: (np.zeros((len(queries), 10)), None))
    assert kit.run_part("search", tmp_path, "cpu", tiny=True) == 1
    assert "check FAILED" in capsys.readouterr().out and len(list(tmp_path.iterdir())) == 1


def test_out_of_memory_and_errors_are_told_apart(kit, tmp_path, monkeypatch, capsys):
    import kit_vectors

    memory = torch.OutOfMemoryError("CUDA out of memory. Tried")
    for error, status in ((memory, 3), (ImportError("no pydantic"), 4), (KeyError(), 4)):
        monkeypatch.setattr(kit_vectors, "mining", lambda kit, e=error: (_ for _ in ()).throw(e))
        assert kit.run_part("mining", tmp_path, "cpu", tiny=True) == status
    assert "--wheels" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_others_run_when_a_part_fails(kit, tmp_path, monkeypatch, capsys):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$3" in search) exit 1;; mining) exit 3;; pooling) exec sleep 900;; esac\n')
    python.chmod(0o755)
    monkeypatch.setattr(kit, "PYTHON", str(python))
    arguments = ["kit", "--out", str(tmp_path / "out"), "--limit", "5", "--parts"]
    monkeypatch.setattr(sys, "argv", [*arguments, "search", "mining", "pooling", "centroids"])
    assert kit.main() == 1
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [end for _, end in lines] == ["CHECK FAILED", "OUT OF MEMORY", "STOPPED after 5 s", "passed"]
    monkeypatch.setattr(sys, "argv", [*arguments, "centroids"])
    assert kit.main() == 0


def test_wheels_of_this_python_are_unpacked(kit, tmp_path):
    this = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for name in ("a-1-py3-none-any", f"b-1-{this}-{this}-manylinux_2_17_x86_64", "c-1-cp39-cp39-manylinux_2_17_x86_64"):
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as wheel:
            wheel.writestr(f"{name[0]}.py", "")
    kit.unpack(tmp_path, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.py", "b.py"]
