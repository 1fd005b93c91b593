"""The verdict on a number, case by case, and the interval behind it."""

from __future__ import annotations

import math

import pytest

from vixml.report.results import MEANING, STATES, aggregate, judge, t_quantile

STAND_IN, BLOCKED, OTHER = {"stand_in": "other data"}, {"blocked": "no data"}, {"not_comparable": "quoted"}


@pytest.mark.parametrize(
    ("ours", "printed", "options", "state"),
    [
        ([41.72], 41.72, {}, "matches"),
        ([41.725], 41.72, {}, "matches"),  # exactly half of the last printed digit
        ([41.7251], 41.72, {}, "not-comparable"),
        ([41.8], 41.72, {"decimals": 1}, "not-comparable"),
        ([41.76], 41.72, {"decimals": 1}, "matches"),
        ([41.0, 43.0], 42.5, {}, "not-comparable"),  # two seeds give no interval
        ([41.0, 42.0, 43.0], 42.5, {}, "consistent"),
        ([41.0, 42.0, 43.0], 46.9, {}, "consistent"),  # 42 + 4.303 * sqrt(4/3) = 46.97
        ([41.0, 42.0, 43.0], 47.0, {}, "below"),
        ([41.0, 42.0, 43.0], 37.0, {}, "above"),
        ([42.0, 42.0, 42.0], 42.1, {}, "below"),  # no spread: the interval is a point
        ([42.0, 42.0, 42.0], 42.0, {}, "matches"),
        (None, 42.0, {}, "not-run"),
        (None, 42.0, BLOCKED, "blocked"),
        (None, 42.0, STAND_IN, "not-run"),
        ([42.0], None, {}, "not-comparable"),
        ([42.0], 42.0, OTHER, "not-comparable"),
        ([42.0, 42.0, 42.0], 42.0, STAND_IN, "stand-in"),
        ([42.0], None, STAND_IN, "stand-in"),
        ([42.0], 42.0, BLOCKED, "matches"),  # results count, whatever the registry says of running it here
    ],
)
def test_state(ours, printed, options, state):
    verdict = judge(None if ours is None else aggregate(ours), printed, **options)
    assert verdict.state == state


def test_reasons():
    assert judge(None, 1.0, cost="predicted: 1 h").why == "predicted: 1 h"
    assert judge(None, 1.0, blocked="blocked on: x", cost="predicted: 1 h").why == "blocked on: x; predicted: 1 h"
    assert "2 of at least 3 seeds" in judge(aggregate([1.0, 2.0]), 5.0).why


def test_every_state_is_explained():
    assert set(MEANING) == set(STATES) and len(STATES) == 8


def test_aggregate_uses_the_sample_standard_deviation():
    # Table 12: the paper quotes the population value 0.103 of these five seeds; the sample value is 0.115.
    seeds = [44.84, 44.84, 44.71, 45.03, 44.88]
    found = aggregate(seeds)
    assert round(found.sd, 3) == 0.115
    assert round(found.sd * math.sqrt(4 / 5), 3) == 0.103
    assert found.mean == pytest.approx(44.86)
    half = 2.776445 * found.sd / math.sqrt(5)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


@pytest.mark.parametrize("values", [[50.0], [49.0, 51.0]])
def test_no_interval_below_three_seeds(values):
    found = aggregate(values)
    assert (found.low, found.high, found.prediction()) == (None, None, None)
    assert (found.sd is None) == (len(values) == 1)


def test_nothing_to_aggregate():
    with pytest.raises(ValueError, match="nothing"):
        aggregate([])
    with pytest.raises(ValueError, match="two seeds"):
        t_quantile(0)


# As printed in tables of Student's t distribution.
QUANTILES = {
    1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 10: 2.2281, 29: 2.0452, 30: 2.0423, 31: 2.0395, 40: 2.0211,
    100: 1.9840, 1000: 1.9623,
}  # fmt: skip


@pytest.mark.parametrize(("df", "expected"), QUANTILES.items())
def test_t_quantile(df, expected):
    assert t_quantile(df) == pytest.approx(expected, abs=2e-4)
