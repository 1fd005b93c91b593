"""A GPU computes what the processor computes: steps, encoding, search, mining; and a killed training resumes on it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch

from vixml.models.encode import encode_items
from vixml.ragged import Ragged
from vixml.retrieval.search import search
from vixml.training.clustering import balanced_groups
from vixml.training.train import epoch_batches, initialise, new_state, train_step

LORA = {"train": "lora", "lora": {"r": 4, "alpha": 4, "dropout": 0.0}, "template": "{text}{images}{eos}"}
NO_DROPOUT = {"encoder": {"dropout": 0.0}, "prototype": {"dropout": 0.0}}
KINDS = {
    "encoder": NO_DROPOUT,
    "decoder": {"encoder": LORA, "prototype": {"dropout": 0.0}},
    "checkpointing": {"encoder": LORA | {"gradient_checkpointing": True}, "prototype": {"dropout": 0.0}},
    "late fusion": NO_DROPOUT | {"images": {"fusion": "late", "late": {"dropout": 0.0}}},
}
# Relative, beside float32 on the processor (tests/training/test_half_precision.py).
VECTORS = {"fp32": 1e-5, "bf16": 2**-6, "fp16": 2**-9}
GRADIENT = {"fp32": 1e-4, "bf16": 0.08, "fp16": 0.01}
PRECISIONS = list(VECTORS)
NO_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here: run `pytest tests/gpu` on a machine with a GPU"
)


def on_both(names, few, every):
    """Parametrize a test by device: the processor with itself in a few cases, so that the tests stay right; a GPU in all."""
    given = [(device, case) for device, cases in (("cpu", few), ("cuda", every)) for case in cases]
    params = [
        pytest.param(
            torch.device(device), *case, marks=[NO_GPU] * (device == "cuda"), id="-".join(map(str, (device, *case)))
        )
        for device, case in given
    ]
    return pytest.mark.parametrize(f"device, {names}", params)


def make_training(tasks, kind, precision, device, **settings):
    """Return a training and its state on ``device``, initialised on the processor in float32."""
    config = planted.make_config(**KINDS[kind], training={"batch_size": 16, "precision": precision, **settings})
    inputs = tasks["decoder" if "encoder" in KINDS[kind] and "train" in KINDS[kind]["encoder"] else "encoder"]
    training = planted.make_training(inputs, config, rows=32)
    if training.model.late is not None:  # its new layer is zero: labels of the same text would be tied
        torch.manual_seed(0)
        for parameter in (*training.model.late.parameters(), *training.model.projection.parameters()):
            torch.nn.init.normal_(parameter, std=0.2)
    initialise(replace(training, precision="fp32"), new_state(training))
    training.model.to(device)
    return training, new_state(training)


def step(tasks, kind, precision, device, **settings):
    """Return the loss and the gradient of one step."""
    training, state = make_training(tasks, kind, precision, device, **settings)
    training.model.train()
    loss = train_step(training, state, epoch_batches(training, state)[0])
    gradients = {name: p.grad.cpu() for name, p in training.model.named_parameters() if p.grad is not None}
    return float(loss), gradients


def distance(found, expected):
    """Return the relative distance of two dictionaries of tensors."""
    assert found.keys() == expected.keys()
    flat = [torch.cat([one[name].detach().cpu().float().flatten() for name in expected]) for one in (found, expected)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@on_both(
    "kind, precision, at_once",
    [("encoder", "fp32", 7), ("decoder", "bf16", None), ("checkpointing", "fp32", 7), ("late fusion", "fp16", None)],
    itertools.product(KINDS, PRECISIONS, (None, 7)),
)
def test_a_training_step(tasks, device, kind, precision, at_once):
    true_loss, true = step(tasks, kind, "fp32", torch.device("cpu"))
    loss, found = step(tasks, kind, precision, device, items_at_once=at_once)
    assert len(true) > 2 and all(gradient.dtype == torch.float32 for gradient in found.values())
    assert loss == pytest.approx(true_loss, rel={"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}[precision])
    assert distance(found, true) < GRADIENT[precision]


@on_both("kind, precision", [("late fusion", "fp16"), ("decoder", "fp32")], itertools.product(KINDS, PRECISIONS))
def test_encoding(tasks, device, kind, precision):
    training, _ = make_training(tasks, kind, precision, torch.device("cpu"))
    items = training.data.queries
    true = encode_items(training.model, items, "fp32")
    found = encode_items(training.model.to(device), items, precision, at_once=9)
    assert found.device.type == "cpu" and found.dtype == torch.float32
    assert float(((found - true).norm(dim=1) / true.norm(dim=1)).max()) < VECTORS[precision]


@on_both("chosen", [("bf16",)], [("fp32",), ("bf16",)])
def test_search(device, monkeypatch, chosen):
    """Equal scores and ids, ties and filtered labels included, whatever type proposes."""
    monkeypatch.setenv("VIXML_PRECISION", chosen)
    rng = np.random.default_rng(0)
    queries, labels = (rng.standard_normal((n, 24), dtype=np.float32) for n in (90, 1500))
    labels[700:] = labels[:800]  # ties
    banned = Ragged.from_rows([np.sort(rng.choice(1500, 3, replace=False)) for _ in queries], 1500)
    for pairs in (None, banned):
        expected = search(queries, labels, 20, filter=pairs)
        found = search(queries, labels, 20, filter=pairs, device=device, memory_mb=1)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@on_both("points", [(700,)], [(700,), (5000,)])
def test_mining(device, points):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(points // 10, 16, generator=generator)
    vectors = centres.repeat(10, 1) + 0.3 * torch.randn(points, 16, generator=generator)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    n_groups = points // 10

    def objective(groups):
        index = torch.from_numpy(groups)
        sums = torch.zeros(n_groups, 16).index_add_(0, index, vectors)
        return float(sums.norm(dim=1).sum() / points)

    expected, found = balanced_groups(vectors, n_groups, 1), balanced_groups(vectors.to(device), n_groups, 1)
    sizes = np.bincount(found, minlength=n_groups)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(found, balanced_groups(vectors.to(device), n_groups, 1)), "the same groups again"
    assert objective(found) == pytest.approx(objective(expected), abs=0.02)


class Killed(Exception):
    pass


def kill(*_):
    raise Killed


@on_both(
    "kind, precision",
    [("encoder", "fp16"), ("decoder", "bf16")],
    itertools.product(("encoder", "decoder"), ("fp16", "bf16")),
)
def test_kill_and_resume(tasks, device, tmp_path, monkeypatch, kind, precision):
    planted.save_always(monkeypatch)
    changes = KINDS[kind] | {"mining": {"start": 1, "update": 1, "size": 4, "double_at": []}}
    config = planted.make_config(
        **changes, training={"epochs": 2, "batch_size": 8, "precision": precision, "checkpoint_minutes": 1e-9}
    )

    def train(folder, **hooks):
        training = planted.make_training(tasks[kind], config, rows=20)
        start = {name: p.detach().clone() for name, p in training.model.named_parameters()}
        training.model.to(device)
        state = planted.train(training, tmp_path / folder, **hooks)
        return start, dict(training.model.named_parameters()), state

    start, whole, before = train("whole")
    count, taken = iter(range(99)), []
    with pytest.raises(Killed):
        train("killed", step=lambda *_: kill() if next(count) == 4 else None)  # in the second epoch, which is mined
    _, resumed, after = train("killed", step=lambda n, loss: taken.append(n))
    assert len(taken) == 2, "steps before the kill are not repeated"
    assert after.scaler.get_scale() == before.scaler.get_scale() and len(after.history) == 2
    moved, apart = distance(start, whole), distance(resumed, whole)
    # A GPU adds up gradients in any order: the same weights but for a small share of what training moved them.
    assert moved > 1e-3 and apart <= (0.0 if device.type == "cpu" else 0.05 * moved)
