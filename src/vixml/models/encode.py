"""Encode all items of a split: packed, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from vixml.config.run import RunConfig
from vixml.models.packing import MULTIPLE, Packed, pack, pinned
from vixml.models.prompt import Prompt
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged


def fewer_items(config: RunConfig, items: int, training: bool = False) -> str:
    """Return what to make smaller after the encoder ran out of memory: an imperative clause with a key and its next value.

    Args:
        config: of the run.
        items: how many went through the encoder together; 0: none did.
        training: whether they were a batch's, or a part's: then the part that ran out may be the last one, of fewer.
    """
    now = config.training.items_at_once
    now = items if now is None or (items and not training) else now
    if now > 1:
        return f"set `training.items_at_once: {now // 2}` in the run's file (now {now} items; same gradient)"
    ways = ["take a GPU with more memory (`vixml plan` says what the run needs)"]
    if not config.encoder.gradient_checkpointing:
        ways.insert(0, "set `encoder.gradient_checkpointing: true`")
    if config.encoder.train != "full" and config.encoder.weights == "float32":
        ways.insert(0, "set `encoder.weights: bfloat16`")
    return ", or ".join(ways)


# Enough to fill the device; more only takes memory.
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65536}


def token_budget_slices(lengths: np.ndarray, budget: int, at_once: int | None = None) -> Iterator[slice]:
    """Yield consecutive slices of at most ``budget`` tokens and ``at_once`` items each (one item at least).

    Args:
        lengths: (n,) tokens of each item.
        budget: tokens a slice may hold.
        at_once: items that it may hold; None: any number.
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + budget, side="right")), start + 1)
        stop = stop if at_once is None else min(stop, start + at_once)
        yield slice(start, stop)
        start = stop


@torch.no_grad()
def encode_items(
    model: Siamese,
    tokens: Ragged,
    images: Ragged | None,
    gather: Callable[[np.ndarray], np.ndarray] | None,
    autocast: Callable[[], object],
    advance: Callable[[int], object] | None = None,
    prompt: Prompt | None = None,
    at_once: int | None = None,
) -> Tensor:
    """Encode every item, without dropout, in order of length: a batch then holds sequences of one or two lengths, and
    attention runs once for each.

    Args:
        model: the Siamese model; its mode is restored afterwards.
        tokens: (n rows) text tokens.
        images: (n rows) rows of the image embeddings, or None.
        gather: image rows -> (n_images, image_dim) vectors; needed with images.
        autocast: makes a fresh precision context.
        advance: told the number of items done, for a progress bar.
        prompt: how sequences are laid out.
        at_once: items that go through the encoder together, at most (``training.items_at_once``).

    Returns:
        (n, dim) float32 on the CPU, not normalised.
    """
    was_training = model.training
    model.eval()
    words = len(prompt.words) - len(prompt.leading) if prompt is not None else 0
    lengths = tokens.lengths + words + (images.lengths if images is not None else 0)
    order = np.argsort(lengths, kind="stable")
    device = next(model.parameters()).device.type
    budget = TOKENS_PER_BATCH["cpu" if device == "cpu" else "cuda"]
    out = torch.empty(len(tokens), model.backbone.dim)

    def batches() -> Iterator[tuple[np.ndarray, Packed, np.ndarray | None]]:
        for part in token_budget_slices(lengths[order], budget, at_once):
            rows = order[part]
            packed = pack(tokens.take(rows), images.take(rows) if images is not None else None, prompt, MULTIPLE)
            vectors = gather(packed.image_rows) if len(packed.image_rows) else None
            if device == "cuda":  # or copies to it would wait for what it computes
                packed, vectors = packed.pin_memory(), None if vectors is None else pinned(vectors)
            yield rows, packed, vectors

    ahead = batches()
    batch = next(ahead, None)
    while batch is not None:
        rows, packed, image_vectors = batch
        with autocast():
            vectors = model.centred_vectors(model.encode(packed, image_vectors)).float()
        # A GPU computes while the next batch is put together; only then its answer is waited for.
        batch = next(ahead, None)
        out[torch.from_numpy(rows)] = vectors.cpu()
        if advance is not None:
            advance(len(rows))
    model.train(was_training)
    return out


@torch.no_grad()
def all_prototypes(model: Siamese, label_u: Tensor, chunk: int = 8192, labels: np.ndarray | None = None) -> Tensor:
    """Return prototypes of every label, or of some, without dropout.

    Args:
        model: the Siamese model.
        label_u: (n, dim) float32 text vectors, not normalised.
        chunk: labels at a time.
        labels: (n,) int64, whose vectors these are; None: of all, in order.

    Returns:
        (n, dim) float32 unit rows on the CPU.
    """
    was_training = model.training
    model.eval()
    device = model.cluster.device
    out = torch.empty_like(label_u)
    positions = torch.arange(len(label_u)) if labels is None else torch.from_numpy(labels)
    for start in range(0, len(label_u), chunk):
        some = slice(start, start + chunk)
        out[some] = model.prototype(label_u[some].to(device), positions[some].to(device)).cpu()
    model.train(was_training)
    return out
