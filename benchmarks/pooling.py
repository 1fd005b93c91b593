"""Time the pooling of pictures: the straightforward way against ours, on the same pictures in the same run.

Straightforward: the same network in float32, planes first (NCHW), 64 pictures a batch, decoded one after the other on
the main thread, torch threads = ``--threads``. Ours: `vixml.images.pool`. The two alternate, so that a busy machine
slows both alike; what counts is the ratio of each pair, printed with its median.

    python benchmarks/pooling.py --raw results/raw --store results/data/picto/images --pictures 512 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch

from vixml.config.load import load_world
from vixml.images.efficientnet import MEAN, SCALE, EfficientNetLite0
from vixml.images.pool import one_thread_a_batch, pool
from vixml.images.store import ImageStore
from vixml.images.vision import load_vision, resolve_precision

Pictures = list[tuple[int, str, bytes]]


def straightforward(pictures: Pictures, encoder: EfficientNetLite0) -> np.ndarray:
    """Pool in float32, NCHW, 64 a batch, without a second thread for decoding."""
    found = []
    for start in range(0, len(pictures), 64):
        arrays = [encoder.preprocess(png) for _, _, png in pictures[start : start + 64]]
        batch = torch.tensor(np.stack(arrays)).permute(0, 3, 1, 2).float().contiguous()
        with torch.inference_mode():
            found.append(encoder.network((batch - MEAN) * SCALE).numpy())
    return np.concatenate(found)


def ours(pictures: Iterable[tuple[int, str, bytes]], encoder: EfficientNetLite0, threads: int) -> np.ndarray:
    """Pool as the stage does."""
    with one_thread_a_batch():
        return np.concatenate([vectors for _, vectors in pool(pictures, encoder, 64, threads)])


def seconds(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return how long ``run`` took, and its result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def main() -> None:
    """Print one line a pair, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", default="results/raw")
    parser.add_argument("--store", default="results/data/picto/images")
    parser.add_argument("--config-dir", default="config")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()

    world = load_world(options.config_dir)
    plain = load_vision(world, "efficientnet-lite0", options.raw, "cpu", "fp32")
    plain.network.to(memory_format=torch.contiguous_format)
    fast = load_vision(world, "efficientnet-lite0", options.raw, "cpu", "auto")
    pictures = list(islice(ImageStore.open(options.store), options.pictures))
    torch.set_num_threads(options.threads)
    straightforward(pictures[:64], plain), ours(pictures[:64], fast, options.threads)  # warm up

    ratios, rates = [], []
    for pair in range(options.pairs):
        slow, expected = seconds(lambda: straightforward(pictures, plain))
        quick, found = seconds(lambda: ours(pictures, fast, options.threads))
        ratios.append(slow / quick)
        rates.append((len(pictures) / slow, len(pictures) / quick))
        print(f"pair {pair}: {rates[-1][0]:.0f} and {rates[-1][1]:.0f} pictures/s, ratio {ratios[-1]:.2f}")
    found = found.astype(np.float32)
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    print(
        f"median: {statistics.median(r[0] for r in rates):.0f} and {statistics.median(r[1] for r in rates):.0f} "
        f"pictures/s, ratio {statistics.median(ratios):.2f}; {options.threads} threads, {resolve_precision('auto', 'cpu')}; "
        f"cosine to float32 at least {cosine.min():.4f}"
    )


if __name__ == "__main__":
    main()
