"""Choose the constants of local ridge votes on queries held out of train; test data chooses nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vixml.config.run import Inference, Ridge
from vixml.errors import VixmlError
from vixml.evaluation.metrics import hits_in_chunks
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.ridge import LabelTerm, local_ridge

# Values of each constant, in the order in which they are tried; only neighbours of the current value are.
LADDERS: dict[str, tuple[float, ...]] = {
    "prototype_weight": (0, 0.1, 0.2, 0.3, 0.5, 0.8),
    "text_weight": (0, 0.1, 0.2, 0.3, 0.5),
    "frequency_power": (0, 0.05, 0.1, 0.2, 0.3),
    "bandwidth": (0.05, 0.1, 0.2, 0.4, 0.8),
    "regulariser": (0.05, 0.1, 0.2, 0.4, 0.8),
    "neighbours": (25, 50, 100, 200),
}
FEWEST = 500  # held-out queries; with fewer, the choice is worse than the preset


@dataclass(frozen=True)
class HeldOut:
    """One split of train: queries that were held out, and what predicts them.

    Attributes:
        rows: (n,) int64, the held-out queries as rows of train; splits may share some.
        queries: (n, d) float32, as compared with voters.
        voters: (v, d) float32, the other training queries.
        voter_labels: v rows over labels.
        truth: n rows over labels.
        text: (n, d') float32, the queries as compared with labels; often ``queries``.
        z: (m, d') float32, prototypes; None for a method without.
        u: (m, d') float32, text vectors of the labels.
        filter: n rows over labels: pairs left out.
    """

    rows: np.ndarray
    queries: np.ndarray
    voters: np.ndarray
    voter_labels: Ragged
    truth: Ragged
    text: np.ndarray
    z: np.ndarray | None
    u: np.ndarray
    filter: Ragged | None = None

    def terms(self, ridge: Ridge) -> list[LabelTerm]:
        """Return the label searches of these constants."""
        weighted = ((ridge.prototype_weight, self.z), (ridge.text_weight, self.u))
        return [
            LabelTerm(weight, self.text, labels) for weight, labels in weighted if weight > 0 and labels is not None
        ]


@dataclass(frozen=True)
class Trial:
    """One set of constants that was tried.

    Attributes:
        constant: the constant that differs from the best so far; empty for the preset.
        value: its value.
        p1: precision at 1 over all held-out queries, in percent.
        p5: precision at 5, in percent.
        gain: mean gain in P@1 + P@5 over the best so far, in points.
        error: standard error of that gain over queries, in points.
        moved: whether these constants became the best so far.
    """

    constant: str
    value: float
    p1: float
    p5: float
    gain: float
    error: float
    moved: bool


@dataclass(frozen=True)
class Choice:
    """Chosen constants and how they were found.

    Attributes:
        ridge: the constants.
        n_queries: different held-out queries.
        trials: all that was tried, in order; the first is the preset.
    """

    ridge: Ridge
    n_queries: int
    trials: tuple[Trial, ...]

    def record(self) -> dict[str, object]:
        """Return the choice as JSON values, for a manifest."""
        return {
            "ridge": self.ridge.model_dump(), "n_queries": self.n_queries, "fewest": FEWEST,
            "trials": [asdict(trial) for trial in self.trials],
        }  # fmt: skip


def choose_ridge(splits: Sequence[HeldOut], preset: Inference, search: Searcher) -> Choice:
    """Improve a preset's constants by coordinate ascent on held-out queries.

    Each constant in turn moves one step of its ladder if the gain in P@1 + P@5, paired by query, exceeds one standard error;
    until no constant moves. The plain maximum would follow noise. With fewer than :data:`FEWEST` queries the preset stays. A query
    in several splits counts once, with the mean of its precisions.

    Args:
        splits: one or more; several where one holds out few queries.
        preset: where the ascent starts: ``ridge`` and ``top_k`` (5 or more).
        search: of the run; it searches once per set of vectors and ``k``.

    Raises:
        VixmlError: no held-out queries, or what :func:`vixml.retrieval.ridge.local_ridge` refuses.
    """
    queries = np.unique(np.concatenate([split.rows for split in splits] or [np.zeros(0, dtype=np.int64)]))
    if not len(queries):
        raise VixmlError(
            "no held-out queries to choose on",
            where="choice of inference.ridge",
            found=f"{len(splits)} splits, 0 queries",
            expected="a share of train that the training held out",
            hint="set training.validation of the run above 0",
        )
    once = _Remembered(search)
    of_query = np.concatenate([np.searchsorted(queries, split.rows) for split in splits])
    copies = np.bincount(of_query)

    def precision(ridge: Ridge) -> np.ndarray:
        how = preset.model_copy(update={"ridge": ridge, "top_k": max(preset.top_k, 5)})
        found = np.concatenate([_precision(split, how, once) for split in splits])
        return np.stack([np.bincount(of_query, column) / copies for column in found.T], axis=1)

    has_z = all(split.z is not None for split in splits)
    ladders = {name: ladder for name, ladder in LADDERS.items() if has_z or name != "prototype_weight"}
    return ascend(precision, preset.ridge, ladders if len(queries) >= FEWEST else {}, len(queries))


def ascend(
    precision: Callable[[Ridge], np.ndarray], start: Ridge, ladders: dict[str, tuple[float, ...]], n_queries: int
) -> Choice:
    """Move one constant at a time to the next value of its ladder, while it gains more than one standard error; try nothing twice.

    Args:
        precision: maps constants to (n_queries, 2) float64, P@1 and P@5 of each query.
        start: the first constants.
        ladders: values of each constant, in the order in which they are tried.
        n_queries: rows of ``precision``, two or more if there are ladders.
    """
    best, of_best = start, precision(start)
    trials = [_trial("", 0.0, of_best, of_best)]
    tried = {best}
    moved = True
    while moved:
        moved = False
        for name, ladder in ladders.items():
            steps = []
            for value in _beside(ladder, getattr(best, name)):
                ridge = best.model_copy(update={name: value})
                if ridge in tried:
                    continue
                tried.add(ridge)
                found = precision(ridge)
                steps.append((_trial(name, value, found, of_best), ridge, found))
            # Of two steps that both gain enough, the larger gain; of equal gains, the smaller value.
            enough = [step for step in steps if step[0].gain > step[0].error]
            taken = max(enough, key=lambda step: step[0].gain, default=None)
            trials += [Trial(**asdict(trial) | {"moved": ridge is (taken and taken[1])}) for trial, ridge, _ in steps]
            if taken is not None:
                _, best, of_best = taken
                moved = True
    return Choice(best, n_queries, tuple(trials))


def _beside(ladder: Sequence[float], value: float) -> list[float]:
    """Return the next smaller and the next larger value of a ladder."""
    return [*sorted(step for step in ladder if step < value)[-1:], *sorted(step for step in ladder if step > value)[:1]]


def _trial(constant: str, value: float, found: np.ndarray, best: np.ndarray) -> Trial:
    """Compare (n, 2) precisions with those of the best so far."""
    p1, p5 = (100 * found.mean(axis=0)).tolist()
    gains = 100 * (found - best).sum(axis=1)
    error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else 0.0
    return Trial(constant, value, p1, p5, float(gains.mean()), error, moved=False)


def _precision(split: HeldOut, how: Inference, search: Searcher) -> np.ndarray:
    """Return P@1 and P@5 of each query: (n, 2) float64."""
    terms = split.terms(how.ridge)
    labels, _ = local_ridge(
        split.queries, split.voters, split.voter_labels, terms, how, filter=split.filter, search=search
    )
    hits = np.concatenate([chunk.hits[:, :5] for chunk in hits_in_chunks(labels, split.truth, split.filter)])
    return np.stack([hits[:, 0], hits.sum(axis=1) / 5], axis=1, dtype=np.float64)


class _Remembered:
    """A searcher that searches the same vectors once."""

    def __init__(self, search: Searcher) -> None:
        self.search, self.device, self.memory_mb = search, search.device, search.memory_mb
        self.found: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the searcher returns; arrays are told apart by identity, as long as the choice lasts."""
        key = (id(queries), id(labels), k)
        if key not in self.found:
            self.found[key] = self.search(queries, labels, k, filter)
        return self.found[key]
