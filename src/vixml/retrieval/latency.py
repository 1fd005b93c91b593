"""The stage ``measure-latency``: time per query of a trained run, alone and in batches (paper, appendix G).

Timings do not repeat: they belong to a machine, which the result names, and only the table of latencies reads them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vixml.config.run import SeededRun
from vixml.data.tokens import load_tokenizer
from vixml.files import load_array, write_json
from vixml.manifest import check_run, holds
from vixml.memory import enough_memory
from vixml.models.inputs import RunInputs
from vixml.progress import bar
from vixml.provenance import stage
from vixml.retrieval.index import Trained
from vixml.retrieval.search import on_device, search
from vixml.runtime import autocast

SCHEMA_VERSION = 1
ALONE, BATCHES, WARM_UP = 200, 20, 3
TOP_K = 100


def measure_latency(
    run: SeededRun,
    inputs: RunInputs,
    trained: Path,
    index: Path,
    out: Path,
    device: torch.device,
    batch_size: int = 256,
) -> None:
    """Write ``latency.json``: milliseconds per query (median and quartiles) of each step.

    ``tokenise`` a text; ``encode_alone``, a batch of one, and ``encode_batched``, a batch's time divided by its queries:
    from tokens and image vectors to a unit vector; ``search``: the 100 best of all labels, exactly, a batch's time divided
    by its queries. Image vectors are computed beforehand, as in the paper: an image is pooled once, not for each query.
    """
    resolved = {**run.names, "batch_size": batch_size, **run.config.model_dump()}
    named = {**inputs.named(), "trained": trained, "index": index}
    facts: dict[str, Any] = {}
    with stage(out, "measure-latency", config=resolved, inputs=named, facts=facts) as work:
        for name, folder in (("trained", trained), ("index", index)):
            check_run(folder, run.names, f"--{name}")
        opened = Trained.open(run, inputs, trained, device)
        model, corpus, queries = opened.model, opened.data.corpus, opened.data.sequences["test"]

        def encode(rows: np.ndarray) -> None:
            with torch.no_grad(), autocast(opened.precision, device):
                F.normalize(model.centred_vectors(model.encode(queries.take(rows).pack())).float(), dim=1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        n = corpus.n("test")
        size = min(batch_size, n)
        texts = corpus.texts("test")
        tokenizer = load_tokenizer(inputs.model_dir, opened.config.encoder.max_len, bare=queries.prompt.causal)
        labels = load_array(index / ("label_z.npy" if holds(index, "label_z.npy") else "label_u.npy"))
        vectors = load_array(index / "test.npy")
        alone = [np.array([row % n]) for row in range(ALONE + WARM_UP)]
        batches = [np.arange(start, start + size) % n for start in range(0, (BATCHES + WARM_UP) * size, size)]
        with (
            bar(f"measure {run}", 4) as advance,
            enough_memory(
                lambda: f"measure-latency {run}",
                lambda: f"pass `--batch-size {max(1, size // 2)}` (now {size}), or take a GPU with more memory",
            ),
        ):
            model.to(device).eval()
            found = {"tokenise": _time(lambda rows: tokenizer.encode(texts[rows[0]]), alone)}
            advance(1)
            found["encode_alone"] = _time(encode, alone)
            advance(1)
            found["encode_batched"] = _time(encode, batches)
            advance(1)
            # As a server would: check the labels once, and keep them where they are searched.
            ready = on_device(labels, device)
            search(vectors[:1], ready, TOP_K, device=device)
            found["search"] = _time(
                lambda rows: search(vectors[rows], ready, TOP_K, device=device, checked=True), batches
            )
            advance(1)
        facts |= opened.facts(device)
        report = {
            "schema_version": SCHEMA_VERSION,
            **run.names,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor",
            "threads": torch.get_num_threads(),
            "precision": opened.precision,
            "batch_size": size,
            "n_labels": len(labels),
            "milliseconds": found,
        }
        write_json(work / "latency.json", report)


def _time(work: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> dict[str, float]:
    """Return median and quartiles of milliseconds per query, without the first few batches."""
    taken = []
    for rows in batches:
        begun = time.perf_counter()
        work(rows)
        taken.append(1000 * (time.perf_counter() - begun) / len(rows))
    low, median, high = np.quantile(taken[WARM_UP:], [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high), "repeats": len(taken) - WARM_UP}
