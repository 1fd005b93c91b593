"""Encode all items of a split: packed, in inference mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models.packing import MULTIPLE, Packed, Sequences
from vixml.models.siamese import Siamese
from vixml.progress import Quiet
from vixml.runtime import autocast


def fewer_items(config: RunConfig, items: int, training: bool = False) -> str:
    """Return advice for an encoder that ran out of memory: an imperative clause with a key and its next smaller value.

    Args:
        config: the run.
        items: number of items that went through the encoder together; 0 if none did.
        training: whether they were a batch or a part of one: a batch's last part is smaller than the others.
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


# Enough to fill the device. More only takes memory, which a processor must clear page by page: with 4,096 tokens, that took
# a seventh of the time.
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}


def token_budget_slices(lengths: np.ndarray, budget: int, at_once: int | None = None) -> Iterator[slice]:
    """Yield consecutive slices of at most ``budget`` tokens and ``at_once`` items each (None: any number; one item at least).

    ``lengths``: (n,) int64, tokens of each item.
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
    items: Sequences,
    precision: str,
    at_once: int | None = None,
    advance: Quiet | None = None,
    multiple: int = MULTIPLE,
) -> Tensor:
    """Encode every item, without dropout: (n, dim) float32 on the CPU, not normalised.

    Items are encoded in order of length: a batch then holds sequences of one or two lengths, and attention runs once for
    each.

    Args:
        model: its mode is restored afterwards.
        at_once: most items that go through the encoder together (``training.items_at_once``).
        advance: progress bar, counting items.
        multiple: streams are filled up to a multiple of this length (:func:`vixml.models.packing.pack_sequences`).
    """
    was_training = model.training
    if was_training:  # visiting every module takes longer than encoding one short text
        model.eval()
    lengths = items.lengths
    order = np.argsort(lengths, kind="stable")
    budget = TOKENS_PER_BATCH["cpu" if model.device.type == "cpu" else "cuda"]
    out = torch.empty(len(items), model.backbone.dim)

    def batches() -> Iterator[tuple[np.ndarray, Packed]]:
        for part in token_budget_slices(lengths[order], budget, at_once):
            packed = items.take(order[part]).pack(multiple)
            # From other memory, a copy to a GPU waits until the GPU has computed.
            yield order[part], packed.pin_memory() if model.device.type == "cuda" else packed

    ahead = batches()
    batch = next(ahead, None)
    while batch is not None:
        rows, packed = batch
        with autocast(precision, model.device):
            vectors = model.centred_vectors(model.encode(packed)).float()
        # A GPU computes while the next batch is assembled; only then wait for its answer.
        batch = next(ahead, None)
        out[torch.from_numpy(rows)] = vectors.cpu()
        if advance is not None:
            advance(len(rows))
    if was_training:
        model.train()
    return out


def expect_direction(u: Tensor, where: object) -> None:
    """Check vectors, (n, dim) float32, that are going to be divided by their lengths.

    Raises:
        VixmlError: a vector with NaN or infinity, or one too short or too long for float32 to divide by its length.
    """
    lengths = torch.linalg.vector_norm(u, dim=1)
    if len(bad := torch.nonzero(~((lengths > 1e-12) & (lengths < torch.inf)))):
        row = int(bad[0])
        raise VixmlError(
            "an encoded vector has no direction",
            where=f"{where}, row {row}",
            found=f"a vector of length {float(lengths[row])}, and {len(bad) - 1:,} more such rows",
            expected="a finite length above 1e-12",
            hint="the weights are damaged or the training diverged (results/runs/.../model/log.jsonl): prepare the model "
            "again, or train with a lower optimizer.lr",
        )


@torch.no_grad()
def all_prototypes(model: Siamese, label_u: Tensor, chunk: int = 8192, labels: np.ndarray | None = None) -> Tensor:
    """Return prototypes of every label, or of some, without dropout: (n, dim) float32 unit rows on the CPU.

    ``label_u``: (n, dim) float32 text vectors, not normalised; ``labels``: (n,) int64, whose they are; None: all, in order.
    """
    was_training = model.training
    model.eval()
    out = torch.empty_like(label_u)
    labels = np.arange(len(label_u)) if labels is None else labels
    for start in range(0, len(label_u), chunk):
        some = slice(start, start + chunk)
        on_device = torch.from_numpy(labels[some]).to(model.device)
        out[some] = model.prototype(label_u[some].to(model.device), on_device).cpu()
    model.train(was_training)
    return out
