"""What may be said of a number of ours beside a published one, and the interval it rests on.

A published number is one draw of a training run, so ours is judged by where that draw would fall: the 95 % prediction
interval of our seeds, never a tolerance picked by hand. Three seeds are the least that gives an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

State = Literal["matches", "consistent", "above", "below", "not-comparable", "stand-in", "not-run", "blocked"]
STATES: tuple[State, ...] = get_args(State)
GREEN: frozenset[State] = frozenset({"matches", "consistent"})

MEANING: dict[State, str] = {
    "matches": "our mean lies within half of the last printed digit",
    "consistent": "the published value lies in the 95 % prediction interval of three or more of our seeds",
    "above": "our seeds lie above the published value, outside that interval",
    "below": "our seeds lie below the published value, outside that interval",
    "not-comparable": "there is a number of ours, but no ground to compare; the note says why",
    "stand-in": "measured here on data or weights that are not the paper's; it confirms nothing",
    "not-run": "nobody has run it here; for a published row the note predicts its cost",
    "blocked": "it cannot be run with this version; the note says what is missing",
}

MIN_SEEDS = 3


@dataclass(frozen=True)
class Aggregate:
    """One metric over the seeds of a run, in percent.

    Attributes:
        mean: over seeds.
        sd: sample standard deviation (ddof 1); None for one seed.
        n: number of seeds.
        low: lower end of the 95 % t interval of the mean; None below three seeds.
        high: its upper end.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None

    def prediction(self) -> tuple[float, float] | None:
        """Return the 95 % interval in which one further run falls, or None below three seeds."""
        if self.n < MIN_SEEDS or self.sd is None:
            return None
        half = t_quantile(self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Verdict:
    """A state and, where the state alone does not say it, why."""

    state: State
    why: str = ""


def aggregate(values: Sequence[float]) -> Aggregate:
    """Summarise one metric over seeds.

    Example:
        >>> a = aggregate([49.0, 50.0, 51.0])
        >>> a.mean, a.sd, a.n, round(a.low, 2), round(a.high, 2)
        (50.0, 1.0, 3, 47.52, 52.48)
    """
    n = len(values)
    if n == 0:
        raise ValueError("nothing to aggregate")
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    if n < MIN_SEEDS or sd is None:
        return Aggregate(mean, sd, n, None, None)
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    return Aggregate(mean, sd, n, mean - half, mean + half)


def judge(
    ours: Aggregate | None,
    printed: float | None,
    decimals: int = 2,
    *,
    stand_in: str | None = None,
    blocked: str | None = None,
    not_comparable: str | None = None,
    cost: str = "",
) -> Verdict:
    """Say what our number is worth beside the published one.

    The order matters: a stand-in is decided before any value is looked at, so no coincidence can turn it green.

    Args:
        ours: our seeds, or None if there are none.
        printed: the published value, or None where nothing was published.
        decimals: decimals printed.
        stand_in: why the data or weights are not the paper's, if they are not.
        blocked: what is missing to run it, if anything.
        not_comparable: how the two differ, if they do.
        cost: predicted cost, for a row that was not run.
    """
    if ours is None:
        return Verdict("blocked", "; ".join(filter(None, (blocked, cost)))) if blocked else Verdict("not-run", cost)
    if stand_in:
        return Verdict("stand-in", stand_in)
    if not_comparable:
        return Verdict("not-comparable", not_comparable)
    if printed is None:
        return Verdict("not-comparable", "nothing was published for this row")
    # 1e-9: decimal values such as 41.725 have no exact binary form.
    if abs(ours.mean - printed) <= 0.5 * 10**-decimals + 1e-9:
        return Verdict("matches")
    interval = ours.prediction()
    if interval is None:
        return Verdict("not-comparable", f"{ours.n} of at least {MIN_SEEDS} seeds: no interval")
    if interval[0] - 1e-9 <= printed <= interval[1] + 1e-9:
        return Verdict("consistent")
    return Verdict("above" if ours.mean > printed else "below")


# Student's t, 0.975 quantile, for 1 to 30 degrees of freedom.
_T975 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip


def t_quantile(df: int) -> float:
    """Return the 0.975 quantile of Student's t with ``df`` degrees of freedom (a table, then its expansion in 1/df)."""
    if df < 1:
        raise ValueError("an interval needs two seeds or more")
    if df <= len(_T975):
        return _T975[df - 1]
    z = 1.959963985
    g1, g2 = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + g1 / df + g2 / df**2
