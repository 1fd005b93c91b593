"""Running out of memory: one error that names a smaller setting; nothing is lost, and with that setting the run resumes."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import planted
import pytest
import torch
import torch.distributed.run
import warm

from vixml.cli import _refuse, main
from vixml.config.registry import Propensity
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.memory import enough_memory, kind_of_memory
from vixml.models.encode import fewer_items, token_budget_slices
from vixml.models.siamese import Siamese
from vixml.training import train as stage_module
from vixml.training.all_labels import fewer_labels
from vixml.training.checkpoint import NAME
from vixml.training.train import run_identity
from vixml.training.vectors import EncodedBatch

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is free. "
    "Including non-PyTorch memory, this process has 77.84 GiB memory in use."
)


def full(*args, **options):
    raise torch.OutOfMemoryError(MESSAGE)


def settings(**training):
    """Two epochs of batches of 24 queries; the second is mined."""
    return planted.make_config(
        encoder={"dropout": 0.0},
        prototype={"dropout": 0.0},
        mining={"start": 1, "update": 1, "size": 4, "double_at": []},
        training={"epochs": 2, "batch_size": 24, "checkpoint_minutes": 1e-9, "validation": 0.0, **training},
    )


def run(task, folder, config):
    planted.run_stage(task, config, folder / "model")


def fail_at_call(patch, owner, name, count):
    """Let a function run out of memory when it is called for the ``count``-th time (from 0)."""
    function, calls = getattr(owner, name), itertools.count()

    def wrapped(*args, **options):
        if next(calls) == count:
            if name == "encode":
                function(*args, **options)  # it had begun
            full()
        return function(*args, **options)

    patch.setattr(owner, name, wrapped)


A_STEP = Siamese, "encode", 6


@pytest.mark.parametrize(
    ("failing", "position", "items", "kept"),
    [
        ((Siamese, "encode", 0), "epoch 1, encoding", None, False),
        (A_STEP, "step", 33, True),
        ((EncodedBatch, "backward", 2), "step 3", 33, True),
        ((stage_module, "total_loss", 3), "step 4", 33, True),
    ],
    ids=["first encoding", "step", "backward pass", "loss"],
)
def test_one_error_names_the_next_smaller_value_and_that_resumes(
    task, tmp_path, monkeypatch, capsys, failing, position, items, kept
):
    planted.save_always(monkeypatch)
    with monkeypatch.context() as patch:
        fail_at_call(patch, *failing)
        with pytest.raises(VixmlError, match="out of GPU memory") as caught:
            run(task, tmp_path, settings())
    error = caught.value
    assert "run seed 0" in error.where and position in error.where
    assert "79.10 GiB in all, 1.25 GiB free" in error.found and "2.50 GiB more were asked for" in error.found
    assert "training.items_at_once: " in error.hint and "same command" in error.hint
    smaller = int(error.hint.split("items_at_once: ")[1].split("`")[0])
    now = int(error.hint.split("(now ")[1].split(" ")[0])
    assert smaller == now // 2 and (items is None or abs(now - items) < 3)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "checkpoint" / NAME).exists() == kept
    monkeypatch.delenv("VIXML_PROGRESS", raising=False)
    capsys.readouterr()
    run(task, tmp_path, settings(items_at_once=smaller))
    assert ("from its checkpoint" in capsys.readouterr().err) == kept
    record = read_json(tmp_path / "model" / "training.json")
    assert record["epochs"] == 2 and record["kernels"] == "plain" and not (tmp_path / "checkpoint").exists()


def softmax_settings(method="all-labels", **training):
    changes = settings(**training).model_dump(exclude={"method", "mining"}) | {"method": method, "mining": None}
    return RunConfig.model_validate(changes)


@pytest.mark.parametrize(
    ("config", "failing", "position", "hints"),
    [
        (softmax_settings(), (stage_module, "label_loss", 2), "epoch 1, step 3", ["items_at_once", "sampled_labels"]),
        (softmax_settings(), (Siamese, "encode", 0), "epoch 1, encoding", ["items_at_once"]),
        (softmax_settings("DEXA", refit_epochs=2), (stage_module, "refit", 0), "fitting label", ["sampled_labels"]),
        (softmax_settings("DEXA"), (stage_module.diagnostics, "diagnose", 0), "epoch 1, after", ["items_at_once"]),
    ],
    ids=["softmax", "first encoding", "refit", "diagnostics"],
)
def test_a_softmax_over_all_labels_names_the_labels(task, tmp_path, monkeypatch, config, failing, position, hints):
    fail_at_call(monkeypatch, *failing)
    with pytest.raises(VixmlError, match="out of GPU memory") as caught:
        run(task, tmp_path, config)
    assert position in caught.value.where, caught.value.where
    assert re.findall(r"set `(?:training|loss)\.(items_at_once|sampled_labels)", caught.value.hint) == hints


@pytest.mark.parametrize(
    ("sampled", "n_labels", "expected"),
    [(None, 1_300_000, 650_000), (None, 5_000_000, 1_000_000), (400_000, 1_300_000, 200_000), (9, 4, 2), (1, 4, 1)],
)
def test_the_next_smaller_number_of_labels(sampled, n_labels, expected):
    config = softmax_settings()
    config = config.model_copy(update={"loss": config.loss.model_copy(update={"sampled_labels": sampled})})
    assert f"`loss.sampled_labels: {expected}`" in fewer_labels(config, n_labels)
    RunConfig.model_validate(config.model_dump() | {"loss": config.loss.model_dump() | {"sampled_labels": expected}})


def test_settings_that_change_no_result_keep_the_identity(task):
    def identity(config):
        return run_identity(config, 0, task, "fp32", Propensity())

    assert identity(settings()) == identity(settings(items_at_once=7)) == identity(settings(workers=1))
    fused = settings().model_copy(update={"encoder": settings().encoder.model_copy(update={"kernels": "liger"})})
    assert identity(fused) == identity(settings())
    assert identity(settings(batch_size=25)) != identity(settings())


def test_grouping_queries_falls_back_to_the_processor(task, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("VIXML_PROGRESS", raising=False)
    # The first call clusters labels for the free vectors, the second groups queries.
    fail_at_call(monkeypatch, stage_module, "balanced_groups", 1)
    run(task, tmp_path, settings())
    assert "too small to group all queries" in capsys.readouterr().err


def test_the_model_itself_does_not_fit(task, tmp_path, monkeypatch):
    monkeypatch.setattr(Siamese, "to", full)
    with pytest.raises(VixmlError, match="out of GPU memory") as caught:
        run(task, tmp_path, settings())
    assert "the model does not fit" in caught.value.where and "vixml plan" in caught.value.hint


@pytest.mark.parametrize(
    ("at_once", "items", "training", "expected"),
    [
        (None, 4038, True, "items_at_once: 2019"),
        (512, 100, True, "items_at_once: 256"),  # the last part of a batch is smaller, and did not need the memory
        (512, 300, False, "items_at_once: 150"),
        (2, 2, True, "items_at_once: 1"),
        (1, 1, True, "gradient_checkpointing: true"),
    ],
)
def test_the_next_smaller_value(at_once, items, training, expected):
    assert expected in fewer_items(settings(items_at_once=at_once), items, training)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError(MESSAGE), "GPU"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU"),
        (MemoryError(), "main"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to "
                      "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"), "main"),
        (RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed."), "main"),
        (RuntimeError("DataLoader worker (pid 77) is killed by signal: Bus error. It is possible that dataloader's workers "
                      "are out of shared memory."), "shared"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to allocate shared "
                      "memory(shm) for file </torch_1_2_3>: No space left on device (28)"), "shared"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)  # fmt: skip
def test_kinds_of_memory(error, kind):
    assert kind_of_memory(error) == kind
    with pytest.raises(Exception) as caught, enough_memory(lambda: "here", lambda: "do this"):
        raise error
    if kind is None:
        assert caught.value is error
    else:
        assert isinstance(caught.value, VixmlError) and f"out of {kind} memory" in str(caught.value)
        assert ("--shm-size" if kind == "shared" else "do this") in caught.value.hint and caught.value.where == "here"


def test_a_real_allocation_that_cannot_be():
    with pytest.raises(VixmlError, match="out of main memory") as caught, enough_memory(lambda: "", lambda: ""):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert str(1 << 60) in caught.value.found


def test_items_at_once_bounds_every_pass(task):
    slices = list(token_budget_slices(torch.ones(10).numpy(), 100, 4))
    assert [(s.start, s.stop) for s in slices] == [(0, 4), (4, 8), (8, 10)]


def test_a_command_without_a_setting_to_change_ends_with_one_error_too(monkeypatch, capsys, tmp_path):
    def no_memory(*args, **options):
        raise MemoryError("Unable to allocate 9.1 TiB for an array")

    monkeypatch.setattr("vixml.check.doctor.block", no_memory)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error:") == 1 and "out of main memory" in shown and "Traceback" not in shown


def train_with_one_that_is_full(argument):
    task, folder = argument
    if os.environ["RANK"] == "1":
        fail_at_call(pytest.MonkeyPatch(), *A_STEP)
    try:
        run(task, folder, settings())
    except VixmlError as error:
        _refuse(error)
        sys.stderr.flush()
        os._exit(2)


def test_one_process_of_several_ends_all(programs, task, tmp_path):
    script = warm.script(tmp_path / "group", train_with_one_that_is_full, (task, tmp_path))
    python = f"{programs}/warm-python"
    torchrun = [python, torch.distributed.run.__file__, "--standalone", "--nproc-per-node", "2", "--no-python"]
    # It returns when each of them has closed its output.
    done = subprocess.run([*torchrun, python, script], capture_output=True, text=True, timeout=600)
    shown, status = done.stderr, done.returncode
    assert status != 0, shown[-3000:]
    assert shown.count("error: out of GPU memory") == 1 and "items_at_once" in shown
    assert shown.count("Traceback") <= 1, "at most that of torchrun"
    assert not (tmp_path / "model").exists()
