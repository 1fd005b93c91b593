"""Metrics against numbers worked out by hand, and against double loops on random cases."""

import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vixml.errors import VixmlError
from vixml.evaluation.metrics import evaluate, hits_in_chunks
from vixml.ragged import Ragged

KS = (1, 2, 3, 12)


def table(rankings: list[list[int]], width: int) -> np.ndarray:
    """Return rankings as a table, padded with -1."""
    return np.array([row[:width] + [-1] * (width - len(row)) for row in rankings], dtype=np.int32)


def test_hand_worked():
    #          truth   ranking   true at    weights of the labels 0..4: 1 2 4 8 16
    # query 0  0 2     2 1 0     1 . 3
    # query 1  1       3 1 -     . 2 .
    # query 2  none    4 0 1     . . .      counts in every mean
    truth = Ragged.from_rows([[0, 2], [1], []], n_cols=5)
    predictions = table([[2, 1, 0], [3, 1], [4, 0, 1]], 3)
    found = evaluate(predictions, truth, np.array([1.0, 2, 4, 8, 16]), ks=(1, 2, 3), deep_ks=(1, 2, 3))
    second = 1 / np.log2(3)  # discount of position 2: 0.6309; that of position 3 is 1 / log2(4) = 0.5
    expected = {
        "P@1": 1 / 3,
        "P@2": 2 / 6,
        "P@3": 3 / 9,
        "nDCG@1": 1 / 3,
        "nDCG@2": (1 / (1 + second) + second / 1) / 3,  # two true labels: the ideal is 1 + 0.6309; one: 1
        "nDCG@3": (1.5 / (1 + second) + second / 1) / 3,
        "PSP@1": 4 / (4 + 2),  # the best first positions are label 2 (weight 4) and label 1 (weight 2)
        "PSP@2": (4 + 2) / (4 + 1 + 2),
        "PSP@3": (4 + 1 + 2) / (4 + 1 + 2),
        "PSnDCG@1": 4 / (4 + 2),
        "PSnDCG@2": (4 / (1 + second) + 2 * second) / ((4 + second) / (1 + second) + 2),
        "PSnDCG@3": (4.5 / (1 + second) + 2 * second) / ((4 + second) / (1 + second) + 2),
        "R@1": (1 / 2 + 0) / 3,
        "R@2": (1 / 2 + 1) / 3,
        "R@3": (2 / 2 + 1) / 3,
        "hit@1": 1 / 3,
        "hit@2": 2 / 3,
        "hit@3": 2 / 3,
        "MAP@1": 1 / 3,
        "MAP@2": (1 / 2 + 1 / 2) / 3,
        "MAP@3": ((1 + 2 / 3) / 2 + 1 / 2) / 3,
        "MRR@1": 1 / 3,
        "MRR@2": (1 + 1 / 2) / 3,
        "MRR@3": (1 + 1 / 2) / 3,
    }
    assert found.metrics == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-10)
    assert (found.n_queries, found.n_queries_without_positives, found.n_queries_short) == (3, 1, 1)


