"""The library's own functions refuse what the stages refuse: floats, ids out of range, duplicates, NaN, wrong shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vixml.config.run import Inference
from vixml.data.propensity import inverse_propensity
from vixml.errors import VixmlError
from vixml.evaluation.metrics import evaluate
from vixml.evaluation.score import break_down
from vixml.ragged import Ragged, RaggedWriter
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.ranking import Queries, rank_labels
from vixml.retrieval.ridge import LabelTerm
from vixml.retrieval.search import decide
from vixml.retrieval.vote import popularity

TRUTH = Ragged.from_rows([[0, 2], [1]], n_cols=3)
GOOD = np.array([[2, 1], [0, -1]])
NOT_IDS = {
    "floats": GOOD.astype(float),
    "NaN": np.array([[0, np.nan], [1, 2]]),
    "truth values": GOOD > 0,
    "text": GOOD.astype(str),
    "objects": np.array([[2**80, 1], [0, 1]]),
    "above int32": np.array([[2**32, 1], [0, 1]]),  # cut to int32, it would be label 0
    "unsigned, above int64": np.array([[2**64 - 1, 1], [0, 1]], dtype=np.uint64),
    "a label more": np.array([[3, 1], [0, 1]]),
    "-2": np.array([[-2, 1], [0, 1]]),
    "twice": np.array([[1, 1], [0, 1]]),
    "after the end": np.array([[-1, 1], [0, 1]]),
    "a row more": np.zeros((3, 1), dtype=int),
    "one dimension": np.array([0, 1]),
    "three": GOOD[None],
    "rows of two lengths": [[1], [1, 2]],
    "masked": np.ma.masked_array(GOOD, mask=GOOD == 2),
    "complex": GOOD.astype(complex),
    "times": GOOD.astype("M8[s]"),
    "none": None,
}


@pytest.mark.parametrize("predictions", NOT_IDS.values(), ids=NOT_IDS)
def test_predictions_that_are_none(predictions):
    with pytest.raises(VixmlError):
        evaluate(predictions, TRUTH, np.ones(3))
    with pytest.raises(VixmlError):
        break_down_of(predictions)


def break_down_of(predictions):
    from vixml.evaluation.metrics import hits_in_chunks

    return list(hits_in_chunks(predictions, TRUTH))


@pytest.mark.parametrize(
    "changed",
    [
        {"ks": (0,)}, {"ks": (1.5,)}, {"ks": (True,)}, {"deep_ks": ("1",)}, {"ks": (), "deep_ks": ()},
        {"inverse_propensity": np.ones(2)}, {"inverse_propensity": np.array([1, np.nan, 1])}, {"inverse_propensity": np.zeros(3)},
        {"truth": Ragged(np.array([0, 5]), np.array([0, 1, 2]), 3)}, {"truth": Ragged(np.array([0, 0]), np.array([0, 2, 2]), 3)},
        {"truth": Ragged(np.array([0, 1]), np.array([0, 3, 2]), 3)}, {"filter": Ragged(np.array([-1]), np.array([0, 1, 1]), 3)},
        {"truth": [[0, 2], [1]]}, {"truth": np.eye(2, 3, dtype=int)}, {"truth": None}, {"filter": [[0], [1]]}, {"ks": 5}, {"ks": None},
        {"ks": (10**12,)}, {"ks": (2**70,)}, {"memory_mb": np.nan}, {"memory_mb": np.inf}, {"memory_mb": "1"}, {"memory_mb": -1},
        {"inverse_propensity": ["1", "2", "3"]}, {"inverse_propensity": np.ones(3, bool)}, {"inverse_propensity": np.ones(3) * 1j},
        {"inverse_propensity": np.full(3, 1e308)}, {"inverse_propensity": [1, None, 2]}, {"inverse_propensity": [[1], [1, 2]]},
    ],
)  # fmt: skip
def test_truth_and_settings_that_are_none(changed):
    given = {"predictions": GOOD, "truth": TRUTH, "inverse_propensity": np.ones(3)} | changed
    with pytest.raises(VixmlError):
        evaluate(**given)
    assert evaluate(GOOD.tolist(), TRUTH, np.ones(3)).metrics["P@1"] == 50.0


NOT_ROWS = {
    "floats": [[0.5]], "whole floats": [[1.0]], "NaN": [[np.nan]], "truth values": [[True]], "text": [["1"]], "None": [[None]],
    "above int32": [[2**32]], "above int64": [[2**70]], "above int64, unsigned": [np.array([2**64 - 1], dtype=np.uint64)],
    "-2": [[-2]], "a column more": [[3]], "nested": [[[1]]], "a number": [1], "ragged": [[1, [2]]],
    "a set": [{1}], "bytes": [b"a"], "masked": [np.ma.masked_array([1], mask=[True])],
}  # fmt: skip


@pytest.mark.parametrize("rows", NOT_ROWS.values(), ids=NOT_ROWS)
def test_rows_that_are_no_ids(rows):
    with pytest.raises(VixmlError):
        Ragged.from_rows([[0], *rows], n_cols=3)


@pytest.mark.parametrize("n_cols", [-1, 2.5, True, "3", None, 2**32])
def test_columns_that_are_no_number(n_cols, tmp_path):
    with pytest.raises(VixmlError):
        Ragged.from_rows([], n_cols=n_cols)
    with pytest.raises(VixmlError):
        Ragged(TRUTH.values, TRUTH.offsets, n_cols)
    with pytest.raises(VixmlError), RaggedWriter(tmp_path) as writer:
        writer.close(n_cols)


@pytest.mark.parametrize(
    "asked",
    [
        lambda r: r.row(-1), lambda r: r.row(2), lambda r: r.take([2]), lambda r: r.take([-1]), lambda r: r.take([0.0]),
        lambda r: r.take(np.array([True, False])), lambda r: r.take([[0]]), lambda r: r.select(np.array([0, 1, 2])),
        lambda r: r.select(np.array([True])), lambda r: Ragged(np.array([0.0]), r.offsets, 3),
        lambda r: Ragged(r.values, np.array([[0, 3]]), 3), lambda r: r.row(0.5), lambda r: r.row("0"), lambda r: r.row(True),
        lambda r: r.take(None), lambda r: r.take(1), lambda r: r.first(1.5), lambda r: r.first(-1), lambda r: r.first(None),
        lambda r: Ragged(r.values, [0, 5], 3), lambda r: Ragged(r.values, [], 3), lambda r: Ragged(r.values, [1, 3], 3),
        lambda r: Ragged([5], [0, 1], 3).counts(), lambda r: Ragged([-1], [0, 1], 3).counts(), lambda r: Ragged([5], [0, 1], 3).transpose(),
        lambda r: Ragged([0, 1], [0, 3, 2], 3).row_ids(), lambda r: Ragged([2**40], [0, 1], 3).take([0]),
        lambda r: Ragged(np.array([2**31], np.uint32), [0, 1], 3).select([True]), lambda r: Ragged.from_rows(None, 3),
        lambda r: Ragged.from_rows(5, 3), lambda r: Ragged.from_rows("12", 3),
    ],
)  # fmt: skip
def test_rows_that_do_not_exist(asked):
    with pytest.raises(VixmlError):
        asked(TRUTH)
    again = Ragged(TRUTH.values.tolist(), np.array([0, 2, 3], np.uint64), np.int64(3))
    assert again.row(np.int64(1)).tolist() == [1] and again.take([1, 0]).values.tolist() == [1, 0, 2]
    assert again.select([True, False, True]).values.tolist() == [0, 1] and again.first(1).values.tolist() == [0, 1]
    assert TRUTH.take([]).values.tolist() == [] and TRUTH.take([1, 0]).values.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("counts", "n", "a", "b"),
    [
        ([1.5, 2.0], 10, 0.6, 2.6), ([np.nan], 10, 0.6, 2.6), ([-1], 10, 0.6, 2.6), ([11], 10, 0.6, 2.6), ([[1]], 10, 0.6, 2.6),
        ([True], 10, 0.6, 2.6), ([1], 10.0, 0.6, 2.6), ([1], 0, 0.6, 2.6), ([1], 10, np.nan, 2.6), ([1], 10, 0.6, -2.0),
        ([1], 10, 0.6, np.inf), ([[1], [1, 2]], 10, 0.6, 2.6), (["1"], 10, 0.6, 2.6), (None, 10, 0.6, 2.6), ([1], "10", 0.6, 2.6),
        ([1], 10, "x", 2.6), ([1], 10, None, 2.6), ([1], 10, 400, 2.6), ([1], 10, -1, 2.6), ([1], 10, True, 2.6),
        ([1], 10, np.ones(2), 2.6), ([1], 10**400, 0.6, 2.6), ([0, 1], 10, 0.6, 0.0),
    ],
)  # fmt: skip
def test_counts_that_are_none(counts, n, a, b):
    with pytest.raises(VixmlError):
        inverse_propensity(counts, n, a, b)
    assert np.isfinite(inverse_propensity([1, 2], 10, 0.6, 0)).all()


VECTORS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 0}, {"k": 2.0}, {"k": True}, {"k": "2"}, {"k": None}, {"queries": VECTORS.tolist()}, {"queries": VECTORS[0]},
        {"queries": VECTORS.astype(np.float64)}, {"queries": VECTORS.astype(int)}, {"labels": VECTORS[:, :2]},
        {"labels": VECTORS * np.nan}, {"queries": VECTORS * np.inf}, {"filter": Ragged(np.array([7]), np.array([0, 1, 1, 1]), 3)},
        {"filter": TRUTH}, {"filter": [[0], [], []]}, {"k": 10**12}, {"k": 2**70}, {"queries": VECTORS[:, :0], "labels": VECTORS[:, :0]},
        {"queries": np.ma.masked_array(VECTORS, mask=VECTORS > 0)}, {"labels": torch.eye(3, requires_grad=True)},
        {"labels": torch.eye(3).to_sparse()}, {"labels": torch.eye(3, device="meta")}, {"labels": VECTORS.astype(">f4")}, {"labels": None},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_searches_that_are_none(changed, kind):
    with pytest.raises(VixmlError):
        Searcher(kind)(**{"queries": VECTORS, "labels": VECTORS, "k": 2} | changed)


@pytest.mark.parametrize("near", [[[0.0, 1.0]], [[0, 3]], [[-2, 0]], [[True, False]]])
def test_proposals_that_are_none(near):
    with pytest.raises(VixmlError):
        decide(VECTORS[:1], VECTORS, np.array(near), 1)


VOTERS = Ragged.from_rows([[0], [1], [2]], n_cols=3)


@pytest.mark.parametrize("method", ["knn", "local-ridge", "retrieval-augmented"])
@pytest.mark.parametrize(
    "labels",
    [[[0], [1], [2]], VOTERS.take([0, 1]), Ragged([0, 9, 2], [0, 1, 2, 3], 3), Ragged.from_rows([[0, 0], [1], [2]], 3)],
    ids=["a list", "a voter less", "no such label", "twice"],
)
def test_voters_that_are_none(method, labels):
    how, queries = Inference(method=method, top_k=2), Queries(VECTORS, VECTORS)
    with pytest.raises(VixmlError):
        rank_labels(queries, {"z": VECTORS}, VECTORS, labels, how)
    assert rank_labels(queries, {"z": VECTORS}, VECTORS, VOTERS, how)[0][:, 0].tolist() == [0, 1, 2]
    for weight in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(VixmlError):
            LabelTerm(weight, VECTORS, VECTORS)


@pytest.mark.parametrize("n", [-1, 1.5, "1", None])
def test_numbers_of_queries_that_are_none(n):
    for labels, count in ((VOTERS, n), ([[0]], 1), (Ragged([9], [0, 1], 3), 1)):
        with pytest.raises(VixmlError):
            popularity(labels, count, 2)


@pytest.mark.parametrize("row", [[0.5], [2**40], ["a"], None, [np.float64(1)], np.array([2**33])])
def test_rows_that_cannot_be_written(row, tmp_path):
    with pytest.raises(VixmlError), RaggedWriter(tmp_path) as writer:
        writer.append(row)
        writer.close(3)
    assert not list(tmp_path.glob("header.json"))


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True, 10**12])
def test_numbers_of_labels_that_are_none(top_k):
    voters = Ragged.from_rows([[0], [1], [2]], n_cols=3)
    with pytest.raises(VixmlError):
        popularity(voters, 2, top_k)
    assert break_down(GOOD, TRUTH, np.ones(3, dtype=np.int64), np.ones(2, dtype=bool), np.ones(3, dtype=bool))
