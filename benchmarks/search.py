"""Time exact search against the two straightforward ways, in turn, in one process.

    python benchmarks/search.py --queries 1125 --labels 4000 --dim 384 --k 100

`plain` is one float32 product and topk: fast, but its last bits and its ties change with shape, library and device, and
its table grows with queries x labels. `sort` is a float64 product and a stable sort: the definition of the right answer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from vixml.retrieval.search import search


def plain(queries: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return the top labels of one float32 product: (n, k)."""
    return (torch.from_numpy(queries) @ torch.from_numpy(labels).T).topk(k).indices.numpy()


def full_sort(queries: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return the top labels by float64 products rounded to float32, ties by id: (n, k)."""
    products = (queries.astype(np.float64) @ labels.astype(np.float64).T).astype(np.float32)
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


def main() -> None:
    """Print a table: seconds, ratio to our search in the same round, and how many places agree with the full sort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 1125), ("labels", 4000), ("dim", 384), ("k", 100), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory-mb", type=int, nargs="+", default=[64, 512])
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rng = np.random.default_rng(0)
    queries, labels = (rng.standard_normal((n, chosen.dim)).astype(np.float32) for n in (chosen.queries, chosen.labels))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    labels /= np.linalg.norm(labels, axis=1, keepdims=True)
    right = full_sort(queries, labels, chosen.k)
    ways: dict[str, Callable[[], np.ndarray]] = {
        f"search, {mb} MB": lambda mb=mb: search(queries, labels, chosen.k, memory_mb=mb)[0] for mb in chosen.memory_mb
    }
    ours = next(reversed(ways))
    ways |= {"plain": lambda: plain(queries, labels, chosen.k), "sort": lambda: full_sort(queries, labels, chosen.k)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    agree = {}
    for _ in range(chosen.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found = way()
            seconds[name].append(time.perf_counter() - start)
            agree[name] = float((found == right).mean())
    print(
        f"{chosen.queries} queries x {chosen.labels} labels x {chosen.dim}, top {chosen.k}, {chosen.threads} thread(s)"
    )
    print(f"{'way':<16}{'seconds':>9}{'to ours':>9}{'agrees':>10}")
    for name, times in seconds.items():
        # Paired: each round's own ratio, so that a busy machine slows both sides.
        ratio = statistics.median(a / b for a, b in zip(times, seconds[ours], strict=True))
        print(f"{name:<16}{statistics.median(times):>9.3f}{ratio:>9.2f}{agree[name]:>10.4%}")


if __name__ == "__main__":
    main()
