"""Whatever PICTO or another stand-in measures, digit for digit the paper's numbers included: no cell turns green."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import CONFIG, build, sources

from vixml.config.published import PAPER
from vixml.config.tables import load_tables
from vixml.report.results import GREEN, Registry, Result, Results, aggregate, judge
from vixml.report.tables import Row, Sources, Table, build_tables

SPECS = load_tables(CONFIG)
METRICS = sorted({metric for spec in SPECS for metric in spec.metrics})
PERCENT = st.floats(0, 100, allow_nan=False)


def exactly(n: int, values: st.SearchStrategy) -> st.SearchStrategy:
    """Return lists of n values."""
    return st.lists(values, min_size=n, max_size=n)


@cache
def nothing_ran() -> dict[str, Table]:
    return {spec.id: build(spec.id) for spec in SPECS}


def results(runs: set[tuple[str, str]], values: dict[str, list[float]]) -> Results:
    """Return results of every run with the same values: one per seed, for each metric."""

    def one(dataset: str, run: str, seed: int) -> Result:
        metrics = {metric: seeds[seed] for metric, seeds in values.items()}
        return Result(dataset, run, seed, "test", metrics, 30, run, None, {}, {}, Path("."))

    n = len(next(iter(values.values())))
    return Results({key: tuple(one(*key, seed) for seed in range(n)) for key in runs})


def with_results(found: Results, registry: Registry | None = None) -> Sources:
    return replace(sources(), registry=registry or sources().registry, results=found)


PICTO = {(block.dataset, row.run) for spec in SPECS for block in spec.measured for row in block.rows}
PUBLISHED = sorted({claim.value for claim in sources().published if claim.source == PAPER})


@given(st.lists(PERCENT, min_size=1, max_size=6), PERCENT, st.integers(0, 3))
def test_a_stand_in_is_judged_before_its_value_is_looked_at(ours, printed, decimals):
    for one in (ours, [printed] * len(ours)):
        assert judge(aggregate(one), printed, decimals, stand_in="other data").state == "stand-in"
    # The same values of the paper's own data can be green: the test above would see it.
    assert judge(aggregate([printed] * 3), printed, decimals).state == "matches"


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5).flatmap(lambda n: exactly(len(METRICS), exactly(n, st.sampled_from(PUBLISHED)))))
def test_picto_with_the_papers_own_values_confirms_nothing_in_any_table(values):
    found = with_results(results(PICTO, dict(zip(METRICS, values, strict=True))))
    for spec in SPECS:
        [table] = build_tables([spec], found)
        own = {cell.verdict.state for cell in table.cells(published=False)}
        assert own and own <= {"stand-in", "not-run"} and not own & GREEN
        # A published cell is not PICTO's to fill.
        assert table.cells(published=True) == nothing_ran()[spec.id].cells(published=True)


def altered(part: str) -> Registry:
    """Return the registry with every dataset, language model or vision encoder a stand-in."""
    registry = Registry(CONFIG)
    world = registry.world
    if part == "datasets":
        parts = {name: entry.model_copy(update={"stand_in": True}) for name, entry in world.datasets.items()}
    elif part == "text_models":
        parts = {name: entry.model_copy(update={"exact": False}) for name, entry in world.text_models.items()}
    else:
        parts = {name: entry.model_copy(update={"stand_in": True}) for name, entry in world.vision_models.items()}
    registry.world = world.model_copy(update={part: parts})
    return registry


def judged(registry: Registry) -> list[tuple[str, str, bool, set[str]]]:
    """Return (table, row, whether it reads images, verdicts) of each published row whose very values are measured."""
    found = []
    for spec in SPECS:
        rounds: list[dict[tuple[str, str], tuple[Row, Results]]] = []  # of two rows of one run, each in another one
        for section, line in nothing_ran()[spec.id].rows(published=True):
            if not line.run:
                continue
            # Five seeds: a row of one seed reads its own.
            exact = dict.fromkeys(METRICS, [50.0] * 5) | {c.column: [c.entry.value] * 5 for c in line.cells}
            key = (section.dataset, line.run)
            free = next((rows for rows in rounds if key not in rows), None)
            if free is None:
                rounds.append(free := {})
            free[key] = line, results({key}, exact)
        for rows in rounds:
            ran = Results({key: measured.by_run[key] for key, (_, measured) in rows.items()})
            [table] = build_tables([spec], with_results(ran, registry))
            for (dataset, run), (line, _) in rows.items():
                key = (dataset, line.block, line.label)
                [own] = [row for section, row in table.rows(True) if (section.dataset, row.block, row.label) == key]
                reads_images = registry.runs[dataset, run].needs_embeddings
                found.append((spec.id, line.label, reads_images, {cell.verdict.state for cell in own.cells}))
    return found


@pytest.mark.parametrize("part", ["datasets", "text_models", "vision_models"])
def test_the_papers_values_from_other_data_or_weights_confirm_nothing(part):
    for table, row, reads_images, states in judged(altered(part)):
        concerned = part != "vision_models" or reads_images
        assert states == ({"stand-in"} if concerned else {"matches"}), (table, row)


def test_the_papers_values_from_its_own_data_and_weights_are_green():
    """So that the test above can fail."""
    assert all(states == {"matches"} for *_, states in judged(sources().registry))
