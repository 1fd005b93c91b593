"""Choice of constants on held-out queries: the ascent against plain loops, noise, and small splits."""

import numpy as np
import pytest

from vixml.config.run import Inference, Ridge
from vixml.errors import VixmlError
from vixml.evaluation import choose
from vixml.evaluation.choose import HeldOut, ascend, choose_ridge
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher

LADDERS = {"bandwidth": (0.1, 0.2, 0.4, 0.8), "text_weight": (0, 0.1, 0.2)}


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
        for h in LADDERS["bandwidth"]
        for d in LADDERS["text_weight"]
    }
    choice = ascend(lambda ridge: table[ridge.bandwidth, ridge.text_weight], Ridge(), LADDERS, 30)
    expected = naive(table, LADDERS, {"bandwidth": 0.2, "text_weight": 0})
    assert {name: getattr(choice.ridge, name) for name in LADDERS} == expected
    # The record says all of it: the last move of each constant is what was chosen.
    for name in LADDERS:
        moves = [trial.value for trial in choice.trials if trial.moved and trial.constant == name]
        assert expected[name] == (moves[-1] if moves else getattr(Ridge(), name))


def test_a_gain_within_one_standard_error_moves_nothing():
    better = np.zeros((100, 2))
    better[:51, 0], better[51:, 0] = 1, -1  # mean 0.02, standard error 0.1
    choice = ascend(lambda ridge: better * (ridge.text_weight > 0), Ridge(), LADDERS, 100)
    assert choice.ridge == Ridge() and not any(trial.moved for trial in choice.trials)
    assert max(trial.gain for trial in choice.trials) == pytest.approx(2.0)


def held_out(n=60, seed=0):
    """Return a split whose truth is the best label by u: votes of labels drawn at random only disturb."""
    rng = np.random.default_rng(seed)
    queries, voters, u = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (
        rng.standard_normal((rows, 8)).astype(np.float32) for rows in (n, 40, 12)
    ))  # fmt: skip
    labels = Ragged.from_rows(rng.integers(0, 12, (40, 1)).tolist(), 12)
    truth = Ragged.from_rows((queries @ u.T).argmax(axis=1)[:, None].tolist(), 12)
    return HeldOut(np.arange(n), queries, voters, labels, truth, queries, None, u)


def test_chooses_what_predicts_the_held_out_queries(monkeypatch):
    monkeypatch.setattr(choose, "FEWEST", 60)
    preset = Inference(method="local-ridge", ridge={"prototype_weight": 0}, top_k=5)
    first = choose_ridge([held_out()], preset, Searcher())
    assert first.trials[0].p1 < 50 and [trial.p1 for trial in first.trials if trial.moved][-1] == 100
    assert first.ridge.text_weight > 0 and first.n_queries == 60
    assert first == choose_ridge([held_out()], preset, Searcher())
    # The same split twice adds no queries, and no certainty.
    assert first == choose_ridge([held_out(), held_out()], preset, Searcher())


def test_few_queries_keep_the_preset():
    preset = Inference(method="local-ridge", ridge={"prototype_weight": 0})
    choice = choose_ridge([held_out()], preset, Searcher())
    assert choice.ridge == preset.ridge and len(choice.trials) == 1
    assert choice.record()["n_queries"] == 60 < choice.record()["fewest"]
    for splits in ([], [held_out(0)]):
        with pytest.raises(VixmlError, match="no held-out queries"):
            choose_ridge(splits, preset, Searcher())
