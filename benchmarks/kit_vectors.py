"""Parts of the GPU kit on vectors: mining, exact search, centroids, pooling of images (benchmarks/gpu_kit.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import clustering
import measure
import numpy as np
import torch
from measure import Kit
from search import straightforward as search_straightforward
from torch import Tensor
from torch.nn import functional as F

from vixml.ragged import Ragged
from vixml.retrieval.search import search
from vixml.runtime import coarse_type, dtype_of
from vixml.training.clustering import balanced_groups
from vixml.training.vectors import label_means

BALLAST = (
    27_000_000_000  # bytes of a trained Qwen2.5-3B and its optimizer, which stay on the card while queries are grouped
)
ROUNDS = 2


def unit_rows(kit: Kit, n: int, dim: int, seed: int) -> Tensor:
    """Return (n, dim) float32 unit rows on the device: topics, and as much noise; drawn in blocks."""
    generator = torch.Generator(kit.device).manual_seed(seed)
    topics = torch.randn(max(1, n // 100), dim, generator=generator, device=kit.device)
    rows = torch.empty(n, dim, device=kit.device)
    for block in rows.split(1 << 16):
        topic = torch.randint(len(topics), (len(block),), generator=generator, device=kit.device)
        torch.randn(block.shape, generator=generator, out=block)
        F.normalize(block.add_(topics[topic]), dim=1, out=block)
    return rows


def mining(kit: Kit) -> list[dict[str, Any]]:
    """Time balanced 2-means beside a ballast; groups must be balanced, and as good as those of the recursion."""
    points, dim, part = (600, 16, 600) if kit.tiny else (2_250_000, 2048, 1 << 15)
    vectors = unit_rows(kit, points, dim, 0)
    ballast = torch.empty(0 if kit.device.type == "cpu" else BALLAST, dtype=torch.uint8, device=kit.device)
    found: dict[str, Any] = {}

    def ours() -> None:
        found["groups"] = balanced_groups(vectors, -(-points // 16), 0)

    kit.reset_peak()
    seconds, _ = measure.take_turns({"ours": ours}, ROUNDS)
    peak, some = kit.peak_bytes(), vectors[:part].clone()
    sizes = np.bincount(found["groups"])
    n_groups = -(-part // 16)
    plain, both = measure.take_turns(
        {
            "straightforward": lambda: clustering.straightforward(some, n_groups, 0),
            "ours": lambda: balanced_groups(some, n_groups, 0),
        },
        ROUNDS,
    )
    again = balanced_groups(some, n_groups, 0)
    quality = {name: clustering.objective(some, groups) for name, groups in both.items()}
    ours_row = measure.spread(seconds["ours"])
    row = measure.row(
        "balanced 2-means", f"{points:,} x {dim}, groups of 16, beside {len(ballast) / 1e9:.0f} GB", ours_row,
        measure.spread([s * points / part for s in plain["straightforward"]]),
        measure.ratios(plain["straightforward"], plain["ours"]),
        limit=clustering.limit(points, dim, -(-points // 16), measure.bandwidth(kit.device.type)),
        limit_by="memory: every vector twice a step, six steps a level", threads=torch.get_num_threads(),
        device=kit.device.type, straightforward_points=part, peak_memory_gb=peak / 1e9,
    )  # fmt: skip
    balanced = sizes.max() - sizes.min() <= 1 and len(sizes) == -(-points // 16)
    same = bool((again == both["ours"]).all())
    passed = balanced and same and quality["ours"] > quality["straightforward"] - 0.02
    what = "groups are balanced, the same twice, and as good as those of the recursion (mean cosine to the centre)"
    return [measure.checked(row, passed, what, quality | {"balanced": bool(balanced), "same twice": same})]


def exact_search(kit: Kit, reach: float) -> list[dict[str, Any]]:
    """Time exact search against the bare product and against float32 products with a full top-k."""
    n, m, dim, k = (60, 900, 16, 10) if kit.tiny else (970_000, 1_305_265, 768, 100)
    some = min(n, 200)
    queries, labels = (unit_rows(kit, rows, dim, seed).cpu().numpy() for seed, rows in enumerate((n, m)))
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ids"] = search(queries, labels, k, memory_mb=8192, device=kit.device)[0]

    part = min(n, 1 << 14)
    search(queries[:some], labels, k, memory_mb=8192, device=kit.device)  # warms up
    seconds, _ = measure.take_turns({"ours": ours}, 1 if kit.device.type == "cuda" else ROUNDS)
    plain, _ = measure.take_turns(
        {"straightforward": lambda: search_straightforward(queries[:part], labels, k, kit.device.type)}, 1
    )
    dtype = coarse_type(kit.device)
    speed = measure.product_speed(min(n, 4096), min(m, 1 << 17), dim, dtype, kit.device.type)
    # By definition: products in float64, rounded to float32, ties by id.
    block = torch.from_numpy(queries[:some]).to(kit.device).double()
    products = torch.cat([block @ torch.from_numpy(x).to(kit.device).double().T for x in np.array_split(labels, 16)], 1)
    right = (-products).float().sort(dim=1, stable=True).indices[:, :k].cpu().numpy()
    agrees = float((found["ids"][:some] == right).mean())
    took, limit = measure.spread(seconds["ours"]), 2.0 * n * m * dim / speed
    slow = [s * n / part for s in plain["straightforward"]]
    row = measure.row(
        "exact search", f"{n:,} x {m:,} x {dim}, top {k}", took, measure.spread(slow),
        measure.spread([s / took["median"] for s in slow]), limit=limit,
        limit_by=f"the product alone in {str(dtype).removeprefix('torch.')}", threads=torch.get_num_threads(),
        device=kit.device.type, straightforward_queries=part,
    )  # fmt: skip
    row = measure.checked(row, agrees == 1.0, "the top labels are those of float64 products", {"agrees": agrees})
    return [measure.to_reach(row, "times the bare product", took["median"] / limit, reach, at_most=True)]


def centroids(kit: Kit) -> list[dict[str, Any]]:
    """Time labels' centroids on the card and on the processor; the card's equal the processor's up to rounding."""
    n, m, dim, each, part = (400, 90, 16, 3, 400) if kit.tiny else (2_250_000, 1_305_265, 2048, 22, 1 << 16)
    vectors = torch.empty(n, dim)
    for at in range(0, n, 1 << 18):
        rows = slice(at, min(at + (1 << 18), n))
        vectors[rows] = unit_rows(kit, rows.stop - at, dim, at).cpu()
    rng = np.random.default_rng(0)
    # Distinct labels of a query, ascending: one of each of `each` ranges.
    values = (rng.random((n, each)) * (m // each)).astype(np.int32) + np.arange(each, dtype=np.int32) * (m // each)
    truth = Ragged(values.ravel(), np.arange(n + 1, dtype=np.int64) * each, m)
    on_card = kit.device.type == "cuda"
    out = {"out": torch.empty(m, dim, device=kit.device)} if on_card else {}
    few, some = vectors[:part], truth.take(np.arange(part))
    right, _ = label_means(few, some)
    first = label_means(few, some, **out)[0].clone()
    close = float((first.cpu() - right).abs().max())
    same = torch.equal(first, label_means(few, some, **out)[0])
    del first
    seconds, _ = measure.take_turns({"ours": lambda: label_means(vectors, truth, **out)}, ROUNDS)
    plain, _ = measure.take_turns({"processor": lambda: label_means(few, some)}, 1)
    took, slow = measure.spread(seconds["ours"]), [s * n / part for s in plain["processor"]]
    row = measure.row(
        "centroids of labels", f"{n:,} x {dim}, {n * each:,} pairs", took, measure.spread(slow),
        measure.spread([s / took["median"] for s in slow]),
        limit=4.0 * dim * (n * each + m) / measure.bandwidth(kit.device.type),
        limit_by="memory: the vector of every pair, and the sums", threads=torch.get_num_threads(), device=kit.device.type,
        straightforward_queries=part,
    )  # fmt: skip
    what = "centroids equal those of the processor up to rounding, and are the same bytes twice"
    return [measure.checked(row, close < 1e-5 and same, what, {"largest difference": close, "same twice": same})]


def pooling(kit: Kit) -> list[dict[str, Any]]:
    """Time SigLIP2's pooling with half-precision weights against autocast over float32 weights; compare with float32."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from vixml.config.load import load_world
    from vixml.files import write_json
    from vixml.images.vision import open_hub_vision
    from vixml.plan.assumptions import VISION

    entry = load_world("config").vision_models["siglip2"]
    shape = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, patch_size=14)
    n, half = 64, "fp16" if kit.device.type == "cuda" else "bf16"
    if kit.tiny:
        n, shape = (
            4,
            dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=16),
        )
        entry = entry.model_copy(update={"image_size": 48, "dim": 32})
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with torch.device(kit.device):
            network = SiglipVisionModel(SiglipVisionConfig(image_size=entry.image_size, **shape))
        network.save_pretrained(folder)
        del network
        mean = [0.5] * 3
        size = {"height": entry.image_size, "width": entry.image_size}
        write_json(Path(folder) / "preprocessor_config.json", {"size": size, "image_mean": mean, "image_std": mean})
        where = Path(folder), kit.device.type
        fast = open_hub_vision("siglip2", entry, *where, dtype_of(half))
        plain = open_hub_vision("siglip2", entry, *where, torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, entry.image_size, entry.image_size, 3), generator=generator, dtype=torch.uint8)

    def autocast() -> Tensor:
        with torch.autocast(kit.device.type, dtype_of(half)):
            return plain.encode(images)

    ways = {"ours": lambda: fast.encode(images), "straightforward": autocast}
    measure.take_turns(ways, 1)
    seconds, found = measure.take_turns(ways, 1 if kit.tiny else 5)
    few = images[:8]
    cosine = float(F.cosine_similarity(fast.encode(few), plain.encode(few)).min())
    flop = VISION["siglip2"].flop if not kit.tiny else 1.0
    rate = {name: [n / s for s in took] for name, took in seconds.items()}
    row = measure.row(
        "images to vectors", f"SigLIP2 so400m, {n} images, {half}", measure.spread(rate["ours"]),
        measure.spread(rate["straightforward"]), measure.ratios(seconds["straightforward"], seconds["ours"]),
        limit=kit.product_speed(dtype_of(half)) / flop, unit="images/s", threads=torch.get_num_threads(),
        limit_by="the network's operations at the speed of a large product", device=kit.device.type,
    )  # fmt: skip
    finite = bool(torch.isfinite(found["ours"]).all())
    found = {"cosine to float32": cosine, "finite": finite}
    return [measure.checked(row, cosine > 0.999 and finite, "vectors point where those of float32 do", found)]
