"""Rehearse the paper's largest data set on this machine: LF-AmazonTitles-1.3M's sizes, made-up content, a part at a time.

Each part runs in a process of its own at three sizes, so that its peak of memory is its own (inputs included); from the smallest to the largest
its time must grow no faster than its size (`growth` 1 is linear; a level more of 2-means, or a page not in the cache, adds a
little). Vectors have MiniLM-L3's 384 dimensions: 768, in memory beside what they are sorted into, would not fit 24 GB.

    python benchmarks/scale.py                      # all parts, 1/16, 1/4 and 1 (images to 1/4), about 15 minutes
    python benchmarks/scale.py --parts mining --sizes 0.0625 0.25 1
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from origin import record
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.data.propensity import inverse_propensity
from vixml.evaluation.metrics import evaluate
from vixml.files import write_json
from vixml.images.embeddings import ImageEmbeddings
from vixml.models.packing import Sequences
from vixml.ragged import Ragged
from vixml.retrieval.search import search
from vixml.training.batches import EpochBatches, TrainingSet, draw_positives, query_order
from vixml.training.clustering import balanced_groups
from vixml.training.vectors import label_means

# config/datasets.yaml: queries to train and to test, labels, labels per query; at most three images per item.
TRAIN, TEST, LABELS, PER_QUERY = 2_248_619, 970_237, 1_305_265, 22.2
TOKENS, DIM, IMAGE_DIM, BATCH = 12, 384, 1152, 2048
RESULT = Path("benchmarks/results/scale.json")
WORDS = {
    "tokens": "tokens of all texts: written, opened, checked, an epoch's batches taken",
    "labels": "true pairs: written, opened, propensities, an epoch's order and draw",
    "centroids": "centroids: the mean of each label's queries",
    "embeddings": "image vectors: batches gathered from memory-mapped image embeddings",
    "batches": "batches assembled, text alone",
    "mining": "one mining round: balanced 2-means in groups of 16",
    "search": "exact search, top 100, 1,000 queries",
    "evaluation": "one evaluation: all metrics of all test queries",
}


def lists(rows: int, columns: int, mean: float, seed: int = 0) -> Ragged:
    """Return ``rows`` lists of very different lengths over ``columns``, ascending and without a value twice."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / mean, rows), 1000)
    keys = np.repeat(np.arange(rows), lengths) * columns + rng.integers(0, columns, int(lengths.sum()))
    row, values = np.divmod(np.unique(keys), columns)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    return Ragged(values.astype(np.int32), offsets, columns)


