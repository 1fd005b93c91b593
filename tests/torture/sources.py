"""Stages that read what is not a result, killed at a file operation: a download, images from the web, published vectors.

They need a server, an index or files of their own, so each case makes these anew, runs the stage undisturbed, kills a second one, and
lets that resume to the same files.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from faults import TIMES, Operations, in_a_child
from image_server import Server
from images_helpers import wheel, write_corpus, write_url_corpus

from vixml.config.registry import Fetch, VisionModel
from vixml.data.download import fetch_source
from vixml.images.fetch import fetch_images
from vixml.images.import_vectors import Published, import_vectors
from vixml.provenance import MANIFEST, not_whole

DIM, ITEMS = 6, 9
EYES = VisionModel(title="Eyes", checkpoint="none", kind="hub", image_size=32, dim=DIM, licence="none")
Stage = Callable[[Path], object]  # writes a folder


def download(folder: Path, _: ExitStack) -> Stage:
    """Return the download of a wheel by pip, from a folder as its index."""
    index = folder / "index"
    index.mkdir()
    members = {
        "demo/data.bin": random.Random(0).randbytes(200_000),
        "demo-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1\n",
        "demo-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo-1.dist-info/RECORD": b"",
    }
    source = wheel(index, "demo", members)
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    return lambda out: fetch_source("demo", source, out)


def fetch(folder: Path, stack: ExitStack) -> Stage:
    """Return the fetch of images from a server, some of which it does not have."""
    server = stack.enter_context(Server())
    stack.callback(server.shutdown)
    kinds = ("ok", "moved", "gone", "svg", "text")
    corpus = write_url_corpus(folder / "urls", [[server.url(f"{kinds[n % 5]}/{n}")] for n in range(ITEMS)])
    options = Fetch(backoff_seconds=0.01, timeout_seconds=5, allow_private=True, attempts=4)
    return lambda out: fetch_images(corpus, out, 16, 2, options, 1)


def vectors(folder: Path, _: ExitStack) -> Stage:
    """Return the import of published vectors."""
    counts = {"train": ITEMS, "test": 3, "label": 2}
    rows = {split: [[row] for row in range(n)] for split, n in counts.items()}
    corpus = write_corpus(folder / "items", rows, [""] * ITEMS)
    files = {}
    for split, n in counts.items():
        files[split] = Published(folder / f"{split}.npy", folder / f"{split}_map.npy")
        np.save(files[split].vectors, np.random.default_rng(n).standard_normal((n, DIM)).astype(np.float32))
        lists = np.empty(n, object)
        lists[:] = rows[split]
        np.save(files[split].rows, lists, allow_pickle=True)  # as its publisher does
    return lambda out: import_vectors(corpus, files, "eyes", EYES, out)


MAKE = {"download": download, "fetch-images": fetch, "import-vectors": vectors}


def source_cases(draw: random.Random, scratch: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield kills at file operations, spread over each stage."""
    while True:
        for name in MAKE:
            at = draw.random()

            def work(folder: Path, a: tuple = (name, at)) -> None:
                _killed_and_again(folder, *a)

            yield f"{name}, killed at {at:.4f}", work


def _killed_and_again(folder: Path, name: str, at: float) -> None:
    """Run a stage, count its file operations, kill another at a share of them, and run that again."""
    os.chdir(folder)  # operations are counted in this folder
    first, second, counted = Path("first/out"), Path("second/out"), Path("counted")
    with ExitStack() as stack:
        stage = MAKE[name](folder, stack)

        def count() -> int:
            seen = Operations(lambda _: None)
            stage(first)
            counted.write_text(str(seen.count))
            return 0

        assert in_a_child(count) == 0, "the stage does not succeed"
        chosen = 1 + int(at * int(counted.read_text()))

        def killed() -> int:
            Operations(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == chosen else None)
            stage(second)
            return 0

        in_a_child(killed)
        if name != "download" and (second / MANIFEST).exists():
            assert not not_whole(second), f"{second} counts as finished and is not"

        def again() -> int:
            stage(second)
            return 0

        assert in_a_child(again) == 0, "the same command does not succeed afterwards"
        assert _files(second) == _files(first), "the same command gives other files afterwards"


def _files(out: Path) -> dict[str, bytes]:
    """Return what a stage has written, without what differs from run to run."""
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    left = [str(path) for path in out.parent.rglob(".tmp-*")]
    assert not left, f"left behind: {left}"
    receipts = {name for name in found if name.endswith(".whl.json")}
    return {name: path.read_bytes() for name, path in found.items() if name not in TIMES | receipts}
