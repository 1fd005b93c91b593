"""What a stage reads is what the manifests of its inputs vouch for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import flip_a_bit

from vixml.errors import VixmlError
from vixml.files import read_json, sha256_json, write_json, write_text
from vixml.manifest import (
    MANIFEST,
    describe_input,
    expect_nothing_else,
    not_whole,
    read_manifest,
    verify,
    verify_file,
    with_digest,
)
from vixml.provenance import stage


def make(out, text="x" * 100, **inputs):
    with stage(out, "demo", config={"k": 1}, inputs=inputs) as work:
        write_text(work / "a.txt", text)
        write_text(work / "deep" / "er" / "b.txt", text)
    return out


@pytest.mark.parametrize("name", ["a.txt", "deep/er/b.txt"])
@pytest.mark.parametrize("whole", [True, False], ids=["a folder", "one file"])
def test_a_flipped_bit_of_an_input_stops_the_stage_that_reads_it(tmp_path, name, whole):
    one = make(tmp_path / "one")
    read = one if whole else one / name
    make(tmp_path / "two", one=read)  # hashes are kept in this process, but not of a file that changed since
    times = os.stat(one / name)
    flip_a_bit(one / name)
    os.utime(one / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(VixmlError, match="not the one that its stage wrote") as caught:
        make(tmp_path / "three", one=read)
    assert caught.value.where == one / name and "snakemake" in caught.value.hint
    assert not (tmp_path / "three").exists()
    with pytest.raises(VixmlError, match="not the one"):
        verify_file(one / name)


def test_missing_and_cut_files_are_refused(tmp_path):
    one = make(tmp_path / "one")
    (one / "a.txt").write_text("cut", encoding="utf-8")
    assert not_whole(one) == ["a.txt"]
    with pytest.raises(VixmlError, match="not the one") as caught:
        describe_input(one)
    assert (caught.value.found, caught.value.expected) == ("3 bytes", "100 bytes")
    (one / "a.txt").unlink()
    with pytest.raises(VixmlError, match="names is missing"):
        verify(one)
    verify(one, ["deep/er/b.txt"])


@pytest.mark.parametrize("part", ["outputs", "config"])
def test_an_altered_manifest_is_refused(tmp_path, part):
    one = make(tmp_path / "one")
    manifest = read_json(one / MANIFEST)
    manifest[part] = {"a.txt": {"sha256": "0" * 64, "bytes": 3}}
    write_json(one / MANIFEST, manifest)
    for read in (read_manifest, describe_input):
        with pytest.raises(VixmlError, match=f"altered: its {part}"):
            read(one)


@pytest.mark.parametrize("part", ["facts", "versions", "inputs", "wall_seconds", "manifest_sha256"])
def test_a_manifest_vouches_for_its_other_parts_too(tmp_path, part):
    path = make(tmp_path / "one") / MANIFEST
    manifest = read_json(path)
    write_json(path, manifest | {part: {"steps": 7}})
    for read in (read_manifest, describe_input):
        with pytest.raises(VixmlError, match="a manifest was altered"):
            read(tmp_path / "one")
    del manifest["manifest_sha256"]  # as earlier versions wrote it
    write_json(path, manifest)
    assert read_manifest(tmp_path / "one") == manifest


def test_a_manifest_reads_nothing_outside_its_folder(tmp_path):
    write_text(tmp_path / "secret", "x")
    manifest = read_manifest(make(tmp_path / "one", "x"))
    manifest["outputs"] = {"../secret": manifest["outputs"]["a.txt"]}
    manifest["outputs_sha256"] = sha256_json(manifest["outputs"])
    write_json(tmp_path / "one" / MANIFEST, with_digest(manifest))
    with pytest.raises(VixmlError, match="outside its folder"):
        verify(tmp_path / "one")


def test_an_input_that_is_replaced_while_a_stage_reads_it_stops_the_stage(tmp_path):
    one = make(tmp_path / "one")
    with (
        pytest.raises(VixmlError, match="changed while") as caught,
        stage(tmp_path / "two", "demo", config={}, inputs={"one": one}),
    ):
        make(one, "y" * 100)
    assert caught.value.where in (one / "a.txt", one / "deep/er/b.txt") and not (tmp_path / "two").exists()
    with stage(tmp_path / "two", "demo", config={}, inputs={"one": one}):
        for path in (one / "a.txt", one / "deep/er/b.txt"):
            path.touch()  # the same content
    assert read_manifest(tmp_path / "two")["inputs"]["one"]["sha256"] == read_manifest(one)["outputs_sha256"]


def test_a_plain_file_beside_a_manifest_of_something_else_is_just_a_file(tmp_path):
    write_text(tmp_path / "raw.bin", "x")
    for manifest in ({"name": "an extension of a browser"}, {"outputs": []}, ["outputs"]):
        write_json(tmp_path / MANIFEST, manifest)
        assert describe_input(tmp_path / "raw.bin")["sha256"].startswith("2d711642")


def test_nothing_may_lie_beside_the_files_of_a_model(tmp_path):
    one = make(tmp_path / "one")
    write_text(one / ".hidden", "a system's file")
    expect_nothing_else(one)
    write_text(one / "adapter_config.json", "{}")
    with pytest.raises(VixmlError, match="did not write") as caught:
        expect_nothing_else(one)
    assert Path(caught.value.where).name == "adapter_config.json"
    expect_nothing_else(tmp_path)  # no stage's folder
