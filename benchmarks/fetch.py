"""Time the fetching of images against the HTTP client alone: same requests, same concurrency, bodies thrown away.

A server in another process on this machine (`fetching/server.py`) answers each request after `--delay` seconds, as servers on the
web do. Ours is the whole stage: fetch, hash, check, decode, prepare, journal, shards. The two take turns, each in a process of its
own. `--delay 0` asks what the processor allows: server, client and preparation then share the cores.

    python benchmarks/fetch.py --images 20000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fetching.server import IMAGES, Running, image_file
from origin import record

from vixml.config.registry import Fetch
from vixml.data.corpus import CorpusWriter
from vixml.images.decode import prepare
from vixml.images.store import ImageStore
from vixml.provenance import stage

RESULT = Path("benchmarks/results/fetch.json")
FAULTS = {"gone": 0.05, "broken": 0.05, "busy": 0.03, "stall": 0.03, "cut": 0.02, "text": 0.02}
LOST = ("gone", "text")  # what never passes


def paths(n: int, faults: dict[str, float]) -> list[str]:
    """Return ``KIND/N`` for each image, faults where a fixed seed puts them."""
    kinds = ["ok"] * n
    order = iter(np.random.default_rng(0).permutation(n))
    for kind, share in faults.items():
        for _ in range(round(n * share)):
            kinds[next(order)] = kind
    return [f"{kind}/{number}" for number, kind in enumerate(kinds)]


def write_corpus(folder: Path, urls: list[str]) -> None:
    """Publish a corpus of one image per item."""
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        writer = CorpusWriter(work)
        with writer.split("label") as add:
            add("l", "label")
        with writer.split("test") as add:
            add("q", "text", [0])
        with writer.split("train") as add:
            for row, url in enumerate(urls):
                add(str(row), "text", [0], [url])
        writer.finish(urls=True, facts={})


def timed(way: str, corpus: Path, store: Path, settings: Fetch, chosen: argparse.Namespace, server: Running) -> dict:
    """Run one way in a process of its own; sample the memory of its processes as the server's count goes up."""
    command = [
        sys.executable,
        Path(__file__).with_name("fetching") / "one.py",
        way,
        "--corpus",
        corpus,
        "--store",
        store,
    ]
    command += ["--settings", settings.model_dump_json(), "--size", chosen.size, "--threads", chosen.threads]
    before, n = server.served.value, chosen.images
    marks = [0.25, 0.5, 0.75, 0.98]
    memory = []
    environment = os.environ | {"VIXML_PROGRESS": "0"}
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            if len(memory) < len(marks) and server.served.value - before >= marks[len(memory)] * n * chosen.had:
                memory.append(round(resident(watched)))
            time.sleep(0.02)
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{way} failed")
    return json.loads(said.splitlines()[-1]) | {"resident_mb_at_25_50_75_98_percent": memory}


def resident(process: psutil.Process) -> float:
    """Return what a process and its children hold, in MB."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def compare(chosen: argparse.Namespace, delay: float, folder: Path) -> dict[str, Any]:
    """Time both ways in turn on images without faults."""
    settings = Fetch(concurrency=chosen.concurrency, per_host=chosen.concurrency, allow_private=True)
    found: dict[str, list[dict]] = {"alone": [], "ours": []}
    with Running(delay) as server:
        corpus = folder / f"corpus-{delay}"
        write_corpus(corpus, [f"{server.base}/{path}" for path in paths(chosen.images, {})])
        for turn in range(chosen.rounds):
            for way in sorted(found, reverse=turn % 2 == 1):
                store = folder / f"store-{delay}-{turn}"
                found[way].append(timed(way, corpus, store, settings, chosen, server))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["alone"], found["ours"], strict=True)]
    rates = {way: [round(chosen.images / run["seconds"], 1) for run in runs] for way, runs in found.items()}
    result = {"delay_seconds": delay, "images": chosen.images, "images_a_second": rates, "ratio_ours_to_alone": ratios}
    result["client_processor_ms_an_image"] = {
        way: [round(1e3 * run["client_processor_seconds"] / chosen.images, 3) for run in runs]
        for way, runs in found.items()
    }
    result["resident_mb_at_25_50_75_98_percent"] = [run["resident_mb_at_25_50_75_98_percent"] for run in found["ours"]]
    print(
        f"delay {delay * 1e3:.0f} ms: alone {statistics.median(rates['alone']):.0f}, ours "
        f"{statistics.median(rates['ours']):.0f} images per second, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); memory {result['resident_mb_at_25_50_75_98_percent']}",
        flush=True,
    )
    return result


def with_faults(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fetch from a server with faults; check that every image that can be had is had, whole, once."""
    settings = Fetch(
        concurrency=chosen.concurrency,
        per_host=chosen.concurrency,
        allow_private=True,
        timeout_seconds=2.0,
        backoff_seconds=0.2,
    )
    names = paths(chosen.images, FAULTS)
    with Running(chosen.delay) as server:
        write_corpus(folder / "corpus-faults", [f"{server.base}/{name}" for name in names])
        chosen.had = 1 - sum(FAULTS[kind] for kind in LOST)
        run = timed("ours", folder / "corpus-faults", folder / "store-faults", settings, chosen, server)
        chosen.had = 1.0
        with urllib.request.urlopen(f"{server.base}/counts") as answer:
            whole = json.load(answer)
    kinds = [name.split("/")[0] for name in names]
    lost = {image for image, kind in enumerate(kinds) if kind in LOST}
    store = ImageStore.open(folder / "store-faults")
    expected = [prepare(image_file(number), chosen.size) for number in range(IMAGES)]
    right = sum(png == expected[image % IMAGES] for image, _, png in store)
    twice = sum(count > 1 for path, count in whole.items() if path.split("/")[1] not in LOST)
    result = {
        "images": chosen.images,
        "shares": FAULTS,
        "can_be_had": chosen.images - len(lost),
        "had": right,
        "missing_as_expected": store.missing == lost,
        "sent_whole_more_than_once": twice,
        **run,
    }
    print(
        f"faults: {right} of {result['can_be_had']} had, the right {len(lost)} missing: {result['missing_as_expected']}, sent whole "
        f"more than once: {twice}; {run['seconds']:.0f} s, memory {run['resident_mb_at_25_50_75_98_percent']}"
    )
    return result


def main() -> None:
    """Print a line for each comparison and write them with their origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--delay", type=float, default=0.1, help="Seconds before the server's answer.")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="Side of the prepared images.")
    parser.add_argument("--threads", type=int, default=1, help="Processes that prepare images.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    chosen.had = 1.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [compare(chosen, delay, folder) for delay in (chosen.delay, 0.0)]
        faults = with_faults(chosen, folder)
    about = {key: getattr(chosen, key) for key in ("concurrency", "size", "threads", "rounds")}
    record(chosen.out, {**about, "without_faults": found, "with_faults": faults})


if __name__ == "__main__":
    main()
