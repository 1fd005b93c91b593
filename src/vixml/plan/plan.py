"""Cost of a whole configuration before anything runs: by dataset, by table, and which tables a budget buys. No torch.

A plan is a set of parts, each with its cost: a model, a dataset's tokens and images, a training with its index, a search.
Runs share parts, tables share runs; whatever is asked for, a part counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vixml.config.load import load_runs, load_workflow, load_world, merge, read_yaml
from vixml.config.registry import World
from vixml.config.run import RunConfig
from vixml.config.tables import TableSpec, load_tables, named_runs
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE, TEXTS, Hardware, Kind
from vixml.plan.cost import (
    Cost,
    Job,
    embeddings_cost,
    images_cost,
    imported_cost,
    index_cost,
    model_cost,
    predict_cost,
    tokens_cost,
    train_cost,
)

RunKey = tuple[str, str, int]  # dataset, run, seed
BASE = Path("config/config.yaml")


@dataclass(frozen=True)
class Group:
    """Runs that belong together: a dataset's, or a table's.

    Attributes:
        name: as printed.
        runs: those planned.
        named: how many there would be in all; a table may name runs that this configuration does not ask for.
    """

    name: str
    runs: tuple[RunKey, ...]
    named: int


@dataclass(frozen=True)
class Choice:
    """A table in the order in which a budget buys them.

    Attributes:
        group: the table.
        alone: its cost.
        added: what it costs beside the tables before it.
        hours: of all tables up to here.
        fits: whether these are within the budget.
        fits_alone: whether the table by itself is.
    """

    group: Group
    alone: Cost
    added: Cost
    hours: float
    fits: bool
    fits_alone: bool


@dataclass(frozen=True)
class Plan:
    """A configuration's parts and who needs which."""

    name: str
    hardware: Hardware
    parts: dict[str, Cost]
    runs: dict[RunKey, tuple[str, ...]]
    targets: tuple[Group, ...]
    tables: tuple[Group, ...]
    bounds: tuple[str, ...]  # datasets whose texts are counted at full length

    def parts_of(self, runs: Iterable[RunKey]) -> list[str]:
        """Return the parts that some runs need, each once."""
        return list(dict.fromkeys(part for run in runs for part in self.runs[run]))

    def cost(self, runs: Iterable[RunKey]) -> Cost:
        """Return what some runs cost together."""
        return sum((self.parts[part] for part in self.parts_of(runs)), Cost())

    @property
    def total(self) -> Cost:
        """Return the cost of all runs."""
        return self.cost(self.runs)

    def trainings(self, runs: Iterable[RunKey]) -> int:
        """Return how many models some runs train."""
        return sum(self.parts[part].flop_train > 0 for part in self.parts_of(runs))

    def too_large(self) -> list[str]:
        """Return the parts that need more memory than the device has."""
        return [name for name, cost in self.parts.items() if cost.gpu_memory_bytes > self.hardware.memory]

    def choose(self, budget: float) -> list[Choice]:
        """Return the tables, cheapest first given those before them, and whether each fits into ``budget`` hours.

        What a table adds can only shrink as others come before it, so taking the cheapest next is what a purse would do;
        it is not proved to be the largest number of tables.
        """
        left, taken, found = list(self.tables), [], []
        before = Cost()
        while left:
            costs = [self.cost([*taken, *group.runs]).hours for group in left]
            group = left.pop(costs.index(min(costs)))
            have = set(self.parts_of(taken))
            added = sum((self.parts[p] for p in self.parts_of(group.runs) if p not in have), Cost())
            taken += group.runs
            before = before + added
            alone = self.cost(group.runs)
            fits = (before.hours <= budget, alone.hours <= budget)
            found.append(Choice(group, alone, added, before.hours, *fits))
        return found


