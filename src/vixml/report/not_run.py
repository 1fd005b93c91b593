"""Predicted cost of the published rows that nobody ran here, from the parts of the plan, each counted once in every sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vixml.config.published import read_csv
from vixml.config.tables import FactsSpec, TableSpec, load_any_tables, named_runs
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import Cost, Missing
from vixml.plan.plan import RunKey, parts_of_run
from vixml.report.facts import SEEDS_OF_SD, STATED
from vixml.report.tables import Sources

Row = tuple[str, str, int | None]  # dataset, run, seed; None: any


def missing_cost(specs: Sequence[TableSpec | FactsSpec], sources: Sources) -> Missing:
    """Predict the cost of the published rows without a result, as `vixml plan` predicts a table.

    A row counts its seed, else every seed that a table names of its run, else seed 0. What a finished run left behind
    (the model that another run searches with, a dataset's images) costs nothing. A row that no run
    here repeats has no predicted cost, nor has a dataset whose size is not known.

    Args:
        specs: the tables asked about.
        sources: the configuration, and the results so far.
    """
    registry = sources.registry
    seeds = _seeds_named(sources.config_dir)

    def parts(key: RunKey) -> dict[str, Cost]:
        entry = registry.world.datasets.get(key[0])
        if entry is None or entry.expect is None or key[:2] not in registry.runs:
            return {}
        return dict(parts_of_run(registry.world, registry.runs, key, HARDWARE["gpu"]))

    present = {part for result in sources.results.all() for part in parts((result.dataset, result.run, result.seed))}
    cost: dict[str, Cost] = {}
    by_table: dict[str, set[str]] = {}
    for spec in specs:
        parts_of_table = by_table.setdefault(spec.id, set())
        for dataset, run, seed in dict.fromkeys(published_rows(spec, sources.config_dir)):
            if sources.results.of(dataset, run, seed):
                continue
            wanted = seeds.get((dataset, run), [0]) if seed is None else [seed]
            found = {
                name: part for s in wanted for name, part in parts((dataset, run, s)).items() if name not in present
            }
            cost |= found
            parts_of_table.update(found)

    def add(names: Iterable[str]) -> Cost:
        return sum((cost[name] for name in sorted(names)), Cost())

    return Missing({table: add(names) for table, names in by_table.items()}, add(cost))


def published_rows(spec: TableSpec | FactsSpec, config_dir: Path | str) -> Iterator[Row]:
    """Yield the runs behind a table's published rows; for facts, those that they are computed or timed from."""
    if isinstance(spec, TableSpec):
        yield from named_runs({"datasets": spec.datasets, "blocks": [block.model_dump() for block in spec.blocks]})
    elif spec.facts == "claims":
        for row in spec.claims:
            seeds = range(SEEDS_OF_SD) if row.how == "sd" else (None,)
            yield from ((row.dataset or "", run, seed) for run in row.runs for seed in seeds)
    elif spec.facts == "latencies":
        for _, row in read_csv(Path(config_dir) / "reported" / "other_facts.csv"):
            if row["topic"].startswith("latency") and row["item"] in STATED:
                yield *STATED[row["item"]], None


def _seeds_named(config_dir: Path | str) -> dict[tuple[str, str], list[int]]:
    """Return the seeds that any table names of a run: what a configuration that makes every table trains."""
    names = sorted(path.stem for path in (Path(config_dir) / "tables").glob("*.yaml"))
    found: dict[tuple[str, str], set[int]] = {}
    for spec in load_any_tables(config_dir, names):
        for dataset, run, seed in published_rows(spec, config_dir):
            if seed is not None:
                found.setdefault((dataset, run), set()).add(seed)
    return {key: sorted(seeds) for key, seeds in found.items()}
