"""Batches with image vectors at the paper's largest size: memory held, and how long a training step waits for them.

The embeddings is a file of LF-AmazonTitles-1.3M's size on this disk (6.8 M vectors of 1152 numbers, float16: 14.6 GiB), filled with
noise; queries, labels and their images are drawn at random, so that each vector of a batch lies somewhere else in the file.
Ours: a batch's rows asked for at once, by processes that assemble batches ahead; from a cold disk beside a plain memory map. Straightforward: the same rows taken from one
dense float32 array in memory, by the training process itself; an array of the true size would not fit here, so its rows are
drawn from one as large as `--dense-rows` (its bytes at the true size are counted, not held). The training step itself is stood
in by waiting for `--step` seconds; what is measured is how much longer each step takes because its batch was not there.

    python benchmarks/image_embeddings.py
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from measure import bandwidth, ratios, row, spread, take_turns, write

from vixml.config.run import RunConfig
from vixml.files import load_array, write_json
from vixml.images.embeddings import FORMAT, ImageEmbeddings, open_scattered, take_rows
from vixml.models.packing import Sequences
from vixml.ragged import Ragged
from vixml.training.batches import Batch, EpochBatches, TrainingSet, iterate

SIZE = "batch 2048, LF-AmazonTitles-1.3M"
RESULT = Path("benchmarks/results/image_embeddings.json")
QUERIES, LABELS, PER_QUERY, VECTORS, DIM = 2_248_619, 1_305_265, 22, 6_800_000, 1152
WORDS, MAX_LEN, PER_ITEM = 30_000, 32, 3
HEADER = 128  # bytes in front of the vectors in their file
PAGE = mmap.PAGESIZE
BATCHES = 10  # assembled, while the processes ahead are not at work


def write_embeddings(folder: Path, rows: int) -> ImageEmbeddings:
    """Write image embeddings of noise through a memory map."""
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (rows, DIM))
    noise = np.random.default_rng(0).standard_normal((50_000, DIM), dtype=np.float32).astype(np.float16)
    for first in range(0, rows, len(noise)):
        vectors[first : first + len(noise)] = noise[: rows - first]
    vectors.flush()
    del vectors
    header = {"format": FORMAT, "n_images": rows, "dim": DIM, "vision": "noise", "precision": "fp16"}
    write_json(folder / "embeddings.json", header | {"missing": []})
    return ImageEmbeddings.open(folder)


def lists(rng: np.random.Generator, rows: int, lengths: np.ndarray, n_cols: int) -> Ragged:
    """Return ``rows`` random lists, ascending."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.integers(0, n_cols, offsets[-1], dtype=np.int32)
    return Ragged(values, offsets.astype(np.int64), n_cols)


def training_set(rows: int, share: float) -> TrainingSet:
    """Draw queries and labels of the data set's size times ``share``."""
    rng = np.random.default_rng(1)
    n, m = int(QUERIES * share), int(LABELS * share)
    truth = lists(rng, n, np.full(n, PER_QUERY), m)
    truth = Ragged(np.sort(truth.values.reshape(n, PER_QUERY), axis=1).reshape(-1), truth.offsets, m)
    queries, labels = (lists(rng, size, rng.integers(5, MAX_LEN, size), WORDS) for size in (n, m))
    return TrainingSet(
        Sequences(queries, lists(rng, n, rng.integers(0, PER_ITEM + 1, n), rows)),
        Sequences(labels, lists(rng, m, rng.integers(0, PER_ITEM + 1, m), rows)),
        truth,
        np.arange(n),
        np.ones(m),
    )


def forget(path: Path) -> None:
    """Drop a file from the system's cache, so that the next reads come from the disk."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(path: Path, size: int = 1 << 30) -> float:
    """Return the bytes per second that the disk gives when the first ``size`` of a file are read in order, the best of three."""
    found, block = [], bytearray(1 << 22)
    for _ in range(3):
        forget(path)
        with open(path, "rb", buffering=0) as stream:
            started, read = time.perf_counter(), 0
            while read < size and (n := stream.readinto(block)):
                read += n
            found.append(read / (time.perf_counter() - started))
    return max(found)


def pages(ids: np.ndarray) -> float:
    """Return the bytes of the pages on which the vectors of ``ids`` lie: a disk gives no less than a page.

    Example:
        >>> pages(np.array([0, 0, 1])) / PAGE  # 2304 bytes per vector, and its file's header
        2.0
    """
    starts = HEADER + 2 * DIM * ids.astype(np.int64)
    return float(PAGE * len(np.unique(np.concatenate([starts, starts + 2 * DIM - 1]) // PAGE)))


def read_ahead(path: Path) -> int | None:
    """Return the KB that the system reads around a page of a mapped file on this device, None where it does not say."""
    device = os.stat(path).st_dev
    told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(told.read_text()) if told.exists() else None


def own_memory() -> int:
    """Return the bytes that this process holds for itself; pages of mapped files are the system's to take back."""
    info = psutil.Process().memory_info()
    return info.rss - info.shared


