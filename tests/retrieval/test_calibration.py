"""Probabilities of scores: against pooling by hand, thresholds against loops, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from vixml.errors import VixmlError
from vixml.retrieval import calibration
from vixml.retrieval.calibration import Calibration, calibrate, isotonic, reliability, thresholds


def drawn(seed=0, n=700, k=8):
    """Return labels, descending scores and hits, whose chance is the square of the score."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.random((n, k)).astype(np.float32), axis=1)
    labels = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    labels[::5, -2:], scores[::5, -2:] = -1, -np.inf
    return labels, scores, (rng.random((n, k)) < scores**2) & (labels >= 0)


def pooled(scores, true):
    """Return the isotonic regression at each score by pooling neighbours that fall, one pair at a time."""
    pairs = sorted([(s, float(t)) for s, t in zip(scores, true, strict=True)])
    values: dict[float, list[float]] = {}
    for score, one in pairs:
        values.setdefault(score, []).append(one)
    blocks = [[sum(found), len(found), [score]] for score, found in values.items()]
    while True:
        for i in range(len(blocks) - 1):
            if blocks[i][0] / blocks[i][1] > blocks[i + 1][0] / blocks[i + 1][1]:
                (a, b, c), (d, e, f) = blocks[i : i + 2]
                blocks[i : i + 2] = [[a + d, b + e, c + f]]
                break
        else:
            return {score: total / n for total, n, members in blocks for score in members}


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_regression_pools_with_one_label_of_doubt_at_each_end(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 60) / 10
    true = rng.random(60) < scores
    knots, found = isotonic(scores, true)
    expected = pooled([*scores, scores.max(), scores.min()], [*true, False, True])
    for score, probability in expected.items():
        assert np.interp(score, knots, found) == pytest.approx(probability)
    assert found[0] > 0 and found[-1] < 1


def test_probabilities_are_right_on_other_queries():
    labels, scores, hits = drawn()
    fitted = calibrate(labels, scores, hits, hits.sum(axis=1), None)
    _, others, truth = drawn(seed=1)
    found = reliability(fitted, others, truth, int(truth.sum()))
    assert found["error"] < 0.03
    assert all(abs(one["predicted"] - one["true"]) < 0.1 for one in found["bins"] if one["n"] > 100)
    assert sum(one["n"] for one in found["bins"]) == np.isfinite(others).sum()
    for one in found["thresholds"]:
        assert abs(one["reached"] - one["precision"]) < 0.05
    assert fitted(np.array([-1.0, 2.0])).tolist() == pytest.approx([fitted.probabilities[0], fitted.probabilities[-1]])


def test_thresholds_agree_with_loops(monkeypatch):
    monkeypatch.setattr(calibration, "FEWEST_LABELS", 5)
    _, scores, hits = drawn(n=80)
    scores = np.where(np.isfinite(scores), np.round(scores, 1), -np.inf)  # many labels of one score
    found = {one.precision: one for one in thresholds(scores, hits, int(hits.sum()) + 7)}
    pairs = list(zip(scores.ravel().tolist(), hits.ravel().tolist(), strict=True))
    for wanted in calibration.PRECISIONS:
        reached = []
        for limit in {s for s, _ in pairs if s > -np.inf}:
            kept = [h for s, h in pairs if s >= limit]
            if len(kept) >= 5 and sum(kept) >= wanted * len(kept):
                reached.append((limit, sum(kept) / (int(hits.sum()) + 7), len(kept) / 80))
        if not reached:
            assert wanted not in found
            continue
        limit, recall, per_item = min(reached)
        one = found[wanted]
        assert (one.score, one.recall, one.labels_per_item) == pytest.approx((limit, recall, per_item))
        assert one.items == np.mean([any(s >= limit for s in row) for row in scores.tolist()])
    assert len(found) > 2


def test_limits_of_unlike_items_are_quantiles_of_ordinary_ones():
    labels, scores, hits = drawn(n=400)
    nearest = np.linspace(0, 1, 401)[1:].astype(np.float32)
    fitted = calibrate(labels, scores, hits, hits.sum(axis=1), nearest)
    for one in fitted.alarms:
        assert (nearest < one.similarity).mean() <= one.share < (nearest <= one.similarity).mean() + 0.003
    assert fitted.alarm(0.03).share == 0.02 and fitted.threshold(0.55).precision == 0.6
    with pytest.raises(VixmlError, match="few false alarms"):
        fitted.alarm(0.001)
    with pytest.raises(VixmlError, match="does not reach the precision"):
        fitted.threshold(0.99)


def test_nothing_to_learn_from_is_refused():
    nothing = np.full((3, 2), -1, np.int32)
    with pytest.raises(VixmlError, match="no predicted label"):
        calibrate(nothing, np.full((3, 2), -np.inf, np.float32), nothing > 0, [1, 1, 1], None)


@pytest.mark.parametrize("broken", [
    {"scores": [0.2, 0.1]}, {"probabilities": [0.9, 0.1]}, {"probabilities": [0.1]}, {"scores": [0.1, float("nan")]},
    {"probabilities": [0, 2]},
])  # fmt: skip
def test_a_damaged_calibration_is_refused(broken):
    good = {"n_queries": 5, "scores": [0.1, 0.2], "probabilities": [0.1, 0.9], "thresholds": [], "alarms": []}
    assert Calibration.model_validate(good)(np.array([0.15])).tolist() == pytest.approx([0.5])
    with pytest.raises(ValidationError):
        Calibration.model_validate(good | broken)
