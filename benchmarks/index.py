"""Time the approximate indexes against the exact search and the straightforward one: recall, speed, build time, size.

Labels lie in nested topics, as encoded texts do; random vectors have no neighbours to speak of, and no index helps there. An
index looks twice as far, step by step, until it finds the wanted share; every step is a point of its curve.

    python benchmarks/index.py --queries 1000 --labels 50000 --dim 384
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import measure
import numpy as np
import torch

from vixml.retrieval.approximate import SPARE, Index
from vixml.retrieval.search import decide, search


def topics(n: int, dim: int, seed: int) -> np.ndarray:
    """Return (n, dim) unit vectors: topics, topics inside these, and noise."""
    tree = np.random.default_rng(0)
    wide, narrow = tree.standard_normal((100, dim)), tree.standard_normal((5000, dim))
    rng = np.random.default_rng(seed)
    own = rng.integers(0, len(narrow), n)
    vectors = wide[own % len(wide)] + 0.8 * narrow[own] + 0.6 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def through(index: Index, queries: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return the scores of the k best that the index finds."""
    return decide(queries, labels, index.propose(queries, k + SPARE), k)[1]


def straightforward(queries: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return the scores of one float32 product and a full top-k."""
    return (torch.from_numpy(queries) @ torch.from_numpy(labels).T).topk(k).values.numpy()


def main() -> None:
    """Build, tune and time both kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("queries", 1000), ("labels", 50_000), ("dim", 384), ("k", 100), ("rounds", 5), ("threads", 2), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--kinds", nargs="+", default=["ivf", "hnsw"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    queries, labels = topics(chosen.queries, chosen.dim, 1), topics(chosen.labels, chosen.dim, 2)
    # Tuned on queries of their own.
    others, rows = topics(512, chosen.dim, 3), []
    for kind in chosen.kinds:
        index = Index(labels, kind, chosen.seed, chosen.device)
        curve = index.tune(others, labels, chosen.k, chosen.recall, chosen.seed)
        ways = {
            "ours": partial(through, index, queries, labels, chosen.k),
            "straightforward": partial(straightforward, queries, labels, chosen.k),
            "exact": partial(search, queries, labels, chosen.k, device=chosen.device),
        }
        seconds, found = measure.take_turns(ways, chosen.rounds)
        recall = float((found["ours"] >= found["exact"][1][:, -1:]).mean())
        rate = {name: [chosen.queries / s for s in times] for name, times in seconds.items()}
        rows.append(
            measure.row(
                f"approximate search, {kind}",
                f"{chosen.queries:,} x {chosen.labels:,} x {chosen.dim}, recall@{chosen.k} {recall:.4f}",
                measure.spread(rate["ours"]),
                measure.spread(rate["straightforward"]),
                measure.ratios(seconds["straightforward"], seconds["ours"]),
                # The answers' own vectors must be read: nothing can decide without.
                limit=measure.bandwidth() / (4 * chosen.dim * chosen.k),
                limit_by="memory: the vectors of the answers",
                threads=chosen.threads,
                device=chosen.device,
                unit="queries/s",
                ratio_to_exact=measure.ratios(seconds["exact"], seconds["ours"]),
                recall=recall,
                build_seconds=index.build_seconds,
                bytes=index.size_bytes,
                bytes_of_vectors=labels.nbytes,
                effort=index.effort,
                curve=curve,
            )
        )
    measure.write("index", rows, chosen.out)
    for one in rows:
        print(f"{one['path']}: built in {one['build_seconds']:.1f} s, {one['bytes'] / 2**20:.0f} MB; to exact search "
              f"{one['ratio_to_exact']['median']:.2f}")  # fmt: skip
        for step in one["curve"]:
            print(f"  effort {step['effort']:6d}: recall {step['recall']:.4f}, {step['ms']:.3f} ms a query")


if __name__ == "__main__":
    main()
