"""A file of a data set of the hub: fetched at its commit, or refused with what to do."""

from __future__ import annotations

import pytest
from hub_server import COMMIT, serve_hub, turn_away

from vixml.config.registry import Source
from vixml.data.download import fetch_source
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file

REPOSITORY = "Somebody/pictures"


def source(**changes):
    settings = dict(kind="hub", name=REPOSITORY, hub_path="urls.parquet", version="-", filename="urls.parquet")
    return Source(**settings | dict(licence="none", used_for="addresses") | changes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    published = tmp_path / "published"
    published.mkdir()
    (published / "urls.parquet").write_bytes(b"PAR1" + bytes(range(256)) * 50)
    with serve_hub(monkeypatch, f"datasets/{REPOSITORY}", published) as answers:
        yield answers


def test_a_file_is_fetched_and_its_hash_kept(hub, tmp_path):
    target = fetch_source("urls", source(), tmp_path / "raw")
    assert sha256_file(target) == sha256_file(hub.folder / "urls.parquet")
    receipt = read_json(tmp_path / "raw" / "urls.parquet.json")
    assert receipt["how"] == "downloaded" and receipt["sha256"] == sha256_file(target)
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {"urls.parquet", "urls.parquet.json"}
    asked = len(hub.asked)
    fetch_source("urls", source(), tmp_path / "raw")
    assert len(hub.asked) == asked, "what is there is not asked for again"


def test_a_commit_is_asked_for(hub, tmp_path):
    fetch_source("urls", source(version=COMMIT), tmp_path / "raw")
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.asked)


def test_another_file_than_the_registered_one_is_refused(hub, tmp_path):
    with pytest.raises(VixmlError) as caught:
        fetch_source("urls", source(sha256="0" * 64), tmp_path / "raw")
    assert "0" * 64 in str(caught.value) and not (tmp_path / "raw" / "urls.parquet").exists()


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "hub_path"), (None, "network")]
)
def test_a_hub_that_does_not_answer_says_where_to_place_the_file(hub, tmp_path, monkeypatch, status, hint):
    hub.status = status
    if status is None:
        turn_away(monkeypatch)
    with pytest.raises(VixmlError, match=r"cannot fetch urls\.parquet") as caught:
        fetch_source("urls", source(), tmp_path / "raw")
    assert hint in caught.value.hint and str(tmp_path / "raw" / "urls.parquet") in caught.value.hint
