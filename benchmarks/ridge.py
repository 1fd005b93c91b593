"""Time local ridge votes against the straightforward way, in turn, in one process; the neighbours are given to both.

Straightforward: one query at a time, numpy in float64. Per query both compute k^2 d multiplications for the kernel matrix of k
neighbours and k^3 / 6 for its decomposition; exact search among m vectors takes m d.

    python benchmarks/ridge.py --queries 1000 --voters 20000 --dim 384
    python benchmarks/ridge.py --device cuda --queries 32768 --voters 1305265 --out benchmarks/results/ridge-gpu.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np
import torch

from vixml.config.run import Ridge
from vixml.retrieval.ridge import ridge_weights
from vixml.retrieval.search import on_device, search


def straightforward(nearest: np.ndarray, cosines: np.ndarray, voters: np.ndarray, how: Ridge) -> np.ndarray:
    """Return the weights of neighbours, one query at a time: (n, k) float64."""
    weights = np.empty(nearest.shape)
    for row, ids in enumerate(nearest):
        near = voters[ids].astype(np.float64)
        kernel = np.exp((near @ near.T - 1) / how.bandwidth) + how.regulariser * np.eye(len(ids))
        weights[row] = np.linalg.solve(kernel, np.exp((cosines[row].astype(np.float64) - 1) / how.bandwidth))
    return weights


def main() -> None:
    """Time both with one thread and with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 1000), ("voters", 20_000), ("dim", 384), ("neighbours", 100), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rng, device = np.random.default_rng(0), torch.device(chosen.device)
    queries, voters = (rng.standard_normal((n, chosen.dim), dtype=np.float32) for n in (chosen.queries, chosen.voters))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    voters /= np.linalg.norm(voters, axis=1, keepdims=True)
    nearest, cosines = search(queries, voters, chosen.neighbours, device=device)
    how, near_voters, rows = Ridge(), on_device(voters, device), []
    flop = chosen.neighbours**2 * (2 * chosen.dim + chosen.neighbours / 3)
    for threads in chosen.threads if chosen.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        ways = {
            "ours": lambda: ridge_weights(nearest, cosines, near_voters, how, device),
            "straightforward": lambda: straightforward(nearest, cosines, voters, how),
        }
        seconds, found = measure.take_turns(ways, chosen.rounds)
        speed = measure.product_speed(2048, 2048, chosen.dim, torch.float64, chosen.device)
        ours, plain = ([1000 * s / chosen.queries for s in seconds[name]] for name in ways)
        rows.append(
            measure.row(
                "local ridge votes",
                f"{chosen.queries:,} queries, {chosen.neighbours} neighbours x {chosen.dim}",
                measure.spread(ours),
                measure.spread(plain),
                measure.ratios(seconds["straightforward"], seconds["ours"]),
                limit=1000 * flop / speed,
                limit_by="its operations at the speed of a float64 product",
                threads=threads,
                device=chosen.device,
                unit="ms/query",
                largest_difference=float(np.abs(found["ours"] - found["straightforward"]).max()),
            )
        )
    measure.write("ridge", rows, chosen.out)


if __name__ == "__main__":
    main()
