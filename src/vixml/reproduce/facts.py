"""Tables of facts rather than scores: each cell a printed value, ours beside it in words or digits, and a verdict.

The same outline as a table of scores (:mod:`vixml.reproduce.grid`): sections, lines, cells that count in the summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from vixml.reproduce.specs import FactsSpec
from vixml.reproduce.verdicts import STATES, Verdict


@dataclass(frozen=True)
class Fact:
    """One cell.

    Attributes:
        column: its heading.
        printed: as the paper prints it; empty where it prints nothing.
        ours: what stands here, or None where there is nothing of ours.
        verdict: of the two.
    """

    column: str
    printed: str
    ours: str | None
    verdict: Verdict


@dataclass(frozen=True)
class FactLine:
    """One row: its label, its cells in the table's order, a remark."""

    label: str
    facts: tuple[Fact, ...]
    note: str = ""


@dataclass(frozen=True)
class FactSection:
    """Rows under one heading; ``published`` says whether the paper has them."""

    title: str
    published: bool
    lines: tuple[FactLine, ...]


@dataclass(frozen=True)
class FactTable:
    """One table, ready to print."""

    spec: FactsSpec
    columns: tuple[str, ...]
    sections: tuple[FactSection, ...]

    def cells(self, published: bool) -> list[Fact]:
        """Return the published cells, or those of rows of ours."""
        return [
            fact
            for section in self.sections
            if section.published == published
            for line in section.lines
            for fact in line.facts
        ]

    def states(self, published: bool) -> dict[str, int]:
        """Count the verdicts; every state is there, also with 0."""
        counts = Counter(fact.verdict.state for fact in self.cells(published))
        return {state: counts[state] for state in STATES}


def decimals_of(printed: str) -> int:
    """Return the decimals of a printed number.

    Example:
        >>> decimals_of("79.45"), decimals_of("1,305,265"), decimals_of("5e-4")
        (2, 0, 4)
    """
    exponent = Decimal(printed.replace(",", "")).as_tuple().exponent
    return max(0, -int(exponent))


def compare(printed: str, ours: float, why: str = "") -> Verdict:
    """Say how a value of ours that is no draw (a count, a setting) stands to a printed one: to its last printed digit.

    Example:
        >>> compare("79.45", 79.4512).state, compare("294805", 294804).state, compare("5e-4", 5e-4).state
        ('matches', 'below', 'matches')
    """
    value = float(printed.replace(",", ""))
    # 1e-9: decimal values have no exact binary form.
    if abs(ours - value) <= 0.5 * 10 ** -decimals_of(printed) * (1 if decimals_of(printed) else 1e-6) + 1e-9:
        return Verdict("matches", why)
    return Verdict("above" if ours > value else "below", why)


def number(value: float | None, decimals: int) -> str | None:
    """Print one of our numbers like the paper's beside it, thousands parted.

    Example:
        >>> number(1305265, 0), number(79.4512, 2), number(None, 2)
        ('1,305,265', '79.45', None)
    """
    return None if value is None else f"{value:,.{decimals}f}"


def shared_whys(section: FactSection) -> list[str]:
    """Return the reasons that every row gives: printed once above a section."""
    each = [list(dict.fromkeys(f.verdict.why for f in line.facts if f.verdict.why)) for line in section.lines]
    return [why for why in (each[0] if each else []) if all(why in other for other in each)]


def note(line: FactLine, without: Sequence[str] = ()) -> str:
    """Print a row's remark and its reasons, less those printed elsewhere."""
    whys = dict.fromkeys(fact.verdict.why for fact in line.facts if fact.verdict.why)
    return "; ".join(filter(None, (line.note, *(why for why in whys if why not in without))))


def verdict(line: FactLine) -> str:
    """Print a row's verdicts: one state if all cells share it, else each with its column."""
    states = [fact.verdict.state for fact in line.facts]
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(f"{fact.column} {fact.verdict.state}" for fact in line.facts)


def by_column(line: FactLine, columns: Sequence[str]) -> list[Fact | None]:
    """Return a row's cells in the table's column order; None where there is none."""
    facts = {fact.column: fact for fact in line.facts}
    return [facts.get(column) for column in columns]
