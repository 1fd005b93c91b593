"""One way of fetching, in a process of its own, for `benchmarks/fetch.py`; nothing heavy is imported before it is needed, as in `vixml`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


async def alone(urls: list[str], concurrency: int, timeout: float) -> int:
    """Ask for every address with the client as it comes; throw the bodies away; return their bytes."""
    import asyncio

    import httpx2

    waiting, total = iter(urls), 0
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client:

        async def work() -> None:
            nonlocal total
            for url in waiting:
                async with client.stream("GET", url) as answer:
                    async for part in answer.aiter_raw():
                        total += len(part)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    return total


def main() -> None:
    """Run one way; print its seconds, without those of starting Python."""
    import asyncio

    import pyarrow.parquet as pq

    from vixml.config.registry import Fetch
    from vixml.images.fetch import fetch_images

    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["alone", "ours"])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--settings", type=Fetch.model_validate_json)
    parser.add_argument("--size", type=int)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    urls = pq.read_table(chosen.corpus / "images.parquet")["key"].to_pylist()
    start, worked = time.perf_counter(), time.process_time()
    if chosen.way == "alone":
        asyncio.run(alone(urls, chosen.settings.concurrency, chosen.settings.timeout_seconds))
    else:
        fetch_images(chosen.corpus, chosen.store, chosen.size, 4, chosen.settings, chosen.threads)
    seconds, processor = time.perf_counter() - start, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "client_processor_seconds": processor}))


if __name__ == "__main__":
    main()
