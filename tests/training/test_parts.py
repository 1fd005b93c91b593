"""A batch encoded in parts, or by several processes, gives the gradient of a batch encoded at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import planted
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from vixml.config.world import Propensity
from vixml.training.batches import DROPOUT, generator
from vixml.training.encoded import EncodedBatch
from vixml.training.optimizer import autocast, make_optimizer
from vixml.training.team import ALONE, Team
from vixml.training.train import train

CPU = torch.device("cpu")
KINDS = {
    "early": {},
    "late": {"images": {"fusion": "late", "late": {"dropout": 0.0}}},
    "text": {"modality": "text"},
    "centred": {"encoder": {"centre": True}},
    "dexa": {"method": "DEXA"},
    "ngame": {"method": "NGAME", "inference": {"labels_as": "u"}},
    "frozen": {"encoder": {"train": "frozen"}},
}


def settings(kind, dropout=0.0, **training):
    changes = dict(KINDS[kind])
    encoder = {"dropout": dropout, **changes.pop("encoder", {})}
    return planted.make_config(encoder=encoder, prototype={"dropout": dropout}, training=training, **changes)


def gradients(task, config, folder, steps=2):
    """Return the gradients of the last of a few steps, by parameter."""
    trainer = planted.make_trainer(task, config, folder, rows=40)
    trainer.optimizer = make_optimizer(trainer.model, config.optimizer)
    trainer.peaks = [group["lr"] for group in trainer.optimizer.param_groups]
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer.initialise()
    trainer.model.train()
    batches = trainer._batches()
    for index in range(min(steps, len(batches))):
        trainer._step(batches[index])
        trainer.step_in_epoch += 1
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_parts_give_the_gradient_of_the_whole(task, tmp_path, kind, at_once):
    whole = gradients(task, settings(kind), tmp_path / "a")
    parts = gradients(task, settings(kind, items_at_once=at_once), tmp_path / "b")
    assert parts.keys() == whole.keys() and len(whole) >= 2
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_is_the_same_when_a_part_is_encoded_again(task, tmp_path):
    """Naive twin: all parts with the same draws, their graphs held, one backward pass through everything."""
    config = settings("early", dropout=0.3, items_at_once=9)
    trainer = planted.make_trainer(task, config, tmp_path, rows=40)
    model = trainer.model.train()
    batch = trainer._batches()[0]
    assert len(batch.parts) > 2
    weight = torch.randn(len(batch.queries) + len(batch.labels), model.backbone.dim)

    def loss_of(vectors):
        unit = F.normalize(vectors, dim=1)
        return ((unit @ unit.T) * (weight @ weight.T)).sum()  # every item meets every other

    vectors = []
    for part in batch.parts:
        torch.manual_seed(int(generator(0, DROPOUT, 0, 0, part.first).integers(2**31)))
        vectors.append(model.encode(part.packed, part.images))
    loss_of(torch.cat(vectors)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    encoded = EncodedBatch(model, batch, ALONE, lambda: autocast("fp32", CPU), 0, 0, 0)
    torch.testing.assert_close(encoded.vectors.detach(), torch.cat(vectors).detach())
    torch.rand(5)  # whatever else draws in between
    loss_of(encoded.vectors).backward()
    encoded.backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-3)


def test_all_parts_but_the_last_are_encoded_twice(task, tmp_path, monkeypatch):
    trainer = planted.make_trainer(task, settings("early", items_at_once=9), tmp_path, rows=40)
    model, batch, asked = trainer.model.train(), trainer._batches()[0], []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda packed, images: asked.append(packed) or encode(packed, images))
    encoded = EncodedBatch(model, batch, ALONE, lambda: autocast("fp32", CPU), 0, 0, 0)
    encoded.vectors.sum().backward()
    encoded.backward()
    of_part = [part.packed for part in batch.parts]
    assert len(of_part) > 2 and [*map(id, asked)] == [*map(id, of_part), *map(id, of_part[-2::-1])]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_every_item_once(n, size):
    shares = [Team(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


CHILD = """
import json, sys
from pathlib import Path
import torch
from vixml.config.run import RunConfig
from vixml.config.world import Propensity
from vixml.training.inputs import RunInputs
from vixml.training.train import train

torch.set_num_threads(1)
config, inputs, out = json.loads(sys.argv[1])
train("planted", "run", 0, RunConfig.model_validate(config), Propensity(),
      RunInputs(*(Path(p) for p in inputs)), Path(out), torch.device("cpu"))
"""


def together(task, config, out, processes=2):
    """Train with several processes, as ``torchrun`` starts them."""
    (out.parent).mkdir(parents=True, exist_ok=True)
    script = out.parent / "child.py"
    script.write_text(CHILD)
    inputs = [str(p) for p in (task.corpus, task.tokens, task.bank, task.model_dir)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, str(script), json.dumps([config.model_dump(), inputs, str(out)])],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"VIXML_PROGRESS": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_what_one_trains(task, tmp_path):
    """Mined batches, centroids, an image projection; one file is written, by the first process."""
    config = settings("early", epochs=2, batch_size=24)
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "one" / "model", CPU)
    together(task, config, tmp_path / "two" / "model")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    untrained = planted.make_trainer(task, config, tmp_path).model.state_dict()
    moved = 0.0
    for name, tensor in one.items():
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}")
            moved = max(moved, float((tensor - untrained[name]).abs().max()))
    assert moved > 1e-2, "training did something"
    record = json.loads((tmp_path / "two" / "model" / "training.json").read_text())
    assert record["processes"] == 2 and not (tmp_path / "two" / "checkpoint").exists()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["child.py", "model"]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "model" / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
