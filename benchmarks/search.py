"""Time exact search against the straightforward way, in turn, in one process.

Straightforward: one float32 product, all of it in memory, and a full top-k. Its last bits and its ties change with shape,
library and device; how many of its places agree with the definition (float64 products rounded to float32, ties by id) stands
in the result, beside ours. The limit is the product alone, in the fastest type that the device has.

    python benchmarks/search.py --queries 1000 --labels 50000 --dim 384
    python benchmarks/search.py --queries 32768 --labels 1305265 --dim 768 --device cuda --memory-mb 8192 \
        --out benchmarks/results/search-gpu.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np
import torch

from vixml.retrieval.search import search
from vixml.runtime import coarse_type


def straightforward(queries: np.ndarray, labels: np.ndarray, k: int, device: str) -> np.ndarray:
    """Return the top labels of float32 products: (n, k). On a GPU a block of queries at a time, or it would not fit."""
    held, found = torch.from_numpy(labels).to(device), []
    for block in torch.from_numpy(queries).split(len(queries) if device == "cpu" else 4096):
        found.append((block.to(device) @ held.T).topk(k).indices.cpu())
    return torch.cat(found).numpy()


def by_definition(queries: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return the top labels by float64 products rounded to float32, ties by id: (n, k)."""
    products = (queries.astype(np.float64) @ labels.astype(np.float64).T).astype(np.float32)
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


def main() -> None:
    """Time both with one thread and with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 1000), ("labels", 50_000), ("dim", 384), ("k", 100), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    queries, labels = (rng.standard_normal((n, chosen.dim), dtype=np.float32) for n in (chosen.queries, chosen.labels))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    labels /= np.linalg.norm(labels, axis=1, keepdims=True)
    some = slice(0, 200)
    right, rows = by_definition(queries[some], labels, chosen.k), []
    dtype = coarse_type(torch.device(chosen.device))
    how = {"memory_mb": chosen.memory_mb, "device": chosen.device}
    for threads in chosen.threads if chosen.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        ways = {
            "ours": lambda: search(queries, labels, chosen.k, **how)[0],
            "straightforward": lambda: straightforward(queries, labels, chosen.k, chosen.device),
        }
        seconds, found = measure.take_turns(ways, chosen.rounds)
        with measure.Memory() as memory:
            search(queries, labels, chosen.k, **how)
        block = min(chosen.queries, 4096)
        speed = measure.product_speed(block, min(chosen.labels, 1 << 17), chosen.dim, dtype, chosen.device)
        rate = [[chosen.queries / s for s in seconds[name]] for name in ways]
        rows.append(
            measure.row(
                "exact search",
                f"{chosen.queries:,} x {chosen.labels:,} x {chosen.dim}, top {chosen.k}",
                measure.spread(rate[0]),
                measure.spread(rate[1]),
                measure.ratios(seconds["straightforward"], seconds["ours"]),
                limit=speed / (2 * chosen.labels * chosen.dim),
                limit_by=f"the product alone in {str(dtype).removeprefix('torch.')}",
                threads=threads,
                device=chosen.device,
                unit="queries/s",
                agrees={name: float((places[some] == right).mean()) for name, places in found.items()},
                memory_mb=chosen.memory_mb,
                peak_mb=memory.peak_mb,
            )
        )
    measure.write("search", rows, chosen.out)
    for one in rows:
        print(one["threads"], "thread(s): agrees", one["agrees"], f"memory {one['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
