"""Checkpoints: when one is due, and reading one, which runs no code and takes no other run's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from vixml.digest import digest_of
from vixml.errors import VixmlError
from vixml.files import atomic_path
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
    checkpoint, saved = Checkpoint(tmp_path, {}, 1e6), []
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
    checkpoint = Checkpoint(tmp_path, {}, 10)
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
            Checkpoint(tmp_path, {}, 1).load()
        torch.save({"format": Evil()}, tmp_path / NAME)
    assert not (tmp_path / "ran").exists()


IDENTITY = {
    "config": {"optimizer": {"lr": 0.1, "eps": 1e-8}}, "seed": 0, "inputs": {"corpus": "a" * 64}, "precision": "fp32",
    "code": {"vixml.one": "1" * 64, "vixml.two": "2" * 64},
}  # fmt: skip
STATE = {"seconds": 360_000.0, "epoch": 2, "step_in_epoch": 7, "stored": torch.arange(4.0)}
NEW_CODE = {"code": {"vixml.one": "1" * 64, "vixml.two": "3" * 64}}


def written(folder, **state):
    Checkpoint(folder, IDENTITY, 1).save(STATE | state)
    return (folder / NAME).read_bytes()


def test_a_checkpoint_is_read_back_and_deleted(tmp_path):
    written(tmp_path / "folder")
    checkpoint = Checkpoint(tmp_path / "folder", IDENTITY, 1)
    assert checkpoint.load()["stored"].tolist() == [0, 1, 2, 3] and checkpoint.put_aside() is None
    checkpoint.remove()
    assert not (tmp_path / "folder").exists() and checkpoint.load() is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": {"optimizer": {"lr": 0.2, "eps": 1e-8}}}, "config.optimizer.lr: 0.1, now 0.2"),
        ({"seed": 1}, "seed: 0, now 1"),
        ({"inputs": {"corpus": "b" * 64}}, "inputs.corpus: aaaaaaaaaaaa, now bbbbbbbbbbbb"),
        ({"inputs": {"corpus": "a" * 64, "images": "c" * 64}}, "inputs.images: absent, now cccccccccccc"),
        ({"precision": "bf16", **NEW_CODE}, "precision: fp32, now bf16; code of vixml.two"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_another_training_starts_afresh_and_keeps_the_file(tmp_path, changes, said, accept):
    """Whether or not the user accepts checkpoints of other code."""
    data = written(tmp_path)
    checkpoint = Checkpoint(tmp_path, IDENTITY | changes, 1, accept)
    for n in (1, 2):
        assert checkpoint.load() is None and (tmp_path / NAME).exists(), "every process looks, then one renames"
        sentence = checkpoint.put_aside()
        [kept] = [path for path in tmp_path.iterdir() if path.name.endswith("-2.pt") == (n == 2)]
        assert said in sentence and "100 h of training, up to epoch 3, step 7" in sentence and str(kept) in sentence
        assert kept.read_bytes() == data
        written(tmp_path)
    checkpoint.remove()
    assert len(list(tmp_path.iterdir())) == 2, "files of other trainings are never deleted"


@pytest.mark.parametrize("added", [{}, {"config": {"optimizer": {"lr": 0.1, "eps": 1e-8, "new": None}}}])
def test_new_code_after_long_training_asks_for_a_decision(tmp_path, added):
    """A setting that is new with the code is no other training."""
    data = written(tmp_path)
    with pytest.raises(VixmlError, match="code has changed") as caught:
        Checkpoint(tmp_path, IDENTITY | NEW_CODE | added, 1).load()
    error = caught.value
    assert "100 h of training, up to epoch 3, step 7" in error.where and "code of vixml.two" in error.found
    assert ("config.optimizer.new: absent, now None" in error.found) == bool(added)
    assert "--accept-checkpoint" in error.hint and "VIXML_ACCEPT_CHECKPOINT=1" in error.hint
    assert (tmp_path / NAME).read_bytes() == data and len(list(tmp_path.iterdir())) == 1
    state = Checkpoint(tmp_path, IDENTITY | NEW_CODE | added, 1, accept=True).load()
    old, new = (digest_of(identity["code"]) for identity in (IDENTITY, NEW_CODE))
    note = {"epoch": 2, "step_in_epoch": 7, "seconds": 360_000.0, "from": old, "to": new}
    assert state["accepted"] == [note] and state["stored"].tolist() == [0, 1, 2, 3]


def test_new_code_after_minutes_starts_afresh(tmp_path):
    written(tmp_path, seconds=599.0)
    checkpoint = Checkpoint(tmp_path, IDENTITY | NEW_CODE, 1)
    assert checkpoint.load() is None and "code of vixml.two" in checkpoint.put_aside()


def test_a_checkpoint_of_an_older_format_is_kept(tmp_path):
    torch.save({"format": "vixml-checkpoint-2", "identity": "0123"}, tmp_path / NAME)
    checkpoint = Checkpoint(tmp_path, IDENTITY, 1)
    assert checkpoint.load() is None and "vixml-checkpoint-2" in checkpoint.put_aside()
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"] and not (tmp_path / NAME).exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """The disk is /dev/full, which takes no byte: the writer of torch fails as on a real disk."""
    data, save = written(tmp_path), torch.save
    monkeypatch.setattr(torch, "save", lambda state, path: save(state, "/dev/full"))
    with pytest.raises(VixmlError, match="no space left") as caught:
        Checkpoint(tmp_path, IDENTITY, 1).save(STATE | {"stored": torch.zeros(1 << 20)})
    assert caught.value.where == tmp_path / NAME and "resumes" in caught.value.hint
    assert (tmp_path / NAME).read_bytes() == data and len(list(tmp_path.iterdir())) == 1


def test_a_half_written_checkpoint_of_a_killed_process_is_deleted(tmp_path):
    written(tmp_path)
    if (child := os.fork()) == 0:
        with atomic_path(tmp_path / NAME) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    assert Checkpoint(tmp_path, IDENTITY, 1).load() and [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_checkpoint_that_another_process_is_writing_is_left_to_it(tmp_path):
    written(tmp_path)
    with atomic_path(tmp_path / NAME) as temporary:
        temporary.write_bytes((tmp_path / NAME).read_bytes())
        assert Checkpoint(tmp_path, IDENTITY, 1).load()
    assert Checkpoint(tmp_path, IDENTITY, 1).load() and [path.name for path in tmp_path.iterdir()] == [NAME]