def test_filtered_labels_leave_the_ranking_and_later_ones_move_up():
    truth = Ragged.from_rows([[1], [0, 2]], n_cols=3)
    predictions = table([[0, 1, 2], [0, 1, 2]], 3)
    filter = Ragged.from_rows([[0], [0]], n_cols=3)
    found = evaluate(predictions, truth, np.ones(3), filter=filter, ks=(1, 2), deep_ks=(2,))
    # Query 0: 1 2, first is true. Query 1: 1 2, second is true; its label 0 stays in the truth and cannot be reached.
    assert found.metrics["P@1"] == pytest.approx(50)
    assert found.metrics["P@2"] == pytest.approx(50)
    assert found.metrics["R@2"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert (found.n_filtered_predictions, found.n_filtered_positives, found.n_queries_short) == (2, 1, 0)
    assert [chunk.labels.tolist() for chunk in hits_in_chunks(predictions, truth, filter)] == [[[1, 2, -1], [1, 2, -1]]]


def test_padding_is_not_the_last_label_of_the_row_before():
    # As keys row * n + label, (1, -1) and (0, n - 1) are the same number.
    truth = Ragged.from_rows([[2], [2]], n_cols=3)
    found = evaluate(table([[0], []], 1), truth, np.ones(3), ks=(1,), deep_ks=(1,))
    assert found.metrics["P@1"] == 0


@st.composite
def cases(draw):
    n, n_labels, width = draw(st.integers(1, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 10))
    label_sets = st.lists(st.integers(0, n_labels - 1), unique=True, max_size=n_labels)
    rankings = [draw(label_sets)[:width] for _ in range(n)]
    truth = [sorted(draw(label_sets)) for _ in range(n)]
    assume(any(truth))
    filters = draw(st.none() | st.just([sorted(draw(label_sets)) for _ in range(n)]))
    # A weight may occur often, as labels of one frequency do.
    weights = draw(st.lists(st.sampled_from([1.0, 1.5, 7.25, 10.9]), min_size=n_labels, max_size=n_labels))
    return rankings, truth, weights, filters, width, n_labels


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from([1e-4, 1e-3, 64]))
def test_agrees_with_double_loops(case, memory_mb):
    rankings, truth, weights, filters, width, n_labels = case
    lists = {"filter": None if filters is None else Ragged.from_rows(filters, n_labels), "ks": KS, "deep_ks": KS}
    positives = Ragged.from_rows(truth, n_labels)
    found = evaluate(table(rankings, width), positives, np.array(weights), **lists, memory_mb=memory_mb)
    expected = oracle.metrics(rankings, truth, weights, filters, list(KS))
    assert found.metrics == pytest.approx(expected, abs=1e-9)
    assert found.n_queries_without_positives == sum(not row for row in truth)
    if filters is not None:
        pairs = [(len(set(a) & set(b)), len(set(c) & set(b))) for a, b, c in zip(rankings, filters, truth, strict=True)]
        assert (found.n_filtered_predictions, found.n_filtered_positives) == tuple(map(sum, zip(*pairs, strict=True)))


@settings(deadline=None, max_examples=50)
@given(cases())
def test_the_best_ranking_scores_100(case):
    _, truth, weights, _, _, n_labels = case
    best = [sorted(row, key=lambda label: -weights[label]) for row in truth]
    found = evaluate(table(best, 12), Ragged.from_rows(truth, n_labels), np.array(weights), ks=KS, deep_ks=(12,))
    for k in KS:
        assert found.metrics[f"PSP@{k}"] == pytest.approx(100)
        assert found.metrics[f"PSnDCG@{k}"] == pytest.approx(100)
    assert max(found.metrics.values()) <= 100
    if all(truth):
        for name in ("nDCG@1", "nDCG@12", "R@12", "hit@12", "MAP@12", "MRR@12"):
            assert found.metrics[name] == pytest.approx(100)


def test_what_cannot_be_scored_is_refused():
    truth, weights = Ragged.from_rows([[0], [1]], n_cols=2), np.ones(2)
    good = table([[0], [0]], 1)
    with pytest.raises(VixmlError, match="do not belong together"):
        evaluate(good[:1], truth, weights)
    with pytest.raises(VixmlError, match="nothing to score"):
        evaluate(good, Ragged.from_rows([[], []], n_cols=2), weights)
    with pytest.raises(VixmlError, match="k of 1 or more"):
        evaluate(good, truth, weights, ks=(0, 1))
    with pytest.raises(VixmlError, match="propensities do not fit"):
        evaluate(good, truth, np.array([1.0, np.nan]))
    with pytest.raises(VixmlError, match=r"filter .* do not belong together"):
        evaluate(good, truth, weights, filter=Ragged.from_rows([[0]], n_cols=2))
    with pytest.raises(VixmlError, match="occurs twice") as error:
        evaluate(good, Ragged.from_rows([[0], [1, 1]], n_cols=2), weights)
    assert error.value.where == "query 1"
