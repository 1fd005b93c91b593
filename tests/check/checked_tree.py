"""A small tree of results in order from data to scores: real stages where they are quick, their file formats elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus_data import random_corpus
from safetensors.numpy import save_file

from vixml.config.load import load_world
from vixml.config.run import RunConfig, SeededRun
from vixml.data.corpus import SPLITS
from vixml.evaluation.score import score
from vixml.files import save_array, write_json
from vixml.images.embeddings import FORMAT
from vixml.images.store import write_store
from vixml.provenance import stage
from vixml.ragged import Ragged
from vixml.retrieval.predict import predict

SIZES = {"train": 30, "test": 12, "label": 20}
N_IMAGES, DIM, WORDS = 15, 6, 50
COUNTS = {"n_train": 30, "n_test": 12, "n_labels": 20, "n_images": N_IMAGES}
MISSING = [4]
# run -> its inference, and the run whose model it uses.
RUNS = {
    "searching": ({"method": "label-search", "labels_as": "z"}, None),
    "searching--augmented": ({"method": "retrieval-augmented", "retrieved_labels": 9, "retrieved_queries": 5}, "searching"),
}  # fmt: skip


def write_tree(results: Path, config_dir: Path) -> None:
    """Write every stage of two runs; the second reuses the first one's model."""
    rng = np.random.default_rng(0)
    data = results / "data" / "picto"
    with stage(data / "corpus", "build-corpus", config={}, inputs={}) as work:
        random_corpus(rng, SIZES, N_IMAGES).write(work)
    model = results / "models" / "tiny"
    with stage(model, "prepare-model", config={"model": "tiny"}, inputs={}) as work:
        write_json(work / "tokenizer.json", {})
    tokens = {"corpus": data / "corpus", "tokenizer": model / "tokenizer.json"}
    with stage(data / "tokens" / "tiny-8", "tokenize", config={"model": "tiny", "max_len": 8}, inputs=tokens) as work:
        for split in SPLITS:
            rows = [rng.integers(0, WORDS, rng.integers(1, 9)) for _ in range(SIZES[split])]
            Ragged.from_rows(rows, WORDS, max_len=8).save(work / split)
    with stage(data / "images", "render-images", config={}, inputs={"corpus": data / "corpus"}) as work:
        write_store(work, [(i, str(i), None if i in MISSING else b"png") for i in range(N_IMAGES)], N_IMAGES, 2)
    with stage(data / "embeddings" / "eyes", "embed-images", config={}, inputs={"images": data / "images"}) as work:
        vectors = rng.standard_normal((N_IMAGES, 4)).astype(np.float16)
        vectors[MISSING] = 0
        save_array(work / "vectors.npy", vectors)
        header = {"format": FORMAT, "n_images": N_IMAGES, "dim": 4, "vision": "eyes", "missing": MISSING}
        write_json(work / "embeddings.json", header)
    seed = results / "runs" / "picto" / "searching" / "seed0"
    identity = {"dataset": "picto", "run": "searching", "seed": 0}
    with stage(seed / "model", "train", config=identity, inputs={"corpus": data / "corpus", "model": model}) as work:
        weights = {"a": rng.standard_normal((3, 4)).astype(np.float32), "b": np.arange(5)}
        save_file(weights | {"c": np.ones(7, dtype=np.float16)}, work / "model.safetensors")
        write_json(work / "training.json", {"schema_version": 1, **identity, "last_epoch": {"loss": 0.1}})
        save_array(work / "validation_rows.npy", np.array([3, 4, 17, 29], dtype=np.int64))
    made_from = {"corpus": data / "corpus", "trained": seed / "model"}
    with stage(seed / "index", "build-index", config=identity, inputs=made_from) as work:
        for name, split in (("train", "train"), ("test", "test"), ("label_u", "label"), ("label_z", "label")):
            vectors = rng.standard_normal((SIZES[split], DIM)).astype(np.float32)
            save_array(work / f"{name}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    entry = load_world(config_dir).datasets["picto"]
    inputs = {"corpus": data / "corpus", "index": seed / "index", "trained": seed / "model"}
    for run, (inference, reuse) in RUNS.items():
        config = RunConfig(inference={"top_k": 10, **inference}, reuse=reuse)
        for split in ("test", "validation"):
            out = results / "runs" / "picto" / run / "seed0" / split
            seeded = SeededRun("picto", run, 0, config)
            predict(seeded, split, inputs, out / "predictions")
            scored = {"corpus": data / "corpus", "predictions": out / "predictions"}
            score(seeded.names | {"split": split}, entry, scored, out / "score", ks=(1, 5), deep_ks=(1, 10))


def change_array(path: Path, at: object, value: object) -> None:
    """Write one value of an array."""
    array = np.load(path)
    array[at] = value
    save_array(path, array)
