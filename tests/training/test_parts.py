"""A batch encoded in parts, or by several processes, gives the gradient of a batch encoded at once."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from functools import cache

import numpy as np
import planted
import pytest
import torch
import warm
from safetensors.torch import load_file
from torch.nn import functional as F

from vixml.files import read_json
from vixml.ragged import Ragged
from vixml.runtime import DROPOUT, derived_seed
from vixml.training import distributed
from vixml.training.distributed import SINGLE, ProcessGroup, join, leave
from vixml.training.train import epoch_batches, initialise, new_state, train_step
from vixml.training.vectors import EncodedBatch

CPU = torch.device("cpu")
KINDS = {
    "early": {},
    "late": {"images": {"fusion": "late", "late": {"dropout": 0.0}}},
    "text": {"modality": "text"},
    "centred": {"encoder": {"centre": True}},
    "dexa": {"method": "DEXA"},
    "ngame": {"method": "NGAME", "inference": {"labels_as": "u"}},
    "all labels": {"method": "all-labels"},
    "all labels, term of u": {"method": "all-labels", "loss": {"text_weight": 0.5, "sampled_labels": 3}},
    "frozen": {"encoder": {"train": "frozen"}},
}


def settings(kind, dropout=0.0, **training):
    changes = dict(KINDS[kind])
    encoder = {"dropout": dropout, **changes.pop("encoder", {})}
    return planted.make_config(encoder=encoder, prototype={"dropout": dropout}, training=training, **changes)


def gradients(task, config, steps=2, group=SINGLE, rows=40, without_images=False):
    """Return the gradients of the last of a few steps, by parameter."""
    training = planted.make_training(task, config, rows=rows, held=1, group=group)
    if without_images:
        data = training.data
        training = replace(training, data=replace(data, queries=without(data.queries), labels=without(data.labels)))
    state = new_state(training)
    initialise(training, state)
    training.model.train()
    batches = epoch_batches(training, state)
    for index in range(min(steps, len(batches))):
        train_step(training, state, batches[index])
        state.step_in_epoch += 1
    return {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}


def without(items):
    return replace(items, images=Ragged.from_rows([[]] * len(items), items.images.n_cols))


@pytest.fixture(scope="module")
def whole(task):
    """Return the gradients of batches that are encoded at once, by kind and number of rows."""
    return cache(lambda kind, rows: gradients(task, settings(kind, batch_size=16), rows=rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_parts_give_the_gradient_of_the_whole(whole, task, kind, at_once):
    rows = 7 if at_once == 1 else 24
    whole = whole(kind, rows)
    parts = gradients(task, settings(kind, items_at_once=at_once, batch_size=16), rows=rows)
    assert parts.keys() == whole.keys() and len(whole) >= 2
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_is_the_same_when_a_part_is_encoded_again(task):
    """Against a naive version: all parts with the same draws, all their graphs in memory, one backward pass."""
    config = settings("early", dropout=0.3, items_at_once=9)
    training = planted.make_training(task, config, rows=40)
    model = training.model.train()
    batch = epoch_batches(training, new_state(training))[0]
    assert len(batch.parts) > 2
    weight = torch.randn(len(batch.queries) + len(batch.labels), model.backbone.dim)

    def loss_of(vectors):
        unit = F.normalize(vectors, dim=1)
        return ((unit @ unit.T) * (weight @ weight.T)).sum()  # every item meets every other

    vectors = []
    for part in batch.parts:
        torch.manual_seed(derived_seed(0, DROPOUT, 0, 0, sum(map(len, vectors))))
        vectors.append(model.encode(part))
    loss_of(torch.cat(vectors)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    encoded = EncodedBatch(model, batch, SINGLE, "fp32", (0, DROPOUT, 0, 0))
    torch.testing.assert_close(encoded.vectors.detach(), torch.cat(vectors).detach())
    torch.rand(5)  # whatever else draws in between
    loss_of(encoded.vectors).backward()
    encoded.backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-3)


def test_all_parts_but_the_last_are_encoded_twice(task, monkeypatch):
    training = planted.make_training(task, settings("early", items_at_once=9), rows=40)
    model, batch, asked = training.model.train(), epoch_batches(training, new_state(training))[0], []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda packed: asked.append(packed) or encode(packed))
    encoded = EncodedBatch(model, batch, SINGLE, "fp32", (0, DROPOUT, 0, 0))
    encoded.vectors.sum().backward()
    encoded.backward()
    assert len(batch.parts) > 2 and [*map(id, asked)] == [*map(id, batch.parts), *map(id, batch.parts[-2::-1])]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_every_item_once(n, size):
    shares = [ProcessGroup(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


def in_processes(programs, work, argument, folder, processes=2):
    """Run ``work(argument)`` in a group of processes with torch loaded; return their output and their exit statuses."""
    # As torchrun does, the starting process has the store where they meet.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    command, started = [f"{programs}/warm-python", warm.script(folder, work, argument)], []
    with (folder / "printed").open("w", encoding="utf-8") as printed:
        for rank in range(processes):
            rank = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            started.append(subprocess.Popen(command, env=os.environ | address | rank, stderr=printed))
        statuses = [one.wait(timeout=600) for one in started]
    return (folder / "printed").read_text(encoding="utf-8"), statuses


def write_gradients(argument):
    given, out = argument
    distributed.BLOCK = 100  # vectors are gathered in several blocks
    group = join(CPU)
    for name, how in given.items():
        inputs, config, *rest = how
        torch.save(gradients(inputs, config, 1, group, *rest), out / f"{name}-{group.rank}.pt")
    leave()


def train_one(argument):
    config, inputs, out = argument
    planted.run_stage(inputs, config, out)


def resume(argument):
    config, inputs, out = argument
    group = join(CPU)
    planted.train(planted.make_training(inputs, config, rows=40, group=group), out / str(group.rank))


def cases(task, decoder_task, at_once):
    """Return by name the inputs, the configuration, the number of rows and whether images are left out."""
    found = {kind: (task, settings(kind, items_at_once=at_once), 20, False) for kind in KINDS}
    lora = {"train": "lora", "lora": {"r": 4, "alpha": 4, "dropout": 0.0}, "gradient_checkpointing": True}
    adapters = planted.make_config(encoder=lora | {"template": "{text}{images}{eos}"}, prototype={"dropout": 0.0})
    found["adapters"] = (decoder_task, adapters, 20, False)
    found["one query"] = (task, settings("early"), 1, False)  # with three processes, one has nothing to encode
    found["no images"] = (task, settings("early"), 20, True)
    return found


@pytest.fixture(scope="module")
def alone(task, decoder_task):
    """Return the gradients of one process that encodes each batch at once, by the case's name."""
    return {
        name: gradients(inputs, config, 1, SINGLE, *how)
        for name, (inputs, config, *how) in cases(task, decoder_task, None).items()
    }


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_have_the_gradient_of_one(programs, task, decoder_task, alone, tmp_path, processes):
    """The first step's gradients, not the optimizer's steps: AdamW hides a wrong scale."""
    # Two processes encode each batch at once, three in parts.
    given = cases(task, decoder_task, None if processes == 2 else 5)
    shown, statuses = in_processes(programs, write_gradients, (given, tmp_path), tmp_path / "group", processes)
    assert statuses == [0] * processes, shown[:6000]
    for name, expected in alone.items():
        assert len(expected) >= 2 or name == "one query"
        for rank in range(processes):
            found = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert found.keys() == expected.keys(), (name, found.keys() ^ expected.keys())
            for key, gradient in expected.items():
                torch.testing.assert_close(
                    found[key], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}"
                )


