"""Diagnostics against naive loops; a collapsed run warns, a diverged run stops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.training import diagnostics
from vixml.training import train as stage_module
from vixml.training.diagnostics import (
    WatchedQueries,
    collapse_warning,
    hits,
    knn_precision_at_1,
    mean_cosine,
    precision_at_1,
)
from vixml.training.train import TrainingView, encode_shared


def unit(n, dim, seed):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def random_truth(n, n_labels, seed):
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(n_labels, rng.integers(0, min(4, n_labels) + 1), replace=False)) for _ in range(n)]
    return Ragged.from_rows(rows, n_labels)


@given(st.integers(2, 12), st.integers(0, 99))
def test_mean_cosine_is_that_of_all_pairs(n, seed):
    x = unit(n, 4, seed)
    pairs = [float(x[i] @ x[j]) for i in range(n) for j in range(n) if i != j]
    assert mean_cosine(x) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_mean_cosine_of_extremes():
    assert mean_cosine(torch.ones(5, 4) / 2) == pytest.approx(1)
    assert mean_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_cosine(unit(1, 4, 0)) == 0, "one row has no pair; NaN could not be written"


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 8), st.integers(0, 99))
def test_precision_at_1(n, n_labels, seed):
    queries, labels, truth = unit(n, 3, seed), unit(n_labels, 3, seed + 1), random_truth(n, n_labels, seed)
    right = 0
    for i in range(n):
        scores = [float(queries[i] @ label) for label in labels]
        right += scores.index(max(scores)) in truth.row(i)
    assert precision_at_1(WatchedQueries(queries, truth), labels) == pytest.approx(100 * right / n)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
def test_knn_precision_at_1(n, n_train, neighbours, seed):
    queries, train = unit(n, 3, seed), unit(n_train, 3, seed + 1)
    truth, train_truth = random_truth(n, 9, seed), random_truth(n_train, 9, seed + 2)
    right = 0
    for i in range(n):
        nearest = sorted(range(n_train), key=lambda j: -float(queries[i] @ train[j]))[:neighbours]
        share = [math.exp(float(queries[i] @ train[j]) / 0.5) for j in nearest]
        votes = [sum(s for s, j in zip(share, nearest, strict=True) if m in train_truth.row(j)) for m in range(9)]
        right += votes.index(max(votes)) in truth.row(i)
    found = knn_precision_at_1(WatchedQueries(queries, truth), WatchedQueries(train, train_truth), neighbours, 0.5)
    assert found == pytest.approx(100 * right / n)


def test_hits():
    truth = Ragged.from_rows([[0, 2], [1], [], [2]], 3)
    assert hits(torch.tensor([2, 0, 0, 2]), truth) == 50
    assert math.isnan(hits(torch.zeros(0, dtype=torch.int64), Ragged.from_rows([], 3)))


@pytest.mark.parametrize(
    ("loss", "queries", "prototypes", "prime", "collapsed"),
    [
        (0.32, 0.995, 0.995, True, True),
        (0.33, 0.995, 0.995, True, True),
        (0.36, 0.995, 0.995, True, False),  # another loss
        (0.32, 0.9, 0.995, True, False),  # queries differ
        (0.32, 0.995, 0.9, True, False),  # prototypes differ
        (0.1, 0.995, 0.995, False, True),
        (0.32, 0.995, 0.995, False, False),  # another method, another loss
    ],
)
def test_a_collapsed_epoch(loss, queries, prototypes, prime, collapsed):
    report = {"epoch": 0, "loss": loss, "cosine_queries": queries, "cosine_u": 0.5, "cosine_prototypes": prototypes}
    assert (collapse_warning(report, RunConfig(method="PRIME" if prime else "DEXA")) is not None) == collapsed


@pytest.fixture
def constant_task(task, tmp_path):
    """The planted task with a language model that gives every text the same vector."""
    folder = tiny_models.write_bert(tmp_path / "constant", dropout=0.0)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if "LayerNorm.weight" in name:
            tensor.zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return replace(task, model_dir=folder)


def test_a_collapsed_run_warns(constant_task, tmp_path):
    config = planted.make_config(
        modality="text",
        encoder={"train": "frozen"},
        prototype={"init": "label-mean", "dropout": 0.0},
        optimizer={"lr": 1e-9, "lr_new": 1e-9},
        training={"epochs": 1},
    )
    warned = []
    state = planted.train(planted.make_training(constant_task, config), tmp_path / "run", warn=warned.append)
    assert state.history[0]["loss"] == pytest.approx(0.32, abs=1e-3)
    assert len(warned) == 1 and "collapsed" in warned[0] and "0.32" in warned[0]


def test_a_diverged_run_is_one_clear_error(task, tmp_path):
    training = planted.make_training(task, planted.make_config())
    with torch.no_grad():
        training.model.projection.weight.fill_(float("nan"))
    with pytest.raises(VixmlError, match="diverged") as caught:
        planted.train(training, tmp_path)
    assert "epoch 0" in str(caught.value.where)


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """A training, its state, and what it showed."""
    training, reports, warned = planted.make_training(task, planted.make_config()), [], []
    state = planted.train(training, tmp_path_factory.mktemp("run"), epoch=reports.append, warn=warned.append)
    return training, state, reports, warned


def test_a_learning_run_reports_each_epoch_and_does_not_warn(finished):
    _, state, reports, warned = finished
    assert warned == [] and reports == state.history and [r["epoch"] for r in reports] == [0, 1, 2]
    for report in reports:
        total = report["loss/q_u"] + report["loss/q_z"] + report["loss/u_q"] + 0.1 * report["loss/reg"]
        assert report["loss"] == pytest.approx(total, abs=1e-5)
        assert {"P@1/u", "P@1/z", "P@1/centroid", "P@1/knn", "norm_u", "norm_free", "norm_centroid"} <= report.keys()
        assert {"cosine_queries", "cosine_u", "cosine_prototypes", "samples_per_second", "seconds"} <= report.keys()


def test_centroids_are_the_means_of_stored_vectors(finished):
    training, state, *_ = finished
    for label in range(training.data.truth.n_cols):
        queries = [i for i in training.data.rows if label in training.data.truth.row(i)]
        torch.testing.assert_close(training.model.centroid[label], state.stored.read()[queries].mean(dim=0))
    assert training.model.has_centroid.all()


def test_stored_vectors_are_those_of_the_last_step(task, tmp_path):
    """With one batch per epoch, an epoch stores the vectors of the previous epoch's weights."""
    config = planted.make_config(
        encoder={"dropout": 0.0}, optimizer={"warmup_steps": 0}, training={"epochs": 2, "batch_size": 64}
    )
    between = []

    def encode_all(report):
        between.append(F.normalize(encode_shared(training, training.data.queries), dim=1)[:40])

    training = planted.make_training(task, config, rows=40)
    stored = planted.train(training, tmp_path, epoch=encode_all).stored.read()[:40]
    torch.testing.assert_close(stored, between[0], atol=1e-5, rtol=1e-5)
    assert (stored - between[1]).abs().max() > 1e-3


