"""Time tags of new items: one item, many, a long table; loading; memory.

Straightforward: transformers on padded float32 batches of 32 texts, mean-pooled, one product with all labels, a full top-k. Texts
are those of the model's training items; images those of an image store.

    vixml pack picto vixml-minilm-l3 --out picto.model
    python benchmarks/tagging.py --model picto.model --store results/data/picto/images --rows 1000000
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import measure
import numpy as np
import torch

from vixml import Tagger
from vixml.images.store import ImageStore
from vixml.plan.assumptions import VISION
from vixml.runtime import dtype_of

ALONE, TEXTS, IMAGES = 100, 4096, 512
LOAD = """
import sys, time, torch
begun = time.perf_counter()
from vixml import Tagger
Tagger.load(sys.argv[1], device="cpu", threads=1)
print(time.perf_counter() - begun)
"""


def straightforward(model: Path, tagger: Tagger, texts: list[str], k: int) -> Callable[[], list[list[str]]]:
    """Return a function that tags texts as one would write it first."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model / "language", clean_up_tokenization_spaces=False)
    network = AutoModel.from_pretrained(model / "language", add_pooling_layer=False).eval()
    most = tagger.folder.run.encoder.max_len
    labels, found = torch.from_numpy(tagger.folder.array("labels/z.npy")), []

    def tag() -> list[list[str]]:
        found.clear()
        with torch.inference_mode():
            for start in range(0, len(texts), 32):
                batch = tokenizer(
                    texts[start : start + 32], padding=True, truncation=True, max_length=most, return_tensors="pt"
                )
                mask = batch["attention_mask"][..., None]
                mean = (network(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
                best = (torch.nn.functional.normalize(mean, dim=1) @ labels.T).topk(min(k, len(labels)), dim=1).indices
                found.extend([tagger.labels[label] for label in row] for row in best.tolist())
        return found

    return tag


def milliseconds(tagger: Tagger, items: list) -> dict[str, float]:
    """Return what one item takes, in ms, after three that warm up."""
    taken = []
    for item in items:
        begun = time.perf_counter()
        tagger.tag([item], k=10, voters=0)
        taken.append(1000 * (time.perf_counter() - begun))
    low, median, high = np.quantile(taken[3:], [0.25, 0.5, 0.75])
    return {"median": float(median), "min": float(low), "max": float(high), "rounds": len(taken) - 3}


def long_table(model: Path, texts: list[str], rows: int, threads: int) -> dict[str, float]:
    """Run ``vixml tag`` on a table; return its texts per second and its peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder, "new.csv"), Path(folder, "tags.csv")
        with open(table, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("id", "text"), *enumerate(islice(cycle(texts), rows))])
        command = [sys.executable, "-m", "vixml", "tag", str(table), "--model", str(model), "--out", str(out)]
        command += ["--device", "cpu", "--threads", str(threads)]
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"texts_per_second": rows / seconds, "seconds": seconds, "peak_memory_mb": memory}


def main() -> None:
    """Time everything, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder with its neighbours (vixml pack)")
    parser.add_argument("--store", type=Path, help="image store; without it no images are timed")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the long table")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    loading = [sys.executable, "-c", LOAD, str(options.model)]
    loads = [
        float(subprocess.run(loading, check=True, capture_output=True, text=True).stdout) for _ in range(options.rounds)
    ]
    tagger = Tagger.load(options.model, device="cpu", threads=options.threads)
    texts = list(islice(cycle(tagger.folder.items("neighbours")["text"].to_pylist()), options.texts))
    tokens = np.mean([len(one.ids) for one in tagger._tokenizer.encode_batch(texts)])
    network, peak = tagger._model.backbone.network, measure.product_speed(4096, 1536, 384, dtype_of(tagger.precision))
    weights = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Linear))
    size = f"{tagger.folder.header['run']}, {tokens:.1f} tokens, {len(tagger.labels):,} labels, {tagger.precision}"
    arithmetic = "arithmetic"
    ways = {"ours": lambda: tagger.tag(texts, k=10, voters=0)}
    if not tagger.votes:
        ways["straightforward"] = straightforward(options.model, tagger, texts, 10)
    seconds, found = measure.take_turns(ways, options.rounds)
    rate = {way: measure.spread([len(texts) / s for s in taken]) for way, taken in seconds.items()}
    agree = None
    if "straightforward" in ways:
        agree = float(
            np.mean(
                [tags[0].label == other[0] for tags, other in zip(found["ours"], found["straightforward"], strict=True)]
            )
        )
    shared = {"threads": options.threads}
    rows = [
        measure.row(
            "texts tagged", size, rate["ours"], rate.get("straightforward"),
            measure.ratios(seconds["straightforward"], seconds["ours"]) if agree is not None else None,
            limit=peak / (2 * weights * tokens), limit_by=arithmetic, unit="texts/s", first_tag_agrees=agree, **shared,
        ),
        measure.row(
            "one text tagged", size, milliseconds(tagger, texts[:ALONE]), None, None,
            limit=1000 * 4 * weights / measure.bandwidth(), limit_by="bandwidth: the weights once", unit="ms", **shared,
        ),
        measure.row("Tagger.load, after torch", size, measure.spread(loads), None, None, limit=1.5, limit_by="the aim", **shared),
    ]  # fmt: skip
    if options.store is not None:
        images = [png for _, _, png in islice(iter(ImageStore.open(options.store)), options.images)]
        items = [{"text": text, "images": png} for text, png in zip(cycle(texts), images, strict=False)]
        seconds, _ = measure.take_turns({"ours": lambda: tagger.tag(items, k=10, voters=0)}, options.rounds)
        vision = VISION[tagger.folder.run.images.vision].flop
        rows += [
            measure.row(
                "items with an image tagged", size, measure.spread([len(items) / s for s in seconds["ours"]]), None, None,
                limit=peak / (vision + 2 * weights * (tokens + 1)), limit_by=arithmetic, unit="items/s", **shared,
            ),
            measure.row(
                "one item with an image tagged", size, milliseconds(tagger, items[:ALONE]), None, None,
                limit=1000 * vision / peak, limit_by=arithmetic, unit="ms", **shared,
            ),
        ]  # fmt: skip
    else:
        table = long_table(options.model, texts, options.rows, options.threads)
        speed = table.pop("texts_per_second")
        rows.append(
            measure.row(
                "vixml tag, texts of a table", f"{options.rows:,} rows, {size}", measure.spread([speed]), None, None,
                limit=peak / (2 * weights * tokens), limit_by=arithmetic, unit="texts/s", **table, **shared,
            )
        )  # fmt: skip
    measure.write("tagging", rows, options.out)


if __name__ == "__main__":
    main()
