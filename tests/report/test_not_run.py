"""The hours of what was not run are the plan's: cell by cell, table by table, in all, and less what is there already."""

from __future__ import annotations

from functools import cache

import pytest
from report_page import CONFIG, EVERY_TABLE, TABLES_OF_SCORES, build, sources
from result_files import METRICS, write_result

from vixml.config.tables import load_any_tables, load_tables
from vixml.files import read_json
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import PlannedRun, predicted, run_cost
from vixml.plan.plan import Plan, make_plan, parts_of_run, read_workflow
from vixml.report.results import load
from vixml.report.tables import Sources, missing_cost
from vixml.report.write_tables import make_tables

DATASET = "LF-AmazonTitles-131K"
EVERY_METRIC = METRICS | {"R@10": 60.0}


@cache
def plan() -> Plan:
    workflow = read_workflow(CONFIG / "paper.yaml", CONFIG / "config.yaml")
    return make_plan(workflow.model_copy(update={"config_dir": str(CONFIG)}), HARDWARE["gpu"])


def registry():
    return sources().registry


@cache
def missing(names=tuple(EVERY_TABLE), folders=()):
    found = Sources.load(CONFIG, load(folders)) if folders else sources()
    return missing_cost(load_any_tables(CONFIG, names), found)


def parts(dataset, run, seed=0):
    return dict(parts_of_run(registry().world, registry().runs, (dataset, run, seed), HARDWARE["gpu"]))


@pytest.mark.parametrize("name", TABLES_OF_SCORES)
def test_a_table_that_nobody_ran_costs_what_the_plan_says(name):
    [spec] = load_tables(CONFIG, [name])
    [group] = [group for group in plan().tables if group.name == spec.paper_table]
    planned = plan().cost(group.runs)
    # Alone and among all others: what a table costs does not depend on who else is asked about.
    for found in (missing((name,)), missing()):
        cost = found.by_table[name]
        assert cost.hours == pytest.approx(planned.hours) and cost.disk_bytes == pytest.approx(planned.disk_bytes)
        assert cost.gpu_memory_bytes == planned.gpu_memory_bytes


def test_all_tables_together_cost_what_a_budget_for_all_of_them_must_hold():
    found = missing(tuple(TABLES_OF_SCORES))
    assert found.total.hours == pytest.approx(plan().choose(float("inf"))[-1].hours)
    # The order of the tables is of no consequence, and neither is that facts are computed from the same runs.
    assert missing(tuple(TABLES_OF_SCORES[::-1])).total.hours == pytest.approx(found.total.hours)
    assert missing().total.hours == pytest.approx(found.total.hours)


def test_parts_shared_by_tables_count_once_in_all_and_fully_in_each():
    both = missing(("table7", "table14"))
    assert both.by_table["table7"] == both.by_table["table14"]
    assert both.total.hours == pytest.approx(both.by_table["table7"].hours)
    order = [choice.table for choice in plan().choose(1e9)]
    second = plan().choose(1e9)[max(order.index("Table 7"), order.index("Table 14"))]
    assert second.adds == 0 and second.alone == pytest.approx(both.total.hours)


@pytest.mark.parametrize("name", TABLES_OF_SCORES)
def test_a_cell_predicts_what_the_plan_counts_for_its_run(name):
    """Training, index and search of a run of its own; the search alone where another run's model is there."""
    table = build(name)
    for section in (section for section in table.sections if section.published):
        for line in (line for line in section.rows if line.run):
            config = registry().runs[section.dataset, line.run]
            own = {key.split("/")[0]: part for key, part in parts(section.dataset, line.run).items()}
            stages = ("predict",) if config.reuse else ("train", "index", "predict")
            world, gpu = registry().world, HARDWARE["gpu"]
            cost = run_cost(PlannedRun.of(world, section.dataset, config), gpu)
            assert sum(own[stage].hours for stage in stages) == pytest.approx(cost.hours)
            assert {cell.verdict.why for cell in line.cells} == {predicted(world, section.dataset, config, gpu)}


def test_parts_of_finished_runs_cost_nothing(results):
    """Table 13 searches once more with the model of Table 3's run: when that is there, its training is too."""
    done = write_result(results, DATASET, "vixml-distilbert", 0, EVERY_METRIC)
    before, after = missing(("table13",)), missing(("table13",), (done,))
    own = sum(part.hours for part in parts(DATASET, "vixml-distilbert").values())
    assert before.total.hours - after.total.hours == pytest.approx(own)
    searched = write_result(results, DATASET, "vixml-distilbert--augmented", 0, EVERY_METRIC)
    last = missing(("table13",), (done, searched))
    search = parts(DATASET, "vixml-distilbert--augmented")[f"predict/{DATASET}/vixml-distilbert--augmented/seed0"]
    assert after.total.hours - last.total.hours == pytest.approx(search.hours)


def test_one_seed_fills_a_row_of_means_and_one_row_of_seeds(results):
    done = write_result(results, DATASET, "text-qwen2.5-0.5b", 3, EVERY_METRIC)
    one = sum(part.hours for part in parts(DATASET, "text-qwen2.5-0.5b").values())
    before, after = missing(), missing(folders=(done,))
    # Table 1 averages the seeds that exist; Table 12 has a row per seed, and the claim on their spread needs all five.
    for name, share in {"table1": 5, "table12": 1, "claims": 1}.items():
        assert before.by_table[name].hours - after.by_table[name].hours == pytest.approx(share * one)


def test_results_on_stand_in_data_lower_no_predicted_cost(results):
    done = [write_result(results, "picto", run, 0, EVERY_METRIC) for run in ("text-minilm-l3", "vixml-minilm-l3")]
    assert missing(folders=tuple(done)).total.hours == missing().total.hours


def test_a_table_read_from_the_registry_costs_nothing():
    found = missing()
    assert found.by_table["table8"].hours == found.by_table["table9"].hours == 0
    assert found.by_table["latencies"].hours > 0, "four trained models are timed"


def test_the_summary_of_verdicts_carries_them(tmp_path):
    make_tables([], CONFIG, EVERY_TABLE, tmp_path / "t")
    summary = read_json(tmp_path / "t/summary.json")
    for group in plan().tables:
        [found] = [t for t in summary["tables"].values() if t["title"].startswith(f"{group.name}:")]
        assert found["gpu_hours_not_run"] == pytest.approx(plan().cost(group.runs).hours, abs=1e-3)
    assert summary["gpu_hours_not_run"] == pytest.approx(plan().choose(1e9)[-1].hours, abs=1e-3)
