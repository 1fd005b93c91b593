"""Count the device memory of training steps: the real step at full size, on tensors without bytes (fake tensors).

    python -m vixml.plan.count_memory            # counts the runs of config/ that have no count yet

writes ``step_memory.csv`` beside this file, which ``vixml plan`` reads (:mod:`vixml.plan.step_memory`). The step is that of a
GPU (fused attention, rows filled up) with plain kernels: liger's keep less. What a kernel allocates inside itself, the
allocator's rounding and CUDA's context are not counted.
"""

from __future__ import annotations

import re
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers

# isort: split
from transformers import AutoConfig, AutoModel

from vixml.config.load import load_runs, load_world
from vixml.models import attention
from vixml.models.packing import Sequences
from vixml.models.prompt import make_prompt
from vixml.models.siamese import Siamese, at_precision
from vixml.plan.cost import PlannedRun
from vixml.plan.shapes import MeanItem
from vixml.plan.step_memory import TABLE, Count, key_of, load_counts, save_counts
from vixml.ragged import Ragged
from vixml.training.all_labels import draw_candidates
from vixml.training.batches import Batch, EpochBatches, TrainingSet
from vixml.training.train import State, Training, make_optimizer, train_step
from vixml.training.vectors import StoredVectors


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors that are alive, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was made before."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what an operation returns."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out


class _InMainMemory(StoredVectors):
    """Vectors that are not on the device."""

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store nothing."""


def _untrained(folder: Path | str, *, output_loading_info: bool, **how: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the model of a configuration, without reading weights."""
    return AutoModel.from_config(**how), {"missing_keys": []}


