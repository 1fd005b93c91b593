"""When a checkpoint is due, and what is read as one: nothing that runs code, nothing of another run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from vixml.errors import VixmlError
from vixml.training.checkpoint import NAME, SaveClock, load_checkpoint, save_checkpoint


def test_saving_takes_a_hundredth_of_the_time():
    """A clock of our own: epochs of 60 s, a checkpoint that takes 2 s."""
    time = [0.0]
    clock, saved = SaveClock(minutes=1e6, now=lambda: time[0]), []

    def save():
        time[0] += 2
        saved.append(time[0])

    for _ in range(100):
        time[0] += 60
        if clock.due(epoch_ended=True):
            clock.run(save)
    assert len(saved) > 10 and saved[0] == 62, "the first epoch's end is saved"
    assert 2 * (len(saved) - 1) <= 0.01 * (time[0] - saved[0]), "one hundredth, from then on"
    assert not clock.due(epoch_ended=False)


def test_a_checkpoint_is_due_after_its_minutes():
    time = [0.0]
    clock = SaveClock(minutes=10, now=lambda: time[0])
    time[0] = 599
    assert not clock.due(epoch_ended=False)
    time[0] = 601
    assert clock.due(epoch_ended=False) and clock.due(epoch_ended=True)


def test_inside_an_epoch_saving_stays_within_a_hundredth_as_well():
    time = [0.0]
    clock = SaveClock(minutes=10, now=lambda: time[0])

    def save():
        time[0] += 20

    time[0] = 601
    assert clock.due(epoch_ended=False)
    clock.run(save)
    time[0] += 1999
    assert not clock.due(epoch_ended=False) and not clock.due(epoch_ended=True)
    time[0] += 1
    assert clock.due(epoch_ended=False) and clock.due(epoch_ended=True)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / NAME).write_bytes(pickle.dumps({"format": Evil()}, protocol=2))
    with pytest.raises(VixmlError, match="cannot be read"):
        load_checkpoint(tmp_path, "x")
    torch.save({"format": Evil()}, tmp_path / NAME)
    with pytest.raises(VixmlError, match="cannot be read"):
        load_checkpoint(tmp_path, "x")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_anything_else_is_not_read(tmp_path):
    save_checkpoint(tmp_path, "x", {"a": 1})
    assert load_checkpoint(tmp_path, "another") is None
    assert load_checkpoint(tmp_path / "nowhere", "x") is None
    assert load_checkpoint(tmp_path, "x")["a"] == 1
