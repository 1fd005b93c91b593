"""Cost of a whole configuration before it runs: by dataset, by table, and which tables fit a budget. Without torch.

A plan is a set of parts, each with its cost: a model, a dataset's tokens and images, a training with its index, a search.
Runs share parts and tables share runs; every sum counts a part once.
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
from vixml.config.targets import asked_runs
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE, TEXTS, UNKNOWN, VISION, Hardware, Kind
from vixml.plan.cost import RESERVE, Cost, PlannedRun, index_cost, predict_cost, train_cost
from vixml.plan.shapes import shape_of

RunKey = tuple[str, str, int]  # dataset, run, seed
Runs = dict[tuple[str, str], RunConfig]  # by dataset and run
BASE = Path("config/config.yaml")


@dataclass(frozen=True)
class Group:
    """Runs of one dataset or one table."""

    name: str
    runs: tuple[RunKey, ...]  # the planned ones
    named: int  # number in all; a table may name runs that this configuration leaves out


@dataclass(frozen=True)
class PlannedTable:
    """A table, in the order in which a budget buys them."""

    table: str
    alone: float  # its hours
    adds: float  # its hours in addition to the tables before it
    hours: float  # of all tables up to this one
    fits: bool  # whether these are within the budget
    fits_alone: bool  # whether this table by itself is


@dataclass(frozen=True)
class Plan:
    """The parts of a configuration, and which runs need which."""

    name: str
    hardware: Hardware
    parts: dict[str, Cost]
    runs: dict[RunKey, tuple[str, ...]]
    targets: tuple[Group, ...]
    tables: tuple[Group, ...]
    bounds: tuple[str, ...]  # datasets whose texts are counted at full length
    uncounted: tuple[str, ...] = ()  # trainings whose memory is that of a formula, not counted on the real step

    def parts_of(self, runs: Iterable[RunKey]) -> list[str]:
        """Return the parts of some runs, each once."""
        return list(dict.fromkeys(part for run in runs for part in self.runs[run]))

    def cost(self, runs: Iterable[RunKey]) -> Cost:
        """Return the cost of some runs together."""
        return sum((self.parts[part] for part in self.parts_of(runs)), Cost())

    @property
    def total(self) -> Cost:
        """Return the cost of all runs."""
        return self.cost(self.runs)

    def trainings(self, runs: Iterable[RunKey]) -> int:
        """Return the number of models that some runs train."""
        return sum(self.parts[part].flop_train > 0 for part in self.parts_of(runs))

    def too_large(self) -> list[str]:
        """Return the parts that need more memory than the device has."""
        return [name for name, cost in self.parts.items() if cost.gpu_memory_bytes > self.hardware.memory]

    def choose(self, budget: float) -> list[PlannedTable]:
        """Return the tables, each time the one that adds least, and whether each fits into ``budget`` hours.

        The order is greedy; a different choice might fit more tables.
        """

        def together(group: Group) -> float:
            return self.cost([*taken, *group.runs]).hours

        left, taken, found, before = list(self.tables), [], [], 0.0
        while left:
            group = min(left, key=together)
            left.remove(group)
            total, alone = together(group), self.cost(group.runs).hours
            found.append(PlannedTable(group.name, alone, total - before, total, total <= budget, alone <= budget))
            taken += group.runs
            before = total
        return found


def hours(text: str) -> float:
    """Read a budget; VixmlError if it is no time.

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
    return load_workflow(data, overlay or base, [base])


def choose_hardware(device: Kind, sustained: float | None = None) -> Hardware:
    """Return a machine; ``sustained`` (FLOP/s) replaces its speed of training and encoding."""
    hardware = HARDWARE[device]
    if sustained is None:
        return hardware
    if not sustained > 0:
        raise VixmlError("a speed must be above 0", where="--sustained", found=sustained / 1e12)
    return replace(hardware, compute=((1, sustained),), source=f"given: {sustained / 1e12:.4g} TFLOP/s sustained")


def make_plan(
    workflow: WorkflowConfig, hardware: Hardware, results: Path | None = None, runs: Iterable[RunKey] | None = None
) -> Plan:
    """Return the plan of a configuration, or of some ``runs`` of it.

    ``results``: the folder of results, whose tokens give the lengths of texts; None: they are not looked for.

    Raises:
        VixmlError: a dataset, language model or vision encoder whose cost cannot be counted.
    """
    world, configs = load_world(workflow.config_dir), load_runs(workflow.config_dir)
    if not workflow.published_vectors:
        pooled = {n: entry.model_copy(update={"published_vectors": {}}) for n, entry in world.datasets.items()}
        world = world.model_copy(update={"datasets": pooled})  # every image is fetched and pooled
    keys = asked_runs(workflow) if runs is None else list(runs)
    needed = {key: dict(parts_of_run(world, configs, key, hardware, results)) for key in keys}
    parts = {name: cost for found in needed.values() for name, cost in found.items()}
    parts_of = {key: tuple(found) for key, found in needed.items()}
    by_dataset = {dataset: tuple(key for key in keys if key[0] == dataset) for dataset, _, _ in keys}
    targets = tuple(Group(dataset, group, len(group)) for dataset, group in by_dataset.items())
    tables = [_table(spec, keys, configs) for spec in load_tables(workflow.config_dir, workflow.tables)]
    tables = sorted((group for group in tables if group.runs), key=lambda group: _natural(group.name))
    encoding = dict.fromkeys((d, run) for d, run, _ in keys if configs[d, run].needs_encoder)
    jobs = {key: PlannedRun.of(world, key[0], configs[key], results) for key in encoding}
    bounds = tuple(dict.fromkeys(dataset for (dataset, _), job in jobs.items() if job.bound))
    trained = {key: job for key, job in jobs.items() if job.config.reuse is None and job.config.training.epochs}
    formula = tuple(f"{dataset}/{run}" for (dataset, run), job in trained.items() if job.counted is None)
    return Plan(workflow.name, hardware, parts, parts_of, targets, tuple(tables), bounds, formula)


