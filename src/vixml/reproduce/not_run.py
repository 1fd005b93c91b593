"""What the published rows that nobody ran here would cost, by the plan's own parts: each counted once in every sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vixml.reproduce.assumptions import HARDWARE
from vixml.reproduce.cost import Cost
from vixml.reproduce.grid import Sources
from vixml.reproduce.plan import most_pictures, named_runs, parts_of_run
from vixml.reproduce.specs import FactsSpec, TableSpec


@dataclass(frozen=True)
class Missing:
    """Hours of one H100 that a table lacks, by table, and of all tables together."""

    by_table: dict[str, float]
    total: float


def missing_hours(specs: Sequence[TableSpec | FactsSpec], sources: Sources) -> Missing:
    """Predict the GPU hours of the published rows without a result, one seed a row (or the row's own).

    A row that no run here repeats has no predicted hours, nor has a dataset whose size is not known.
    """
    registry = sources.registry
    parts: dict[str, Cost] = {}
    by_table: dict[str, set[str]] = {}
    for spec in specs:
        own = by_table.setdefault(spec.id, set())
        if not isinstance(spec, TableSpec):
            continue
        published = {"datasets": spec.datasets, "blocks": [block.model_dump() for block in spec.blocks]}
        for dataset, run, seed in dict.fromkeys(named_runs(published)):
            entry = registry.world.datasets.get(dataset)
            known = entry is not None and entry.expect is not None and (dataset, run) in registry.runs
            if not known or sources.results.of(dataset, run, seed):
                continue
            key = (dataset, run, seed or 0)
            most = most_pictures([key], registry.runs)
            found = dict(parts_of_run(registry.world, registry.runs, key, most, HARDWARE["gpu"]))
            parts |= found
            own.update(found)

    def hours(names: Iterable[str]) -> float:
        return sum((parts[name] for name in sorted(names)), Cost()).hours

    return Missing({table: hours(names) for table, names in by_table.items()}, hours(parts))
