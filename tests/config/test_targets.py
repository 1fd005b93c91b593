"""What a configuration asks for, and what of it its tables show."""

from __future__ import annotations

from pathlib import Path

import pytest

from vixml.config.targets import asked_runs, scored_runs, timed_runs
from vixml.config.workflow import WorkflowConfig
from vixml.plan.plan import read_workflow

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def paper(monkeypatch) -> WorkflowConfig:
    monkeypatch.chdir(REPO)
    return read_workflow(Path("config/paper.yaml"))


def shown(workflow: WorkflowConfig, *tables: str) -> WorkflowConfig:
    return workflow.model_copy(update={"only_shown": True, "tables": list(tables)})


def test_all_targets_are_scored_once_for_each_seed(paper):
    scored, asked = scored_runs(paper), asked_runs(paper)
    assert len(scored) == sum(len(target.runs) * len(target.seeds) for target in paper.targets)
    assert set(asked) == {(one["dataset"], one["run"], one["seed"]) for one in scored} and len(set(asked)) == len(asked)
    assert [one["run"] for one in timed_runs(paper)] == paper.latencies


def test_only_what_a_table_shows(paper):
    asked = asked_runs(shown(paper, "table4"))
    assert len(asked) == 4 and {dataset for dataset, *_ in asked} == {"MM-AmazonTitles-300K"}
    assert asked_runs(shown(paper, "table8")) == [], "sizes of data sets need no run"


def test_a_table_of_latencies_needs_its_trainings_with_their_first_seed(paper):
    targets = [target.model_copy(update={"seeds": [4, 2]}) for target in paper.targets]
    workflow = shown(paper.model_copy(update={"targets": targets}), "latencies")
    assert scored_runs(workflow) == [] and {seed for *_, seed in asked_runs(workflow)} == {4}
    assert [run for _, run, _ in asked_runs(workflow)] == paper.latencies
