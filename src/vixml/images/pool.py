"""Stage ``embed-images``: one float16 vector for every image of a store, from a frozen vision encoder."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from vixml.digest import stage_modules
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import link, read_json, write_json
from vixml.identity import alone, discard, kept_folder
from vixml.images.embeddings import FORMAT
from vixml.images.store import ImageStore
from vixml.images.vision import VisionEncoder, VisionSource
from vixml.manifest import Reading
from vixml.memory import enough_memory
from vixml.progress import bar
from vixml.provenance import stage, versions
from vixml.runtime import choose_precision, find_device, map_in_order, one_thread_each

# Interval between saves: a killed run loses at most this much work, and a batch or two.
KEEP_SECONDS = 20.0
HASHED = 1 << 14  # rows hashed at once


def embed_images(
    store_dir: Path | str,
    source: VisionSource,
    out: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
) -> None:
    """Pool every image and write image embeddings: ``vectors.npy`` and ``embeddings.json``.

    A killed run resumes: beside ``out``, ``<out>-pooling`` holds the vectors so far. Which images share a batch does not
    depend on where it stopped, so the result has the same bytes.

    Raises:
        VixmlError: unreadable image, or a vector that is zero or has NaN or infinity (the image is named); another process
            that writes ``out``.
    """
    device, out = find_device(device).type, Path(out)
    precision = choose_precision(precision, device)
    vision, entry = source.name, source.entry
    config = {"vision": vision, "model": entry.settings("embed-images"), "precision": precision}
    inputs: dict[str, Path | str] = {"images": store_dir}
    if entry.weights is not None:
        inputs["weights"] = source.weights
        config["weights_sha256"] = source.world.sources[entry.weights].sha256
    elif source.model_dir is not None:
        inputs["model"] = source.model_dir
    facts: dict[str, object] = {"device": device, "precision": precision, "batch_size": entry.batch_size}
    # Of a store of hundreds of gigabytes, each shard is hashed just before it is read.
    hashes = {name: Reading().describe(path, named_only=name == "images")["sha256"] for name, path in inputs.items()}
    encoder, store = source.open(device, precision), ImageStore.open(store_dir)
    room = enough_memory(lambda: f"embed-images {vision}", lambda: smaller_batches(vision, entry.batch_size))
    recorded = stage(out, "embed-images", config=config, inputs=inputs, facts=facts, as_read=["images"])
    with alone(out, "pooling"):
        with recorded as work, one_thread_each(), room:
            identity = {"config": config, "inputs": hashes, "device": device, "code": stage_modules("embed-images")}
            kept = kept_folder(out, "pooling", identity | {"versions": versions()})
            _pool_all(store, encoder, entry.batch_size, threads, kept)
            # Linked, not moved: a run killed before it is published does not lose the vectors.
            link(kept / "vectors.npy", work / "vectors.npy")
            header = {"format": FORMAT, "n_images": len(store), "dim": encoder.dim, "vision": vision}
            write_json(work / "embeddings.json", header | {"precision": precision, "missing": sorted(store.missing)})
            facts |= {"n_images": len(store), "n_missing": len(store.missing)}
        discard(kept)


def smaller_batches(vision: str, batch_size: int) -> str:
    """Return advice, as an imperative clause, for pooling that ran out of memory."""
    if batch_size == 1:
        return "take a GPU with more memory, or pool on the processor with `--device cpu`"
    key = f"vision_models.{vision}.batch_size: {batch_size // 2}"
    return f"set `{key}` in config/models.yaml (now {batch_size}; same vectors up to rounding), or pass fewer --threads"


def _pool_all(store: ImageStore, encoder: VisionEncoder, batch_size: int, threads: int, kept: Path) -> None:
    """Fill ``kept/vectors.npy`` from the position in ``kept/position.json``; rows of missing images are zero."""
    total = len(store) - len(store.missing)
    path, position = kept / "vectors.npy", kept / "position.json"
    found = read_json(position) if position.exists() and path.exists() else {"images": 0, "rows": 0}
    done, rows = found["images"], found["rows"]
    # Memory-mapped: the matrix of 13 million photos does not fit into memory.
    mode, shape = ("r+", None) if done else ("w+", (len(store), encoder.dim))
    vectors = np.lib.format.open_memmap(path, mode, None if done else np.float16, shape)
    if not done and hasattr(os, "posix_fallocate"):
        # On a full disk, writing through the map would kill the process without a message.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    digest = hashlib.sha256()

    def add_to_digest(first: int, last: int) -> str:
        for start in range(first, last, HASHED):
            digest.update(np.ascontiguousarray(vectors[start : min(start + HASHED, last)]))
        return digest.hexdigest()

    def keep(last: int) -> None:
        """Flush the vectors; note how many images are done, and the hash of the rows before ``last``, which are final."""
        vectors.flush()
        write_json(position, {"images": done, "rows": last, "sha256": add_to_digest(rows, last)})

    if rows and add_to_digest(0, rows) != found["sha256"]:
        raise VixmlError(
            "the vectors of an interrupted run are not those that it wrote",
            where=path,
            hint=f"delete {kept} and run again: the images are pooled from the beginning; if it happens twice, check the disk",
        )
    with bar(f"pooling images with {encoder.name}", total) as advance:
        advance.skip(done)
        kept_at = time.monotonic()
        for images, batch in pool(store.images_from(done), encoder, batch_size, threads, store.folder):
            vectors[images] = batch
            done += len(images)
            advance(len(images))
            if time.monotonic() - kept_at > KEEP_SECONDS:
                keep(last := int(images[-1]) + 1)
                rows, kept_at = last, time.monotonic()
    keep(len(store))


def pool(
    items: Iterable[tuple[int, str, bytes]],
    encoder: VisionEncoder,
    batch_size: int,
    threads: int = 1,
    where: object = "<memory>",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``(image ids (n,), vectors (n, dim) float16)`` batch by batch, in order; the last may hold one image.

    Each worker thread takes a batch from bytes to vectors. Batches depend only on the order of the images, and each runs on
    one thread, so the vectors do not depend on the number of threads. No thread waits for another inside a layer, which is
    slow on shared cores.

    Raises:
        VixmlError: unreadable image, or a vector that is zero or has NaN or infinity (the image is named).
    """
    batches = iter(lambda stream=iter(items): list(islice(stream, batch_size)), [])
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="pool") as workers:
        yield from map_in_order(workers, partial(_pool_batch, encoder, where), batches, 2 * threads)


