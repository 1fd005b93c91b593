"""Same bytes: of a run repeated, and of a run killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import planted
import pytest
import torch
import warm

from vixml.cli import main
from vixml.config.registry import Propensity
from vixml.digest import digest_of, stage_digest
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_json
from vixml.models.siamese import load_model
from vixml.provenance import read_manifest
from vixml.training import checkpoint, train
from vixml.training.checkpoint import NAME
from vixml.training.train import run_identity

ROWS, BATCH, EPOCHS = 23, 5, 3  # five steps per epoch, the last of three queries; the second and third mined
ALWAYS = {"checkpoint_minutes": 1e-9}


@pytest.fixture(autouse=True)
def saving_may_take_long(monkeypatch):
    planted.save_always(monkeypatch)


class Killed(Exception):
    pass


def config(precision="fp32", **training):
    return planted.make_config(
        mining={"start": 1, "update": 1, "size": 4, "double_at": [2]},
        training={"epochs": EPOCHS, "batch_size": BATCH, "precision": precision, **training},
    )


def kill_at(count):
    """Return a function that raises when it is called for the ``count``-th time (from 0)."""
    calls = iter(range(10**6))

    def hook(*_):
        if next(calls) == count:
            raise Killed

    return hook


def trained(task, settings, folder, seed=0, held=16, **hooks):
    """Train to the end, from the checkpoint if there is one; return the model's bytes and the history."""
    training = planted.make_training(task, settings, seed=seed, rows=ROWS, held=held)
    history = planted.train(training, folder, **hooks).history
    times = {"seconds", "samples_per_second"}
    return planted.weights_of(training, folder), [{k: v for k, v in line.items() if k not in times} for line in history]


def killed(task, settings, folder, identity="one identity", **hooks):
    """Train until a hook kills."""
    with pytest.raises(Killed):
        planted.train(planted.make_training(task, settings, rows=ROWS), folder, identity, **hooks)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """Return bytes and history of a run that was never interrupted, by precision."""

    @cache
    def run(precision):
        return trained(task, config(precision), tmp_path_factory.mktemp("whole"))

    return run


def test_the_same_seed_gives_the_same_bytes_and_another_others(whole, task, tmp_path):
    torch.manual_seed(123)
    np.random.seed(123)
    assert trained(task, config(), tmp_path / "same") == whole("fp32")
    assert trained(task, config(), tmp_path / "other", seed=1)[0] != whole("fp32")[0] != whole("bf16")[0]


@pytest.mark.parametrize("changes", [{"held": 0}, {"workers": 2}], ids=["diagnostics", "workers"])
def test_neither_diagnostics_nor_workers_change_a_byte(whole, task, tmp_path, changes):
    held = changes.pop("held", 16)
    assert trained(task, config(**changes), tmp_path, held=held)[0] == whole("fp32")[0]


# Before the first checkpoint, inside an epoch, at its first and last step, in mined epochs, at the very end.
@pytest.mark.parametrize(
    ("precision", "steps"), [*(("fp32", k) for k in (0, 1, 4, 5, 8, 12, 14)), ("bf16", 3), ("bf16", 11)]
)
def test_killed_at_a_step(whole, task, tmp_path, precision, steps):
    settings = config(precision, **ALWAYS)
    killed(task, settings, tmp_path, step=kill_at(steps))
    assert (tmp_path / "checkpoint" / NAME).exists() == (steps > 0)
    taken = []
    torch.rand(3)  # other code may draw random numbers before
    assert trained(task, settings, tmp_path, step=lambda n, loss: taken.append(n)) == whole(precision)
    assert len(taken) == 15 - steps, "steps before the kill are not repeated"


def test_killed_again_and_again(whole, task, tmp_path):
    settings = config(**ALWAYS)
    for steps in (3, 2, 6):
        killed(task, settings, tmp_path, step=kill_at(steps))
    assert trained(task, settings, tmp_path) == whole("fp32")


@pytest.mark.parametrize("epochs", [0, 2])
def test_killed_after_an_epochs_last_step_before_its_checkpoint(whole, task, tmp_path, epochs):
    """The last step's checkpoint has steps, sums and vectors of the whole epoch; only the epoch's end is repeated."""
    settings = config(**ALWAYS)
    killed(task, settings, tmp_path, epoch=kill_at(epochs))
    assert trained(task, settings, tmp_path) == whole("fp32")


