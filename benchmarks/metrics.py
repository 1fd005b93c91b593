"""Time the metrics against plain loops over Python sets, in turn, in one process.

python benchmarks/metrics.py --queries 2000 --labels 4000 --k 100
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

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


def main() -> None:
    """Print a table: seconds, ratio in the same round, and the largest difference between the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 2000), ("labels", 4000), ("k", 100), ("positives", 6), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    truth = Ragged.from_rows(
        [np.sort(rng.choice(chosen.labels, chosen.positives, replace=False)) for _ in range(chosen.queries)],
        chosen.labels,
    )
    predictions = np.stack([rng.permutation(chosen.labels)[: chosen.k] for _ in range(chosen.queries)]).astype(np.int32)
    # Half of the rankings start with true labels, or there would be nothing to count.
    for row in range(0, chosen.queries, 2):
        rest = predictions[row][~np.isin(predictions[row], truth.row(row))]
        predictions[row] = np.concatenate([truth.row(row), rest])[: chosen.k]
    weights = 1 + rng.random(chosen.labels) * 10
    seconds: dict[str, list[float]] = {"vixml": [], "loops": []}
    for _ in range(chosen.rounds):
        start = time.perf_counter()
        ours = evaluate(predictions, truth, weights).metrics
        middle = time.perf_counter()
        plain = loops(predictions, truth, weights)
        seconds["vixml"].append(middle - start)
        seconds["loops"].append(time.perf_counter() - middle)
    print(f"{chosen.queries} queries, {chosen.labels} labels, top {chosen.k}")
    print(f"{'way':<8}{'seconds':>9}{'to ours':>9}{'metrics':>9}{'largest difference':>20}")
    for name, n in (("vixml", len(ours)), ("loops", len(plain))):
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["vixml"], strict=True))
        apart = max(abs(ours[key] - plain[key]) for key in plain) if name == "loops" else 0.0
        print(f"{name:<8}{statistics.median(seconds[name]):>9.3f}{ratio:>9.2f}{n:>9}{apart:>20.1e}")


if __name__ == "__main__":
    main()