def _pool_batch(
    encoder: VisionEncoder, where: object, batch: list[tuple[int, str, bytes]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the vectors of one batch, as :func:`pool` yields them."""
    pixels = []
    for image, key, png in batch:
        place = f"{where}, image {image} ({key})"
        with reading("an image cannot be decoded", place, hint="run the stage that writes the store again"):
            pixels.append(encoder.preprocess(png))
    vectors = encoder.encode(torch.from_numpy(np.stack(pixels))).to(torch.float16).cpu().numpy()
    what = "a vision encoder returned vectors of the wrong shape"
    expect_equal(vectors.shape, (len(batch), encoder.dim), what, where=encoder.name)
    damaged = f"the weights of {encoder.name} are damaged, or its entry in config/models.yaml names other ones"
    unpoolable = f"try --precision fp32; if that does not help, look at the image: {encoder.name} cannot pool it"
    for good, what, found, hint in (
        (np.isfinite(vectors).all(axis=1), "not finite", "NaN or infinity (float16 ends at 65504)", unpoolable),
        (vectors.any(axis=1), "zero", "no number that float16 tells from 0", damaged),
    ):
        if not good.all():
            image, key, _ = batch[int(np.argmin(good))]
            place = f"{where}, image {image} ({key})"
            raise VixmlError(f"an image's vector is {what}", where=place, found=found, hint=hint)
    return np.array([image for image, _, _ in batch], dtype=np.int64), vectors