def waits(batches: Iterator[Batch], steps: int, step: float) -> list[float]:
    """Return for each step how long its batch was waited for; the first ones, while workers start, are left out."""
    found = []
    for number in range(steps + 5):
        started = time.perf_counter()
        if next(batches, None) is None:
            raise SystemExit("an epoch has too few batches: raise --share or lower --steps")
        if number >= 5:
            found.append(time.perf_counter() - started)
        time.sleep(step)
    return found


def assembling(make: Callable[[int], Batch], n: int) -> list[float]:
    """Return the seconds that one process takes to assemble each of ``n`` batches."""
    found = []
    for index in range(n):
        started = time.perf_counter()
        make(index)
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the data set's size")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.6, help="seconds that a training step is taken to need")
    parser.add_argument("--workers", type=int, default=1, help="processes that assemble batches")
    parser.add_argument("--cold-rounds", type=int, default=3, help="each takes a plain memory map some 20 seconds")
    parser.add_argument("--dense-rows", type=int, default=500_000)
    parser.add_argument(
        "--folder", type=Path, help="where the embeddings is written and removed; default: a temporary folder"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    n_vectors = int(VECTORS * given.share)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        embeddings = write_embeddings(folder, n_vectors)
        data = training_set(n_vectors, given.share)
        config = RunConfig(training={"batch_size": given.batch_size})

        def epoch(gather: Callable[[np.ndarray], np.ndarray]) -> EpochBatches:
            queries, labels = replace(data.queries, gather=gather), replace(data.labels, gather=gather)
            return EpochBatches(replace(data, queries=queries, labels=labels), config, 0, 0)

        asked: list[np.ndarray] = []

        def noted(ids: np.ndarray) -> np.ndarray:
            asked.append(ids)
            return np.zeros((len(ids), DIM), np.float16)

        for number in range(BATCHES):
            epoch(noted)[number]
        ids, file = asked[0], folder / "vectors.npy"
        speed, touched = disk_speed(file), pages(np.concatenate(asked)) / BATCHES
        read = 2.0 * DIM * sum(map(len, asked)) / BATCHES
        cold, found = take_turns(
            {
                "ours": lambda: take_rows(open_scattered(file), ids),
                "straightforward": lambda: np.asarray(load_array(file)[ids]),
            },
            given.cold_rounds,
            before=lambda: forget(file),
        )
        if not np.array_equal(found["ours"], found["straightforward"]):
            raise SystemExit("the two ways of reading vectors differ")
        ours = epoch(lambda ids: embeddings.gather(ids, np.float16))
        before = own_memory()
        forget(file)
        from_disk = assembling(ours.__getitem__, BATCHES)
        waited = waits(iterate(ours, BATCHES, given.workers), given.steps, given.step)
        held = own_memory() - before
        around = read_ahead(file)
        dense = np.random.default_rng(2).standard_normal((min(given.dense_rows, n_vectors), DIM), dtype=np.float32)
        plain = epoch(lambda ids: dense[ids % len(dense)])
        # The same batches again: their rows are in the system's cache now.
        ways = {name: map(way.__getitem__, range(BATCHES)) for name, way in (("ours", ours), ("dense", plain))}
        cached, _ = take_turns({name: partial(next, batches) for name, batches in ways.items()}, BATCHES)
        plain_waited = waits(iterate(plain, BATCHES, 0), given.steps, given.step)
    device = {"threads": torch.get_num_threads(), "workers": given.workers, "share": given.share, "step": given.step}
    rows = [
        row(
            "batch with image vectors, from the disk", SIZE, spread(from_disk), None, None,
            limit=touched / speed, limit_by="the pages of its vectors, as quick as this disk reads in order", **device,
        ),
        row(
            "batch with image vectors, cached", SIZE, spread(cached["ours"]), spread(cached["dense"]),
            ratios(cached["dense"], cached["ours"]), limit=2 * read / bandwidth(),
            limit_by="its vectors over the memory's bandwidth, read and written", **device,
        ),
        row(
            "vectors of a batch, nothing cached", SIZE, spread(cold["ours"]), spread(cold["straightforward"]),
            ratios(cold["straightforward"], cold["ours"]), limit=pages(ids) / speed,
            limit_by="their pages, as quick as this disk reads in order", straightforward_is="a plain memory map",
            read_ahead_kb=around, **device,
        ),
        row(
            "training step waits for its batch", SIZE, spread(waited), spread(plain_waited), None,
            limit=None, limit_by="a batch assembled ahead is not waited for",
            share_of_a_step=statistics.mean(waited) / given.step, **device,
        ),
        row(
            "image vectors, bytes", SIZE, spread([2.0 * n_vectors * DIM]), spread([2.0 * 4 * n_vectors * DIM]),
            ratios([2.0 * 4 * n_vectors * DIM], [2.0 * n_vectors * DIM]), unit="bytes",
            limit=2.0 * n_vectors * DIM, limit_by="two bytes a number", held_by_the_process=held, **device,
        ),
    ]  # fmt: skip
    write("image_embeddings", rows, given.out)


if __name__ == "__main__":
    main()