def test_only_the_ends_of_epochs_saved(whole, task, tmp_path):
    settings = config()
    killed(task, settings, tmp_path, step=kill_at(8))
    taken = []
    assert trained(task, settings, tmp_path, step=lambda n, loss: taken.append(n)) == whole("fp32")
    assert len(taken) == 10


def test_a_finished_run_trains_no_further(task, tmp_path):
    settings = config(**ALWAYS)
    first = trained(task, settings, tmp_path)
    assert trained(task, settings, tmp_path, step=kill_at(0)) == first


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("task", {"method": "DEXA", "prototype": {"init": "zeros"}}),
        ("task", {"method": "NGAME", "inference": {"labels_as": "u"}}),
        ("task", {"method": "all-labels", "loss": {"text_weight": 0.5, "sampled_labels": 3}}),
        ("task", {"method": "all-labels", "training": {"precision": "bf16"}}),
        ("task", {"training": {"refit_epochs": 2}, "loss": {"sampled_labels": 3}}),
        ("task", {"images": {"fusion": "late"}}),
        ("task", {"modality": "text", "encoder": {"train": "frozen"}}),  # trained on stored vectors
        ("decoder_task", {"encoder": {"train": "lora", "lora": {"r": 4, "alpha": 4, "dropout": 0.1}, "centre": True,
                                      "template": "{text}{images}{eos}", "gradient_checkpointing": True}}),
        ("decoder_task", {"modality": "text", "encoder": {"train": "frozen", "centre": True, "template": "{text}{eos}"}}),
    ],
    ids=["DEXA", "NGAME", "all labels", "all labels, bf16", "refit", "late fusion", "stored vectors", "adapters", "frozen decoder"],
)  # fmt: skip
def test_every_kind_of_run_resumes_to_the_same_bytes(request, tmp_path, which, changes):
    given = request.getfixturevalue(which)
    settings = planted.make_config(
        **{**changes, "training": {"epochs": 2, "batch_size": BATCH, **ALWAYS, **changes.get("training", {})}}
    )
    expected = trained(given, settings, tmp_path / "a")
    for steps in (2, 4):
        killed(given, settings, tmp_path / "b", step=kill_at(steps))
    assert trained(given, settings, tmp_path / "b") == expected


def test_a_checkpoint_of_something_else_is_not_resumed(task, tmp_path):
    settings = config(**ALWAYS)
    killed(task, settings, tmp_path, identity="another", step=kill_at(7))
    taken = []
    fresh = trained(task, settings, tmp_path / "x")
    assert trained(task, settings, tmp_path, step=lambda n, loss: taken.append(n)) == fresh
    assert len(taken) == 15


def test_identity_names_all_that_leads_to_the_weights(task, monkeypatch):
    def identity(settings=config(), seed=0, inputs=task, precision="fp32", **propensity):
        return sha256_json(run_identity(settings, seed, inputs, precision, Propensity(**propensity)))

    others = [
        identity(config(batch_size=10)), identity(planted.make_config(mining=None)), identity(seed=1),
        identity(precision="bf16"), identity(a=0.1), identity(inputs=replace(task, tokens=task.embeddings)),
    ]  # fmt: skip
    base = identity()
    assert len({base, *others}) == len(others) + 1
    same = config().model_copy(update={"row": planted.make_config(row={"label": "another name"}).row})
    assert identity(same) == base, "a row's name trains nothing"
    monkeypatch.setattr("vixml.training.train.stage_modules", lambda stage: {"another": stage})
    assert identity() != base, "new code does not resume old weights"


