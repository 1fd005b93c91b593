"""Trainings of made-up inputs with random weights, which the benchmarks of decoders and the GPU kit share.

Text lengths are negative binomial (mean 12, deviation 6.4) within 3 to the run's ``max_len``, for titles of LF-AmazonTitles,
which cannot be had here, or all ``max_len``; 79 % of the queries and 96 % of the labels have images (its figures), as many as
the run takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from training_step import Ready, ready_to_step

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers

# isort: split
from transformers import AutoConfig, AutoModel

from vixml.config.run import RunConfig
from vixml.models.packing import Sequences
from vixml.models.prompt import IMAGES, PLAIN, TEXT, Prompt
from vixml.models.siamese import Siamese
from vixml.plan.cost import PlannedRun
from vixml.ragged import Ragged
from vixml.training.batches import TrainingSet

TOKENS, SPREAD, QUERIES_WITH, LABELS_WITH = 12, 5, 0.7945, 0.9572
# What makes a network large, cut: for tests. DistilBERT has other names for the same.
NARROW = {
    "vocab_size": 300, "hidden_size": 64, "dim": 64, "num_hidden_layers": 2, "n_layers": 2, "num_attention_heads": 4,
    "n_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "hidden_dim": 128,
}  # fmt: skip


def narrow(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture with small sizes."""
    return {key: NARROW.get(key, value) for key, value in architecture.items()}


@contextmanager
def random_weights(architecture: dict[str, Any], device: torch.device) -> Iterator[Path]:
    """Yield a model folder; a network opened from it is drawn at random on ``device``, and no weights are on disk."""

    def drawn(folder: Path, *, config: Any, output_loading_info: bool, **how: Any) -> tuple[torch.nn.Module, dict]:
        with torch.device(device):  # billions of numbers are drawn where that is quick
            return AutoModel.from_config(config, **how), {"missing_keys": []}

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(AutoModel, "from_pretrained", drawn):
        AutoConfig.for_model(**architecture).save_pretrained(folder)
        (Path(folder) / "model.safetensors").touch()
        yield Path(folder)


def made_up(
    config: RunConfig, words: int, n: int, *, labels: int, dim: int, vectors: int, causal: bool, full: bool = False
) -> TrainingSet:
    """Return queries, labels, images and truth.

    Args:
        config: the run.
        words: tokens of the vocabulary.
        n: queries.
        labels: labels.
        dim: length of an image vector.
        vectors: different images.
        causal: whether the language model is a decoder.
        full: whether every text and every list of images is as long as the run allows.
    """
    rng, longest = np.random.default_rng(0), config.encoder.max_len

    def texts(rows: int) -> Ragged:
        lengths = np.clip(rng.negative_binomial(SPREAD, SPREAD / (SPREAD + TOKENS), rows), 3, longest)
        lengths = np.full_like(lengths, longest) if full else lengths
        return Ragged(rng.integers(0, words, lengths.sum(), np.int32), np.append(0, lengths.cumsum()), words)

    def images(rows: int, share: float) -> Ragged | None:
        if not config.uses_images:
            return None
        lengths = np.where(rng.random(rows) < (1 if full else share), config.images.per_item, 0)
        return Ragged(rng.integers(0, vectors, lengths.sum(), np.int32), np.append(0, lengths.cumsum()), vectors)

    truth = Ragged.from_rows(np.sort(rng.integers(0, labels, (n, 2)), axis=1), labels)
    prompt = PLAIN
    if causal:  # as long as the paper's
        prompt = Prompt(((1, 2, 3), TEXT, (4, 5, 6), *([IMAGES] if config.uses_images else []), (7,)), causal=True)
    tokens, label_tokens = texts(n), texts(labels)
    embeddings = np.random.default_rng(1).standard_normal((vectors, dim), dtype=np.float32).astype(np.float16)
    queries = Sequences(tokens, images(n, QUERIES_WITH), prompt, embeddings.__getitem__)
    items = Sequences(label_tokens, images(labels, LABELS_WITH), prompt, embeddings.__getitem__)
    return TrainingSet(queries, items, truth, np.arange(n), np.ones(labels))


def make_ready(
    config: RunConfig, architecture: dict[str, Any], data: TrainingSet, dim: int, device: torch.device
) -> Ready:
    """Return a training of ``data`` on a network of random weights, ready to step."""
    with random_weights(architecture, device) as folder:
        torch.manual_seed(0)
        n_labels, image_dim = len(data.labels), dim if config.uses_images else None
        model = Siamese(config, folder, n_labels, image_dim, data.queries.prompt, device).to(device)
    ready = ready_to_step(config, model, data, config.training.precision)
    if config.encoder.train == "lora":
        with torch.no_grad():
            for (
                module
            ) in model.backbone.modules():  # an adapter's second matrix is zero: its gradients would say little
                if isinstance(module, torch.nn.Linear) and module.weight.requires_grad:
                    module.weight.normal_(std=0.01)
    return ready


def step_flop(job: PlannedRun, items: Sequences, queries: int) -> float:
    """Return the operations of an encoder's training step on a batch's items, queries first, then labels.

    Args:
        job: the run, whose network trains whole.
        items: of the batch.
        queries: number of its queries.
    """
    lengths, shape, n = items.lengths.astype(np.float64), job.shape, len(items)
    forward = 2 * shape.layers * shape.linear * lengths.sum() + shape.layers * shape.attention(1, (lengths**2).sum())
    projection = 0.0 if items.images is None else 2.0 * job.image_dim * shape.hidden * len(items.images.values)
    labels = n - queries
    return 3 * forward + 2 * projection + 3 * job.prototype * labels + 12.0 * queries * labels * shape.hidden
