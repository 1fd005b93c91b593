"""What jobs ask of a batch system: enough by the plan, more with each attempt, something where nothing can be counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from vixml.config.load import load_runs, load_world
from vixml.config.run import RunConfig
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import DEFAULT_NEEDS, LEAST_MB, LEAST_MINUTES, Job, needs, train_cost

CONFIG = Path(__file__).resolve().parents[2] / "config"
WORLD, RUNS = load_world(CONFIG), load_runs(CONFIG)


@pytest.mark.parametrize("key", sorted(key for key, run in RUNS.items() if run.needs_encoder and run.reuse is None))
def test_every_run_asks_for_more_than_the_plan_predicts(key):
    dataset, _ = key
    cost = train_cost(Job.of(WORLD, dataset, RUNS[key]), HARDWARE["gpu"])
    asked = needs(WORLD, dataset, RUNS[key], "train", gpu=True)
    assert asked.mem_mb * 1e6 >= max(LEAST_MB * 1e6, 1.5 * cost.host_memory_bytes)
    assert asked.minutes >= max(LEAST_MINUTES, 2 * 60 * cost.hours)
    again = needs(WORLD, dataset, RUNS[key], "train", gpu=True, attempt=2)
    assert (again.mem_mb, again.minutes) == (2 * asked.mem_mb, 2 * asked.minutes)


def test_the_papers_largest_run_does_not_fit_the_smallest_request():
    run = RUNS["LF-AmazonTitles-1.3M", "vixml-qwen2.5-3b"]
    asked = needs(WORLD, "LF-AmazonTitles-1.3M", run, "train", gpu=True)
    assert asked.mem_mb > 60_000 and asked.minutes > 178 * 60


def test_without_a_gpu_main_memory_holds_what_would_lie_on_it():
    run = RUNS["LF-AmazonTitles-131K", "vixml-distilbert"]
    on_gpu, without = (needs(WORLD, "LF-AmazonTitles-131K", run, "train", gpu=gpu) for gpu in (True, False))
    assert without.mem_mb > on_gpu.mem_mb and without.minutes > on_gpu.minutes


def test_a_data_set_without_sizes_asks_for_something():
    world = WORLD.model_copy(update={"datasets": {"mine": WORLD.datasets["picto"].model_copy(update={"expect": None})}})
    assert needs(world, "mine", RunConfig(), "train", gpu=True) == DEFAULT_NEEDS["train"]
