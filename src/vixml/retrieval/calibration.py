"""Probabilities for scores, thresholds for a wanted precision, and a limit for items unlike all others; fitted without test data.

Scores order the labels of one item. :func:`calibrate` learns from queries held out of train what they are worth: isotonic
regression (Zadrozny and Elkan, KDD 2002) maps a score to the share of labels with it that are true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from vixml.config.run import Strict
from vixml.errors import VixmlError

FEWEST_QUERIES = 500  # held out; the shares among fewer are too vague
RANKS = 20  # labels of a query that are learned from
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEWEST_LABELS = 50  # above a threshold; the precision of fewer is not known
ALARMS = (0.005, 0.01, 0.02, 0.05, 0.1)

Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Threshold(Strict):
    """The score from which on labels have a precision, on the held-out queries.

    Attributes:
        precision: that was wanted.
        score: labels with this score or more are kept.
        recall: share of the true labels that are kept.
        labels_per_item: labels that are kept.
        items: share of the items that keep a label.
    """

    precision: Share
    score: Finite
    recall: Share
    labels_per_item: float = Field(ge=0)
    items: Share


class Alarm(Strict):
    """The similarity to the nearest training item below which an item is unlike what was seen.

    Attributes:
        share: of ordinary items (the held-out ones) that are below it: false alarms.
        similarity: cosine.
    """

    share: Share
    similarity: Finite


class Calibration(Strict):
    """Probabilities and thresholds of scores.

    Attributes:
        n_queries: held-out queries that it was fitted on.
        scores: ascending; between two of them, probabilities are interpolated.
        probabilities: of the same length, not descending.
        thresholds: for those of :data:`PRECISIONS` that are reached.
        alarms: for :data:`ALARMS`; none where no training item votes.
    """

    n_queries: int = Field(ge=1)
    scores: list[Finite] = Field(min_length=1)
    probabilities: list[Share]
    thresholds: list[Threshold]
    alarms: list[Alarm]

    @model_validator(mode="after")
    def _check(self) -> Calibration:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("`scores` and `probabilities` differ in length")
        if np.any(np.diff(self.scores) <= 0) or np.any(np.diff(self.probabilities) < 0):
            raise ValueError("`scores` must rise, and `probabilities` must not fall")
        return self

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each label, of the same shape: float32."""
        return np.interp(scores, self.scores, self.probabilities).astype(np.float32)

    def threshold(self, precision: float) -> Threshold:
        """Return the threshold for a precision: that of the next higher one that was measured.

        Raises:
            VixmlError: no such precision was reached on the held-out queries.
        """
        for one in self.thresholds:
            if one.precision >= precision:
                return one
        reached = ", ".join(f"{one.precision:g}" for one in self.thresholds) or "none"
        raise VixmlError(
            "this model does not reach the precision on its held-out items", where="precision", found=precision,
            expected=f"at most the highest of these: {reached}", hint="ask for less",
        )  # fmt: skip

    def alarm(self, share: float) -> Alarm:
        """Return the limit with at most a share of false alarms: that of the next smaller one that was measured.

        Raises:
            VixmlError: a smaller share than any.
        """
        if fitting := [one for one in self.alarms if one.share <= share]:
            return fitting[-1]
        known = ", ".join(f"{one.share:g}" for one in self.alarms)
        expected = f"one of {known}" if known else "a model with voters"
        raise VixmlError("no limit with so few false alarms is known", where="share", found=share, expected=expected)


