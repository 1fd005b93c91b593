"""The paper's configuration as tests read it."""

from __future__ import annotations

from pathlib import Path

from vixml.config.load import load_runs, load_world, read_yaml
from vixml.plan.plan import read_workflow

CONFIG = Path(__file__).resolve().parents[2] / "config"
WORLD, RUNS = load_world(CONFIG), load_runs(CONFIG)
WORKFLOW = read_workflow(CONFIG / "paper.yaml", CONFIG / "config.yaml")
TARGETS = [(target.dataset, run, seed) for target in WORKFLOW.targets for run in target.runs for seed in target.seeds]
TRAININGS = [t for t in TARGETS if RUNS[t[:2]].training.epochs and RUNS[t[:2]].reuse is None]
# Ours on the paper's data.
BEYOND = [
    (dataset, run)
    for family in [read_yaml(CONFIG / "runs/beyond.yaml")]
    for dataset in family["dataset"]
    for run in family["runs"]
]
