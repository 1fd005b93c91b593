"""One table alone (`only_shown`): the workflow does what that table needs, as the plan says, and nothing beside it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from vixml.plan.assumptions import HARDWARE
from vixml.plan.plan import Plan, make_plan, read_workflow

ROOT = Path(__file__).resolve().parents[2]


@cache
def plan() -> Plan:
    workflow = read_workflow(ROOT / "config/paper.yaml", ROOT / "config/config.yaml")
    return make_plan(workflow.model_copy(update={"config_dir": str(ROOT / "config")}), HARDWARE["gpu"])


def jobs(table: str, results: Path) -> str:
    """Return what the command of docs/reproduction.md would do with no results there."""
    page = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
    command = re.search(r"^snakemake .*only_shown=True$", page, re.MULTILINE)[0]
    words = re.sub(r"tables=\[\w+\]", f"tables=[{table}]", command.replace("'", "")).split()
    done = subprocess.run(
        [*words, f"results={results}", "-n", "--directory", str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def trained(shown: str) -> set[tuple[str, str, int]]:
    found = re.findall(r"Train (\S+) on (\S+), seed (\d+)", shown)
    return {(dataset, run, int(seed)) for run, dataset, seed in found}


def corpora(shown: str) -> set[str]:
    return set(re.findall(r"data/([\w.-]+)/corpus/manifest\.json", shown))


@pytest.mark.parametrize("table", ["table4", "table12"])
def test_a_table_of_scores_trains_what_the_plan_prices(table, tmp_path):
    shown = jobs(table, tmp_path)
    [group] = [group for group in plan().tables if group.name == f"Table {table.removeprefix('table')}"]
    parts = [part.split("/") for part in plan().parts_of(group.runs) if part.startswith("train/")]
    assert trained(shown) == {(dataset, run, int(seed.removeprefix("seed"))) for _, dataset, run, seed in parts}
    assert corpora(shown) == {dataset for dataset, _, _ in group.runs}, "no other data is fetched"
    assert "measure_latency" not in shown


def test_rows_of_ours_on_the_papers_data_train_what_the_plan_prices(tmp_path):
    overlay = "config/paper-best.yaml"
    command = ["snakemake", "-n", "paper_tables", "--configfile", overlay, "--config", f"results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    workflow = read_workflow(ROOT / overlay, ROOT / "config/config.yaml")
    found = make_plan(workflow.model_copy(update={"config_dir": str(ROOT / "config")}), HARDWARE["gpu"])
    parts = [part.split("/") for part in found.parts if part.startswith("train/")]
    shown = done.stdout + done.stderr
    assert trained(shown) == {(dataset, run, int(seed.removeprefix("seed"))) for _, dataset, run, seed in parts}
    assert len(trained(shown)) == 48 and len(re.findall("Choose the inference of", shown)) == 24


def test_sizes_of_data_sets_need_their_corpora_and_no_model(tmp_path):
    shown = jobs("table8", tmp_path)
    assert corpora(shown) == {group.name for group in plan().targets} and not trained(shown)


def test_latencies_are_timed_on_their_own_models(tmp_path):
    shown = jobs("latencies", tmp_path)
    timed = set(re.findall(r"Time a query of (\S+) with (\S+)", shown))
    assert len(timed) == 4 and {(dataset, run) for dataset, run, _ in trained(shown)} == timed


def test_the_claims_of_the_text_train_the_runs_that_they_are_computed_from(tmp_path):
    found = trained(jobs("claims", tmp_path))
    assert {("LF-AmazonTitles-131K", "text-qwen2.5-0.5b", seed) for seed in range(5)} <= found
    assert ("LF-AmazonTitles-1.3M", "vixml-distilbert", 0) in found
