"""The linear model: ridge regression in both forms against plain normal equations, its terms, filter, and limits."""

from __future__ import annotations

import numpy as np
import pytest

from vixml.config import limits
from vixml.data.lexical import inverse_frequencies, tf_idf
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval import linear as module
from vixml.retrieval.linear import REGULARISER, LinearModel, linear, linear_scores

TRAIN = ["fishing rod", "fishing net", "tent", "sleeping bag", "rod holder", "tent pole"]
LABELS = Ragged.from_rows([[0, 1], [0], [2], [2], [1], [2, 1]], 4)
QUERIES = ["fishing pole", "bag"]


def features(model, texts=QUERIES):
    return model.features(tf_idf(texts, model.weights))


@pytest.mark.parametrize("most", [1 << 14, 5], ids=["dual", "primal, the most frequent terms"])
def test_agrees_with_the_normal_equations(monkeypatch, most):
    monkeypatch.setattr(module, "LINEAR_TERMS", most)
    monkeypatch.setattr(module, "PANEL", 2)
    weights = inverse_frequencies(TRAIN)
    x, q = (tf_idf(texts, weights) for texts in (TRAIN, QUERIES))
    occurs = (x.toarray() > 0).sum(axis=0)
    used = sorted(sorted(np.flatnonzero(occurs), key=lambda term: (-occurs[term], term))[:most])
    x, q = x[:, used].toarray().astype(np.float64), q[:, used].toarray()
    y = np.zeros((len(TRAIN), 4))
    for row in range(len(TRAIN)):
        y[row, LABELS.row(row)] = 1
    expected = q @ np.linalg.solve(x.T @ x + REGULARISER * np.eye(len(used)), x.T @ y)
    model = LinearModel.fit(TRAIN, LABELS)
    assert model.terms.tolist() == used
    ids, scores = linear(features(model), model.coefficients, 4)
    for row in range(len(QUERIES)):
        np.testing.assert_allclose(scores[row], expected[row][ids[row]], atol=1e-6)
        assert (np.diff(scores[row]) <= 0).all() and sorted(ids[row]) == [0, 1, 2, 3]


def test_a_query_does_not_depend_on_its_batch():
    model = LinearModel.fit(TRAIN, LABELS)
    together = linear_scores(features(model, QUERIES + TRAIN), model.coefficients, None)
    alone = [linear_scores(features(model, [text]), model.coefficients, None) for text in QUERIES + TRAIN]
    assert np.array_equal(together, np.concatenate(alone))


def test_filtered_pairs_are_left_out():
    model = LinearModel.fit(TRAIN, LABELS)
    ids, scores = linear(features(model), model.coefficients, 4, filter=Ragged.from_rows([[0, 1], []], 4))
    assert set(ids[0].tolist()) == {2, 3, -1} and ids[0, 2:].tolist() == [-1, -1] and np.isinf(scores[0, 2:]).all()
    assert sorted(ids[1].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("texts", [[], ["", "?"]])
def test_texts_without_terms_score_nothing(texts):
    labels = Ragged.from_rows([[0]] * len(texts), 2)
    model = LinearModel.fit(texts, labels)
    assert linear_scores(features(model), model.coefficients, None).tolist() == [[0, 0], [0, 0]]


def test_many_texts_that_share_words_are_summed_precisely():
    """In float32, the sums of 50,000 products in order would be off by 1e-4 of themselves."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    dense = rng.random((50_000, 3)).astype(np.float32)
    found = module._gram(csr_matrix(dense).astype(np.float64))
    exact = dense.astype(np.float64).T @ dense.astype(np.float64)
    assert np.abs(found / exact - 1).max() < 1e-6 and found.dtype == np.float32


@pytest.mark.parametrize("limit", ["LINEAR_TEXTS", "LINEAR_LABELS"])
def test_its_limits_are_errors(monkeypatch, limit):
    monkeypatch.setattr(limits, limit, 3)
    with pytest.raises(VixmlError, match="too large for a linear model"):
        LinearModel.fit(TRAIN, LABELS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error(value):
    model = LinearModel.fit(TRAIN, LABELS)
    model.coefficients[:, 1] = value
    with pytest.raises(VixmlError, match="not finite"):
        linear_scores(features(model), model.coefficients, None)
