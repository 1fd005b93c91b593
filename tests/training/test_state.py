"""Checkpoints: when one is due, and reading one, which runs no code and takes no other run's."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from vixml.errors import VixmlError
from vixml.training import checkpoint as module
from vixml.training.checkpoint import NAME, Checkpoint


@pytest.fixture
def time(monkeypatch):
    """Return the seconds on a clock that only tests move: of epochs, and of saving."""
    time = {"now": 0.0, "saving": 0.0}

    def save(state, path):
        path.touch()
        time["now"] += time["saving"]

    monkeypatch.setattr(module, "monotonic", lambda: time["now"])
    monkeypatch.setattr(module.torch, "save", save)
    return time


def test_saving_takes_a_hundredth_of_the_time(time, tmp_path):
    """Epochs of 60 s, a checkpoint that takes 2 s."""
    checkpoint, saved = Checkpoint(tmp_path, "x", 1e6), []
    time["saving"] = 2
    for _ in range(100):
        time["now"] += 60
        if checkpoint.due(epoch_ended=True):
            checkpoint.save({})
            saved.append(time["now"])
    assert len(saved) > 10 and saved[0] == 62, "the first epoch's end is saved"
    assert 2 * (len(saved) - 1) <= 0.01 * (time["now"] - saved[0]), "one hundredth, from then on"
    assert not checkpoint.due(epoch_ended=False)


def test_inside_an_epoch_a_checkpoint_is_due_after_its_minutes_and_within_a_hundredth(time, tmp_path):
    checkpoint = Checkpoint(tmp_path, "x", 10)
    time |= {"now": 599, "saving": 20}
    assert not checkpoint.due(epoch_ended=False)
    time["now"] = 601
    assert checkpoint.due(epoch_ended=False) and checkpoint.due(epoch_ended=True)
    checkpoint.save({})
    time["now"] += 1999
    assert not checkpoint.due(epoch_ended=False) and not checkpoint.due(epoch_ended=True)
    time["now"] += 1
    assert checkpoint.due(epoch_ended=False) and checkpoint.due(epoch_ended=True)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / NAME).write_bytes(pickle.dumps({"format": Evil()}, protocol=2))
    for _ in range(2):
        with pytest.raises(VixmlError, match="cannot be read"):
            Checkpoint(tmp_path, "x", 1).load()
        torch.save({"format": Evil()}, tmp_path / NAME)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_run_is_not_read(tmp_path):
    checkpoint = Checkpoint(tmp_path / "folder", "x", 1)
    checkpoint.save({"a": 1})
    assert Checkpoint(tmp_path / "folder", "another", 1).load() is None
    assert Checkpoint(tmp_path / "nowhere", "x", 1).load() is None
    assert checkpoint.load()["a"] == 1
    checkpoint.remove()
    assert not (tmp_path / "folder").exists()
