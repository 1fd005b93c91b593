"""Choice of inference on held-out queries: the ascent against plain loops, noise, small splits, and the stage."""

from __future__ import annotations

import numpy as np
import pytest

from vixml.config.run import Inference
from vixml.evaluation.choose import Choice, ascend, candidates, choose, ladders, value_of, with_value

LADDERS = {"ridge.bandwidth": (0.1, 0.2, 0.4, 0.8), "ridge.text_weight": (0, 0.1, 0.2)}
PRESET = Inference(method="chosen", image_weight=0.3, lexical_weight=0.3, ridge={"linear_weight": 0.5})


def naive(table, ladders, at):
    """Return where the ascent ends, for precisions in a table by (bandwidth, text_weight)."""
    names, seen = list(ladders), {tuple(at.values())}
    while True:
        before = dict(at)
        for name in names:
            position = ladders[name].index(at[name])
            best, best_gain = dict(at), 0.0
            for step in (position - 1, position + 1):
                if 0 <= step < len(ladders[name]):
                    other = at | {name: ladders[name][step]}
                    if tuple(other.values()) in seen:
                        continue
                    seen.add(tuple(other.values()))
                    gains = [
                        sum(b) - sum(a)
                        for a, b in zip(table[tuple(at.values())], table[tuple(other.values())], strict=True)
                    ]
                    mean = sum(gains) / len(gains)
                    error = (sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains)) ** 0.5
                    if mean > error and mean > best_gain:
                        best, best_gain = other, mean
            at = best
        if at == before:
            return at


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_loops(seed):
    rng = np.random.default_rng(seed)
    table = {
        (h, d): (rng.random((30, 2)) < rng.uniform(0.2, 0.6)).astype(float)
        for h in LADDERS["ridge.bandwidth"]
        for d in LADDERS["ridge.text_weight"]
    }

    def precision(how):
        return table[how.ridge.bandwidth, how.ridge.text_weight]

    trials = []
    found = ascend(precision, PRESET, precision(PRESET), LADDERS, trials)
    expected = naive(table, LADDERS, {"ridge.bandwidth": 0.2, "ridge.text_weight": 0})
    assert {name: value_of(found, name) for name in LADDERS} == expected
    # The record says all of it: the last move of each constant is what was chosen.
    for name in LADDERS:
        moves = [trial.value for trial in trials if trial.moved and trial.constant == name]
        assert expected[name] == (moves[-1] if moves else value_of(PRESET, name))


def test_a_gain_within_one_standard_error_moves_nothing():
    better = np.zeros((600, 2))
    better[:306, 0], better[306:, 0] = 1, -1  # mean 0.02, standard error 0.04
    choice = choose(lambda how: better * (how.ridge.text_weight > 0), PRESET, 600, True)
    assert choice.inference == PRESET.model_copy(update={"method": "local-ridge"})
    assert not any(trial.moved for trial in choice.trials)
    assert max(trial.gain for trial in choice.trials) == pytest.approx(2.0)


def right_where(wanted, n):
    """Return precisions of n queries that are all 1 for inference that ``wanted`` accepts, else 0."""
    return lambda how: np.full((n, 2), float(wanted(how)))


@pytest.mark.parametrize("name", list(candidates(PRESET, True)))
def test_each_method_is_chosen_where_it_predicts_best(name):
    best = candidates(PRESET, True)[name]
    choice = choose(right_where(lambda how: how == best, 500), PRESET, 500, True)
    assert choice.inference == best and best.method in choice.record()["inference"].values()


def test_few_queries_keep_the_preset_and_many_move_constants():
    wanted = right_where(lambda how: how.lexical_weight == 0.15 and how.image_weight == 0.5, 500)

    def precision(how):
        steps = (how.lexical_weight == 0.15) + (how.image_weight == 0.5)
        return np.full((500, 2), steps / 2) + 0 * wanted(how)

    found = choose(precision, PRESET, 500, True)
    assert (found.inference.lexical_weight, found.inference.image_weight) == (0.15, 0.5) and not found.restriction
    few = choose(lambda how: precision(how)[:499], PRESET, 499, True)
    assert few.inference == PRESET.model_copy(update={"method": "local-ridge"}) and len(few.trials) == 1
    none = choose(lambda how: pytest.fail("nothing to measure"), PRESET, 0, True)
    assert none == Choice(few.inference, 0, none.trials) and "no queries were held out" in none.restriction


def test_only_what_a_run_has_is_tried():
    text = Inference(method="chosen", ridge={"prototype_weight": 0, "text_weight": 0.3})
    assert "label search by z" not in candidates(text, False)
    assert {one.labels_as for one in candidates(text, False).values() if one.method == "retrieval-augmented"} == {"u"}
    assert "local ridge, mostly linear" not in candidates(text, True)
    left_out = {"image_weight", "lexical_weight", "ridge.prototype_weight", "ridge.linear_weight"}
    assert not left_out & set(ladders(text, False)) and left_out < set(ladders(PRESET, True))
    assert value_of(with_value(text, "ridge.bandwidth", 0.4), "ridge.bandwidth") == 0.4
    assert value_of(with_value(text, "lexical_weight", 0.5), "lexical_weight") == 0.5
