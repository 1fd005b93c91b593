"""Time the pooling of images: the straightforward way against ours, on the same images in the same run.

Straightforward: the same network in float32, planes first (NCHW), 64 images per batch, decoded one after the other on
the main thread, torch threads = ``--threads``. Ours: `vixml.images.pool`. The two alternate, so that a busy machine
slows both alike; what counts is the ratio of each pair, printed with its median.

    python benchmarks/pooling.py --raw results/raw --store results/data/picto/images --images 512 --threads 2
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import measure
import numpy as np
import torch

from vixml.config.load import load_world
from vixml.images.pool import pool
from vixml.images.store import ImageStore
from vixml.images.vision import MEAN, SCALE, VisionEncoder, VisionSource
from vixml.plan.assumptions import VISION
from vixml.runtime import DTYPES, choose_precision, dtype_of, one_thread_each

Images = list[tuple[int, str, bytes]]


def straightforward(images: Images, encoder: VisionEncoder) -> np.ndarray:
    """Pool in float32, NCHW, 64 a batch, without a second thread for decoding."""
    found = []
    for start in range(0, len(images), 64):
        arrays = [encoder.preprocess(png) for _, _, png in images[start : start + 64]]
        batch = torch.tensor(np.stack(arrays)).permute(0, 3, 1, 2).float().contiguous()
        with torch.inference_mode():
            found.append(encoder.network((batch - MEAN) * SCALE).numpy())
    return np.concatenate(found)


def ours(images: Iterable[tuple[int, str, bytes]], encoder: VisionEncoder, threads: int) -> np.ndarray:
    """Pool as the stage does."""
    with one_thread_each():
        return np.concatenate([vectors for _, vectors in pool(images, encoder, 64, threads)])


def main() -> None:
    """Time both in turn, compare their vectors, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", default="results/raw")
    parser.add_argument("--store", default="results/data/picto/images")
    parser.add_argument("--config-dir", default="config")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--precision",
        choices=["auto", *DTYPES],
        default="auto",
        help="auto: as VIXML_PRECISION says, else what the hardware has",
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    world = load_world(options.config_dir)
    plain = VisionSource(world, "efficientnet-lite0", Path(options.raw)).open("cpu", "fp32")
    plain.network.to(memory_format=torch.contiguous_format)
    precision = choose_precision(options.precision, "cpu")
    fast = VisionSource(world, "efficientnet-lite0", Path(options.raw)).open("cpu", precision)
    images = list(islice(ImageStore.open(options.store), options.images))
    torch.set_num_threads(options.threads)
    straightforward(images[:64], plain), ours(images[:64], fast, options.threads)  # warm up

    seconds, both = measure.take_turns(
        {
            "ours": lambda: ours(images, fast, options.threads),
            "straightforward": lambda: straightforward(images, plain),
        },
        options.pairs,
    )
    expected, found = both["straightforward"], both["ours"]
    found = found.astype(np.float32)
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    rate = {name: [len(images) / s for s in times] for name, times in seconds.items()}
    peak = measure.product_speed(2048, 2048, 2048, dtype_of(precision))
    measure.write(
        "pooling",
        [
            measure.row(
                "images to vectors",
                f"EfficientNet-Lite0, {len(images)} images, {precision}",
                measure.spread(rate["ours"]),
                measure.spread(rate["straightforward"]),
                measure.ratios(seconds["straightforward"], seconds["ours"]),
                limit=peak / VISION["efficientnet-lite0"].flop,
                limit_by="arithmetic: the network's operations at the speed of a large product",
                threads=options.threads,
                unit="images/s",
                cosine_to_float32=float(cosine.min()),
            )
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
