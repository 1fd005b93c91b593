"""Fetching: verified, whole or absent; pip is replaced by a stand-in, so no test needs a network."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest
from picto_wheels import register, write_zip

from vixml.data import download
from vixml.errors import VixmlError
from vixml.files import read_json


@pytest.fixture
def published(tmp_path):
    """A wheel as the index has it, and its registry entry."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = write_zip(folder / "pack-1.0-py3-none-any.whl", {"a": "b" * 500})
    return path, register(path, "pack")


@pytest.fixture
def pip(monkeypatch):
    """Replace pip: ``pip.serve(bytes)`` puts a file, ``pip.fail(message)`` fails; ``pip.calls`` counts."""
    state = SimpleNamespace(calls=[], files={}, message=None)

    def run(command, **options):
        state.calls.append(command)
        if state.message is not None:
            return subprocess.CompletedProcess(command, 1, "", state.message)
        from pathlib import Path

        for name, data in state.files.items():
            (Path(command[command.index("--dest") + 1]) / name).write_bytes(data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return state


def test_fetches_verifies_and_leaves_a_receipt(tmp_path, published, pip):
    path, source = published
    pip.files = {path.name: path.read_bytes()}
    target = download.fetch_source("pack", source, tmp_path / "raw")
    assert target.read_bytes() == path.read_bytes()
    receipt = read_json(tmp_path / "raw" / f"{path.name}.json")
    assert (receipt["source"], receipt["sha256"], receipt["how"]) == ("pack", source.sha256, "downloaded")
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == [path.name, f"{path.name}.json"]
    command = pip.calls[0]
    assert "--no-deps" in command and "--only-binary=:all:" in command and command[-1] == "pack==1.0"


def test_a_good_file_in_place_is_not_fetched_again(tmp_path, published, pip):
    path, source = published
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / path.name).write_bytes(path.read_bytes())
    download.fetch_source("pack", source, raw)
    assert pip.calls == [] and read_json(raw / f"{path.name}.json")["how"] == "found in place"


@pytest.mark.parametrize("change", ["cut", "altered"])
def test_a_bad_file_in_place_is_an_error_and_kept(tmp_path, published, pip, change):
    path, source = published
    raw, data = tmp_path / "raw", path.read_bytes()
    raw.mkdir()
    (raw / path.name).write_bytes(data[:-1] if change == "cut" else data[:-1] + b"?")
    with pytest.raises(VixmlError, match="altered or cut short") as caught:
        download.fetch_source("pack", source, raw)
    assert (str(source.bytes) if change == "cut" else source.sha256) in str(caught.value.expected)
    assert path.name in str(caught.value) and pip.calls == [] and (raw / path.name).exists()


@pytest.mark.parametrize("change", ["cut", "altered"])
def test_a_bad_download_is_removed(tmp_path, published, pip, change):
    path, source = published
    data = path.read_bytes()
    pip.files = {path.name: data[:100] if change == "cut" else b"?" + data[1:]}
    with pytest.raises(VixmlError, match="not the published one") as caught:
        download.fetch_source("pack", source, tmp_path / "raw")
    assert "removed" in caught.value.hint and caught.value.found != caught.value.expected
    assert list((tmp_path / "raw").iterdir()) == []


def test_no_network_says_where_to_place_the_file(tmp_path, published, pip):
    path, source = published
    pip.message = (
        "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found\n"
    )
    with pytest.raises(VixmlError, match=r"cannot fetch pack 1\.0") as caught:
        download.fetch_source("pack", source, tmp_path / "raw")
    text = str(caught.value)
    assert str(tmp_path / "raw" / path.name) in text and source.sha256 in text and "no connection" in text
    assert list((tmp_path / "raw").iterdir()) == []


def test_another_file_than_expected(tmp_path, published, pip):
    pip.files = {"pack-1.0-cp311-linux.whl": b"x"}
    with pytest.raises(VixmlError) as caught:
        download.fetch_source("pack", published[1], tmp_path / "raw")
    assert caught.value.expected == published[0].name and "cp311" in caught.value.found


def test_a_full_disk_before_and_during(tmp_path, published, pip, monkeypatch):
    _, source = published
    pip.message = "ERROR: Could not install: [Errno 28] No space left on device\n"
    with pytest.raises(VixmlError, match="no space left"):
        download.fetch_source("pack", source, tmp_path / "raw")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(VixmlError, match="no space left"):
        download.fetch_source("pack", source, tmp_path / "raw")
    assert len(pip.calls) == 1 and list((tmp_path / "raw").iterdir()) == []


def test_a_missing_raw_file_names_the_command(tmp_path, published):
    with pytest.raises(VixmlError, match="missing") as caught:
        download.verify_file(tmp_path / "none.whl", "pack", published[1])
    assert "vixml download pack" in caught.value.hint


def test_a_file_of_another_hash_is_replaced_when_asked_and_kept_until_then(tmp_path, published, pip):
    path, source = published
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / path.name).write_bytes(b"the former release")
    pip.files = {path.name: b"?" + path.read_bytes()[1:]}
    with pytest.raises(VixmlError, match="not the published one"):
        download.fetch_source("pack", source, raw, replace=True)
    assert (raw / path.name).read_bytes() == b"the former release"
    pip.files = {path.name: path.read_bytes()}
    assert download.fetch_source("pack", source, raw, replace=True).read_bytes() == path.read_bytes()
    by_hand = source.model_copy(update={"kind": "place", "sha256": "0" * 64})
    with pytest.raises(VixmlError, match="altered or cut short"):
        download.fetch_source("pack", by_hand, raw, replace=True)
    assert (raw / path.name).read_bytes() == path.read_bytes()


def test_times_say_only_that_another_hash_is_declared(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"x")
    mark = tmp_path / ".declared/a.whl"

    def newer(declared: str) -> bool:
        for path in tmp_path.rglob("*.*"):
            path.touch()  # as a copy does
        download.declare(tmp_path, {"a.whl": declared})
        return mark.stat().st_mtime > (tmp_path / "a.whl").stat().st_mtime

    assert not newer("1" * 64) and not newer("1" * 64)
    assert newer("2" * 64) and newer("2" * 64), "until it is fetched"
    assert not newer("1" * 64) and newer("2" * 64), "an edit that was taken back"
    (tmp_path / "a.whl.json").write_text('{"sha256": "%s"}' % ("2" * 64))
    assert not newer("2" * 64)
