"""Batches: a pure function of seed, epoch and index, with the right queries, labels, pairs and draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import planted
import pytest
import torch
from tiny_models import VOCABULARY, random_lists

from vixml.config.run import RunConfig
from vixml.models.packing import MULTIPLE, Sequences, pack_sequences
from vixml.ragged import Ragged
from vixml.training.batches import EpochBatches, TrainingSet, draw_positives, iterate, query_order
from vixml.training.distributed import ProcessGroup

N, LABELS, IMAGES = 47, 19, 12


def vectors_of(rows):
    """Return the vectors of embeddings whose vector is its row, twice: (n,) rows -> (n, 2) float16."""
    return np.repeat(rows[:, None], 2, axis=1).astype(np.float16)


@pytest.fixture(scope="module")
def data():
    """Queries with one to five labels; every third query is not in use."""
    rng = np.random.default_rng(0)
    truth = [np.sort(rng.choice(LABELS, rng.integers(1, 6), replace=False)) for _ in range(N)]
    queries, labels = (
        random_lists(rng, rng.integers(1, top, n).tolist(), VOCABULARY) for n, top in ((N, 9), (LABELS, 5))
    )
    images = [random_lists(rng, rng.integers(0, top, n).tolist(), IMAGES, low=0) for n, top in ((N, 4), (LABELS, 3))]
    return TrainingSet(
        Sequences(queries, images[0], gather=vectors_of),
        Sequences(labels, images[1], gather=vectors_of),
        Ragged.from_rows(truth, LABELS),
        np.array([i for i in range(N) if i % 3]),
        rng.uniform(1, 8, LABELS),
    )


def run_with(loss=None, **training):
    return RunConfig(training={"batch_size": 8, **training}, loss=loss or {})


def epoch_batches(data, seed=0, epoch=0, config=None, **changes):
    return EpochBatches(data, config or run_with(), seed, epoch, **changes)


def flat(batch):
    """Return every number of a batch, to compare two of them."""
    found = [value for part in (batch, *batch.parts) for name, value in vars(part).items() if name != "parts"]
    return [value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value for value in found]


def test_every_query_once_an_epoch(data):
    batches = epoch_batches(data)
    seen = np.concatenate([batches[i].queries for i in range(len(batches))])
    assert len(batches) == math.ceil(len(data.rows) / 8)
    np.testing.assert_array_equal(np.sort(seen), data.rows)


@pytest.mark.parametrize("copies", ["merged", "kept"])
def test_a_batch_has_its_positives_and_every_pair_of_the_truth(data, copies):
    """By a double loop; with copies, column j is the label that the j-th query drew, in order of labels (the official batch)."""
    batches = epoch_batches(data, config=run_with(label_copies=copies))
    n_copies = 0
    for i in range(len(batches)):
        batch = batches[i]
        labels = sorted(batches.positives[batch.queries].tolist())
        n_copies += len(labels) - len(set(labels))
        labels = labels if copies == "kept" else sorted(set(labels))
        assert batch.labels.tolist() == labels
        pairs = [
            (q, m)
            for q, query in enumerate(batch.queries)
            for m, label in enumerate(labels)
            if label in data.truth.row(query)
        ]
        assert sorted(map(tuple, batch.pairs.tolist())) == pairs, "each once"
        assert all((q, m) in pairs for drawn in batch.drawn_label.tolist() for q, m in enumerate(drawn))
        assert all((q, m) in pairs for m, q in enumerate(batch.drawn_query.tolist()))
        assert len(batch.parts[0]) == len(batch.queries) + len(labels), "each copy is encoded"
    assert n_copies > 3


@pytest.mark.parametrize("copies", ["merged", "kept"])
def test_terms_share_a_draw_or_have_their_own(data, copies):
    shared = epoch_batches(data, config=run_with(label_copies=copies))
    separate = epoch_batches(data, config=run_with({"draws": "per-term"}, label_copies=copies))
    differ = 0
    for i in range(len(shared)):
        first, second, third = separate[i].drawn_label.tolist()
        assert (
            shared[i].drawn_label.tolist() == [first] * 3
            and shared[i].drawn_query.tolist() == separate[i].drawn_query.tolist()
        )
        differ += (first != second) + (first != third) + (second != third)
    assert differ > 3


def test_copies_are_drawn_as_often_as_they_occur():
    """Uniform over columns, as torch.multinomial over the official matrix: a label with two copies has two chances."""
    truth, lists = Ragged.from_rows([[0, 1], [0], [0], [1]], 2), Ragged.from_rows([[1]] * 4, 9)
    some = TrainingSet(Sequences(lists), Sequences(lists.take([0, 1])), truth, np.arange(4), np.ones(2))
    counts = np.zeros(4, int)
    for epoch in range(2000):
        batches = EpochBatches(some, run_with(label_copies="kept"), 0, epoch, with_text=False)
        batches.order, batches.positives = np.arange(4), np.array([1, 0, 0, 1])
        assert batches[0].labels.tolist() == [0, 0, 1, 1]
        counts += np.bincount(batches[0].drawn_label[0, :1], minlength=4)
    assert ((counts - 500) ** 2 / 500).sum() < 16.3


def test_the_stream_has_queries_then_labels(data):
    batch = epoch_batches(data)[1]
    texts, images = (
        [
            getattr(items, name).row(i)
            for items, rows in ((data.queries, batch.queries), (data.labels, batch.labels))
            for i in rows
        ]
        for name in ("tokens", "images")
    )
    expected = pack_sequences(Ragged.from_rows(texts, VOCABULARY), Ragged.from_rows(images, IMAGES), multiple=MULTIPLE)
    for name, value in vars(expected).items():
        if name != "image_vectors":
            np.testing.assert_array_equal(getattr(batch.parts[0], name), value, err_msg=name)
    assert epoch_batches(data, with_text=False)[1].parts == ()


@pytest.mark.parametrize(("processes", "at_once"), [(1, 5), (1, 1), (2, None), (3, 2), (40, None)])
def test_parts_of_all_processes_have_each_item_once_in_order(data, processes, at_once):
    whole = epoch_batches(data)[1]
    groups = [ProcessGroup(rank, processes) for rank in range(processes)]
    batches = [epoch_batches(data, config=run_with(items_at_once=at_once), group=group)[1] for group in groups]
    lengths = [len(part) for batch in batches for part in batch.parts]
    assert sum(lengths) == len(whole.queries) + len(whole.labels) and max(lengths) <= (at_once or 100)
    for batch in batches:
        np.testing.assert_array_equal(batch.pairs, whole.pairs)
        np.testing.assert_array_equal(batch.drawn_query, whole.drawn_query)
        assert batch.has_images
    parts = [part for batch in batches for part in batch.parts]
    # Items keep their order: one part after the other has the whole batch's texts and images.
    found = [lists for part in parts for lists in items_of(part)]
    assert found == items_of(whole.parts[0])
    for part in parts:
        if part.image_vectors is not None:
            np.testing.assert_array_equal(part.image_vectors[:, 0].numpy(), part.image_rows)


def items_of(packed):
    """Return each item's tokens and image rows, in the caller's order."""
    entries = [*packed.token_ids.tolist(), *(f"image {row}" for row in packed.image_rows)]
    stream = [entries[g] for g in packed.gather]
    items = [
        stream[start + k * length : start + (k + 1) * length]
        for start, count, length in packed.blocks
        for k in range(count)
    ]
    return [items[k] for k in packed.restore]


def test_pure_function_of_seed_epoch_and_index(data):
    first = epoch_batches(data, seed=3, epoch=5)
    backwards = {i: flat(first[i]) for i in reversed(range(len(first)))}
    np.random.rand(5)
    again = epoch_batches(data, seed=3, epoch=5)
    assert backwards == {i: flat(again[i]) for i in range(len(again))}
    for other in (epoch_batches(data, seed=4, epoch=5), epoch_batches(data, seed=3, epoch=6)):
        assert flat(other[0]) != backwards[0]


def test_draws_inside_a_batch_are_those_of_its_epoch_and_index(data):
    """The same queries and positives in another epoch, or at another index, draw anew."""
    draws = set()
    for epoch in (0, 1):
        batches = epoch_batches(data, epoch=epoch, config=run_with(batch_size=len(data.rows)))
        batches.order, batches.positives = np.tile(data.rows, 2), epoch_batches(data).positives
        draws |= {tuple(batches[index].drawn_label[0]) for index in (0, 1)}
    assert len(draws) == 4


def test_workers_change_nothing(data):
    batches = epoch_batches(data)
    alone = [flat(batch) for batch in iterate(batches, 0, workers=0)]
    assert alone == [flat(batches[i]) for i in range(len(batches))]
    assert [flat(batch) for batch in iterate(batches, 0, workers=2)] == alone
    assert [flat(batch) for batch in iterate(batches, 3, workers=0)] == alone[3:]
    assert list(iterate(batches, len(batches), workers=0)) == []


def test_mined_groups_stay_together_in_random_order(data):
    groups = np.random.default_rng(0).permutation(np.arange(len(data.rows)) % 7)
    group_of = dict(zip(data.rows.tolist(), groups.tolist(), strict=True))
    orders = [query_order(data.rows, groups, 0, epoch) for epoch in range(4)]
    sequences = []
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), data.rows)
        found = [group_of[row] for row in order.tolist()]
        runs = [g for i, g in enumerate(found) if i == 0 or found[i - 1] != g]
        assert len(runs) == 7, "each group is one run"
        sequences.append(tuple(runs))
    assert len(set(sequences)) > 1, "groups change positions"
    inside = [[row for row in order.tolist() if group_of[row] == 0] for order in orders]
    assert len({tuple(rows) for rows in inside}) > 1, "and queries inside a group do"


def test_positives_are_drawn_by_weight():
    n, weights = 6000, np.array([1.0, 4.0, 9.0, 2.0, 7.0])
    truth = Ragged.from_rows([[0, 1, 3]] * n, 5)
    drawn = draw_positives(truth, np.arange(n), weights, seed=0, epoch=0)
    observed = np.bincount(drawn, minlength=5)[[0, 1, 3]]
    expected = n * np.array([1, 4, 2]) / 7
    # Chi-square of two degrees of freedom: 13.8 is passed once in a thousand seeds, and this one is fixed.
    assert ((observed - expected) ** 2 / expected).sum() < 13.8
    assert observed.sum() == n


def test_epochs_draw_independently():
    truth = Ragged.from_rows([[0, 1]], 2)
    drawn = [draw_positives(truth, np.array([0]), np.ones(2), 0, epoch)[0] for epoch in range(400)]
    assert 160 < sum(drawn) < 240
    changes = sum(a != b for a, b in itertools.pairwise(drawn))
    assert 160 < changes < 240


def test_a_draw_does_not_depend_on_which_other_queries_are_in_use(data):
    drawn = draw_positives(data.truth, data.rows, data.weights, 0, 2)
    few = draw_positives(data.truth, data.rows[::4], data.weights, 0, 2)
    np.testing.assert_array_equal(few[data.rows[::4]], drawn[data.rows[::4]])
    assert (drawn[::3] == -1).all(), "queries that are not in use draw nothing"
    for row in data.rows:
        assert drawn[row] in data.truth.row(row)


def test_extreme_weights_still_draw_a_true_label():
    truth = Ragged.from_rows([[0, 1], [2], [0, 2]] * 50, 3)
    drawn = draw_positives(truth, np.arange(150), np.array([1e-12, 1e12, 1.0]), 0, 0)
    assert all(label in truth.row(i) for i, label in enumerate(drawn))
    assert (drawn[0::3] == 1).all() and (drawn[2::3] == 2).all()


@pytest.mark.parametrize("modality", ["text", "text+image"])
def test_a_last_batch_of_one_trains(task, tmp_path, modality):
    config = planted.make_config(modality=modality, training={"epochs": 2, "batch_size": 8})
    sizes = []
    training = planted.make_training(task, config, rows=17)
    state = planted.train(training, tmp_path, step=lambda n, loss: sizes.append(n))
    assert sizes == [8, 8, 1] * 2
    assert all(np.isfinite(line["loss"]) for line in state.history)
