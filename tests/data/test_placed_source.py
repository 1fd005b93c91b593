"""Sources that a person places: the error says how, the file's own hash holds from the first time it is seen."""

from __future__ import annotations

import pytest
from picto_wheels import write_zip
from pydantic import ValidationError

from vixml.config.registry import Source
from vixml.data.download import fetch_source, verify_file
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file

SHAPE = {"name": "Texts", "version": "-", "filename": "texts.raw.zip", "licence": "not stated", "used_for": "texts"}


@pytest.fixture
def source():
    return Source(kind="place", google_drive="id-on-the-drive", **SHAPE)


def test_a_file_that_is_not_there_says_where_it_comes_from_and_where_it_goes(tmp_path, source):
    for ask in (
        lambda: fetch_source("texts", source, tmp_path),
        lambda: verify_file(tmp_path / "texts.raw.zip", "texts", source),
    ):
        with pytest.raises(VixmlError, match="placed by hand") as caught:
            ask()
        assert "Google Drive id id-on-the-drive" in caught.value.hint
        assert str(tmp_path / "texts.raw.zip") in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_placed_file_is_taken_and_its_hash_recorded(tmp_path, source):
    path = write_zip(tmp_path / "texts.raw.zip", {"trn.json.gz": "texts"})
    verify_file(path, "texts", source)
    assert fetch_source("texts", source, tmp_path) == path
    receipt = read_json(tmp_path / "texts.raw.zip.json")
    assert (receipt["sha256"], receipt["bytes"], receipt["how"]) == (
        sha256_file(path), path.stat().st_size, "found in place",
    )  # fmt: skip


def test_another_file_later_is_an_error_until_the_receipt_goes(tmp_path, source):
    path = write_zip(tmp_path / "texts.raw.zip", {"trn.json.gz": "texts"})
    fetch_source("texts", source, tmp_path)
    write_zip(path, {"trn.json.gz": "other"})
    with pytest.raises(VixmlError, match="altered") as caught:
        verify_file(path, "texts", source)
    assert "texts.raw.zip.json" in caught.value.hint
    (tmp_path / "texts.raw.zip.json").unlink()
    fetch_source("texts", source, tmp_path)


def test_a_declared_hash_is_checked_here_too(tmp_path):
    path = tmp_path / "texts.raw.zip"
    path.write_bytes(b"texts")
    with pytest.raises(VixmlError, match="altered"):
        fetch_source("texts", Source(kind="place", sha256="0" * 64, **SHAPE), tmp_path)


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
        Source(**SHAPE, **given)
