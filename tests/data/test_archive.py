"""Archives from the internet: limits, damage, nesting."""

from __future__ import annotations

import struct

import pytest
from helpers import write_zip

from vixml.data.archive import Archive, SourceReader
from vixml.errors import VixmlError


def test_reads_members_and_lists_them_sorted(tmp_path):
    archive = Archive(write_zip(tmp_path / "a.whl", {"b/2.svg": "two", "b/1.svg": "one", "c.txt": "x"}))
    assert archive.names("b/", ".svg") == ["b/1.svg", "b/2.svg"]
    assert archive.read("b/2.svg") == b"two"
    assert "c.txt" in archive and "d.txt" not in archive


def test_a_hostile_name_is_only_a_key(tmp_path):
    archive = Archive(write_zip(tmp_path / "a.whl", {"../../evil": "x", "/etc/x": "y"}))
    assert archive.read("../../evil") == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["a.whl"]


def test_refuses_a_member_that_declares_too_much(tmp_path):
    archive = Archive(write_zip(tmp_path / "bomb.whl", {"big": b"\0" * 100_000}))
    with pytest.raises(VixmlError, match="larger than allowed") as caught:
        archive.read("big", limit=99_999)
    assert "100000 bytes declared" in str(caught.value) and "bomb.whl: big" in str(caught.value)
    assert len(archive.read("big", limit=100_000)) == 100_000


def test_refuses_a_member_that_holds_more_than_it_declares(tmp_path):
    path = write_zip(tmp_path / "liar.whl", {"big": b"\0" * 100_000})
    data = bytearray(path.read_bytes())
    # Uncompressed size: offset 24 of the central directory's entry.
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    # The declared ten bytes are all that is ever held; the checksum then betrays the lie.
    with pytest.raises(VixmlError, match=r"cannot be read|larger than allowed"):
        Archive(path).read("big", limit=50)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_not_a_zip(tmp_path, content):
    (tmp_path / "a.whl").write_bytes(content)
    with pytest.raises(VixmlError, match="not a readable zip") as caught:
        Archive(tmp_path / "a.whl")
    assert "a.whl" in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value"), [(6, 197), (24, 0)]
)  # of the central entry: a later version; a name of no length
def test_an_archive_of_another_kind_is_one_error(tmp_path, at, value):
    path = write_zip(tmp_path / "a.whl", {"x": b"abc"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + at + (4 if at == 24 else 0)] = value
    path.write_bytes(data)
    with pytest.raises(VixmlError, match=r"not a readable zip|cannot be read"):
        Archive(path).read("x")


def test_a_cut_zip_and_a_missing_one(tmp_path):
    path = write_zip(tmp_path / "a.whl", {"x": b"abc" * 1000})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(VixmlError, match="not a readable zip"):
        Archive(path)
    with pytest.raises(VixmlError, match="missing"):
        Archive(tmp_path / "none.whl")


def test_a_flipped_byte_is_found(tmp_path):
    path = write_zip(tmp_path / "a.whl", {"x": bytes(range(256)) * 8})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(VixmlError, match="cannot be read"):
        Archive(path).read("x")


def test_a_missing_member_is_named(tmp_path):
    with pytest.raises(VixmlError, match="no such member") as caught:
        Archive(write_zip(tmp_path / "a.whl", {"x": "1"})).read("y")
    assert "a.whl: y" in str(caught.value)


def test_source_reader_reads_plain_and_nested_references(picto):
    _, raw, sources = picto
    reader = SourceReader(raw, sources)
    assert b"power-plug" in reader.read("justmyresource-mdi:justmyresource_mdi/icons.zip!power-plug.svg")
    assert b"star" in reader.read("icon-mcp:icon_mcp/icons/star.svg")
    with pytest.raises(VixmlError, match="not in the registry"):
        reader.read("nobody:x.svg")
    for bad in ("no colon", ":member", "source:"):
        with pytest.raises(VixmlError, match="not an image reference"):
            reader.read(bad)
