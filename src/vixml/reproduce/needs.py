"""What a job asks of a batch system: memory and time, from the same counts as the plan, with room to spare. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vixml.config.run import RunConfig
from vixml.config.world import World
from vixml.errors import VixmlError
from vixml.reproduce.assumptions import HARDWARE, Hardware
from vixml.reproduce.cost import Cost, index_cost, predict_cost, train_cost
from vixml.reproduce.job import Job

Stage = Literal["train", "index", "predict"]
COSTS: dict[Stage, Callable[[Job, Hardware], Cost]] = {
    "train": train_cost, "index": index_cost, "predict": predict_cost,
}  # fmt: skip
# A prediction is not a promise: a job that is killed for its memory or its time costs more than one that asked for more.
MEMORY_MARGIN, TIME_MARGIN = 1.5, 2.0
LEAST_MB, LEAST_MINUTES = 4000, 60


@dataclass(frozen=True)
class Needs:
    """What to ask for.

    Attributes:
        mem_mb: main memory, in 10^6 bytes; without a GPU it holds what would lie on one, too.
        minutes: of wall time.
    """

    mem_mb: int
    minutes: int


# Where nothing can be counted, for example with a data set whose entry gives no sizes.
UNKNOWN: dict[Stage, Needs] = {"train": Needs(16000, 2880), "index": Needs(16000, 480), "predict": Needs(16000, 240)}


def needs(world: World, dataset: str, config: RunConfig, stage: Stage, *, gpu: bool, attempt: int = 1) -> Needs:
    """Return what a stage of a run asks for: half as much memory again as predicted, and twice the time.

    Args:
        world: the registry.
        dataset: an entry of it.
        config: the run.
        stage: of it.
        gpu: whether it runs on a GPU.
        attempt: 1, 2, ... of a job that a batch system had to kill: each asks for as much again.

    Example:
        >>> from vixml.config.load import load_world
        >>> from vixml.config.runs import load_runs
        >>> world, runs = load_world("config"), load_runs("config")
        >>> needs(world, "picto", runs["picto", "text-minilm-l3"], "train", gpu=False)
        Needs(mem_mb=6000, minutes=60)
    """
    hardware = HARDWARE["gpu" if gpu else "cpu"]
    try:
        cost = COSTS[stage](Job.of(world, dataset, config), hardware)
    except VixmlError:
        found = UNKNOWN[stage]
        return Needs(found.mem_mb * attempt, found.minutes * attempt)
    memory = cost.host_memory_bytes + (0.0 if gpu else cost.gpu_memory_bytes)
    mem_mb = max(LEAST_MB, math.ceil(MEMORY_MARGIN * memory / 1e9) * 1000)
    minutes = max(LEAST_MINUTES, math.ceil(TIME_MARGIN * 60 * cost.hours))
    return Needs(mem_mb * attempt, minutes * attempt)
