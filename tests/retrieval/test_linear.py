"""The linear baseline: ridge regression by the normal equations of its primal form, filter, ties, and its limit."""

from __future__ import annotations

import numpy as np
import pytest

from vixml.data.lexical import inverse_frequencies, tf_idf
from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval import linear as module
from vixml.retrieval.linear import REGULARISER, linear

TRAIN = ["fishing rod", "fishing net", "tent", "sleeping bag", "rod holder", "tent pole"]
LABELS = Ragged.from_rows([[0, 1], [0], [2], [2], [1], [2, 1]], 4)
QUERIES = ["fishing pole", "bag"]


def test_agrees_with_the_primal_form():
    weights = inverse_frequencies(TRAIN)
    x, q = (tf_idf(texts, weights) for texts in (TRAIN, QUERIES))
    used = np.unique(np.concatenate([x.indices, q.indices]))
    x, q = x[:, used].toarray().astype(np.float64), q[:, used].toarray()
    y = np.zeros((len(TRAIN), 4))
    for row in range(len(TRAIN)):
        y[row, LABELS.row(row)] = 1
    expected = q @ np.linalg.solve(x.T @ x + REGULARISER * np.eye(len(used)), x.T @ y)
    ids, scores = linear(QUERIES, TRAIN, LABELS, 4)
    for row in range(len(QUERIES)):
        assert ids[row].tolist() == np.argsort(-expected[row].astype(np.float32), kind="stable").tolist()
        np.testing.assert_allclose(scores[row], np.sort(expected[row])[::-1], atol=1e-6)


def test_filtered_pairs_are_left_out():
    ids, scores = linear(QUERIES, TRAIN, LABELS, 4, filter=Ragged.from_rows([[0, 1], []], 4))
    assert set(ids[0].tolist()) == {2, 3, -1} and ids[0, 2:].tolist() == [-1, -1] and np.isinf(scores[0, 2:]).all()
    assert sorted(ids[1].tolist()) == [0, 1, 2, 3]


def test_its_limit_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "LINEAR_AT_MOST", 5)
    with pytest.raises(VixmlError, match="too many training texts"):
        linear(QUERIES, TRAIN, LABELS, 1)
