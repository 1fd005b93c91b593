"""A stage's folder appears whole, with a manifest that records how it was made, or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vixml.errors import VixmlError
from vixml.files import sha256_file, write_text
from vixml.provenance import MANIFEST, describe_input, git_state, read_manifest, require_space, stage, versions


def make(out, text="x", inputs=None, **config):
    with stage(out, "demo", config=config, inputs=inputs or {}) as work:
        write_text(work / "deep" / "a.txt", text)
    return read_manifest(out)


def test_a_manifest_records_how_the_folder_was_made(tmp_path):
    (tmp_path / "raw.bin").write_bytes(b"raw")
    made = make(tmp_path / "one", inputs={"raw": tmp_path / "raw.bin"}, k=1)
    assert made["stage"] == "demo" and made["config"] == {"k": 1}
    assert made["inputs"]["raw"]["sha256"] == sha256_file(tmp_path / "raw.bin")
    assert made["outputs"] == {"deep/a.txt": {"sha256": sha256_file(tmp_path / "one/deep/a.txt"), "bytes": 1}}
    for key in ("versions", "source", "machine", "started_at", "wall_seconds", "peak_memory_mb", "command"):
        assert made[key] is not None
    assert made["peak_memory_mb"] > 1 and made["machine"]["cores"] >= 1


def test_a_stage_names_its_input_stage_by_what_that_wrote(tmp_path):
    first = make(tmp_path / "one", "x")
    again = make(tmp_path / "same", "x")
    assert first["outputs_sha256"] == again["outputs_sha256"], "times and places are not content"
    second = make(tmp_path / "two", inputs={"one": tmp_path / "one"})
    assert second["inputs"]["one"]["sha256"] == first["outputs_sha256"]
    assert make(tmp_path / "one", "y")["outputs_sha256"] != first["outputs_sha256"]


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    before = make(tmp_path / "one", "old")
    with pytest.raises(RuntimeError), stage(tmp_path / "one", "demo", config={}, inputs={}) as work:
        write_text(work / "a.txt", "half")
        raise RuntimeError
    assert read_manifest(tmp_path / "one") == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_kill_while_publishing_leaves_no_manifest(tmp_path, monkeypatch):
    make(tmp_path / "one", "old")

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vixml.provenance.os.replace", killed)
        with pytest.raises(KeyboardInterrupt), stage(tmp_path / "one", "demo", config={}, inputs={}) as work:
            (work / "a.txt").write_text("new", encoding="utf-8")
            patched.setattr("vixml.provenance.write_json", lambda path, value: path.write_text("{}", encoding="utf-8"))
    assert not (tmp_path / "one" / MANIFEST).exists(), "an old manifest beside new files would be a lie"


def test_publishing_again_replaces_folders(tmp_path):
    make(tmp_path / "one", "old")
    (tmp_path / "one" / "deep" / "left_over.txt").write_text("x", encoding="utf-8")
    make(tmp_path / "one", "new")
    assert [p.name for p in (tmp_path / "one" / "deep").iterdir()] == ["a.txt"]


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(VixmlError, match="no space left"), stage(tmp_path / "one", "demo", config={}, inputs={}):
        raise OSError(errno.ENOSPC, "No space left on device")


# /dev/full answers a write as a full disk does; NumPy and torch then lose the system's reason.
WRITERS = {
    "text": lambda stream: stream.write(b"x" * 100_000),
    "numpy": lambda stream: np.ones(100_000).tofile(stream),
    "parquet": lambda stream: pq.write_table(pa.table({"x": np.arange(100_000)}), stream),
    "torch": lambda stream: torch.save({"weights": torch.zeros(100_000)}, stream),
    "torch by path": lambda stream: torch.save({"weights": torch.zeros(100_000)}, stream.name),
}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_whatever_meets_a_full_disk_says_so_and_keeps_what_was_there(tmp_path, write):
    before = make(tmp_path / "one", "old")
    with (
        pytest.raises(VixmlError, match="no space left") as caught,
        stage(tmp_path / "one", "demo", config={}, inputs={}),
        open("/dev/full", "wb", buffering=0) as stream,
    ):
        write(stream)
    assert caught.value.where == tmp_path / "one"
    assert read_manifest(tmp_path / "one") == before and [p.name for p in tmp_path.iterdir()] == ["one"]


def test_other_failures_are_not_taken_for_a_full_disk(tmp_path):
    for failure in (OSError(errno.EINVAL, "Invalid argument"), RuntimeError("shapes differ")):
        with pytest.raises(type(failure), match=failure.args[-1]), stage(tmp_path / "a", "v", config={}, inputs={}):
            raise failure


def test_space_is_checked_before_a_memory_map_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("vixml.provenance.shutil.disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    require_space(tmp_path / "not" / "there" / "yet", 5_000_000)
    with pytest.raises(VixmlError, match="no space left") as caught:
        require_space(tmp_path / "out", 7_000_000)
    assert (caught.value.found, caught.value.expected) == ("5 MB free", "7 MB")


def test_unfinished_and_missing_inputs_are_refused(tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(VixmlError, match="not complete"):
        describe_input(tmp_path / "half")
    with (
        pytest.raises(VixmlError, match="missing"),
        stage(tmp_path / "one", "demo", config={}, inputs={"x": tmp_path / "none"}),
    ):
        pass
    assert not (tmp_path / "one").exists()


def test_a_manifest_of_another_version_is_refused(tmp_path):
    make(tmp_path / "one")
    path = tmp_path / "one" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 99}), encoding="utf-8")
    with pytest.raises(VixmlError, match="schema version"):
        read_manifest(tmp_path / "one")


def test_versions_and_commit():
    assert {"python", "vixml", "numpy", "torch", "snakemake"} <= set(versions())
    assert set(git_state()) == {"commit", "modified"}
