"""The stage ``choose-inference``: choose method and constants on queries held out of train; test data chooses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vixml.config.limits import FEWEST_TO_CHOOSE
from vixml.config.run import Inference, SeededRun
from vixml.data.corpus import Corpus, training_rows
from vixml.errors import expect_equal
from vixml.evaluation.metrics import hits_in_chunks
from vixml.files import write_json
from vixml.manifest import check_run
from vixml.progress import warn
from vixml.provenance import stage
from vixml.ragged import Ragged
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.calibration import FEWEST_QUERIES, RANKS, Calibration, calibrate
from vixml.retrieval.opened import HELD_OUT, TRAIN_AGAIN, OpenedRun
from vixml.retrieval.predict import CHOICE
from vixml.retrieval.ranking import adds_linear, rank_labels

# Values of each constant, in the order in which they are tried; only neighbours of the current value are.
LADDERS: dict[str, tuple[float, ...]] = {
    "lexical_weight": (0, 0.15, 0.3, 0.5, 0.8),
    "image_weight": (0, 0.15, 0.3, 0.5),
    "ridge.prototype_weight": (0, 0.1, 0.2, 0.3, 0.5, 0.8),
    "ridge.text_weight": (0, 0.1, 0.2, 0.3, 0.5),
    "ridge.linear_weight": (0, 0.2, 0.5, 1, 3, 8),
    "ridge.frequency_power": (0, 0.05, 0.1, 0.2, 0.3),
    "ridge.bandwidth": (0.05, 0.1, 0.2, 0.4, 0.8),
    "ridge.regulariser": (0.05, 0.1, 0.2, 0.4, 0.8),
    "ridge.neighbours": (25, 50, 100, 200),
}
DEPTH = 5  # P@1 and P@5 decide
STARTED = (
    "the earlier model may have been trained on the held-out items, which then look easier than new ones: their labels by label "
    "search, and the probabilities learned from them"
)

Precision = Callable[[Inference], np.ndarray]


def choose_inference(run: SeededRun, inputs: Mapping[str, Path], out: Path, device: torch.device) -> None:
    """Write ``choice.json`` for a run with ``inference.method: chosen`` (docs/formats.md).

    ``inputs`` are the folders ``corpus``, ``index``, ``trained`` and, if inference gives them weight, ``embeddings`` and
    ``lexical``. With ``inference.chosen_on``, ``index_1``, ``trained_1`` and so on, of these runs.

    Raises:
        VixmlError: another method, or an input of another run or corpus.
    """
    how, hint = run.config.inference, "set it to chosen, or predict without a choice"
    what, where = "this run's inference is given, not chosen", f"run {run.run}: inference.method"
    expect_equal(how.method, "chosen", what, where=where, hint=hint)
    resolved = {**run.names, "trained_as": run.config.reuse or run.run, **run.config.settings("predict")}
    facts: dict[str, Any] = {"device": str(device)}
    with stage(out, "choose-inference", config=resolved, inputs=inputs, facts=facts) as work:
        splits = _open(run, inputs, device)
        measured = HeldOutPrecision(list(splits.values()))
        choice = choose(measured, how, measured.n, run.config.has_prototypes)
        if choice.n_queries >= FEWEST_QUERIES:
            choice = replace(choice, calibration=measured.calibration(choice.inference))
        caution = STARTED if run.config.start is not None and choice.n_queries and not how.chosen_on else ""
        for sentence in filter(None, (choice.restriction, caution)):
            warn(f"{run}: {sentence}")
        write_json(work / CHOICE, choice.record() | {"held_out_by": list(splits), "caution": caution})
        facts |= {"n_queries": choice.n_queries, "trials": len(choice.trials)}


def _open(run: SeededRun, inputs: Mapping[str, Path], device: torch.device) -> dict[str, Split]:
    """Open each training whose held-out queries decide, by its run; a query counts once, for the first that held it out."""
    corpus, others = Corpus.load(inputs["corpus"]), run.config.inference.chosen_on
    splits: dict[str, Split] = {}
    counted = np.zeros(0, np.int64)
    for number, trained_as in enumerate(others or [run.config.reuse or run.run], 1):
        folders = dict(inputs)
        for name in ("index", "trained"):
            key = f"{name}_{number}" if others else name
            folders[name] = inputs[key]
            check_run(inputs[key], run.names | {"run": trained_as}, key)
        rows = np.setdiff1d(training_rows(folders["trained"] / HELD_OUT, corpus.n("train"), TRAIN_AGAIN), counted)
        counted = np.union1d(counted, rows)
        search = Searcher(seed=run.seed, device=device)
        opened = OpenedRun(corpus, folders, run.config.images, run.seed, rows, search.memory_mb)
        splits[trained_as] = Split(opened, search)
    return splits


@dataclass(frozen=True)
class Trial:
    """One inference that was tried.

    Attributes:
        constant: what differs from the best so far: ``method``, or a constant.
        value: its value.
        p1: precision at 1 over all held-out queries, in percent.
        p5: precision at 5, in percent.
        gain: mean gain in P@1 + P@5 over the best so far, in points.
        error: standard error of that gain over queries, in points.
        moved: whether this became the best so far.
    """

    constant: str
    value: float | str
    p1: float
    p5: float
    gain: float
    error: float
    moved: bool


@dataclass(frozen=True)
class Choice:
    """The chosen inference and how it was found: all trials, in order, of which the first is the preset.

    ``calibration`` is None for lack of held-out queries.
    """

    inference: Inference
    n_queries: int
    trials: tuple[Trial, ...]
    calibration: Calibration | None = None

    @property
    def restriction(self) -> str:
        """Return that nothing was chosen for lack of held-out queries, as a sentence; nothing if it was."""
        if not self.n_queries:
            return "no queries were held out of train to choose on: the preset stays, and scores have no probabilities"
        few = self.n_queries < FEWEST_TO_CHOOSE
        why = f"{self.n_queries} held-out queries are too few to choose ({FEWEST_TO_CHOOSE}): the preset stays"
        return f"{why}, and scores have no probabilities" if few else ""

    def record(self) -> dict[str, Any]:
        """Return the choice as JSON values."""
        return {
            "inference": self.inference.model_dump(mode="json"),
            "n_queries": self.n_queries,
            "restriction": self.restriction,
            "trials": [asdict(trial) for trial in self.trials],
            "calibration": None if self.calibration is None else self.calibration.model_dump(mode="json"),
        }


def choose(precision: Precision, preset: Inference, n_queries: int, has_prototypes: bool) -> Choice:
    """Choose a method, then the constants of local ridge votes, each only for a gain of more than one standard error.

    The plain maximum would follow noise. With fewer queries than :data:`FEWEST_TO_CHOOSE` the preset stays: local ridge votes with the
    constants that it gives.

    Args:
        precision: maps inference to (n_queries, 2) float64, P@1 and P@5 of each query.
        preset: where to start.
        n_queries: held-out queries.
        has_prototypes: whether labels have vectors ``z``.
    """
    methods = candidates(preset, has_prototypes)
    (name, best), *others = methods.items()
    if n_queries < FEWEST_TO_CHOOSE:
        of_best = precision(best) if n_queries else np.zeros((0, 2))
        return Choice(best, n_queries, (_trial("method", name, of_best, of_best),))
    of_best = precision(best)
    trials = [_trial("method", name, of_best, of_best)]
    best, of_best = _step([("method", name, how) for name, how in others], best, of_best, precision, trials)
    if best.method == "local-ridge":
        best = ascend(precision, best, of_best, ladders(preset, has_prototypes), trials)
    return Choice(best, n_queries, tuple(trials))


def candidates(preset: Inference, has_prototypes: bool) -> dict[str, Inference]:
    """Return the methods to try; the first is the preset."""
    preset = preset.model_copy(update={"chosen_on": ()})
    ridge = preset.model_copy(update={"method": "local-ridge"})
    balanced = ridge.ridge.model_copy(update={"frequency_power": 0.1, "text_weight": 0.2})
    alone = preset.model_copy(update={"image_weight": 0.0, "lexical_weight": 0.0})
    best_labels = "z" if has_prototypes else "u"
    augmented = {"method": "retrieval-augmented", "label_weight": 0.5, "labels_as": best_labels}
    linear = with_value(ridge, "ridge.linear_weight", 3.0)
    by_z = alone.model_copy(update={"method": "label-search", "labels_as": "z"})
    return {
        "local ridge": ridge,
        "local ridge, balanced": ridge.model_copy(update={"ridge": balanced}),
        **({"local ridge, mostly linear": linear} if preset.ridge.linear_weight else {}),
        **({"label search by z": by_z} if has_prototypes else {}),
        "label search by u": alone.model_copy(update={"method": "label-search", "labels_as": "u"}),
        "retrieval-augmented": alone.model_copy(update=augmented),
        "nearest neighbours": preset.model_copy(update={"method": "knn"}),
    }


def ladders(preset: Inference, has_prototypes: bool) -> dict[str, tuple[float, ...]]:
    """Return the constants to try: those of vectors that the run has, and of a linear model if the preset has one."""
    absent = {name for name in ("image_weight", "lexical_weight", "ridge.linear_weight") if not value_of(preset, name)}
    absent |= set() if has_prototypes else {"ridge.prototype_weight"}
    return {name: ladder for name, ladder in LADDERS.items() if name not in absent}


def ascend(
    precision: Precision,
    best: Inference,
    of_best: np.ndarray,
    ladders: Mapping[str, Sequence[float]],
    trials: list[Trial],
) -> Inference:
    """Move one constant at a time along its ladder of values, while it gains more than one standard error; try nothing twice.

    ``precision`` is as in :func:`choose`, ``of_best`` that of ``best``, where to start; all trials are appended to ``trials``.
    """
    tried, moved = {best}, True
    while moved:
        moved = False
        for name, ladder in ladders.items():
            steps = [(name, value, with_value(best, name, value)) for value in _beside(ladder, value_of(best, name))]
            steps = [step for step in steps if step[2] not in tried]
            tried |= {how for *_, how in steps}
            before = best
            best, of_best = _step(steps, best, of_best, precision, trials)
            moved |= best != before
    return best


def value_of(how: Inference, name: str) -> float:
    """Return a constant, e.g. ``image_weight`` or ``ridge.bandwidth``."""
    part, _, key = name.rpartition(".")
    return getattr(how.ridge if part else how, key)


def with_value(how: Inference, name: str, value: float) -> Inference:
    """Return inference with another value of a constant."""
    part, _, key = name.rpartition(".")
    return how.model_copy(update={"ridge": how.ridge.model_copy(update={key: value})} if part else {key: value})


def _step(
    others: Sequence[tuple[str, float | str, Inference]],
    best: Inference,
    of_best: np.ndarray,
    precision: Precision,
    trials: list[Trial],
) -> tuple[Inference, np.ndarray]:
    """Try some alternatives; return the one that gains most, if that is more than one standard error, else the best so far."""
    tried = [(_trial(name, value, found := precision(how), of_best), how, found) for name, value, how in others]
    # Of equal gains, the first.
    enough = [one for one in tried if one[0].gain > one[0].error]
    taken = max(enough, key=lambda one: one[0].gain, default=None)
    trials += [replace(trial, moved=taken is not None and how is taken[1]) for trial, how, _ in tried]
    return (best, of_best) if taken is None else taken[1:]


def _beside(ladder: Sequence[float], value: float) -> list[float]:
    """Return the next smaller and the next larger value of a ladder."""
    return [*sorted(step for step in ladder if step < value)[-1:], *sorted(step for step in ladder if step > value)[:1]]


def _trial(constant: str, value: float | str, found: np.ndarray, best: np.ndarray) -> Trial:
    """Compare (n, 2) precisions with those of the best so far."""
    if not len(found):
        return Trial(constant, value, 0.0, 0.0, 0.0, 0.0, moved=False)
    p1, p5 = (100 * found.mean(axis=0)).tolist()
    gains = 100 * (found - best).sum(axis=1)
    error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else 0.0
    return Trial(constant, value, p1, p5, float(gains.mean()), error, moved=False)


class HeldOutPrecision:
    """Precisions of all held-out queries: of one training, or of several, each with other queries."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = [split for split in splits if split.opened.n]
        self.n = sum(split.opened.n for split in self.splits)

    def __call__(self, how: Inference) -> np.ndarray:
        """Return P@1 and P@5 of each query: (n, 2) float64."""
        return np.concatenate([split.precision(how) for split in self.splits])

    def calibration(self, how: Inference) -> Calibration:
        """Return what the scores of this inference are worth."""
        ranked = [split.ranked(how) for split in self.splits]
        labels, scores, hits, n_true = (np.concatenate(part) for part in zip(*ranked, strict=True))
        nearest = [split.nearest(how) for split in self.splits]
        without = any(found is None for found in nearest)
        return calibrate(labels, scores, hits, n_true, None if without else np.concatenate(nearest))


