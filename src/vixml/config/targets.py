"""Runs that a configuration asks for: those that it scores and those whose latency it measures.

Snakemake, the plan and the checks before the first job read this, so that all three speak of the same runs.
"""

from __future__ import annotations

from typing import Any

from vixml.config.tables import load_any_tables, named_runs
from vixml.config.workflow import WorkflowConfig


def scored_runs(workflow: WorkflowConfig) -> list[dict[str, Any]]:
    """Return what is scored, as ``dataset``, ``run``, ``seed`` and ``split``; with ``only_shown``, what the tables show of it."""
    scored = [
        {"dataset": target.dataset, "run": run, "seed": seed, "split": target.split}
        for target in workflow.targets
        for run in target.runs
        for seed in target.seeds
    ]
    if not workflow.only_shown:
        return scored
    specs = load_any_tables(workflow.config_dir, workflow.tables)
    shown = {row[:2] for spec in specs for row in named_runs(spec.model_dump())}
    return [names for names in scored if (names["dataset"], names["run"]) in shown]


def timed_runs(workflow: WorkflowConfig) -> list[dict[str, Any]]:
    """Return what is timed, as ``dataset``, ``run`` and ``seed``; with ``only_shown``, nothing unless a table shows latencies."""
    facts = shown_facts(workflow)
    if workflow.only_shown and "latencies" not in facts:
        return []
    first = {(target.dataset, run): target.seeds[0] for target in reversed(workflow.targets) for run in target.runs}
    return [
        {"dataset": target.dataset, "run": run, "seed": first.get((target.dataset, run), target.seeds[0])}
        for target in workflow.targets[:1]
        for run in workflow.latencies
    ]


def shown_facts(workflow: WorkflowConfig) -> set[str]:
    """Return the kinds of facts that the tables show, e.g. ``latencies``."""
    return {spec.facts for spec in load_any_tables(workflow.config_dir, workflow.tables) if hasattr(spec, "facts")}


def asked_runs(workflow: WorkflowConfig) -> list[tuple[str, str, int]]:
    """Return dataset, run and seed of all that is scored or timed, each once."""
    asked = [*scored_runs(workflow), *timed_runs(workflow)]
    return list(dict.fromkeys((names["dataset"], names["run"], names["seed"]) for names in asked))
