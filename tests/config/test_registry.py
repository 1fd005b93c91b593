"""Entries of the registry: what a source may name, and which settings a stage obeys."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vixml.config.registry import Dataset, Fetch, Source

WHEEL = {
    "kind": "wheel", "name": "icon-mcp", "version": "0.1.0+cpu", "filename": "icon_mcp-0.1.0-py3-none-any.whl",
    "sha256": "0" * 64, "bytes": 5, "licence": "MIT", "used_for": "a test",
}  # fmt: skip


def test_a_source_as_it_should_be():
    assert Source(**WHEEL).filename.endswith(".whl")
    placed = {"kind": "place", "name": "A file, as published", "version": "-", "sha256": None, "bytes": None}
    assert Source(**WHEEL | placed | {"filename": "LF-Amazon_131K.raw.zip"}).version == "-"


@pytest.mark.parametrize(
    "filename",
    [
        "/etc/victim.zip", "../victim.zip", "sub/victim.zip", "a\\victim.zip", "a b.zip", ".hidden.zip", "-r.zip",
        "a.zip\n", "{dataset}.zip", "a.txt", ".zip", "",
    ],
)  # fmt: skip
def test_a_raw_file_has_one_part_of_a_path_and_a_known_ending(filename):
    """A name with a path would be written over, a name with a blank found by no rule."""
    with pytest.raises(ValidationError, match="filename"):
        Source(**WHEEL | {"filename": filename})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "evil @ https://host/x.tar.gz"}, {"name": "--index-url=https://host"}, {"name": "a b"}, {"name": ""},
        {"version": "1.0 @ https://host"}, {"version": "-"}, {"version": "*"}, {"version": ""}, {"version": "1.0\n"},
    ],
)  # fmt: skip
def test_a_wheel_is_what_pip_takes_for_a_distribution(change):
    """``pip download`` runs the code of an archive that ``NAME @ ADDRESS`` names."""
    with pytest.raises(ValidationError, match="not that of a distribution"):
        Source(**WHEEL | change)


def fetched(**keys) -> dict:
    entry = Dataset(title="A", builder="xc-repository", sources=["a"], image_urls="url", fetch=Fetch(**keys))
    return entry.settings("fetch-images")


def test_fetched_images_obey_what_decides_whether_one_is_kept():
    usual = fetched()
    assert usual["fetch"] == {"max_bytes": 20_000_000}, "images that were fetched before are not fetched again"
    assert usual == fetched(allow_private=False, redirects=5, concurrency=1, attempts=9, user_agent="me")
    assert fetched(allow_private=True)["fetch"] == usual["fetch"] | {"allow_private": True}
    assert fetched(redirects=0)["fetch"] == usual["fetch"] | {"redirects": 0}
    assert fetched(max_bytes=5)["fetch"] == {"max_bytes": 5}
