"""Damaged predictions are refused with the position named."""

from pathlib import Path

import numpy as np
import pytest

from vixml.errors import VixmlError
from vixml.evaluation.predictions import load_predictions
from vixml.files import save_array

GOOD = np.array([[2, 0, -1], [1, 2, 0]], dtype=np.int32)
SCORES = np.array([[0.9, 0.9, -np.inf], [0.5, 0.4, -0.1]], dtype=np.float32)


def written(folder: Path, labels=GOOD, scores=SCORES, rows=None) -> Path:
    save_array(folder / "labels.npy", labels)
    save_array(folder / "scores.npy", scores)
    if rows is not None:
        save_array(folder / "rows.npy", rows)
    return folder


def changed(array: np.ndarray, position: tuple[int, int], value: float) -> np.ndarray:
    copy = array.copy()
    copy[position] = value
    return copy


def test_good_predictions_are_read(tmp_path):
    found = load_predictions(written(tmp_path), n_queries=2, n_labels=3)
    assert np.array_equal(found.labels, GOOD) and found.rows is None
    found = load_predictions(written(tmp_path, rows=np.array([4, 7])), n_queries=8, n_labels=3)
    assert found.rows.tolist() == [4, 7]


@pytest.mark.parametrize(
    ("parts", "what", "where"),
    [
        ({"labels": changed(GOOD, (1, 1), 3)}, "does not exist", "labels.npy, row 1, position 2"),
        ({"labels": changed(GOOD, (0, 0), -2)}, "does not exist", "labels.npy, row 0, position 1"),
        ({"labels": changed(GOOD, (1, 0), -1)}, "follows the end of its row", "labels.npy, row 1, position 2"),
        ({"labels": changed(GOOD, (1, 2), 1)}, "twice", "labels.npy, row 1"),
        ({"scores": changed(SCORES, (1, 1), np.nan)}, "not a number", "scores.npy, row 1, position 2"),
        ({"scores": changed(SCORES, (1, 1), 0.6)}, "rise", "scores.npy, row 1, position 2"),
        ({"labels": GOOD[:1], "scores": SCORES[:1]}, "do not fit the corpus", "labels.npy"),
        ({"labels": GOOD.astype(np.int64)}, "do not fit the corpus", "labels.npy"),
        ({"scores": SCORES[:, :2]}, "do not fit the predicted labels", "scores.npy"),
        ({"rows": np.array([0, 2])}, "held-out rows", "rows.npy"),
        ({"rows": np.array([0.0, 1.0])}, "held-out rows", "rows.npy"),
    ],
)
def test_damage_is_named(tmp_path, parts, what, where):
    with pytest.raises(VixmlError, match=what) as error:
        load_predictions(written(tmp_path, **parts), n_queries=2, n_labels=3)
    assert where in str(error.value.where)


def test_rows_far_into_the_file_are_named(tmp_path):
    labels = np.tile(GOOD[1:], (5000, 1))
    labels[4999, 2] = 9
    with pytest.raises(VixmlError) as error:
        load_predictions(written(tmp_path, labels, np.tile(SCORES[1:], (5000, 1))), n_queries=5000, n_labels=3)
    assert "row 4999, position 3" in str(error.value.where)
