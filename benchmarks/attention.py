"""Time attention over short sequences, forward and backward: PyTorch's fused kernel against plain matrix products.

`vixml.models.attention.attend` takes the products where a processor has to differentiate, and the fused kernel
everywhere else. Both compute the same; they take turns round by round.

Operations: 2 for each pair of a query and a key that it sees, for each of the head's dimensions, in six products: scores and sums
forward, and the gradients of weights, values, queries and keys. The limit is their number over the speed of one large product.

    python benchmarks/attention.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import measure
import torch
from origin import record
from torch import Tensor
from torch.nn import functional as F

from vixml.models.attention import attend
from vixml.runtime import choose_device

RESULT = Path("benchmarks/results/attention.json")
# (name, sequences, heads, heads of keys, length, shared prefix, width of a head)
SIZES = [
    ("MiniLM-L3, text", 150, 12, 12, 5, 0, 32),
    ("MiniLM-L3, text and images", 150, 12, 12, 8, 0, 32),
    ("SmolLM2, text", 150, 9, 3, 4, 3, 64),
    ("SmolLM2, text and images", 150, 9, 3, 9, 3, 64),
    ("Qwen2.5-0.5B, 40 tokens", 64, 14, 2, 37, 3, 64),
    ("BERT, 128 tokens", 16, 12, 12, 128, 0, 64),
]


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attend with PyTorch's kernel."""
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2]) if causal else None
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])


def ours(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attend as a training step does."""
    return attend(q, k, v, causal=causal, scale=q.shape[-1] ** -0.5)


def operations(n: int, heads: int, length: int, prefix: int, dim: int) -> float:
    """Return those of both directions; with words in front the sequences look back only.

    Example:
        >>> operations(1, 1, 2, 0, 1), operations(1, 1, 2, 1, 1)  # 4 pairs; 2 and 3
        (48.0, 60.0)
    """
    seen = length * prefix + length * (length + 1) / 2 if prefix else length * length
    return 6.0 * 2 * n * heads * dim * seen


def compare(size: tuple, dtype: torch.dtype, rounds: int, speed: float) -> dict[str, Any]:
    """Return medians in milliseconds, ratios, the limit, and the largest difference of outputs and gradients.

    Args:
        size: one of :data:`SIZES`.
        dtype: of queries, keys and values.
        rounds: how often.
        speed: operations per second of a large product.
    """
    name, n, heads, kv_heads, length, prefix, dim = size
    torch.manual_seed(0)
    shapes = [(n, length, heads, dim), (n, prefix + length, kv_heads, dim), (n, prefix + length, kv_heads, dim)]
    leaves = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]
    weight = torch.randn(n, heads, length, dim, dtype=dtype)
    seconds: dict[str, list[float]] = {"fused": [], "ours": []}
    found = {}
    for turn in range(rounds + 1):
        for way in ("fused", "ours") if turn % 2 else ("ours", "fused"):
            start = time.perf_counter()
            out = {"fused": fused, "ours": ours}[way](*leaves, prefix > 0)
            gradients = torch.autograd.grad(out, leaves, weight)
            if turn:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
            found[way] = [out.detach(), *gradients]
    pairs = zip(found["fused"], found["ours"], strict=True)
    ratios = [a / b for a, b in zip(seconds["fused"], seconds["ours"], strict=True)]
    return {
        "size": name,
        "limit_ms": 1e3 * operations(n, heads, length, prefix, dim) / speed,
        "fused_ms": 1e3 * statistics.median(seconds["fused"]),
        "ours_ms": 1e3 * statistics.median(seconds["ours"]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "relative_difference": max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs),
    }


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    choose_device("cpu", given.threads)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[given.precision]
    speed = measure.product_speed(2048, 2048, 2048, dtype)
    rows = [compare(size, dtype, given.rounds, speed) for size in SIZES]
    print(f"{'':30}{'fused':>10}{'ours':>10}{'ratio':>8}   (smallest to largest)")
    for row in rows:
        r = row["ratio"]
        print(
            f"{row['size']:30}{row['fused_ms']:7.1f} ms{row['ours_ms']:7.1f} ms{r['median']:8.1f}   "
            f"({r['min']:.1f} to {r['max']:.1f})"
        )
    about = {
        "threads": given.threads,
        "precision": given.precision,
        "rounds": given.rounds,
        "product_flop_per_second": speed,
    }
    record(given.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
