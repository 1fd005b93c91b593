"""No step waits for its device: it reads no value from there, and its copies to there are asynchronous.

The test needs no GPU: waiting means one of a few operations (reading a tensor's value in Python, finding its non-zero entries)
or a copy that is blocking or not from pinned memory.
"""

from __future__ import annotations

import planted
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vixml.training import train

WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal.default", "is_nonzero")
LORA = {"train": "lora", "lora": {"r": 4, "alpha": 4, "dropout": 0.1}, "template": "{text}{images}{eos}"}
KINDS = {
    "early": ("task", {}),
    "late": ("task", {"images": {"fusion": "late"}}),
    "text": ("task", {"modality": "text"}),
    "centred": ("task", {"encoder": {"centre": True}}),
    "clipped": ("task", {"optimizer": {"clip_norm": 1.0}}),
    "dexa": ("task", {"method": "DEXA"}),
    "ngame": ("task", {"method": "NGAME", "inference": {"labels_as": "u"}}),
    "all labels": ("task", {"method": "all-labels", "loss": {"text_weight": 0.5, "sampled_labels": 3}}),
    "stored vectors": ("task", {"modality": "text", "encoder": {"train": "frozen"}}),
    "adapters": ("decoder_task", {"encoder": LORA}),
    "checkpointed": ("decoder_task", {"encoder": LORA | {"template": "{text}{eos}", "gradient_checkpointing": True},
                                      "modality": "text"}),
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Record each operation that reads a tensor's values in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if any(name in str(operation) for name in WAITING):
            self.seen.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("at_once", [None, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_its_device(request, monkeypatch, kind, at_once):
    which, changes = KINDS[kind]
    config = planted.make_config(**changes, training={"items_at_once": at_once})
    training = planted.make_training(request.getfixturevalue(which), config, rows=40)
    state = train.new_state(training)
    train.initialise(training, state)
    training.model.train()

    # Pinned memory: a copy whose address is recorded.
    pinned: dict[int, torch.Tensor] = {}

    def pin(tensor):
        copy = tensor.clone()
        pinned[copy.data_ptr()] = copy
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = train.epoch_batches(training, state)[0].pin_memory()
    for module in ("training.train", "models.attention", "models.siamese"):
        monkeypatch.setattr(f"vixml.{module}.send", lambda tensor, device: pin(tensor).to(device, non_blocking=True))
    monkeypatch.setattr("vixml.models.backbone.FILLED_UP", {"cpu", "cuda"})  # a decoder's sequences as rows
    plain, sent = torch.Tensor.to, []

    def to(tensor, *args, **kwargs):
        if args and isinstance(args[0], torch.device) and tensor.grad_fn is None and tensor.ndim:
            assert kwargs.get("non_blocking"), f"a copy of {tuple(tensor.shape)} waits"
            assert tensor.data_ptr() in pinned or not tensor.numel(), f"a copy of {tuple(tensor.shape)} is not pinned"
            sent.append(tensor.data_ptr())
        return plain(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    with Waits() as waits:
        train.train_step(training, state, batch)
    assert waits.seen == []
    assert len(sent) >= 4 and set(sent) <= set(pinned) | {0}


def test_waiting_is_seen():
    with Waits() as waits:
        float(torch.ones(1))
        torch.ones(3).nonzero()
        bool(torch.ones(2).any())
    assert len(waits.seen) == 3