def hours(text: str) -> float:
    """Read a budget.

    Raises:
        VixmlError: not a time.

    Example:
        >>> hours("24h"), hours("90 min"), hours("2d"), hours("7.5")
        (24.0, 1.5, 48.0, 7.5)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(min|m|h|d|)\s*", text)
    if match is None:
        raise VixmlError("not a time", where="--budget", found=text, expected="such as 24h, 90min or 2d")
    return float(match[1]) * {"min": 1 / 60, "m": 1 / 60, "h": 1, "": 1, "d": 24}[match[2]]


def read_workflow(overlay: Path | None, base: Path = BASE) -> WorkflowConfig:
    """Read a configuration as Snakemake does: ``config/config.yaml``, and over it the keys of ``--configfile``."""
    data: dict[str, Any] = read_yaml(base)
    if overlay is not None:
        data = merge(data, read_yaml(overlay))
    return load_workflow(data, overlay or base)


def choose_hardware(device: Kind, sustained: float | None = None) -> Hardware:
    """Return a machine; ``sustained`` (FLOP/s) replaces what it is taken to sustain in training and encoding."""
    hardware = HARDWARE[device]
    if sustained is None:
        return hardware
    if not sustained > 0:
        raise VixmlError("a speed is above 0", where="--sustained", found=sustained / 1e12)
    return replace(
        hardware, encoder=sustained, decoder=sustained, source=f"given: {sustained / 1e12:.4g} TFLOP/s sustained"
    )


def make_plan(workflow: WorkflowConfig, hardware: Hardware) -> Plan:
    """Return the plan of a configuration.

    Raises:
        VixmlError: a dataset, language model or vision encoder whose cost cannot be counted.
    """
    world, configs = load_world(workflow.config_dir), load_runs(workflow.config_dir)
    if not workflow.published_vectors:
        world = _pooled(world)
    keys = list(dict.fromkeys((t.dataset, run, seed) for t in workflow.targets for run in t.runs for seed in t.seeds))
    parts: dict[str, Cost] = {}
    runs: dict[RunKey, tuple[str, ...]] = {}
    for key in keys:
        found = dict(parts_of_run(world, configs, key, hardware))
        parts |= found
        runs[key] = tuple(found)
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in keys))
    targets = [Group(d, own := tuple(key for key in keys if key[0] == d), len(own)) for d in datasets]
    names = sorted(path.stem for path in (Path(workflow.config_dir) / "tables").glob("*.yaml"))
    tables = [_table(spec, keys, configs) for spec in load_tables(workflow.config_dir, names)]
    tables = sorted((group for group in tables if group.runs), key=lambda group: _natural(group.name))
    bounds = [d for d in datasets if d not in TEXTS]
    return Plan(workflow.name, hardware, parts, runs, tuple(targets), tuple(tables), tuple(bounds))


def parts_of_run(
    world: World, configs: dict[tuple[str, str], RunConfig], key: RunKey, hardware: Hardware
) -> Iterator[tuple[str, Cost]]:
    """Yield the parts that a run needs, those of the run whose model it reuses among them."""
    dataset, run, seed = key
    config = configs[dataset, run]
    job = Job.of(world, dataset, config)
    if config.needs_encoder:
        trained, model, length = config.reuse or run, config.encoder.model, config.encoder.max_len
        own = Job.of(world, dataset, configs[dataset, trained])
        yield f"model/{model}", model_cost(world, model)
        yield f"tokens/{dataset}/{model}-{length}", tokens_cost(job)
        if config.needs_embeddings:
            vision, most = config.images.vision, most_images(dataset, configs)
            if vision in world.datasets[dataset].published_vectors:
                yield f"embeddings/{dataset}/{vision}", imported_cost(world, dataset, vision, most)
            else:
                yield f"images/{dataset}", images_cost(world, dataset, most)
                yield f"embeddings/{dataset}/{vision}", embeddings_cost(world, dataset, vision, most, hardware)
        yield f"train/{dataset}/{trained}/seed{seed}", train_cost(own, hardware)
        yield f"index/{dataset}/{trained}/seed{seed}", index_cost(own, hardware)
    yield f"predict/{dataset}/{run}/seed{seed}", predict_cost(job, hardware)


def _pooled(world: World) -> World:
    """Return the registry without published vectors: every image is fetched and pooled."""
    datasets = {name: entry.model_copy(update={"published_vectors": {}}) for name, entry in world.datasets.items()}
    return world.model_copy(update={"datasets": datasets})


def most_images(dataset: str, configs: dict[tuple[str, str], RunConfig]) -> int:
    """Return how many images of an item any configured run of a dataset reads.

    Of all of them, not of the planned ones: the images are shared, so what they cost must not depend on who asks.
    """
    return max(
        (c.images.per_item for (name, _), c in configs.items() if name == dataset and c.needs_embeddings), default=0
    )


def _table(spec: TableSpec, keys: Sequence[RunKey], configs: dict[tuple[str, str], RunConfig]) -> Group:
    """Return a table's planned runs: of a row without a seed, all of them, as the table averages what it finds."""
    found: dict[RunKey, None] = {}
    absent = set()
    for dataset, run, seed in dict.fromkeys(named_runs(spec.model_dump())):
        own = [key for key in keys if key[:2] == (dataset, run) and seed in (None, key[2])]
        found |= dict.fromkeys(own)
        if not own and (dataset, run) in configs:
            absent.add((dataset, run, seed))
    return Group(spec.name, tuple(found), len(found) + len(absent))


def _natural(name: str) -> list[Any]:
    """Sort Table 2 before Table 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
