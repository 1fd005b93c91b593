"""The softmax over all labels against its double loop, values and gradients; and what trains label vectors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.models.encode import all_prototypes, encode_items
from vixml.ragged import Ragged
from vixml.training.all_labels import Candidates, decoupled_softmax, draw_candidates, label_loss, refit
from vixml.training.train import batch_loss, epoch_batches, initialise, new_state, train_step

ALL = {"method": "all-labels", "optimizer": {"lr": 5e-3, "lr_new": 5e-3, "lr_labels": 5e-3}}


def naive(queries, vectors, truth, temperature, stands_for):
    """Return the mean over pairs, from the definition; ``stands_for`` maps each candidate to a number of labels."""
    losses = []
    for query, positives in zip(queries, truth, strict=True):
        score = {label: query @ F.normalize(vectors[label], dim=0) / temperature for label in stands_for}
        negatives = [n * score[label].exp() for label, n in stands_for.items() if label not in positives]
        others = sum(negatives, torch.zeros(()))
        losses += [-(score[p].exp() / (score[p].exp() + others)).log() for p in positives]
    return sum(losses) / len(losses)


def compare(queries, vectors, truth, n_labels, temperature, candidates):
    """Check value and gradients against the double loop; return the gradient of the vectors."""
    leaves = [[one.clone().requires_grad_() for one in (queries, vectors)] for _ in range(2)]
    ours = label_loss(*leaves[0], candidates, temperature)
    labels = range(n_labels) if candidates.labels is None else candidates.labels.tolist()
    weights = [0.0] * len(labels) if candidates.log_weight is None else candidates.log_weight.tolist()
    stands_for = {label: math.exp(weight) for label, weight in zip(labels, weights, strict=True)}
    expected = naive(*leaves[1], truth, temperature, stands_for)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-8)
    found, wanted = torch.autograd.grad(ours, leaves[0]), torch.autograd.grad(expected, leaves[1], allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=1e-8, rtol=1e-6)
        assert torch.isfinite(a).all()
    return found[1]


def made_up(rng, truth, n_labels, dim=4):
    queries = F.normalize(torch.from_numpy(rng.standard_normal((len(truth), dim))), dim=1)
    return queries, torch.from_numpy(rng.standard_normal((n_labels, dim)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    n_labels=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    sampled=st.sampled_from([None, 1, 3, 100]),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
def test_any_batch_equals_the_double_loop(seed, n, n_labels, density, sampled, temperature):
    """With several positives per row, rows whose positives are all labels, one label, labels of no query, equal queries."""
    rng = np.random.default_rng(seed)
    is_positive = rng.random((n, n_labels)) < density
    is_positive[np.arange(n), rng.integers(0, n_labels, n)] = True
    truth = [np.flatnonzero(row).tolist() for row in is_positive]
    queries, vectors = made_up(rng, truth, n_labels)
    queries[-1] = queries[0]
    trained = np.union1d(np.flatnonzero(is_positive.any(axis=0)), rng.integers(0, n_labels, 4))
    candidates = draw_candidates(Ragged.from_rows(truth, n_labels), trained, sampled, rng)
    compare(queries, vectors, truth, n_labels, temperature, candidates)


@pytest.mark.parametrize("truth", [[[0]], [[0, 1, 2]], [[0, 1, 2], [0, 1, 2]]], ids=["one label", "all", "all, twice"])
def test_rows_without_negatives_learn_nothing(truth):
    n_labels = max(truth[0]) + 1
    candidates = draw_candidates(Ragged.from_rows(truth, n_labels), np.arange(n_labels), None, None)
    queries, vectors = made_up(np.random.default_rng(0), truth, n_labels)
    assert not torch.count_nonzero(compare(queries, vectors, truth, n_labels, 0.1, candidates))
    assert label_loss(queries, vectors, candidates, 0.1) == 0


def test_other_positives_are_no_negatives():
    """By hand: scores 1, 1 of two positives and 0 of one negative, temperature 1: log(1 + 1/e) each."""
    loss = decoupled_softmax(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0, 0], [0, 1]]), 1.0)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))
    assert decoupled_softmax(torch.zeros(0, 3), torch.zeros(0, 2, dtype=torch.int64), 1.0) == 0


def test_candidates_are_the_positives_and_a_sample_of_the_others():
    truth, trained = Ragged.from_rows([[2, 5], [5]], 40), np.setdiff1d(np.arange(40), [0, 39])
    whole = draw_candidates(truth, trained, None, None)
    assert whole.labels.tolist() == trained.tolist() and whole.log_weight is None
    assert trained[whole.pairs[:, 1]].tolist() == [2, 5, 5] and whole.pairs[:, 0].tolist() == [0, 0, 1]
    seen, of_five = set(), []
    for seed in range(200):
        some = draw_candidates(truth, trained, 6, np.random.default_rng(seed))
        assert len(some.labels) == 8 and (np.diff(some.labels) > 0).all() and {2, 5} <= {*some.labels} <= {*trained}
        assert some.labels[some.pairs[:, 1]].tolist() == [2, 5, 5]
        stands_for = dict(zip(some.labels.tolist(), np.exp(some.log_weight).tolist(), strict=True))
        assert stands_for[2] == stands_for[5] == 1 and sum(stands_for.values()) == pytest.approx(38)
        seen |= stands_for.keys()
        of_five.append(some.labels.tolist())
    assert seen == {*trained.tolist()} and len(set(map(tuple, of_five))) > 190
    assert draw_candidates(truth, trained, 36, None).log_weight is None, "no fewer than there are: nothing is drawn"
    assert draw_candidates(truth, np.arange(40), None, None).labels is None, "all labels need no list"


def test_the_sampled_sum_keeps_its_expectation():
    """The mean of exp(log-sum) over samples is the sum over all labels."""
    rng = np.random.default_rng(1)
    truth = [[3]]
    queries, vectors = made_up(rng, truth, 30)
    scores = (queries @ F.normalize(vectors, dim=1).T)[0]
    whole, ragged = scores[[i for i in range(30) if i != 3]].exp().sum(), Ragged.from_rows(truth, 30)
    sums = []
    for seed in range(400):
        some = draw_candidates(ragged, np.arange(30), 10, np.random.default_rng(seed))
        weight = torch.from_numpy(some.log_weight).double().exp() * torch.from_numpy(some.labels != 3)
        sums.append(float((weight * scores[torch.from_numpy(some.labels)].exp()).sum()))
    assert np.mean(sums) == pytest.approx(float(whole), rel=0.02)


def config(**changes):
    return planted.make_config(**{**ALL, "encoder": {"dropout": 0.0}, **changes})


def labels_of(training):
    """Return the vectors z (u without prototypes) and u of all labels, unit rows."""
    u = encode_items(training.model, training.data.labels, "fp32")
    unit = F.normalize(u, dim=1)
    return all_prototypes(training.model, u) if training.model.has_prototypes else unit, unit


def test_label_vectors_start_at_centroid_and_text(task):
    training = planted.make_training(task, config(prototype={"text_start": 0.25}), rows=40)
    state = new_state(training)
    initialise(training, state)
    z, u = labels_of(training)
    queries, truth = state.stored.read(), training.data.truth
    without = [label for label in range(truth.n_cols) if label not in truth.values[: truth.offsets[40]]]
    for label in range(truth.n_cols):
        rows = [row for row in range(40) if label in truth.row(row)]
        expected = queries[rows].mean(dim=0) + 0.25 * u[label] if rows else u[label]
        torch.testing.assert_close(z[label], F.normalize(expected, dim=0), atol=1e-5, rtol=1e-4)
    assert training.model.has_vector.tolist() == [label not in without for label in range(truth.n_cols)]


@pytest.mark.parametrize(("text_weight", "n_encoded"), [(0.0, 0), (0.5, 10)])
def test_labels_are_encoded_for_the_term_of_u_alone(task, text_weight, n_encoded):
    training = planted.make_training(task, config(loss={"text_weight": text_weight}), rows=40)
    state = new_state(training)
    initialise(training, state)
    training.model.train()
    batch = epoch_batches(training, state)[0]
    assert (len(batch.labels) > 0) == bool(n_encoded) and len(batch.labels) <= n_encoded
    assert sum(map(len, batch.parts)) == len(batch.queries) + len(batch.labels)
    train_step(training, state, batch)
    assert state.sums.keys() == {"loss", "q_z"} | ({"q_u"} if text_weight else set())


def test_a_label_without_queries_has_its_text_vector(task, tmp_path):
    """Its own vector is never touched, and never a negative."""
    training = planted.make_training(task, config(), rows=60, held=1)
    truth = training.data.truth
    training.data.__dict__["truth"] = truth.select(truth.values != 3)
    training.data.__dict__["rows"] = np.array([row for row in range(60) if 3 not in truth.row(row)])
    planted.train(training, tmp_path)
    z, u = labels_of(training)
    torch.testing.assert_close(z[3], u[3])
    assert not training.model.has_vector[3] and (z - u).norm(dim=1)[training.model.has_vector].min() > 0.01


@pytest.mark.parametrize(
    "form", [{"method": "PRIME"}, {"method": "DEXA"}, {"method": "NGAME", "inference": {"labels_as": "u"}}]
)
def test_a_refit_gives_any_method_label_vectors(task, tmp_path, form):
    changes = {"encoder": {"dropout": 0.0}, **form}
    plain = planted.make_training(task, planted.make_config(**changes, training={"epochs": 1}), rows=100)
    planted.train(plain, tmp_path / "plain")
    again = planted.make_config(**changes, training={"epochs": 1, "refit_epochs": 30})
    training = planted.make_training(task, again, rows=100)
    history = planted.train(training, tmp_path / "refit").history
    z, u = labels_of(training)
    torch.testing.assert_close(u, labels_of(plain)[1], atol=0, rtol=0)
    queries = F.normalize(encode_items(training.model, training.data.queries, "fp32"), dim=1)[:100]
    truth = torch.from_numpy(training.data.truth.values[:100]).long()
    gain = [float(((queries @ some.T).argmax(dim=1) == truth).double().mean()) for some in (labels_of(plain)[0], z)]
    assert gain[1] > gain[0] and "P@1/z" in history[-1]


def test_a_refit_of_an_untrained_encoder(task, tmp_path):
    """Nothing but label vectors is learned; without epochs there is no report."""
    given = planted.make_config(method="none", training={"epochs": 0, "refit_epochs": 3})
    training = planted.make_training(task, given, rows=40)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    planted.train(training, tmp_path)
    changed = {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"vectors", "has_vector"}


def test_a_refit_goes_downhill_and_repeats_its_bytes():
    rng = np.random.default_rng(0)
    truth = Ragged.from_rows([sorted(rng.choice(12, 2, replace=False).tolist()) for _ in range(50)], 12)
    queries, start = made_up(rng, list(truth.lengths), 12)
    queries, start = queries.float(), start.float()
    given = RunConfig(training={"refit_epochs": 20, "batch_size": 16}, optimizer={"lr_labels": 0.05})
    whole = draw_candidates(truth, np.arange(12), None, None)
    found = []
    for sampled in (None, None, 3):
        vectors, taken = Parameter(start.clone(), requires_grad=False), []
        one = given.model_copy(update={"loss": given.loss.model_copy(update={"sampled_labels": sampled})})
        refit(vectors, queries, truth, one, 0, taken.append)
        after, before = (float(label_loss(queries, these, whole, 0.1)) for these in (vectors, start))
        assert sum(taken) == 20 * 50 and after < 0.9 * before
        found.append(vectors)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_refit_equals_a_plain_loop():
    """Full batches; AdamW without decay and with a falling rate, from its definition, on the naive loss."""
    rng, n_labels, epochs, rate = np.random.default_rng(3), 6, 4, 0.05
    truth = [sorted(rng.choice(n_labels, 2, replace=False).tolist()) for _ in range(7)]
    queries, start = made_up(rng, truth, n_labels)
    given = RunConfig(training={"refit_epochs": epochs, "batch_size": 16}, optimizer={"lr_labels": rate})
    found = Parameter(start.float(), requires_grad=False)
    refit(found, queries.float(), Ragged.from_rows(truth, n_labels), given, 0, lambda _: None)
    expected, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    trained = dict.fromkeys({label for labels in truth for label in labels}, 1.0)
    for step in range(epochs):
        leaf = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(naive(queries, leaf, truth, given.loss.temperature, trained), [leaf])
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        expected -= rate * (1 - step / epochs) * unbiased[0] / (unbiased[1].sqrt() + given.optimizer.eps)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_the_total_with_a_term_for_u_equals_the_double_loop():
    """Value and gradients; u is compared with the batch's labels, z with all."""
    rng, truth, labels, weight = np.random.default_rng(0), [[0, 2], [2, 3, 5], [1]], [0, 1, 2], 0.5
    made = [*made_up(rng, truth, 12), torch.from_numpy(rng.standard_normal((3, 4)))]
    leaves = [[one.float().to(kind).requires_grad_() for one in made] for kind in (torch.float32, torch.float64)]
    candidates = draw_candidates(Ragged.from_rows(truth, 12), np.arange(12), 2, rng)
    in_batch = [[labels.index(label) for label in row if label in labels] for row in truth]
    batch = SimpleNamespace(
        labels=np.array(labels), pairs=np.array([(i, label) for i, row in enumerate(in_batch) for label in row]),
        drawn_label=np.zeros((3, 3), int), drawn_query=np.zeros(3, int), candidates=candidates,
    )  # fmt: skip
    queries, vectors, texts = leaves[0]
    training = SimpleNamespace(
        config=RunConfig(method="all-labels", loss={"text_weight": weight}),
        model=SimpleNamespace(vectors=vectors, prototypes=None), device=torch.device("cpu"),
    )  # fmt: skip
    found, terms = batch_loss(training, batch, queries, texts)
    stands_for = dict(zip(candidates.labels.tolist(), np.exp(candidates.log_weight).tolist(), strict=True))
    of_z = naive(leaves[1][0], leaves[1][1], truth, 0.1, stands_for)
    of_u = naive(leaves[1][0], leaves[1][2], in_batch, 0.1, dict.fromkeys(range(3), 1.0))
    torch.testing.assert_close(found.double(), of_z + weight * of_u, atol=1e-6, rtol=1e-6)
    assert [terms[name].item() for name in ("q_z", "q_u")] == pytest.approx([of_z.item(), of_u.item()])
    for a, b in zip(
        torch.autograd.grad(found, leaves[0]), torch.autograd.grad(of_z + weight * of_u, leaves[1]), strict=True
    ):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": {"text_weight": 0.5}}, "loss.text_weight is for method 'all-labels'"),
        ({"loss": "all-labels"}, "set `method: all-labels`"),
        ({"loss": {"sampled_labels": 5}}, "loss.sampled_labels is for"),
        ({"training": {"refit_epochs": 2}, "loss": {"text_weight": 0.5}}, "loss.text_weight is for"),
        ({"method": "all-labels", "training": {"refit_epochs": 2}}, "set training.refit_epochs to 0"),
        ({"method": "all-labels", "loss": {"temperature": 0}}, "temperature"),
        ({"method": "all-labels", "loss": {"sampled_labels": 0}}, "sampled_labels"),
        ({"optimizer": {"lr_labels": float("nan")}}, "lr_labels"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(given)


def test_candidates_are_pinned_whole(monkeypatch):
    monkeypatch.setattr("vixml.training.all_labels.pinned", lambda array: array.copy())
    some = Candidates(np.arange(3), np.zeros((1, 2), np.int64), np.zeros(3, np.float32))
    for pinned, array in zip(vars(some.pin_memory()).values(), vars(some).values(), strict=True):
        assert pinned is not array and np.array_equal(pinned, array)
    assert Candidates(None, some.pairs).pin_memory().labels is None