class Split:
    """The queries that one training held out; what several trials have in common is computed once."""

    def __init__(self, opened: OpenedRun, search: Searcher) -> None:
        self.opened, self.search = opened, _Remembered(search)
        self.truth, self.filter, self.voter_labels = opened.truth, opened.filter, opened.voter_labels
        self.vectors: dict[tuple[float, float], tuple[Any, np.ndarray]] = {}

    def precision(self, how: Inference) -> np.ndarray:
        """Return P@1 and P@5 of each query: (n, 2) float64."""
        hits = self._hits(self._rank(how, DEPTH)[0])
        return np.stack([hits[:, 0], hits.sum(axis=1) / DEPTH], axis=1, dtype=np.float64)

    def ranked(self, how: Inference) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return labels, scores and hits, each (n, RANKS), and the number of true labels of each query."""
        labels, scores = self._rank(how, RANKS)
        return labels, scores, self._hits(labels), self.truth.lengths

    def nearest(self, how: Inference) -> np.ndarray | None:
        """Return the similarity of each query to its nearest voter, (n,) float32; None without voters."""
        queries, voters = self._vectors(how)
        return self.search(queries.voting, voters, 1)[1][:, 0] if len(voters) else None

    def _hits(self, labels: np.ndarray) -> np.ndarray:
        return np.concatenate([chunk.hits for chunk in hits_in_chunks(labels, self.truth, self.filter)])

    def _vectors(self, how: Inference) -> tuple[Any, np.ndarray]:
        """Return the vectors of queries and voters."""
        key = (how.image_weight, how.lexical_weight)
        if key not in self.vectors:
            # The first stay: its text vectors are those of the label searches.
            for old in list(self.vectors)[1:-1]:
                self.search.forget(self.vectors.pop(old))
            self.vectors[key] = self.opened.queries(how), self.opened.voters(how)
        return self.vectors[key]

    def _rank(self, how: Inference, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and scores: (n, depth)."""
        # As many labels of each term are ranked as in a prediction: with fewer, a sum could have another order.
        how = how.model_copy(update={"top_k": max(depth, how.top_k)})
        queries, voters = self._vectors(how)
        first = next(iter(self.vectors.values()))[0]
        asked = replace(queries, text=first.text, features=self.opened.features if adds_linear(how) else None)
        vectors = self.opened.searched(how)
        labels, scores = rank_labels(
            asked, vectors, voters, self.voter_labels, how, filter=self.filter, search=self.search
        )
        return labels[:, :depth], scores[:, :depth]


class _Remembered:
    """A searcher that searches the same vectors once; arrays are told apart by identity, as long as they are kept."""

    def __init__(self, search: Searcher) -> None:
        self.search, self.kind, self.device, self.memory_mb = search, search.kind, search.device, search.memory_mb
        self.found: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the searcher returns."""
        key = (id(queries), id(labels), k)
        if key not in self.found:
            self.found[key] = self.search(queries, labels, k, filter)
        return self.found[key]

    def forget(self, vectors: tuple[Any, np.ndarray]) -> None:
        """Forget searches of vectors that are no longer kept: others may take their identity."""
        gone = {id(vectors[0].voting), id(vectors[1])}
        self.found = {key: value for key, value in self.found.items() if not gone & set(key[:2])}
