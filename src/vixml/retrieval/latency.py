"""The stage ``measure-latency``: what a query takes of a trained run, alone and in batches (paper, appendix G).

A timing is not a result that repeats: it belongs to a machine, which the record names, and no table but its own reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.data.tokens import load_tokenizer
from vixml.files import load_array, write_json
from vixml.memory import enough_memory
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import build_model, load_model
from vixml.progress import bar
from vixml.provenance import stage
from vixml.retrieval.search import on_device, search
from vixml.runtime import autocast, choose_precision

SCHEMA_VERSION = 1
ALONE, BATCHES, WARM_UP = 200, 20, 3
TOP_K = 100


def measure_latency(
    dataset: str,
    run: str,
    seed: int,
    config: RunConfig,
    inputs: RunInputs,
    trained: Path,
    index: Path,
    out: Path,
    device: torch.device,
    batch_size: int = 256,
) -> None:
    """Write ``latency.json``: milliseconds a query (median and quartiles) of each step.

    ``tokenise`` a text; ``encode_alone``, a batch of one, and ``encode_batched``, a batch's time divided by its queries:
    tokens and image vectors to a unit vector; ``search``: the 100 best of all labels, exactly, a batch's time divided by
    its queries. Image vectors are there already, as in the paper: an image is pooled once, not for each query.

    Args:
        dataset: for the record.
        run: for the record.
        seed: of the run.
        config: the resolved run.
        inputs: where the inputs lie.
        trained: the run's model folder.
        index: its index folder.
        out: folder to write.
        device: where to encode.
        batch_size: queries of a batch.
    """
    resolved = {"dataset": dataset, "run": run, "seed": seed, "batch_size": batch_size, **config.model_dump()}
    named = {**inputs.named(), "trained": trained, "index": index}
    facts: dict[str, Any] = {}
    with stage(out, "measure-latency", config=resolved, inputs=named, facts=facts) as work:
        precision = choose_precision(config.training.precision, device, config.encoder.weights)
        config = config.at_precision(precision)
        data = open_inputs(inputs, config, seed)
        model = build_model(config, data, seed, device)
        load_model(trained, model)

        def encode(rows: np.ndarray) -> None:
            packed = data.sequences["test"].take(rows).pack()
            with torch.no_grad(), autocast(precision, device):
                F.normalize(model.centred_vectors(model.encode(packed)).float(), dim=1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        n = data.corpus.n("test")
        size = min(batch_size, n)
        texts = data.corpus.texts("test")
        tokenizer = load_tokenizer(inputs.model_dir, config.encoder.max_len, bare=data.sequences["test"].prompt.causal)
        labels = load_array(index / ("label_z.npy" if (index / "label_z.npy").exists() else "label_u.npy"))
        queries = load_array(index / "test.npy")
        alone = [np.array([row % n]) for row in range(ALONE + WARM_UP)]
        batches = [np.arange(start, start + size) % n for start in range(0, (BATCHES + WARM_UP) * size, size)]
        name = f"{run} seed {seed}"
        with (
            bar(f"measure {name}", 4) as advance,
            enough_memory(
                lambda: f"measure-latency {name}",
                lambda: f"pass `--batch-size {max(1, size // 2)}` (now {size}), or take a GPU with more memory",
            ),
        ):
            model = model.to(device).eval()
            found = {"tokenise": _time(lambda rows: tokenizer.encode(texts[rows[0]]), alone)}
            advance(1)
            found["encode_alone"] = _time(encode, alone)
            advance(1)
            found["encode_batched"] = _time(encode, batches)
            advance(1)
            # As a server would: labels are looked through once, and stay where they are searched.
            held = on_device(labels, device)
            search(queries[:1], held, TOP_K, device=device)
            found["search"] = _time(
                lambda rows: search(queries[rows], held, TOP_K, device=device, checked=True), batches
            )
            advance(1)
        facts |= {"precision": precision, "device": str(device), "kernels": model.backbone.kernels}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
        report = {
            "schema_version": SCHEMA_VERSION,
            "dataset": dataset,
            "run": run,
            "seed": seed,
            "device": name,
            "threads": torch.get_num_threads(),
            "precision": precision,
            "batch_size": size,
            "n_labels": len(labels),
            "milliseconds": found,
        }
        write_json(work / "latency.json", report)


def _time(work: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> dict[str, float]:
    """Return the median and the quartiles of milliseconds a query; the first few batches are not counted."""
    taken = []
    for rows in batches:
        begun = time.perf_counter()
        work(rows)
        taken.append(1000 * (time.perf_counter() - begun) / len(rows))
    low, median, high = np.quantile(taken[WARM_UP:], [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high), "repeats": len(taken) - WARM_UP}