def texts(rows: int, seed: int) -> Ragged:
    """Return made-up token ids of ``rows`` titles."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.poisson(TOKENS, rows), 3, 32)
    return Ragged(
        rng.integers(0, 30522, int(lengths.sum()), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]), 30522
    )


def unit(rows: int, seed: int) -> torch.Tensor:
    """Return (rows, DIM) unit vectors around many topics."""
    generator = torch.Generator().manual_seed(seed)
    topics = torch.randn(rows // 200 + 1, DIM, generator=generator)
    vectors = torch.randn(rows, DIM, generator=generator)
    vectors += topics[torch.randint(len(topics), (rows,), generator=generator)]
    return F.normalize(vectors, dim=1, out=vectors)


def part(name: str, size: float, folder: Path) -> tuple[Callable[[], object], int]:
    """Return what is timed, and how many rows it is about; inputs are made here, outside the time."""
    train, test, labels = (max(1, round(size * whole)) for whole in (TRAIN, TEST, LABELS))
    if name == "tokens":
        made = texts(train, 0)

        def tokens() -> None:
            made.save(folder / "tokens")
            opened = Ragged.load(folder / "tokens")
            opened.check(folder)
            for rows in np.array_split(np.random.default_rng(0).permutation(train), max(1, train // BATCH)):
                opened.take(rows)

        return tokens, train
    if name == "labels":
        made = lists(train, labels, PER_QUERY)

        def pairs() -> None:
            made.save(folder / "labels")
            opened = Ragged.load(folder / "labels")
            weights = inverse_propensity(opened.counts(), train, 0.6, 2.6)
            rows = np.arange(train)
            query_order(rows, None, 0, 0), draw_positives(opened, rows, weights, 0, 0)

        return pairs, len(made.values)
    if name == "centroids":
        made, vectors = lists(train, labels, PER_QUERY), unit(train, 0)
        return lambda: label_means(vectors, made), len(made.values)
    if name == "batches":
        made, queries, names = lists(train, labels, PER_QUERY), texts(train, 0), texts(labels, 1)
        rows, weights = np.arange(train), np.ones(labels)
        data = TrainingSet(Sequences(queries), Sequences(names), made, rows, weights)
        config = RunConfig(modality="text", training={"batch_size": BATCH})
        batches = EpochBatches(data, config, 0, 0)
        some = range(0, len(batches), max(1, math.ceil(1 / size / 4)))

        return lambda: [batches[place] for place in some], len(some) * BATCH
    if name == "embeddings":
        n = 3 * (train + labels)
        stored = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (n, IMAGE_DIM))
        one = np.random.default_rng(0).standard_normal((10_007, IMAGE_DIM)).astype(np.float16)
        for start in range(0, n, len(one)):
            stored[start : start + len(one)] = one[: n - start]
        stored.flush()
        del stored
        write_json(
            folder / "embeddings.json",
            {"format": "vixml-image-embeddings-1", "n_images": n, "dim": IMAGE_DIM, "vision": "made up", "missing": []},
        )
        embeddings, rng = ImageEmbeddings.open(folder), np.random.default_rng(1)
        n_batches = max(1, train // BATCH)

        def gather() -> None:
            for _ in range(n_batches):
                embeddings.gather(rng.integers(0, n, 3 * BATCH), np.float16)

        return gather, 3 * BATCH * n_batches
    if name == "mining":
        vectors = unit(train, 0)
        return lambda: balanced_groups(vectors, math.ceil(train / 16), 0), train
    if name == "search":
        queries, among = unit(1000, 1).numpy(), unit(labels, 2).numpy()
        return lambda: search(queries, among, 100), labels
    made = lists(test, labels, PER_QUERY)
    predictions = np.random.default_rng(0).integers(0, labels, (test, 1), dtype=np.int32) + 3 * np.arange(
        100, dtype=np.int32
    )
    predictions %= labels
    weights = 1 + np.random.default_rng(0).random(labels)
    return lambda: evaluate(predictions, made, weights), test


def run(name: str, size: float, threads: int) -> dict[str, Any]:
    """Time one part in this process."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir="results" if Path("results").is_dir() else None) as folder:
        work, rows = part(name, size, Path(folder))
        with measure.Memory() as memory:
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
    peak = memory.largest / 2**20
    return {"part": name, "size": size, "rows": rows, "seconds": seconds, "peak_mb": peak, "threads": threads}


def growth(measured: list[dict[str, Any]]) -> float:
    """Return the power of the rows with which the time grows, from the smallest size to the largest."""
    first, last = measured[0], measured[-1]
    if first["rows"] == last["rows"]:
        return 0.0
    return math.log(last["seconds"] / first["seconds"]) / math.log(last["rows"] / first["rows"])


def main() -> None:
    """Run every part at every size, each in a process of its own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(WORDS), default=list(WORDS))
    parser.add_argument("--sizes", nargs="+", type=float, default=[1 / 16, 1 / 4, 1])
    parser.add_argument(
        "--embeddings-largest", type=float, default=1 / 4, help="the whole embeddings takes 25 GB of disk"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", nargs=2, metavar=("PART", "SIZE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(run(chosen.one[0], float(chosen.one[1]), chosen.threads)))
        return
    before = json.loads(chosen.out.read_text())["parts"] if chosen.out.exists() else {}
    parts = {name: before[name] for name in WORDS if name in before}
    for name in chosen.parts:
        sizes = chosen.sizes
        if name == "embeddings":
            sizes = [size * chosen.embeddings_largest / max(sizes) for size in sizes]
        measured = []
        for size in sorted(sizes):
            command = [sys.executable, __file__, "--threads", str(chosen.threads), "--one", name, str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{name} at {size:g}: ended with {done.returncode} (no memory left?)", flush=True)
                break
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print("{part} at {size:g}: {seconds:.2f} s, {peak_mb:.0f} MB".format(**measured[-1]), flush=True)
        if measured:
            parts[name] = {"words": WORDS[name], "measured": measured, "growth": growth(measured)}
            parts = {key: parts[key] for key in WORDS if key in parts}
            found = {"benchmark": "scale", "dataset": "LF-AmazonTitles-1.3M", "parts": parts, "dim": DIM, "group": 16}
            record(chosen.out, found, chosen.threads)
    for name, about in parts.items():
        print(f"{name:<12} grows with power {about['growth']:.2f}")


if __name__ == "__main__":
    main()
