"""Every metric again, as plain double loops over Python lists: slow, and easy to check against the definitions."""

from __future__ import annotations

import math


def unfiltered(ranking: list[int], banned: list[int]) -> list[int]:
    """Return the ranking without padding and without filtered labels."""
    return [label for label in ranking if label >= 0 and label not in banned]


def metrics(
    rankings: list[list[int]],
    truth: list[list[int]],
    weights: list[float],
    filters: list[list[int]] | None,
    ks: list[int],
) -> dict[str, float]:
    """Return every metric at every k, in percent."""
    n = len(rankings)
    banned = filters if filters is not None else [[] for _ in rankings]
    rankings = [unfiltered(ranking, own) for ranking, own in zip(rankings, banned, strict=True)]
    found = {}
    for k in ks:
        total = dict.fromkeys(("P", "nDCG", "R", "hit", "MAP", "MRR"), 0.0)
        psp = psp_best = psndcg = psndcg_best = 0.0
        for ranking, true in zip(rankings, truth, strict=True):
            ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(true))))
            best = sorted((weights[label] for label in true), reverse=True)[:k]
            hits = 0
            precisions = 0.0
            first = None
            for j, label in enumerate(ranking[:k]):
                if label in true:
                    hits += 1
                    precisions += hits / (j + 1)
                    first = j + 1 if first is None else first
                    total["nDCG"] += 1 / math.log2(j + 2) / ideal
                    psp += weights[label]
                    psndcg += weights[label] / math.log2(j + 2) / ideal
            for j, weight in enumerate(best):
                psp_best += weight
                psndcg_best += weight / math.log2(j + 2) / ideal
            total["P"] += hits / k
            total["hit"] += 1 if hits else 0
            if true:
                total["R"] += hits / len(true)
                total["MAP"] += precisions / min(k, len(true))
            total["MRR"] += 1 / first if first else 0
        for name, value in total.items():
            found[f"{name}@{k}"] = 100 * value / n
        found[f"PSP@{k}"] = 100 * psp / psp_best
        found[f"PSnDCG@{k}"] = 100 * psndcg / psndcg_best
    return found