def reliability(calibration: Calibration, scores: np.ndarray, hits: np.ndarray, n_true: int) -> dict[str, Any]:
    """Compare probabilities with the shares of true labels among other queries: of test, which chose nothing.

    Args:
        calibration: fitted on held-out queries.
        scores: (n, K) float32, -inf where there is no label; the first :data:`RANKS` count.
        hits: (n, K) bool.
        n_true: true labels of all queries.

    Returns:
        ``bins``: for each tenth with labels its ``predicted`` mean, the ``true`` share, and ``n`` labels; ``error``: their
        mean difference, weighted by ``n`` (expected calibration error); ``thresholds``: for each of the calibration its
        wanted ``precision``, and what is ``reached``, with ``recall``.
    """
    scores, hits = scores[:, :RANKS], hits[:, :RANKS]
    valid = np.isfinite(scores)
    predicted, true = calibration(scores[valid]).astype(np.float64), hits[valid]
    tenth = np.minimum((predicted * 10).astype(np.int64), 9)
    bins = []
    for number in np.unique(tenth):
        of = tenth == number
        bins.append({"predicted": float(predicted[of].mean()), "true": float(true[of].mean()), "n": int(of.sum())})
    error = sum(one["n"] * abs(one["predicted"] - one["true"]) for one in bins) / max(len(predicted), 1)
    reached = []
    for one in calibration.thresholds:
        found = hits[valid & (scores >= one.score)]
        share, recall = float(found.mean()) if len(found) else None, float(found.sum() / max(n_true, 1))
        reached.append({"precision": one.precision, "reached": share, "recall": recall})
    return {"bins": bins, "error": float(error), "thresholds": reached}


def calibrate(
    labels: np.ndarray, scores: np.ndarray, hits: np.ndarray, n_true: Sequence[int], nearest: np.ndarray | None
) -> Calibration:
    """Fit to the ranked labels of held-out queries.

    Args:
        labels: (n, K) int32 label ids, best first, -1 where there are no more.
        scores: (n, K) float32.
        hits: (n, K) bool, whether a label is true.
        n_true: true labels of each query.
        nearest: (n,) float32 cosine of the nearest voter; None: nothing votes.

    Raises:
        VixmlError: no label at all.
    """
    valid = (labels >= 0) & np.isfinite(scores)
    found, true = scores[valid].astype(np.float64), hits[valid]
    if not len(found):
        raise VixmlError("held-out queries have no predicted label", where="calibrate", expected="one or more")
    knots, probabilities = isotonic(found, true)
    alarms = [] if nearest is None else [
        Alarm(share=share, similarity=float(np.quantile(nearest, share, method="lower"))) for share in ALARMS
    ]  # fmt: skip
    return Calibration(
        n_queries=len(labels),
        scores=knots.tolist(),
        probabilities=probabilities.tolist(),
        thresholds=thresholds(np.where(valid, scores, -np.inf), hits & valid, int(np.sum(n_true))),
        alarms=alarms,
    )


def isotonic(scores: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the pieces of the isotonic regression: (m,) float64 scores, ascending, and probabilities.

    One false label at the highest score and one true label at the lowest are added, so that no probability is 1 or 0 because
    a few labels happened to be so (Laplace's rule of succession).
    """
    from sklearn.isotonic import IsotonicRegression  # it takes a second to import

    scores = np.concatenate([scores, [scores.max(), scores.min()]])
    fitted = IsotonicRegression().fit(scores, np.concatenate([true, [False, True]]).astype(np.float64))
    return fitted.X_thresholds_, np.clip(fitted.y_thresholds_, 0.0, 1.0)


def thresholds(scores: np.ndarray, hits: np.ndarray, n_true: int) -> list[Threshold]:
    """Return, for each precision that is reached, the lowest score from which on labels have it.

    Arguments are as in :func:`reliability`.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    order = order[: int(np.isfinite(scores).sum())]
    ranked, correct = scores.reshape(-1)[order], np.cumsum(hits.reshape(-1)[order])
    counts = np.arange(1, len(order) + 1)
    # Labels of one score are kept together.
    whole = np.append(ranked[1:] < ranked[:-1], True) & (counts >= FEWEST_LABELS)
    found = []
    for wanted in PRECISIONS:
        reached = np.flatnonzero(whole & (correct >= wanted * counts))
        if len(reached):
            last = reached[-1]
            keeps = scores >= ranked[last]
            found.append(
                Threshold(
                    precision=wanted,
                    score=float(ranked[last]),
                    recall=float(correct[last] / max(n_true, 1)),
                    labels_per_item=float(keeps.sum() / len(scores)),
                    items=float(keeps.any(axis=1).mean()),
                )
            )
    return found
