"""Optimizer groups, schedule and precision."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import planted
import pytest
import torch
import transformers

from vixml.config.run import Optimizer
from vixml.runtime import batch_workers
from vixml.training import train
from vixml.training.train import learning_rate_factor, make_optimizer, parameter_groups, train_step

SETTINGS = Optimizer(lr=0.1, lr_new=0.2, weight_decay=0.3)


def groups_of(model, settings=SETTINGS):
    """Return {name: (learning rate, weight decay)} of every parameter that trains; each is in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, settings)
    found = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture
def model(task):
    return planted.make_training(task, planted.make_config()).model


def test_every_parameter_once_with_its_rate_and_decay(model):
    groups = groups_of(model)
    assert groups.keys() == {name for name, _ in model.named_parameters()}
    for name, (lr, decay) in groups.items():
        assert lr == (0.1 if name.startswith("backbone.") else 0.2), name
        plain = name.endswith("bias") or "LayerNorm" in name or "norm" in name or name == "prototypes.free.weight"
        assert decay == (0.0 if plain else 0.3), name


def test_a_frozen_encoder_is_left_out(task):
    names = groups_of(planted.make_training(task, planted.make_config(encoder={"train": "frozen"})).model).keys()
    assert not any(name.startswith("backbone.") for name in names)
    assert {"projection.weight", "projection.bias", "prototypes.free.weight"} <= names


def test_adamw_has_the_configured_epsilon(model):
    optimizer = make_optimizer(model, Optimizer(eps=1e-5))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["eps"] for group in optimizer.param_groups} == {1e-5}


def test_decay_by_name_as_in_the_official_code(model):
    """It spares parameters with `bias` or `LayerNorm.weight` in their name, and the free vectors; the prototype network's
    norms have another name."""
    official, ours = (
        groups_of(model, SETTINGS.model_copy(update={"weight_decay_on": "all-but-layernorm"})),
        groups_of(model),
    )
    for name, (_, decay) in official.items():
        spared = "bias" in name or "LayerNorm.weight" in name or name == "prototypes.free.weight"
        assert decay == (0.0 if spared else 0.3), name
    differ = {name for name in ours if ours[name] != official[name]}
    assert differ == {"prototypes.layer.norm1.weight", "prototypes.layer.norm2.weight"}


def test_a_warm_up_from_zero_is_one_step_behind():
    """The schedule of transformers, which the official code uses."""
    stepped = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = transformers.get_linear_schedule_with_warmup(stepped, 4, 10)
    for step in range(10):
        assert learning_rate_factor(step, 4, 10, ahead=False) == pytest.approx(stepped.param_groups[0]["lr"])
        stepped.step()
        schedule.step()


@pytest.mark.parametrize("warmup_from", ["first-step", "zero"])
def test_the_first_step_of_a_run(task, tmp_path, warmup_from):
    """With a rate of zero nothing is learned in it."""
    config = planted.make_config(
        modality="text", optimizer={"warmup_steps": 5, "warmup_from": warmup_from}, training={"batch_size": 144, "epochs": 1}
    )  # fmt: skip
    training = planted.make_training(task, config, rows=144)
    before = {name: p.clone() for name, p in training.model.named_parameters()}
    planted.train(training, tmp_path)
    same = [name for name, p in training.model.named_parameters() if p.equal(before[name])]
    assert (len(same) == len(before)) == (warmup_from == "zero")


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (1, 10), (4, 10), (10, 10), (20, 10)])
def test_schedule_is_linear_up_then_linear_down(warmup, total):
    factors = [learning_rate_factor(step, warmup, total) for step in range(total)]
    assert all(0 < f <= 1 for f in factors)
    for step, factor in enumerate(factors):
        expected = (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)
        assert factor == pytest.approx(expected)
    if warmup <= total:
        assert learning_rate_factor(total, warmup, total) == 0


@pytest.mark.parametrize("warmup_new", [None, 2])
def test_the_loop_follows_the_schedule_and_clips(task, tmp_path, monkeypatch, warmup_new):
    """Also where new parts warm up sooner than the language model."""
    settings = {"lr": 1e-3, "lr_new": 3e-3, "warmup_steps": 6, "warmup_steps_new": warmup_new, "clip_norm": 1e-3}
    config = planted.make_config(modality="text", optimizer=settings, training={"epochs": 2, "batch_size": 8})
    training = planted.make_training(task, config, rows=30)
    names, seen = {id(p): name.split(".")[0] for name, p in training.model.named_parameters()}, []

    def step(training, state, batch):
        loss = train_step(training, state, batch)
        rates = {names[id(p)]: group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
        squares = [p.grad.square().sum() for p in training.model.parameters() if p.grad is not None]
        seen.append((rates, float(torch.stack(squares).sum().sqrt())))
        return loss

    monkeypatch.setattr(train, "train_step", step)
    state = planted.train(training, tmp_path)
    assert training.total_steps == len(seen) == 8
    for step, (rates, norm) in enumerate(seen):
        assert rates["backbone"] == pytest.approx(1e-3 * learning_rate_factor(step, 6, 8))
        assert rates["prototypes"] == pytest.approx(3e-3 * learning_rate_factor(step, warmup_new or 6, 8))
        assert norm <= 1e-3 * 1.001
    assert state.history[-1]["lr"] == pytest.approx(1e-3 * learning_rate_factor(7, 6, 8))


def test_a_gpu_does_not_wait_for_its_batches(monkeypatch, tmp_path, capsys):
    cpu, cuda, space = torch.device("cpu"), torch.device("cuda"), 64 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=space))
    monkeypatch.setattr("vixml.runtime.SHARED", tmp_path)
    for threads, expected in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert batch_workers(None, cuda) == expected
        assert batch_workers(None, cpu) == 0 and batch_workers(2, cpu) == 2 and batch_workers(0, cuda) == 0
    assert not capsys.readouterr().err
    space = 64 << 20
    assert batch_workers(None, cpu) == batch_workers(0, cuda) == 0 and not capsys.readouterr().err
    assert batch_workers(None, cuda) == 0, "a container's shared memory would be full at once"
    said = capsys.readouterr().err
    assert "67 MB free" in said and "the GPU waits" in said and "--shm-size" in said and said.count("WARNING") == 1
    assert batch_workers(4, cuda) == 4, "a number that is asked for is obeyed"
    assert "bus error" in capsys.readouterr().err


def test_label_vectors_have_their_own_rate_and_do_not_decay(task):
    model = planted.make_training(task, planted.make_config(method="all-labels")).model
    settings = Optimizer(lr=0.1, lr_new=0.2, lr_labels=0.4, weight_decay=0.3)
    groups = groups_of(model, settings)
    assert groups["vectors"] == (0.4, 0.0) and groups["projection.weight"] == (0.2, 0.3)
    assert not any(name.startswith("prototypes") for name in groups)
    refit = planted.make_training(task, planted.make_config(training={"refit_epochs": 1})).model
    assert "vectors" not in groups_of(refit, settings), "learned after the last epoch, by an optimizer of its own"
