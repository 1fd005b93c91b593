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


def entry(at, value):
    """Return a function that sets a byte of the central directory's first entry."""

    def damage(data):
        at_entry = data.index(b"PK\x01\x02") + at
        return data[:at_entry] + bytes([value]) + data[at_entry + 1 :]

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "not a readable zip"),
        (lambda data: b"not a zip", "not a readable zip"),
        (lambda data: b"PK\x03\x04 cut", "not a readable zip"),
        (lambda data: data[:-30], "not a readable zip"),
        (lambda data: data[:31] + b"\xff" + data[32:], "cannot be read"),
        (lambda data: data[:60] + bytes([data[60] ^ 0xFF]) + data[61:], "cannot be read"),
        (entry(6, 197), "not a readable zip|cannot be read"),
        (entry(28, 0), "not a readable zip|cannot be read"),
    ],
    ids=[
        "empty",
        "text",
        "a start",
        "cut",
        "no deflated data",
        "a flipped byte",
        "a later version",
        "a name of no length",
    ],
)
def test_a_damaged_archive_is_one_error(tmp_path, damage, says):
    path = write_zip(tmp_path / "a.whl", {"x": bytes(range(256)) * 8})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VixmlError, match=says) as caught:
        Archive(path).read("x")
    assert "a.whl" in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(VixmlError, match="missing"):
        Archive(tmp_path / "none.whl")
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
