"""Files are whole or absent; damaged ones are refused with their name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from vixml import files
from vixml.errors import VixmlError


def test_a_file_appears_whole_and_leaves_nothing_behind(tmp_path):
    files.write_text(tmp_path / "deep" / "a.txt", "héllo")
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "héllo"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_goes_with_the_next_writing_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    if (child := os.fork()) == 0:
        with files.atomic_path(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob(".tmp-a.txt-*"))) == 1
    with files.atomic_path(path) as running, files.atomic_path(tmp_path / "b.txt"):
        files.write_text(path, "whole")
        assert running.exists(), "of a process that runs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_what_another_machine_or_container_left_goes_with_age(tmp_path, monkeypatch):
    """A process of theirs may run, whatever our process of its number does."""
    path, now = tmp_path / "a.txt", time.time()
    (ended := subprocess.Popen(["true"])).wait()
    left = {}
    for what, (name, value) in {"host": ("platform.node", "other"), "container": ("_pid_namespace", 1)}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"vixml.files.{name}", lambda value=value: value)
            left[what] = tmp_path / f"{files._prefix(path)}{ended.pid}-"
    for start in left.values():
        for days in (0.5, 2, 40):
            file, folder = Path(f"{start}file{days}"), Path(f"{start}folder{days}")
            file.touch()
            folder.mkdir()
            for one in (file, folder):
                os.utime(one, (now - days * files.DAY,) * 2)
    files.write_text(path, "whole")
    kept = {Path(f"{start}{name}") for start in left.values() for name in ("file0.5", "folder0.5", "folder2")}
    assert set(tmp_path.iterdir()) == kept | {path}


def test_a_full_disk_is_explained_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VixmlError) as caught:
        files.write_text(path, "new")
    assert "no space left" in str(caught.value) and "resumes" in caught.value.hint
    assert path.read_text(encoding="utf-8") == "old"


def test_a_library_that_tells_the_systems_number_in_its_text_is_understood(tmp_path):
    import resource

    import torch
    from safetensors.torch import save_file

    if (child := os.fork()) == 0:  # the limit is for good
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            with files.atomic_path(tmp_path / "a.safetensors") as temporary:
                save_file({"a": torch.zeros(1000)}, temporary)
        except VixmlError as error:
            status = 0 if "larger than this disk" in error.what and error.where == tmp_path / "a.safetensors" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0 and not list(tmp_path.iterdir())


def test_a_fault_of_the_cleaning_up_does_not_hide_that_the_file_is_there(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    files.write_text(tmp_path / "a.txt", "whole")
    with pytest.raises(KeyError), files.atomic_path(tmp_path / "a.txt"):
        raise KeyError
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "whole"


def test_other_failures_of_the_disk_are_not_disguised(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        files.write_text(tmp_path / "a.txt", "new")


def test_files_are_for_everyone(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a.txt", "x")
        with files.atomic_path(tmp_path / "b.txt") as temporary:
            temporary.chmod(0o600)  # as safetensors does
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_json_keeps_order_and_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"b": 1, "a": "é"}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()
    for number in ("NaN", "-Infinity", "1e999"):
        (tmp_path / "c.json").write_text(f'{{"a": {number}}}', encoding="utf-8")
        with pytest.raises(VixmlError, match="JSON") as caught:
            files.read_json(tmp_path / "c.json", finite=True)
        assert "not finite" in caught.value.found


def test_bad_json_names_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n  "a": 1,\n}\n', encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        files.read_json(tmp_path / "a.json")
    assert str(caught.value.where).endswith("a.json:3")
    with pytest.raises(VixmlError, match="missing"):
        files.read_json(tmp_path / "none.json")


@pytest.mark.parametrize("shape", [(3, 2), (0,), (0, 4), ()])
def test_arrays_come_back(tmp_path, shape):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float16).reshape(shape)
    files.save_array(tmp_path / "a.npy", array)
    found = files.load_array(tmp_path / "a.npy")
    assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)


def test_a_mapped_array_cannot_be_written(tmp_path):
    files.save_array(tmp_path / "a.npy", np.zeros(4))
    with pytest.raises(ValueError, match="read-only"):
        files.load_array(tmp_path / "a.npy")[0] = 1


def test_pickles_are_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(VixmlError, match="not a whole"):
        files.load_array(tmp_path / "a.npy")


def test_a_cut_array_is_refused(tmp_path):
    files.save_array(tmp_path / "a.npy", np.arange(1000))
    data = (tmp_path / "a.npy").read_bytes()
    for length in (0, 5, 80, len(data) - 1):
        (tmp_path / "a.npy").write_bytes(data[:length])
        with pytest.raises(VixmlError) as caught:
            files.load_array(tmp_path / "a.npy")
        assert caught.value.where == tmp_path / "a.npy"


def test_hashes(tmp_path):
    data = b"x" * ((1 << 20) + 1)
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json(json.loads('{"b": 2, "a": 1}'))
    assert files.sha256_json([1]) != files.sha256_json(["1"])


@pytest.mark.parametrize("folder", [False, True])
def test_moving_to_another_disk_copies(tmp_path, monkeypatch, folder):
    source, target, replace = tmp_path / "one" / "a", tmp_path / "two" / "a", os.replace
    files.write_text(source / "b" if folder else source, "new")
    target.parent.mkdir()

    def across(old, new):
        if Path(old).parent != Path(new).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(os, "replace", across)
    files.move(source, target)
    assert (target / "b" if folder else target).read_text(encoding="utf-8") == "new" and not source.exists()
    assert [path.name for path in target.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.EINVAL])
def test_a_disk_without_hard_links_gets_a_copy(tmp_path, monkeypatch, number):
    def refused(source, target):
        raise OSError(number, "no link")

    files.write_text(tmp_path / "a", "x")
    monkeypatch.setattr(os, "link", refused)
    files.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "x"
