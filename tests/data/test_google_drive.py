"""Fetching from Google Drive, against a local server with the pages and the faults of the real one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from drive_server import Drive, make_certificate, serve
from helpers import files_in, zipped

from vixml.config.registry import Source
from vixml.data import download
from vixml.data.download import fetch_source, verify_download
from vixml.errors import VixmlError
from vixml.files import read_json

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")

ABOUT = {"name": "D, raw text", "version": "-", "licence": "not stated", "used_for": "tests"}
SOURCE = Source(kind="google-drive", google_drive="1WuquxCAg8D4lKr", filename="texts.zip", **ABOUT)


def archive(size: int = 3_000_000) -> bytes:
    return zipped({"D/trn.json.gz": random.Random(0).randbytes(size)}, zipfile.ZIP_STORED)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def drive(certificate, monkeypatch):
    drive = Drive(archive())
    server = serve(drive, certificate)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{drive.port}")
    for name in ("NO_PROXY", "no_proxy", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(download, "RETRIES", 0)
    yield drive
    server.shutdown()
    server.server_close()


def kept_bytes(folder):
    """Return the size of the partial download."""
    return sum(path.stat().st_size for path in download.partial_folder(folder / "texts.zip").iterdir())


def cut_short(folder, drive):
    """Let a first download break off."""
    drive.cut = [1_200_000]
    with pytest.raises(VixmlError, match="cut short") as caught:
        fetch_source("texts", SOURCE, folder)
    return caught.value


@pytest.mark.parametrize("mode", ["confirm", "direct"])
def test_a_file_is_fetched_and_recorded(tmp_path, drive, mode, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    drive.mode = mode
    path = fetch_source("texts", SOURCE, tmp_path / "raw")
    assert path.read_bytes() == drive.content
    receipt = read_json(tmp_path / "raw" / "texts.zip.json")
    assert (receipt["how"], receipt["bytes"]) == ("downloaded", len(drive.content))
    assert receipt["google_drive"] == SOURCE.google_drive
    assert files_in(tmp_path / "raw") == ["texts.zip", "texts.zip.json"]
    assert {host for host, _, _ in drive.asked} <= {"drive.google.com", "drive.usercontent.google.com"}
    assert len(drive.asked) == (2 if mode == "confirm" else 1)
    # Nothing is written into a home folder, and a file in place is not fetched again.
    assert not (tmp_path / "home").exists()
    fetch_source("texts", SOURCE, tmp_path / "raw")
    assert len(drive.asked) == (2 if mode == "confirm" else 1)


def test_a_spent_quota_says_what_to_do(tmp_path, drive):
    drive.mode = "quota"
    with pytest.raises(VixmlError, match="too many people") as caught:
        fetch_source("texts", SOURCE, tmp_path)
    assert "Too many users have viewed" in caught.value.found
    assert "24 hours" in caught.value.hint and f"place the file at {tmp_path / 'texts.zip'}" in caught.value.hint
    assert SOURCE.google_drive in caught.value.hint and not (tmp_path / "texts.zip").exists()
    # Once it is placed, the same command accepts it.
    (tmp_path / "texts.zip").write_bytes(drive.content)
    fetch_source("texts", SOURCE, tmp_path)
    assert read_json(tmp_path / "texts.zip.json")["how"] == "found in place"


@pytest.mark.parametrize(("mode", "says"), [("sign-in", "does not give this file"), ("missing", "Google Drive")])
def test_a_refusal_is_no_spent_quota(tmp_path, drive, mode, says):
    drive.mode = mode
    with pytest.raises(VixmlError, match=says) as caught:
        fetch_source("texts", SOURCE, tmp_path)
    assert "24 hours" not in caught.value.hint and "place the file at" in caught.value.hint


def test_endless_pages_end(tmp_path, drive, monkeypatch):
    drive.mode = "loop"
    monkeypatch.setattr(download, "FIRST_BYTE", 0.5)
    with pytest.raises(VixmlError, match="pages in place of the file"):
        fetch_source("texts", SOURCE, tmp_path)


def test_a_cut_download_is_kept_and_resumed(tmp_path, drive):
    hint, kept = cut_short(tmp_path, drive).hint, kept_bytes(tmp_path)
    assert kept > 0 and f"{kept} bytes are kept" in hint and not (tmp_path / "texts.zip").exists()
    assert fetch_source("texts", SOURCE, tmp_path).read_bytes() == drive.content
    assert drive.asked[-1][2] == f"bytes={kept}-" and files_in(tmp_path) == ["texts.zip", "texts.zip.json"]


def test_a_cut_within_one_call_is_resumed(tmp_path, drive, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 2)
    drive.cut = [1_200_000]
    assert fetch_source("texts", SOURCE, tmp_path).read_bytes() == drive.content


@pytest.mark.parametrize("change", ["another version", "no ranges", "all of it is there"])
def test_what_cannot_be_resumed_starts_again(tmp_path, drive, change):
    cut_short(tmp_path, drive)
    if change == "another version":
        drive.content = archive(900_000)
    elif change == "no ranges":
        drive.ranges = False
    else:
        (part,) = download.partial_folder(tmp_path / "texts.zip").iterdir()
        part.write_bytes(drive.content)
    assert fetch_source("texts", SOURCE, tmp_path).read_bytes() == drive.content


def test_a_killed_download_is_resumed(tmp_path, drive):
    drive.content = archive(60_000_000)
    script = (
        "import sys; from vixml.config.registry import Source; from vixml.data.download import fetch_source\n"
        "fetch_source('texts', Source.model_validate_json(sys.argv[1]), sys.argv[2])"
    )
    child = subprocess.Popen([sys.executable, "-c", script, SOURCE.model_dump_json(), str(tmp_path)], env=os.environ)
    folder = download.partial_folder(tmp_path / "texts.zip")
    deadline = time.monotonic() + 600
    while not (folder.exists() and kept_bytes(tmp_path)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = kept_bytes(tmp_path)
    assert 0 < kept < len(drive.content), "the download was over before it was killed"
    assert fetch_source("texts", SOURCE, tmp_path).read_bytes() == drive.content
    assert drive.asked[-1][2] == f"bytes={kept}-"


def test_a_download_that_is_no_archive_is_removed(tmp_path, drive):
    drive.content = b"not an archive" * 1000
    with pytest.raises(VixmlError, match="not a whole zip"):
        fetch_source("texts", SOURCE, tmp_path)
    assert files_in(tmp_path) == []


def test_no_network_says_so(tmp_path, drive, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(VixmlError, match="cannot reach Google Drive") as caught:
        fetch_source("texts", SOURCE, tmp_path)
    assert "place the file at" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>Too many users</html>", "a web page"),
        (b"\n <html><body>Sign in</body></html>", "a web page"),
        (archive(5000)[:4000], "not a whole zip"),
        (b"", "not a whole zip"),
    ],
)
@pytest.mark.parametrize("fetch", [True, False])
def test_a_placed_file_that_is_no_archive_is_refused(tmp_path, content, says, fetch):
    path = tmp_path / "texts.zip"
    path.write_bytes(content)
    with pytest.raises(VixmlError, match=says) as caught:
        fetch_source("texts", SOURCE, tmp_path) if fetch else verify_download(path, "texts", SOURCE)
    assert SOURCE.google_drive in caught.value.hint
    assert path.read_bytes() == content and files_in(tmp_path) == ["texts.zip"]
