"""Time the metrics against plain loops over Python sets, in turn, in one process.

python benchmarks/metrics.py --queries 970237 --labels 1305265
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import measure
import numpy as np

from vixml.evaluation.metrics import DEEP_KS, KS, evaluate
from vixml.ragged import Ragged


def loops(predictions: np.ndarray, truth: Ragged, weights: np.ndarray) -> dict[str, float]:
    """Return P, nDCG, PSP and PSnDCG at KS, R at DEEP_KS, as one would write them first."""
    total: dict[str, float] = {}

    def put(name: str, value: float) -> None:
        total[name] = total.get(name, 0.0) + value

    for row, ranking in enumerate(predictions.tolist()):
        true = set(truth.row(row).tolist())
        best = sorted((float(weights[label]) for label in true), reverse=True)
        for k in KS:
            ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(true))))
            for j, label in enumerate(ranking[:k]):
                if label in true:
                    put(f"P@{k}", 1 / k)
                    put(f"nDCG@{k}", 1 / math.log2(j + 2) / ideal)
                    put(f"PSP@{k}", float(weights[label]))
                    put(f"PSnDCG@{k}", float(weights[label]) / math.log2(j + 2) / ideal)
            for j, weight in enumerate(best[:k]):
                put(f"best PSP@{k}", weight)
                put(f"best PSnDCG@{k}", weight / math.log2(j + 2) / ideal)
        for k in DEEP_KS:
            put(f"R@{k}", len(true.intersection(ranking[:k])) / max(len(true), 1))
    names = [f"{name}@{k}" for name in ("P", "nDCG", "PSP", "PSnDCG") for k in KS] + [f"R@{k}" for k in DEEP_KS]
    return {name: 100 * total.get(name, 0.0) / total.get(f"best {name}", len(truth)) for name in names}


def ours(predictions: np.ndarray, truth: Ragged, weights: np.ndarray) -> dict[str, float]:
    """Return all metrics as the stage ``score`` computes them."""
    return evaluate(predictions, truth, weights).metrics


def made(queries: int, labels: int, k: int, positives: int) -> tuple[np.ndarray, Ragged, np.ndarray]:
    """Return predictions of which a part is true, true labels of very different numbers, and weights."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / positives, queries), 1000)
    rows = np.repeat(np.arange(queries), lengths)
    rows, values = np.divmod(np.unique(rows * labels + rng.integers(0, labels, len(rows))), labels)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=queries))])
    truth = Ragged(values.astype(np.int32), offsets, labels)
    # Ascending from a random place: no label twice in a row.
    predictions = rng.integers(0, labels, (queries, 1), dtype=np.int32) + np.arange(k, dtype=np.int32) * 7
    predictions %= labels
    for place in range(0, k, 4):
        some = truth.lengths > place
        label = truth.values[truth.offsets[:-1][some] + place]
        own = predictions[some]
        rows, columns = np.nonzero(own == label[:, None])
        own[rows, columns] = own[rows, place]  # exchanged
        own[:, place] = label
        predictions[some] = own
    return predictions, truth, 1 + rng.random(labels) * 10


def main() -> None:
    """Time both on a part of the queries, in turn, and ours on all, with its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("queries", 970_237), ("paired", 20_000), ("labels", 1_305_265), ("k", 100), ("positives", 22), ("rounds", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rows, speed = [], measure.bandwidth()
    for queries in (chosen.paired, chosen.queries):
        predictions, truth, weights = made(queries, chosen.labels, chosen.k, chosen.positives)
        ways = {"ours": partial(ours, predictions, truth, weights)}
        if queries == chosen.paired:
            ways["straightforward"] = partial(loops, predictions, truth, weights)
        with measure.Memory() as memory:
            seconds, found = measure.take_turns(ways, chosen.rounds)
        plain = seconds.get("straightforward")
        more = {"process_mb": memory.largest / 2**20}
        if plain:
            pairs = [(found["ours"][name], value) for name, value in found["straightforward"].items()]
            more = {"largest_difference": max(abs(a - b) for a, b in pairs)}
        rows.append(
            measure.row(
                "metrics",
                f"{queries:,} x {chosen.k}, {chosen.labels:,} labels",
                measure.spread(seconds["ours"]),
                measure.spread(plain) if plain else None,
                measure.ratios(plain, seconds["ours"]) if plain else None,
                limit=(predictions.nbytes + truth.values.nbytes) / speed,
                limit_by="memory: predictions and true labels read once",
                threads=1,
                **more,
            )
        )
    measure.write("metrics", rows, chosen.out)
    print(f"memory of the whole process: {rows[-1]['process_mb']:.0f} MB")


if __name__ == "__main__":
    main()