def test_labels_without_queries_have_no_centroid(task, tmp_path):
    training = planted.make_training(task, planted.make_config(training={"epochs": 0}), rows=3)
    planted.train(training, tmp_path)
    used = {int(label) for i in range(3) for label in training.data.truth.row(i)}
    assert training.model.has_centroid.nonzero()[:, 0].tolist() == sorted(used)


def test_the_view_counts_and_reads_the_loss_only_when_shown():
    counted, notes, lines = [], [], []

    class Bar:
        def __call__(self, n, note):
            counted.append(n)
            notes.append(note)

        say = staticmethod(lines.append)

    view = TrainingView(Bar(), "run seed 0", 3)
    view.step(4, torch.tensor(0.25))
    assert counted == [4] and notes[0]().startswith("loss 0.250, ")
    view.epoch({"epoch": 0, "loss": 0.5, "samples_per_second": 12.0, "P@1/u": 40.0, "P@1/z": 50.0})
    view.warn("look")
    scores = "validation P@1 u 40.0, validation P@1 z 50.0"
    assert lines == [f"run seed 0: epoch 1/3, loss 0.5000, 12 samples/s, {scores}", "WARNING run seed 0: look"]


@pytest.mark.parametrize("which", [{}, {"modality": "text", "encoder": {"train": "frozen"}}])
def test_with_nothing_held_out_a_sample_of_the_labels_is_enough(task, tmp_path, monkeypatch, which):
    """The same numbers as from all labels, of those encoded; the trained model does not change."""
    config = planted.make_config(**which, training={"epochs": 1})
    whole = planted.make_training(task, config, rows=40, held=0)
    every = planted.train(whole, tmp_path / "a")
    monkeypatch.setattr(diagnostics, "WATCHED", 4)
    assert diagnostics.watched(10, 0).tolist() == [0, 3, 6, 9] and len(diagnostics.watched(10, 1)) == 10
    encoded = []
    some = planted.make_training(task, config, rows=40, held=0)
    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "encode_shared", lambda *given: encoded.append(given) or encode_shared(*given))
        few = planted.train(some, tmp_path / "b")
    assert planted.weights_of(some, tmp_path / "b") == planted.weights_of(whole, tmp_path / "a")
    assert [len(given[2]) for given in encoded[2:]] == ([] if some.stored_only else [4, 0])
    few_of, all_of = few.history[0], every.history[0]
    assert few_of.keys() == all_of.keys()
    label_u = every.label_u
    if not some.stored_only:
        label_u = encode_shared(whole, whole.data.labels)
    unit = F.normalize(label_u, dim=1)
    assert few_of["cosine_u"] == pytest.approx(diagnostics.mean_cosine(unit[[0, 3, 6, 9]]), abs=1e-4)
    assert few_of["cosine_queries"] == all_of["cosine_queries"] and few_of["cosine_u"] != all_of["cosine_u"]


def test_queries_are_ranked_in_pieces(monkeypatch):
    labels = unit(31, 6, 1)
    queries, train = (
        WatchedQueries(unit(23, 6, 0), random_truth(23, 31, 3)),
        WatchedQueries(unit(40, 6, 2), random_truth(40, 31, 4)),
    )
    whole = precision_at_1(queries, labels), knn_precision_at_1(queries, train)
    monkeypatch.setattr(diagnostics, "PRODUCTS", 70)
    assert (precision_at_1(queries, labels), knn_precision_at_1(queries, train)) == whole
