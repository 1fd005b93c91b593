"""The image store: images are read back in order, and anything else is one clear error."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from vixml.errors import VixmlError
from vixml.files import sha256_file, write_json
from vixml.images import store as store_module
from vixml.images.store import ImageStore, shard_name, write_store

ITEMS = [(i, f"key-{i}", None if i in (0, 5, 9) else f"png {i}".encode()) for i in range(10)]


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(store_module, "GROUP", 2)


@pytest.mark.parametrize("n_shards", [1, 3, 4, 10, 17])
def test_every_image_is_read_back(tmp_path, n_shards, small_groups):
    header = write_store(tmp_path, iter(ITEMS), 10, n_shards)
    store = ImageStore.open(tmp_path)
    assert header["missing"] == [0, 5, 9] and store.missing == {0, 5, 9} and len(store) == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*map(shard_name, range(n_shards)), "store.json"])
    assert list(store) == [item for item in ITEMS if item[2] is not None]
    for image, _, data in reversed(ITEMS):
        if data is not None:
            assert store.read(image) == data
    per_shard = [image for shard in range(n_shards) for image, _, _ in store.shard(shard)]
    assert per_shard == [1, 2, 3, 4, 6, 7, 8]


def test_the_bytes_depend_only_on_the_images(tmp_path, small_groups):
    hashes = []
    for name in "ab":
        write_store(tmp_path / name, ITEMS, 10, 3)
        hashes.append([sha256_file(tmp_path / name / shard_name(s)) for s in range(3)])
    assert hashes[0] == hashes[1]


def test_an_empty_store_is_valid(tmp_path):
    write_store(tmp_path, [], 0, 2)
    assert list(ImageStore.open(tmp_path)) == []


def test_memory_holds_one_row_group(tmp_path):
    n = store_module.GROUP * 3 + 1
    write_store(tmp_path, ((i, "k", b"p") for i in range(n)), n, 1)
    metadata = pq.ParquetFile(tmp_path / shard_name(0)).metadata
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [store_module.GROUP] * 3 + [1]


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ([(0, "a", b"a"), (0, "a", b"a")], "out of order"),
        ([(1, "b", b"b"), (0, "a", b"a")], "out of order"),
        ([(0, "a", b"a")], "too few images"),
        ([(0, "a", b"a"), (1, "b", b"b"), (2, "c", b"c")], "out of order"),
    ],
)
def test_ids_out_of_order_are_refused_and_nothing_is_written(tmp_path, items, what):
    with pytest.raises(VixmlError, match=what):
        write_store(tmp_path, items, 2, 2)
    assert not (tmp_path / "store.json").exists()


@pytest.mark.parametrize("image", [-1, 10, 5])
def test_reading_an_absent_id_is_an_error(tmp_path, image):
    write_store(tmp_path, ITEMS, 10, 3)
    with pytest.raises(VixmlError, match="missing" if image == 5 else "out of range"):
        ImageStore.open(tmp_path).read(image)


def test_damaged_shards_are_named(tmp_path):
    write_store(tmp_path, ITEMS, 10, 2)
    shard = tmp_path / shard_name(1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    with pytest.raises(VixmlError, match="cannot be read") as caught:
        ImageStore.open(tmp_path)
    assert shard_name(1) in str(caught.value)
    shard.unlink()
    with pytest.raises(VixmlError, match="cannot be read"):
        ImageStore.open(tmp_path)
    pq.write_table(pq.read_table(tmp_path / shard_name(0)).drop_columns(["key"]), shard)
    with pytest.raises(VixmlError, match="other columns"):
        ImageStore.open(tmp_path)
    shard.write_bytes((tmp_path / shard_name(0)).read_bytes())
    header = {"format": "vixml-images-1", "n_images": 12, "n_shards": 2, "missing": [0, 5, 9]}
    for written, says in ((header, "does not match its store"), ({"format": "other"}, "not an image store of this")):
        write_json(tmp_path / "store.json", written)
        with pytest.raises(VixmlError, match=says):
            ImageStore.open(tmp_path)
