"""The curriculum of NGAME, ours and the official one: when queries are clustered, and into how many groups."""

from __future__ import annotations

import math

import numpy as np
import planted
import pytest
import torch
from torch.nn import functional as F

from vixml.config.run import Mining
from vixml.models.encode import encode_items
from vixml.training import train
from vixml.training.mining import n_groups
from vixml.training.vectors import StoredVectors, label_means

SCHEDULE = {"start": 2, "update": 3, "size": 4, "double_at": [4, 7]}
EPOCHS, QUERIES = 12, 100


def official_replay() -> dict[int, int]:
    """Return {epoch: groups that it is mined with}, by replaying the official loop: clusters are made after an epoch."""
    size, groups, mined = SCHEDULE["size"], 0, {}
    for epoch in range(EPOCHS):
        if groups:
            mined[epoch] = groups
        if epoch in SCHEDULE["double_at"]:
            size *= 2
        if epoch >= SCHEDULE["start"] and (epoch - SCHEDULE["start"]) % SCHEDULE["update"] == 0:
            groups = 2 ** math.ceil(math.log2(QUERIES / size))
    return mined


def replay(task, monkeypatch, **mining) -> tuple[dict[int, int], list[int]]:
    """Return {epoch: groups} of a training, and the epochs at which it clustered."""
    config = planted.make_config(mining={**SCHEDULE, **mining}, training={"epochs": EPOCHS})
    training = planted.make_training(task, config, rows=QUERIES)
    state = train.new_state(training)
    state.stored = StoredVectors(F.normalize(torch.randn(len(training.data.truth), 8), dim=1))
    clustered, mined = [], {}

    def group(vectors, n_groups, seed):
        assert len(vectors) == QUERIES
        clustered.append(n_groups)
        return np.arange(len(vectors)) % n_groups

    monkeypatch.setattr(train, "balanced_groups", group)
    made_at = []
    for state.epoch in range(EPOCHS):
        before = len(clustered)
        train.update_groups(training, state, planted.silent_view())
        made_at += [state.epoch] * (len(clustered) - before)
        if state.groups is not None:
            mined[state.epoch] = int(state.groups.max()) + 1
    return mined, made_at


def test_the_official_curriculum(task, monkeypatch):
    mined, made_at = replay(task, monkeypatch, cluster="end", groups="power-of-two")
    assert mined == official_replay() and min(mined) == SCHEDULE["start"] + 1
    assert made_at == [3, 6, 9]


def test_our_curriculum(task, monkeypatch):
    mined, made_at = replay(task, monkeypatch)
    assert made_at == [2, 5, 8, 11]
    assert mined == dict.fromkeys((2, 3, 4), 25) | dict.fromkeys((5, 6, 7), 13) | dict.fromkeys((8, 9, 10, 11), 7)


@pytest.mark.parametrize(
    ("queries", "size", "groups"),
    [(294_805, 16, 32_768), (2_248_619, 16, 262_144), (64, 16, 4), (65, 16, 8), (5, 16, 1), (1, 1, 1)],
)
def test_groups_are_rounded_up_to_a_power_of_two(queries, size, groups):
    assert n_groups(Mining(size=size, groups="power-of-two"), queries, 0) == groups
    assert n_groups(Mining(size=size), queries, 0) == math.ceil(queries / size)


@pytest.mark.parametrize("changes", [{}, {"encoder": {"train": "frozen"}}, {"modality": "text"}])
@pytest.mark.parametrize("last", ["stored", "encoded"])
def test_the_last_centroids(task, tmp_path, last, changes):
    """Means of vectors stored during training, with dropout, or of the finished model's vectors."""
    changes = {**changes, "encoder": {"dropout": 0.2, **changes.get("encoder", {})}}
    config = planted.make_config(prototype={"last_centroids": last}, training={"epochs": 2}, **changes)
    training = planted.make_training(task, config)
    state = planted.train(training, tmp_path)
    data, rows = training.data, training.data.rows
    encoded = encode_items(training.model, data.queries.take(rows), "fp32")
    means = {"stored": state.stored.read()[rows], "encoded": F.normalize(encoded, dim=1)}
    means = {name: label_means(vectors, data.truth.take(rows))[0] for name, vectors in means.items()}
    torch.testing.assert_close(training.model.centroid, means[last])
    apart = (means["stored"] - means["encoded"]).abs().max()
    assert apart > 1e-3 or (training.stored_only and apart < 1e-6)


def test_a_frozen_encoder_needs_no_second_pass(task, tmp_path, monkeypatch):
    text = {"modality": "text", "prototype": {"last_centroids": "encoded"}}
    config = planted.make_config(**text, encoder={"train": "frozen"}, training={"epochs": 1})
    calls = []
    monkeypatch.setattr(train, "encode_shared", lambda *a, f=train.encode_shared: calls.append(1) or f(*a))
    planted.train(planted.make_training(task, config), tmp_path)
    assert len(calls) == 2, "queries and labels, at the start"


def test_vectors_that_are_encoded_again_are_held_once(task, tmp_path, monkeypatch):
    text = {"modality": "text", "prototype": {"last_centroids": "encoded"}}
    config = planted.make_config(**text, training={"epochs": 1, "refit_epochs": 1})
    found = []

    def encode_shared(*given, encode=train.encode_shared):
        found.append(encode(*given))
        return found[-1]

    monkeypatch.setattr(train, "encode_shared", encode_shared)
    training = planted.make_training(task, config, rows=40)
    planted.train(training, tmp_path)
    of_all = [vectors for vectors in found if len(vectors) == len(training.data.rows)]
    assert len(of_all) == 2, "for the last centroids and for the refit"
    for vectors in of_all:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