def parts_of_run(
    world: World, configs: Runs, key: RunKey, hardware: Hardware, results: Path | None = None
) -> Iterator[tuple[str, Cost]]:
    """Yield the parts of a run, with training and index of the run whose model it reuses and of those on which it is chosen.

    Raises:
        VixmlError: as :meth:`Job.of`; a vision encoder of unknown cost.
    """
    dataset, run, seed = key
    config = configs[dataset, run]
    job = PlannedRun.of(world, dataset, config, results)
    if config.needs_encoder:
        model, length = config.encoder.model, config.encoder.max_len
        entry = world.text_models[model]
        # Float32, except decoders of the hub, which are published in bfloat16.
        size = 2.0 if entry.kind == "hub" and entry.attention == "causal" else 4.0
        yield f"model/{model}", Cost(disk_bytes=size * shape_of(model, entry).parameters)
        yield f"tokens/{dataset}/{model}-{length}", Cost(disk_bytes=job.token_bytes)
        if config.needs_embeddings:
            yield from _image_parts(world, dataset, config.images.vision, most_images(dataset, configs), hardware)
        for trained in (config.reuse or run, *config.inference.chosen_on):
            trained_job = PlannedRun.of(world, dataset, configs[dataset, trained], results)
            yield f"train/{dataset}/{trained}/seed{seed}", train_cost(trained_job, hardware)
            yield f"index/{dataset}/{trained}/seed{seed}", index_cost(trained_job, hardware)
    yield f"predict/{dataset}/{run}/seed{seed}", predict_cost(job, hardware)


def _image_parts(world: World, dataset: str, vision: str, most: int, hardware: Hardware) -> Iterator[tuple[str, Cost]]:
    """Yield a dataset's images and their embeddings: each image once through the encoder, or as published."""
    n, dim, name = n_images(world, dataset, most), world.vision_models[vision].dim, f"embeddings/{dataset}/{vision}"
    if vision in world.datasets[dataset].published_vectors:
        yield name, Cost(disk_bytes=(4.0 + 2.0) * n * dim)  # float32 as fetched, float16 as kept
        return
    if vision not in VISION:
        what, where = "the cost of a vision encoder is not known", "VISION in src/vixml/plan/assumptions.py"
        raise VixmlError(what, where=where, found=vision, expected=", ".join(VISION))
    yield f"images/{dataset}", Cost(disk_bytes=n * TEXTS.get(dataset, UNKNOWN).image_bytes)
    flop, memory = n * VISION[vision].flop, RESERVE + 4 * VISION[vision].parameters
    hours, disk = flop / hardware.speed(VISION[vision].width) / 3600, 2.0 * n * dim
    yield name, Cost(flop_encode=flop, hours=hours, disk_bytes=disk, gpu_memory_bytes=memory, host_memory_bytes=memory)


def image_cost(world: World, configs: Runs, dataset: str, vision: str, *, gpu: bool) -> Cost | None:
    """Return the cost of pooling a dataset's images; None if it cannot be counted."""
    if world.datasets[dataset].expect is None or vision not in VISION:
        return None
    hardware = HARDWARE["gpu" if gpu else "cpu"]
    parts = dict(_image_parts(world, dataset, vision, most_images(dataset, configs), hardware))
    return parts[f"embeddings/{dataset}/{vision}"]


def n_images(world: World, dataset: str, most: int) -> float:
    """Return the number of images of a dataset with counts: as counted, else ``most`` for each item that has any."""
    entry, texts = world.datasets[dataset], TEXTS.get(dataset, UNKNOWN)
    counts = entry.expect
    if counts.n_images is not None:
        return float(counts.n_images)
    sides = (
        (counts.n_train, texts.query_images, "pct_train_queries_with_images"),
        (counts.n_test, texts.query_images, "pct_test_queries_with_images"),
        (counts.n_labels, texts.label_images, "pct_labels_with_images"),
    )
    return sum(n * (images or most * (entry.facts.get(share, 100.0) / 100)) for n, images, share in sides)


def most_images(dataset: str, configs: Runs) -> int:
    """Return the largest ``images.per_item`` of all configured runs of a dataset, whichever are planned: they share images."""
    return max(
        (c.images.per_item for (name, _), c in configs.items() if name == dataset and c.needs_embeddings), default=0
    )


def _table(spec: TableSpec, keys: Sequence[RunKey], configs: Runs) -> Group:
    """Return a table's planned runs; a row without a seed takes all seeds, as the table averages them."""
    found: dict[RunKey, None] = {}
    n_absent = 0
    for dataset, run, seed in dict.fromkeys(named_runs(spec.model_dump())):
        planned = [key for key in keys if key[:2] == (dataset, run) and seed in (None, key[2])]
        found |= dict.fromkeys(planned)
        n_absent += not planned and (dataset, run) in configs
    return Group(spec.name, tuple(found), len(found) + n_absent)


def _natural(name: str) -> list[Any]:
    """Return a sort key that puts Table 2 before Table 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