def test_code_that_changed_in_a_long_training(task, tmp_path, monkeypatch):
    """One decision of the user, which the result records; without it nothing is lost."""
    out, settings = tmp_path / "model", config(**ALWAYS | {"batch_size": 20})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.TrainingView, "epoch", kill_at(1))
        planted.run_stage(task, settings, out)
    data = (tmp_path / "checkpoint" / NAME).read_bytes()
    monkeypatch.setattr(train, "stage_modules", lambda stage, f=train.stage_modules: f(stage) | {"vixml.ragged": "new"})
    monkeypatch.setattr(checkpoint, "LONG", 0.0)
    with pytest.raises(VixmlError, match="code has changed"):
        planted.run_stage(task, settings, out)
    assert (tmp_path / "checkpoint" / NAME).read_bytes() == data and not out.exists()
    planted.run_stage(task, settings, out, accept=True)
    [note] = read_json(out / "training.json")["accepted_checkpoints"]
    assert read_manifest(out)["facts"]["accepted_checkpoints"] == [note]
    new = digest_of(train.stage_modules("train"))
    assert (note["epoch"], note["from"], note["to"]) == (1, stage_digest("train"), new) and note["from"] != new
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(("options", "variable"), [([], ""), (["--accept-checkpoint"], ""), ([], "1"), ([], "true")])
def test_the_user_accepts_by_option_or_through_the_workflow(tmp_path, monkeypatch, options, variable):
    seen = []
    monkeypatch.setenv("VIXML_ACCEPT_CHECKPOINT", variable)
    monkeypatch.setattr("vixml.cli.stages._encoding", lambda job: (None, {}))
    monkeypatch.setattr(train, "train", lambda *arguments: seen.append(arguments[-1]))
    assert main(["train", "picto", "vixml-minilm-l3", "--device", "cpu", "--out", str(tmp_path), *options]) == 0
    assert seen == [bool(options or variable)]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other", "a bit"])
def test_a_damaged_checkpoint_is_one_clear_error(task, tmp_path, damage):
    settings = config(**ALWAYS)
    killed(task, settings, tmp_path, step=kill_at(3))
    path = tmp_path / "checkpoint" / NAME
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1  # a number of a tensor
    damaged = {"cut": data[: len(data) // 2], "noise": b"no checkpoint", "empty": b"", "other": b"PK", "a bit": flipped}
    path.write_bytes(damaged[damage])
    with pytest.raises(VixmlError, match="checkpoint cannot be read") as caught:
        trained(task, settings, tmp_path)
    assert caught.value.where == path and "delete" in caught.value.hint


def train_until_half_a_checkpoint_is_written(argument):
    config, inputs, out, saves = argument
    checkpoint.Checkpoint.due = lambda self, epoch_ended: True
    save, done = torch.save, iter(range(10**6))

    def save_then_die(payload, path):
        save(payload, path)
        if next(done) == saves:
            os.truncate(path, os.path.getsize(path) // 2)
            print("killed now", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_then_die
    planted.run_stage(inputs, config, out, seed=3)


def test_kill_9_while_a_checkpoint_is_written(programs, task, tmp_path):
    settings = config(**ALWAYS | {"batch_size": 40})
    out = tmp_path / "killed" / "model"
    script = warm.script(tmp_path / "child", train_until_half_a_checkpoint_is_written, (settings, task, out, 7))
    done = subprocess.run([f"{programs}/warm-python", script], capture_output=True, text=True, timeout=600)
    assert done.stderr == "killed now\n"
    assert not out.exists() and (out.parent / "checkpoint" / NAME).exists()
    for folder in (out, tmp_path / "whole" / "model"):
        planted.run_stage(task, settings, folder, seed=3)
        assert not (folder.parent / "checkpoint").exists(), "the checkpoint is deleted at the end"
    whole = tmp_path / "whole" / "model"
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (out / "validation_rows.npy").read_bytes() == (whole / "validation_rows.npy").read_bytes()
    assert read_manifest(out)["config"] == read_manifest(whole)["config"]


def test_a_published_model_is_read_back(task, tmp_path):
    training = planted.make_training(task, config(), rows=ROWS)
    planted.train(training, tmp_path)
    planted.weights_of(training, tmp_path)
    other = planted.make_training(task, config(), seed=9, rows=ROWS).model
    load_model(tmp_path, other)
    for (name, a), (_, b) in zip(training.model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    text = planted.make_training(task, planted.make_config(modality="text"), rows=ROWS).model
    with pytest.raises(VixmlError, match="belong to another model") as caught:
        load_model(tmp_path, text)
    assert "projection" in str(caught.value.where)
