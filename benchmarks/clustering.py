"""Time balanced 2-means against the way one would write it first, in turn, in one process.

Straightforward: as NGAME describes it, one group after the other: two members are the first centres, points are ranked by
the difference of their similarities, cut in the middle, centres taken anew, until the objective gains less than 1e-4. Ours:
`vixml.training.clustering`. Both end in the same number of groups; the objective (mean cosine to the group's centre) of each
stands in the result, and whether ours was the same whatever the number of threads.

    python benchmarks/clustering.py --points 50000 --dim 384 --size 16
    python benchmarks/clustering.py --points 2250000 --dim 768 --size 16 --device cuda --rounds 3 \
        --out benchmarks/results/clustering-gpu.json
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import measure
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.training.clustering import ITERATIONS, balanced_groups, group_means


def straightforward(vectors: Tensor, n_groups: int, seed: int) -> np.ndarray:
    """Return the groups of a recursion over groups: (n,) int64."""
    rng = np.random.default_rng(seed)
    groups = np.zeros(len(vectors), dtype=np.int64)
    waiting, done = [(torch.arange(len(vectors), device=vectors.device), n_groups)], 0
    while waiting:
        members, share = waiting.pop()
        if share == 1:
            groups[members.cpu().numpy()] = done
            done += 1
            continue
        own = vectors[members]
        a, b = own[torch.from_numpy(rng.choice(len(members), 2, replace=False)).to(own.device)]
        cut, before = len(members) * (share // 2) // share, -1.0
        while True:
            to_a, to_b = own @ a, own @ b
            order = (to_a - to_b).argsort(descending=True)
            objective = float((to_a[order[:cut]].sum() + to_b[order[cut:]].sum()) / len(own))
            if objective - before < 1e-4:
                break
            before = objective
            a, b = (F.normalize(own[half].mean(dim=0), dim=0) for half in (order[:cut], order[cut:]))
        waiting += [(members[order[cut:]], share - share // 2), (members[order[:cut]], share // 2)]
    return groups


def objective(vectors: Tensor, groups: np.ndarray) -> float:
    """Return the mean cosine of points to the centre of their group."""
    vectors = vectors.cpu()
    centres = F.normalize(group_means(vectors, groups, int(groups.max()) + 1), dim=1)
    return float((vectors * centres[torch.from_numpy(groups)]).sum(dim=1).mean())


def limit(n: int, dim: int, n_groups: int, speed: float) -> float:
    """Return the seconds to read all vectors twice a step."""
    # Large groups may take more steps, small ones settle after fewer.
    return 2 * ITERATIONS * math.ceil(math.log2(n_groups)) * 4 * n * dim / speed


def main() -> None:
    """Time both with one thread and with all, and compare what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("points", 50_000), ("dim", 384), ("size", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    # Topics inside topics, as mined queries have them, and noise.
    topics = torch.randn(chosen.points // 100 + 1, chosen.dim, generator=generator)
    topic = torch.randint(len(topics), (chosen.points,), generator=generator)
    vectors = F.normalize(topics[topic] + torch.randn(chosen.points, chosen.dim, generator=generator), dim=1)
    vectors, n_groups = vectors.to(chosen.device), math.ceil(chosen.points / chosen.size)
    rows, seen = [], set()
    for threads in chosen.threads if chosen.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        ways = {
            "ours": lambda: balanced_groups(vectors, n_groups, 0),
            "straightforward": lambda: straightforward(vectors, n_groups, 0),
        }
        seconds, found = measure.take_turns(ways, chosen.rounds)
        seen.add(found["ours"].tobytes())
        rows.append(
            measure.row(
                "balanced 2-means",
                f"{chosen.points:,} x {chosen.dim}, groups of {chosen.size}",
                measure.spread(seconds["ours"]),
                measure.spread(seconds["straightforward"]),
                measure.ratios(seconds["straightforward"], seconds["ours"]),
                limit=limit(chosen.points, chosen.dim, n_groups, measure.bandwidth(chosen.device)),
                limit_by="memory: every vector twice a step, six steps a level",
                threads=threads,
                device=chosen.device,
                # Of three seeds: two ways draw different first centres, and one draw is better than another.
                objective={
                    name: statistics.mean(objective(vectors, way(vectors, n_groups, seed)) for seed in range(3))
                    for name, way in (("ours", balanced_groups), ("straightforward", straightforward))
                },
                same_whatever_the_threads=len(seen) == 1,
            )
        )
    measure.write("clustering", rows, chosen.out)
    for one in rows:
        print(one["threads"], "thread(s):", one["objective"], "same groups:", one["same_whatever_the_threads"])


if __name__ == "__main__":
    main()
