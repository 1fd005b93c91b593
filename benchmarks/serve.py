"""Load `vixml serve` with many clients for a minute: errors, p50 and p95, items per second, against a plain loop.

Straightforward: a loop that tags one item after the other (`Tagger.tag([item])`) in a process of its own threads, without a
server. The limit is what the same threads tag in bulk. Clients are tasks of this process, each with one connection and one
request at a time; on a machine of few cores they compete with the server.

    vixml pack picto vixml-minilm-l3 --out picto.model
    python benchmarks/serve.py --model picto.model --store results/data/picto/images
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import measure
import numpy as np

from vixml import Tagger
from vixml.images.store import ImageStore

BULK = 512
HEAD = "POST /v1/tags HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass
class Load:
    """Answers that clients saw: seconds of each, and its status or error."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Return the number of requests that were not answered with their tags."""
        return self.outcomes.total() - self.outcomes["200"]


@contextmanager
def served(model: Path, threads: int) -> Iterator[int]:
    """Run the server; yield its port."""
    command = [sys.executable, "-m", "vixml", "serve", "--model", str(model), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen([*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline().split()[0].rsplit(":", 1)[1])
    finally:
        process.terminate()
        if process.wait() != 0:
            raise SystemExit(f"the server ended with status {process.returncode}")


async def client(port: int, bodies: Iterator[bytes], until: float, load: Load) -> None:
    """Send one request after the other."""
    reader = writer = None
    while time.perf_counter() < until:
        body, begun = next(bodies), time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD.format(len(body)).encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            load.outcomes[head.split()[1].decode()] += 1
            load.seconds.append(time.perf_counter() - begun)
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            load.outcomes[type(error).__name__] += 1
            writer = None
    if writer is not None:
        writer.close()


async def run(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[Load, float]:
    """Return what the clients saw, and how long they took, after a tenth of the time that warms up."""
    taken = cycle(bodies)
    for load, duration in ((Load(), seconds / 10), (Load(), seconds)):
        begun = time.perf_counter()
        await asyncio.gather(*(client(port, taken, begun + duration, load) for _ in range(clients)))
        elapsed = time.perf_counter() - begun
    return load, elapsed


def compare(name: str, items: list[Any], tagger: Tagger, options: argparse.Namespace) -> dict[str, Any]:
    """Load the server with items, one per request, and tag them in a loop and in bulk; return the row."""
    begun, n = time.perf_counter(), 0
    for item in cycle(items):
        tagger.tag([item], k=10)
        n += 1
        if time.perf_counter() - begun > options.seconds / 6:
            break
    loop = n / (time.perf_counter() - begun)
    begun = time.perf_counter()
    tagger.tag(items, k=10)
    bulk = len(items) / (time.perf_counter() - begun)
    bodies = [json.dumps({"items": [_sent(item)]}).encode() for item in items]
    with served(options.model, options.threads) as port:
        load, elapsed = asyncio.run(run(port, bodies, options.clients, options.seconds))
    rate = load.outcomes["200"] / elapsed
    p50, p95 = (1000 * float(value) for value in np.quantile(load.seconds or [np.nan], [0.5, 0.95]))
    print(
        f"{name}: {load.outcomes.total():,} requests of {options.clients} clients in {elapsed:.0f} s, {load.errors} errors "
        f"{dict(load.outcomes)}; p50 {p50:.0f} ms, p95 {p95:.0f} ms; {rate:.0f} items/s, plain loop {loop:.0f}, bulk {bulk:.0f}"
    )
    row = measure.row(
        name, f"{options.clients} clients, {len(tagger.labels):,} labels, {tagger.precision}", measure.spread([rate]),
        measure.spread([loop]), measure.spread([rate / loop]), limit=bulk, limit_by="the same threads in bulk, no server",
        threads=options.threads, unit="items/s", p50_ms=p50, p95_ms=p95, outcomes=dict(load.outcomes), seconds=elapsed,
    )  # fmt: skip
    return measure.checked(row, load.errors == 0, "no error", load.errors)


def _sent(item: Any) -> Any:
    """Return an item as a request has it."""
    if isinstance(item, str):
        return item
    return {"text": item["text"], "images": [base64.b64encode(item["images"]).decode()]}


def main() -> None:
    """Load the server, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder with its neighbours (vixml pack)")
    parser.add_argument("--store", type=Path, help="image store; without it no images are sent")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tagger = Tagger.load(options.model, device="cpu", threads=options.threads)
    texts = list(islice(cycle(tagger.folder.items("neighbours")["text"].to_pylist()), BULK))
    rows = [compare("texts served", texts, tagger, options)]
    if options.store is not None:
        images = [png for _, _, png in islice(iter(ImageStore.open(options.store)), BULK)]
        items = [{"text": text, "images": png} for text, png in zip(texts, cycle(images), strict=False)]
        rows.append(compare("items with an image served", items, tagger, options))
    measure.write("serve", rows, options.out)


if __name__ == "__main__":
    main()
