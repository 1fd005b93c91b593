"""Same seed, same bytes; and what must not reach a result does not."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch


def trained(task, folder, seed=0, held=16, rows=40, **training):
    config = planted.make_config(
        mining={"start": 1, "update": 1, "size": 8, "double_at": []},
        training={"epochs": 2, "batch_size": 16, **training},
    )
    training = planted.make_training(task, config, seed=seed, held=held, rows=rows)
    planted.train(training, folder)
    return planted.weights_of(training, folder)


@pytest.fixture(scope="module")
def reference(task, tmp_path_factory):
    return trained(task, tmp_path_factory.mktemp("reference"))


def test_same_seed_same_bytes(task, tmp_path, reference):
    torch.manual_seed(123)
    np.random.seed(123)
    assert trained(task, tmp_path) == reference


def test_other_seed_other_bytes(task, tmp_path, reference):
    assert trained(task, tmp_path, seed=1) != reference


def test_workers_do_not_change_a_byte(task, tmp_path, reference):
    assert trained(task, tmp_path, workers=2) == reference


def test_diagnostics_do_not_change_a_byte(task, tmp_path, reference):
    assert trained(task, tmp_path, held=0) == reference


def test_checkpoints_do_not_change_a_byte(task, tmp_path, reference, monkeypatch):
    planted.save_always(monkeypatch)
    assert trained(task, tmp_path, checkpoint_minutes=1e-9) == reference


def test_bf16_is_deterministic_too(task, tmp_path, reference):
    first, second = (trained(task, tmp_path / name, rows=20, precision="bf16") for name in "ab")
    assert first == second != reference