def _fused(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float, dropout: float = 0.0) -> Tensor:
    """Attend with the kernel that a GPU takes; arguments are those of :func:`vixml.models.attention.attend`."""
    square = causal and q.shape[2] == k.shape[2]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, square, scale=scale)[0]


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Compute on fake tensors of the processor as a GPU would: a build of torch without CUDA has no gradients on others."""
    attention.FILLED_UP.add("cpu")  # in place: the module of the backbone holds the same set
    try:
        with patch.object(attention, "attend", _fused), patch.object(AutoModel, "from_pretrained", _untrained):
            yield
    finally:
        attention.FILLED_UP.remove("cpu")


def count_step(job: PlannedRun, text: float) -> tuple[int, int]:
    """Count one step of a run in a batch of its size, whose texts all have ``text`` tokens, special ones included.

    Returns positions of the batch's streams, and the peak of live bytes: model, centroids, AdamW's moments and all else.
    """
    data = _made_up(job, text)
    precision = "fp32" if job.config.training.precision == "fp32" else "bf16"  # fp16 takes as much
    encoder = job.config.encoder.model_copy(update={"kernels": "plain"})
    config = at_precision(job.config.model_copy(update={"encoder": encoder}), precision)
    batch: Batch = EpochBatches(data, config, 0, 0, with_text=not job.stored_only)[0]
    n_labels, dim = job.counts.n_labels, job.image_dim if config.uses_images else None
    if batch.candidates is not None:  # every label has a query somewhere
        rng, truth = np.random.default_rng(0), data.truth.take(batch.queries)
        candidates = draw_candidates(truth, np.arange(n_labels), config.loss.sampled_labels, rng)
        batch = replace(batch, candidates=candidates)
    with tempfile.TemporaryDirectory() as folder, _as_on_a_gpu():
        AutoConfig.for_model(**{"model_type": "bert"} | job.architecture).save_pretrained(folder)
        (Path(folder) / "model.safetensors").touch()
        with torch.device("meta"):
            model = Siamese(config, folder, n_labels, dim, data.queries.prompt)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = model.to_empty(device="cpu").train()
            training = Training(config, model, data, data.rows[:0], precision, 0)
            optimizer = make_optimizer(model, config.optimizer)
            state = State(optimizer, torch.amp.GradScaler("cpu", enabled=False), _InMainMemory(torch.zeros(0)))
            if training.stored_only:
                state.query_u, state.label_u = (torch.zeros(n, model.backbone.dim) for n in (len(data.rows), n_labels))
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # makes the moments, which every later step finds
            optimizer.zero_grad()
            counter = LiveBytes()
            moments = (value for one in optimizer.state.values() for value in one.values())
            for tensor in (*model.parameters(), *model.buffers(), *moments):
                counter.add(tensor)
            with counter:
                train_step(training, state, batch)
    return sum(len(part.gather) for part in batch.parts), counter.peak


def count_deep_step(job: PlannedRun, text: float) -> tuple[int, int]:
    """Count one step as :func:`count_step` does, from two and four layers: each further layer adds the same.

    Of Qwen2.5-3B with 36 layers this is within 4 millionths of the count of all of them, and seven times as quick.
    """
    if (layers := job.shape.layers) <= 4:
        return count_step(job, text)
    encoders = [job.config.encoder.model_copy(update={"layers": few}) for few in (2, 4)]
    shallow = [replace(job, config=job.config.model_copy(update={"encoder": one})) for one in encoders]
    (tokens, two), (_, four) = (count_step(one, text) for one in shallow)
    return tokens, two + (four - two) * (layers - 2) // 2


def _made_up(job: PlannedRun, text: float) -> TrainingSet:
    """Return one batch of queries and all labels: texts of one length, images as the run's average items have them."""
    encoder = job.config.encoder
    prompt = make_prompt(
        encoder.template,
        lambda words: [[1] * len(re.findall(r"\w+|[^\w\s]", some)) for some in words],
        causal=job.causal,
        eos=1,
    )

    def items(n: int, item: MeanItem) -> Sequences:
        images = _rows(n, item.images) if job.config.uses_images else None
        return Sequences(_rows(n, text), images, prompt, lambda rows: np.zeros((len(rows), job.image_dim), np.float16))

    n, m = job.batch, job.counts.n_labels
    wanted = min(n, m, round(job.batch_labels) or n)  # distinct labels
    labels = np.sort(np.resize(np.arange(wanted) * m // wanted, n)).astype(np.int32)
    truth = Ragged(labels, np.arange(n + 1), m)
    return TrainingSet(items(n, job.query), items(m, job.label), truth, np.arange(n), np.ones(m))


def _rows(n: int, mean: float) -> Ragged:
    """Return ``n`` rows with ``mean`` entries each, as evenly as whole numbers allow."""
    offsets = np.floor(np.arange(n + 1) * mean).astype(np.int64)
    return Ragged(np.zeros(offsets[-1], np.int32), offsets, 1)


def main(config_dir: str = "config") -> None:
    """Count every configured run without a count, and write the table."""
    counts, wanted = load_counts(), {}
    world, runs = load_world(config_dir), load_runs(config_dir)
    for (dataset, name), run in runs.items():
        trains = run.needs_encoder and run.reuse is None and run.training.epochs
        if trains and world.datasets[dataset].expect is not None:
            job = PlannedRun.of(world, dataset, run)
            wanted.setdefault(key_of(job), (f"{dataset}/{name}", job))
    for key, (name, job) in wanted.items():
        if key not in counts:
            full = job.config.encoder.max_len
            (few, low), (many, high) = (count_deep_step(job, text) for text in (max(1, full // 8), full))
            counts[key] = Count(name, few, low - int(job.label_bytes), many, high - int(job.label_bytes))
            print(f"{name}: {high / 1e9:.2f} GB at {full} tokens", file=sys.stderr, flush=True)
            save_counts({key: counts[key] for key in wanted if key in counts})
    save_counts({key: counts[key] for key in wanted})
    print(f"{len(wanted)} counts in {TABLE}")


if __name__ == "__main__":
    main(*sys.argv[1:])
