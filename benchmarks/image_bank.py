"""Batches with image vectors at the paper's largest size: memory held, and how long a training step waits for them.

The bank is a file of LF-AmazonTitles-1.3M's size on this disk (6.8 M vectors of 1152 numbers, float16: 14.6 GiB), filled with
noise; queries, labels and their pictures are drawn at random, so that each vector of a batch lies somewhere else in the file.
Ours: rows read through the memory map by processes that assemble batches ahead. Straightforward: the same rows taken from one
dense float32 array in memory, by the training process itself; an array of the true size would not fit here, so its rows are
drawn from one as large as `--dense-rows` (its bytes at the true size are counted, not held). The training step itself is stood
in by waiting for `--step` seconds; what is measured is how much longer each step takes because its batch was not there.

    python benchmarks/image_bank.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measure import record

from vixml.files import write_json
from vixml.images.bank import FORMAT, ImageBank
from vixml.ragged import Ragged
from vixml.training.batches import Batch, EpochBatches, TrainingSet, draw_positives, iterate, query_order

SIZE = "batch 2048, LF-AmazonTitles-1.3M, from the disk"
RESULT = Path("benchmarks/results/image_bank.json")
QUERIES, LABELS, PER_QUERY, VECTORS, DIM = 2_248_619, 1_305_265, 22, 6_800_000, 1152
WORDS, MAX_LEN, PER_ITEM = 30_000, 32, 3


def write_bank(folder: Path, rows: int) -> ImageBank:
    """Write a bank of noise through a memory map."""
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (rows, DIM))
    noise = np.random.default_rng(0).standard_normal((50_000, DIM), dtype=np.float32).astype(np.float16)
    for first in range(0, rows, len(noise)):
        vectors[first : first + len(noise)] = noise[: rows - first]
    vectors.flush()
    del vectors
    header = {"format": FORMAT, "n_images": rows, "dim": DIM, "vision": "noise", "precision": "fp16"}
    write_json(folder / "bank.json", header | {"missing": []})
    return ImageBank.open(folder)


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
    return TrainingSet(
        lists(rng, n, rng.integers(5, MAX_LEN, n), WORDS),
        lists(rng, m, rng.integers(5, MAX_LEN, m), WORDS),
        lists(rng, n, rng.integers(0, PER_ITEM + 1, n), rows),
        lists(rng, m, rng.integers(0, PER_ITEM + 1, m), rows),
        truth,
        np.arange(n),
        np.ones(m),
    )


def forget(path: Path) -> None:
    """Drop a file from the system's cache, so that the next reads come from the disk."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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


def assembling(make: Callable[[int], Batch], n: int) -> float:
    """Return the median seconds that one process takes to assemble a batch."""
    found = []
    for index in range(n):
        started = time.perf_counter()
        make(index)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the data set's size")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.6, help="seconds that a training step is taken to need")
    parser.add_argument("--workers", type=int, default=1, help="processes that assemble batches")
    parser.add_argument("--dense-rows", type=int, default=500_000)
    parser.add_argument(
        "--folder", type=Path, help="where the bank is written and removed; default: a temporary folder"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    rows = int(VECTORS * given.share)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        bank = write_bank(folder, rows)
        data = training_set(rows, given.share)
        positives = draw_positives(data.truth, data.rows, data.weights, 0, 0)
        order = query_order(data.rows, None, 0, 0)

        def epoch(gather: Callable[[np.ndarray], np.ndarray]) -> EpochBatches:
            return EpochBatches(data, order, positives, given.batch_size, 0, 0, gather)

        ours = epoch(lambda ids: bank.gather(ids, np.float16))
        before = own_memory()
        result: dict[str, Any] = {"assembling_s": {}, "waiting_s": {}}
        forget(folder / "vectors.npy")
        result["assembling_s"]["ours, from the disk"] = assembling(ours.__getitem__, 10)
        result["waiting_s"]["ours, from the disk"] = waits(iterate(ours, 10, given.workers), given.steps, given.step)
        # The same batches again: their rows are in the system's cache now.
        result["assembling_s"]["ours, cached"] = assembling(ours.__getitem__, 10)
        held = own_memory() - before
        dense = np.random.default_rng(2).standard_normal((min(given.dense_rows, rows), DIM), dtype=np.float32)
        plain = epoch(lambda ids: dense[ids % len(dense)])
        result["assembling_s"]["straightforward, dense float32"] = assembling(plain.__getitem__, 10)
        result["waiting_s"]["straightforward, by the training process"] = waits(
            iterate(plain, 10, 0), given.steps, given.step
        )
    result["waiting_s"] = {
        way: {
            "median": statistics.median(found),
            "max": max(found),
            "share_of_a_step": sum(found) / len(found) / given.step,
        }
        for way, found in result["waiting_s"].items()
    }
    result["bytes"] = {
        "ours, file": 2 * rows * DIM,
        "ours, held by the process": held,
        "straightforward, float32 held twice": 2 * 4 * rows * DIM,
    }
    for part, unit in (("assembling_s", "s"), ("bytes", "GiB")):
        for way, value in result[part].items():
            print(f"{way:45}{value / (2**30 if unit == 'GiB' else 1):10.3f} {unit}")
    for way, value in result["waiting_s"].items():
        print(f"{way:45}{value['median']:10.4f} s waited a step, {100 * value['share_of_a_step']:.1f} % of it")
    about = {key: value for key, value in vars(given).items() if key not in ("out", "folder")}
    record(given.out, {"benchmark": "image_bank", "size": SIZE, **about, **result})


if __name__ == "__main__":
    main()
