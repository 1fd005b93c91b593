"""A planted data set in the documented formats, and trainings on it.

A label is a word and a kind of image together; its text is the word alone. A query has the word, a noise word and one to
three images of the kind. So text alone finds two equally good labels and can only get half.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus_data import CorpusData, Items
from tiny_models import VOCABULARY

from vixml.config.registry import Propensity
from vixml.config.run import RunConfig, SeededRun
from vixml.files import save_array, write_json
from vixml.images.embeddings import FORMAT
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import build_model, save_model
from vixml.progress import Quiet
from vixml.provenance import stage
from vixml.ragged import Ragged
from vixml.training.batches import TrainingSet
from vixml.training.checkpoint import Checkpoint
from vixml.training.train import State, Training, TrainingView, fit, new_state
from vixml.training.train import train as train_stage

WORDS, KINDS, IMAGE_DIM = 5, 2, 12
START, END, FIRST_WORD, FIRST_NOISE, NOISE_WORDS = 1, 2, 10, 30, 20
PER_LABEL = {"train": 16, "test": 8}

BASE: dict[str, Any] = {
    "encoder": {"max_len": 8},
    "prototype": {"heads": 4, "feedforward": 32, "free_vectors": 4},
    "mining": None,
    "optimizer": {"lr": 2e-3, "lr_new": 2e-3, "warmup_steps": 5},
    "training": {"epochs": 3, "batch_size": 32, "precision": "fp32", "validation": 0.1, "checkpoint_minutes": 1e6},
}


def make_config(**changes: Any) -> RunConfig:
    """Return the tests' run with sections changed key by key."""
    merged = dict(BASE)
    for key, value in changes.items():
        merged[key] = {**(BASE.get(key) or {}), **value} if isinstance(value, dict) else value
    return RunConfig.model_validate(merged)


def publish(out: Path, verb: str, write: Callable[[Path], object]) -> Path:
    """Publish a folder as a stage does, with a manifest."""
    with stage(out, verb, config={}, inputs={}) as work:
        write(work)
    return out


def write_task(root: Path, model_dir: Path, seed: int = 0, causal: bool = False) -> RunInputs:
    """Write corpus, tokens (bare for a decoder) and embeddings; return the folders."""
    rng = np.random.default_rng(seed)
    pairs = [(word, kind) for word in range(WORDS) for kind in range(KINDS)]
    kinds: list[int] = []  # of each image
    texts: dict[str, list[list[int]]] = {"label": [[START, FIRST_WORD + word, END] for word, _ in pairs]}
    images = {"label": [_draw_images(rng, kinds, kind) for _, kind in pairs]}
    labels = {}
    for split, count in PER_LABEL.items():
        truth = rng.permutation(np.repeat(np.arange(len(pairs)), count))
        texts[split] = [
            [START, FIRST_WORD + pairs[label][0], int(rng.integers(FIRST_NOISE, FIRST_NOISE + NOISE_WORDS)), END]
            for label in truth
        ]
        images[split] = [_draw_images(rng, kinds, pairs[label][1]) for label in truth]
        labels[split] = Ragged.from_rows([[label] for label in truth], len(pairs))
    corpus = CorpusData(
        items={
            split: Items([f"{split}{i}" for i in range(len(rows))], [" ".join(map(str, row)) for row in rows])
            for split, rows in texts.items()
        },
        labels=labels,
        image_keys=[f"image{i}" for i in range(len(kinds))],
        image_sources=["planted:none"] * len(kinds),
        images={split: Ragged.from_rows(rows, len(kinds)) for split, rows in images.items()},
    )
    centres = rng.standard_normal((KINDS, IMAGE_DIM))
    vectors = centres[kinds] + 0.3 * rng.standard_normal((len(kinds), IMAGE_DIM))
    return RunInputs(
        corpus=publish(root / "corpus", "build-corpus", corpus.write),
        tokens=publish(root / "tokens", "tokenize", lambda folder: _write_tokens(folder, texts, causal)),
        embeddings=publish(root / "embeddings", "embed-images", lambda folder: _write_embeddings(folder, vectors)),
        model_dir=model_dir,
    )


def _draw_images(rng: np.random.Generator, kinds: list[int], kind: int) -> list[int]:
    """Add one to three new images of a kind; return their ids."""
    count = int(rng.integers(1, 4))
    kinds += [kind] * count
    return list(range(len(kinds) - count, len(kinds)))


def _write_tokens(folder: Path, texts: dict[str, list[list[int]]], causal: bool) -> None:
    header = {"special": "bare", "bos_ids": [START], "eos_id": END} if causal else {"special": "around", "eos_id": END}
    header["max_len"] = BASE["encoder"]["max_len"]
    for split, rows in texts.items():
        kept = [row[1:-1] for row in rows] if causal else rows
        lists = Ragged.from_rows(kept, VOCABULARY)
        Ragged(lists.values, lists.offsets, lists.n_cols, header).save(folder / split)


def _write_embeddings(folder: Path, vectors: np.ndarray) -> None:
    save_array(folder / "vectors.npy", vectors.astype(np.float16))
    header = {
        "format": FORMAT,
        "n_images": len(vectors),
        "dim": IMAGE_DIM,
        "vision": "efficientnet-lite0",
        "missing": [],
    }
    write_json(folder / "embeddings.json", header)


def make_training(
    inputs: RunInputs, config: RunConfig, *, seed: int = 0, rows: int | None = None, held: int = 16, **others: Any
) -> Training:
    """Return a training as the stage opens one: of the first ``rows`` queries, and the ``held`` after them for diagnostics."""
    data = open_inputs(inputs, config, seed)
    truth = data.corpus.labels("train")
    n = len(truth) - held if rows is None else rows
    kept = np.arange(n + held)
    queries, labels = data.sequences["train"].take(kept), data.sequences["label"]
    training_set = TrainingSet(queries, labels, truth.take(kept), kept[:n], np.ones(truth.n_cols))
    model = build_model(config, data, seed)
    return Training(config, model, training_set, kept[n:], config.training.precision, seed, **others)


def silent_view(**hooks: Callable[..., Any]) -> TrainingView:
    """Return a view that shows nothing, with methods replaced by name."""
    view = TrainingView(Quiet(), "planted", 1)
    for name, hook in hooks.items():
        setattr(view, name, hook)
    return view


def train(training: Training, folder: Path, identity: str = "one identity", **hooks: Callable[..., Any]) -> State:
    """Train to the end, from the checkpoint in ``folder`` if there is one."""
    state = new_state(training)
    checkpoint = Checkpoint(folder / "checkpoint", {"seed": identity}, training.config.training.checkpoint_minutes)
    fit(training, state, checkpoint, silent_view(**hooks))
    return state


def run_stage(inputs: RunInputs, config: RunConfig, out: Path, seed: int = 0, accept: bool = False) -> Path:
    """Run the stage ``train`` with one seed; return the folder that it wrote."""
    train_stage(SeededRun("planted", "run", seed, config), Propensity(), inputs, out, torch.device("cpu"), accept)
    return out


def weights_of(training: Training, folder: Path) -> bytes:
    """Return the bytes of ``model.safetensors``."""
    save_model(folder, training.model)
    return (folder / "model.safetensors").read_bytes()


def save_always(monkeypatch):
    """Let a checkpoint be due whenever its minutes have passed, however long saving takes."""
    monkeypatch.setattr("vixml.training.checkpoint.SHARE", math.inf)
