"""Time reading and decoding a store of images against PIL alone on the same bytes in memory, and against a tar file.

The store is what `render-images` and `fetch-images` write (Parquet, `vixml.images.store`); the alternative is a WebDataset-style
tar of the same PNG files, read with the standard library, which knows no order but its own. Ways take turns round by round in one
process; every way decodes to the same pixels. Also timed: one image by its number, in random order.

    python benchmarks/image_shards.py --images 2000 --size 384
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from origin import record
from PIL import Image

from vixml.images.decode import prepare
from vixml.images.store import ImageStore, write_store
from vixml.images.vision import decode_square

RESULT = Path("benchmarks/results/image_shards.json")
SINGLE = 200  # images read one by one, by their number


def photos(n: int, size: int) -> list[bytes]:
    """Return images as the fetcher stores them: photo-like (smooth, with some noise), of several shapes, as PNG."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        width, height = rng.integers(size // 2, 2 * size, 2)
        smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noise = rng.integers(-6, 7, (height, width, 3))
        pixels = np.clip(np.asarray(smooth, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "JPEG", quality=85)
        found.append(prepare(written.getvalue(), size))
    return found


def write_tar(path: Path, images: list[bytes]) -> None:
    """Write a tar as WebDataset has it: one member per image, named by its number."""
    with tarfile.open(path, "w") as archive:
        for number, data in enumerate(images):
            member = tarfile.TarInfo(f"{number:08d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def from_tar(path: Path) -> Iterator[bytes]:
    """Yield the images of a tar, one after the other."""
    with tarfile.open(path, "r|") as archive:
        for member in archive:
            yield archive.extractfile(member).read()


def plain(data: bytes, size: int) -> np.ndarray:
    """Decode with PIL alone."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def one_by_one_tar(path: Path, numbers: list[int]) -> list[bytes]:
    """Read images of a tar by number: its index must be read first, since a tar has none."""
    with tarfile.open(path, "r:") as archive:
        return [archive.extractfile(f"{number:08d}.png").read() for number in numbers]


def main() -> None:
    """Print a line a way and write them with their origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, nargs="+", default=[384, 112])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = [measure(Path(name) / str(size), size, chosen) for size in chosen.size]
    record(chosen.out, {"shards": chosen.shards, "rounds": chosen.rounds, "sizes": found})


def measure(folder: Path, size: int, chosen: argparse.Namespace) -> dict:
    """Return what images of one size took."""
    folder.mkdir()
    images = photos(chosen.images, size)
    write_store(folder, ((i, str(i), data) for i, data in enumerate(images)), len(images), chosen.shards)
    write_tar(folder / "images.tar", images)
    ways: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "PIL alone, from memory": lambda: (plain(data, size) for data in images),
        "store, read and decoded": lambda: (decode_square(png, size) for _, _, png in ImageStore.open(folder)),
        "tar, read and decoded": lambda: (decode_square(png, size) for png in from_tar(folder / "images.tar")),
        "decoded as the store's, from memory": lambda: (decode_square(data, size) for data in images),
    }
    reads: dict[str, Callable[[], Iterator[bytes]]] = {
        "store, read alone": lambda: (png for _, _, png in ImageStore.open(folder)),
        "tar, read alone": lambda: from_tar(folder / "images.tar"),
    }
    numbers = np.random.default_rng(1).permutation(len(images))[:SINGLE].tolist()
    seconds: dict[str, list[float]] = {way: [] for way in [*ways, *reads, "store, one by one", "tar, one by one"]}
    for turn in range(chosen.rounds + 1):  # the first round warms up
        sums = {}
        for way in sorted(ways, reverse=turn % 2 == 1):
            start = time.perf_counter()
            sums[way] = sum(int(pixels[0, 0, 0]) + int(pixels[size // 2, size // 2, 1]) for pixels in ways[way]())
            seconds[way].append(time.perf_counter() - start)
        assert len(set(sums.values())) == 1, "the ways decode to different pixels"
        for way in reads:
            start = time.perf_counter()
            n = sum(len(data) for data in reads[way]())
            seconds[way].append(time.perf_counter() - start)
            assert n == sum(map(len, images))
        start = time.perf_counter()
        store = ImageStore.open(folder)
        from_store = [store.read(number) for number in numbers]
        seconds["store, one by one"].append(time.perf_counter() - start)
        start = time.perf_counter()
        assert one_by_one_tar(folder / "images.tar", numbers) == from_store
        seconds["tar, one by one"].append(time.perf_counter() - start)
    alone = seconds["PIL alone, from memory"][1:]
    result: dict = {"size": size, "images": len(images), "mb": sum(map(len, images)) / 1e6, "ways": {}}
    for way, all_rounds in seconds.items():
        times = all_rounds[1:]
        count = len(numbers) if "one by one" in way else len(images)
        ratios = [a / b * count / len(images) for a, b in zip(alone, times, strict=True)]
        result["ways"][way] = {
            "images_a_second": count / statistics.median(times),
            "ratio_to_pil_alone": statistics.median(ratios),
            "smallest": min(ratios),
            "largest": max(ratios),
        }
        said = result["ways"][way]
        print(
            f"{size} px, {way:37s} {said['images_a_second']:9.0f} a second, {said['ratio_to_pil_alone']:.2f} of PIL alone",
            flush=True,
        )
    return result


if __name__ == "__main__":
    main()