def test_processes_that_would_resume_from_different_steps_stop(programs, task, tmp_path, monkeypatch):
    planted.save_always(monkeypatch)
    config = settings("text", epochs=1, batch_size=20)
    planted.train(planted.make_training(task, config, rows=40), tmp_path / "0")
    assert list((tmp_path / "0").rglob("*.pt")) and not (tmp_path / "1").exists()
    shown, statuses = in_processes(programs, resume, (config, task, tmp_path), tmp_path / "group")
    assert 0 not in statuses and "do not agree on the step to resume from" in shown and "2, 0, by rank" in shown


def test_two_processes_train_what_one_trains(programs, task, tmp_path):
    """Mined batches, centroids, an image projection; one file is written, by the first process."""
    config = settings("early", epochs=2, batch_size=24)
    planted.run_stage(task, config, tmp_path / "one" / "model")
    shown, statuses = in_processes(programs, train_one, (config, task, tmp_path / "two" / "model"), tmp_path / "group")
    assert statuses == [0, 0], shown[:6000]
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    untrained = planted.make_training(task, config).model.state_dict()
    moved = 0.0
    for name, tensor in one.items():
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}")
            moved = max(moved, float((tensor - untrained[name]).abs().max()))
    assert moved > 1e-2, "training did something"
    record = read_json(tmp_path / "two" / "model" / "training.json")
    assert record["processes"] == 2 and not (tmp_path / "two" / "checkpoint").exists()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [".model-files", "model"]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "model" / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
