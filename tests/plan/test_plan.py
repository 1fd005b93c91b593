"""The command ``vixml plan``: whole configurations, shared parts, budgets, output, and no import of torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from vixml import cli
from vixml.config.load import load_runs, load_world
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import Cost, PlannedRun, run_cost
from vixml.plan.plan import Group, Plan, choose_hardware, hours, make_plan, read_workflow
from vixml.report.plan_page import by_run, costs
from vixml.text import duration, size

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_repository(monkeypatch):
    """Work in the repository, on a terminal of 80 columns."""
    monkeypatch.chdir(REPO)
    monkeypatch.setenv("COLUMNS", "80")


def planned(name: str, device: str = "gpu") -> Plan:
    workflow = read_workflow(REPO / "config" / name, REPO / "config/config.yaml")
    return make_plan(workflow.model_copy(update={"config_dir": str(REPO / "config")}), HARDWARE[device])


def toy() -> Plan:
    """Return four runs of one hour's search each; two share a training of 10 hours, one has a training of 4."""
    parts = {"a": Cost(hours=10, flop_train=1, disk_bytes=5), "b": Cost(hours=4, flop_train=1)}
    parts |= {f"search{i}": Cost(hours=1, disk_bytes=1, gpu_memory_bytes=i) for i in range(4)}
    keys = [("d", f"run{i}", 0) for i in range(4)]
    needs = (("a", "search0"), ("a", "search1"), ("b", "search2"), ("search3",))
    tables = tuple(Group(f"Table {i}", (key,), 1) for i, key in enumerate(keys))
    runs = dict(zip(keys, needs, strict=True))
    return Plan("toy", HARDWARE["gpu"], parts, runs, (Group("d", tuple(keys), 4),), tables, ())


def test_shared_parts_are_counted_once():
    plan = toy()
    assert plan.cost(list(plan.runs)[:1]).hours == 11 and plan.cost(list(plan.runs)[:2]).hours == 12
    assert plan.total.hours == 18 and plan.total.disk_bytes == 9 and plan.total.gpu_memory_bytes == 3
    assert plan.trainings(plan.runs) == 2


def test_a_budget_takes_the_cheapest_table_next():
    order = [astuple(choice) for choice in toy().choose(17)]
    # Tables 0 and 1 share a training of 10 hours: the second of them costs its search alone.
    assert order == [
        ("Table 3", 1, 1, 1, True, True),
        ("Table 2", 5, 5, 6, True, True),
        ("Table 0", 11, 11, 17, True, True),
        ("Table 1", 11, 1, 18, False, True),
    ]
    assert sum(c.fits for c in toy().choose(0.5)) == 0
    assert all(c.fits for c in toy().choose(18))


@pytest.mark.parametrize("text", ["", "soon", "-3h", "3 weeks"])
def test_a_budget_is_a_time(text):
    with pytest.raises(VixmlError, match="not a time"):
        hours(text)


def test_only_what_the_tables_show_is_planned():
    whole = read_workflow(REPO / "config/paper.yaml", REPO / "config/config.yaml")
    whole = whole.model_copy(update={"config_dir": str(REPO / "config")})
    table = make_plan(whole.model_copy(update={"only_shown": True, "tables": ["table4"]}), HARDWARE["gpu"])
    [group] = [group for group in make_plan(whole, HARDWARE["gpu"]).tables if group.name == "Table 4"]
    assert set(table.runs) == set(group.runs) and [group.name for group in table.targets] == ["MM-AmazonTitles-300K"]
    facts = make_plan(whole.model_copy(update={"only_shown": True, "tables": ["table8"]}), HARDWARE["gpu"])
    assert not facts.runs and facts.total == Cost() and costs(facts, "dataset", facts.targets)[1][0][1] == "0"


def test_the_papers_plan():
    plan = planned("paper.yaml")
    assert plan.trainings(plan.runs) == 72, "the paper's 71 trainings, and the official script's rate"
    names = [group.name for group in plan.targets]
    assert names == ["LF-AmazonTitles-131K", "MM-AmazonTitles-300K", "LF-AmazonTitles-1.3M", "LF-Amazon-131K"]
    assert {"Table 1", "Table 3"} <= {group.name for group in plan.tables}
    # Shared models make the whole cheaper than its datasets together; nothing else is shared between datasets.
    parts = [plan.cost(group.runs) for group in plan.targets]
    assert plan.total.hours == pytest.approx(sum(cost.hours for cost in parts))
    assert plan.total.disk_bytes < sum(cost.disk_bytes for cost in parts)
    assert all(plan.total.hours >= plan.cost(group.runs).hours > 0 for group in plan.tables)
    assert not plan.too_large(), "each trained on one H100 with 80 GB"
    # The model of Table 12 has five seeds; the run that reuses a model brings that model's training along.
    assert sum("train/LF-AmazonTitles-131K/text-qwen2.5-0.5b/" in part for part in plan.parts) == 5
    key = ("LF-AmazonTitles-1.3M", "vixml-distilbert--augmented", 0)
    assert "train/LF-AmazonTitles-1.3M/vixml-distilbert/seed0" in plan.runs[key]


def test_rows_of_ours_on_the_papers_data():
    """Trained beside the paper's own models, each on one H100, in no table of the paper; votes train nothing."""
    plan, paper = planned("paper-best.yaml"), planned("paper.yaml")
    ours = {key for key in plan.runs if key not in paper.runs}
    assert len(ours) == 120 and {dataset for dataset, *_ in ours} == {group.name for group in paper.targets}
    assert [group.name for group in plan.tables] == ["Beyond the paper"] and set(plan.tables[0].runs) == set(plan.runs)
    assert not ours & {key for group in paper.tables for key in group.runs}
    assert plan.trainings(ours) == 24 + 24, "ours, and the paper's whose models are searched again"
    assert not plan.too_large() and not plan.uncounted
    configs = load_runs(REPO / "config")
    trained = [key for key in ours if configs[key[:2]].reuse is None]
    assert len(trained) == 24
    for dataset, run, _ in trained:
        own, theirs = (
            sum((cost for part, cost in plan.parts.items() if part.split("/")[1:3] == [dataset, name]), Cost())
            for name in (run, run.removesuffix("--all-labels"))
        )
        assert 0.3 * theirs.hours < own.hours < theirs.hours, "queries alone are encoded"
    for dataset, run, seed in ours:
        if (reused := configs[dataset, run].reuse) is not None:
            predicted = plan.parts[f"predict/{dataset}/{run}/seed{seed}"]
            assert f"train/{dataset}/{reused}/seed{seed}" in plan.parts and predicted.hours > 0
            assert predicted.flop_train == predicted.flop_encode == 0 and predicted.host_memory_bytes > 2e9


def test_a_line_for_each_run_has_its_own_cost():
    plan = planned("paper-best.yaml")
    titles, rows = by_run(plan)
    assert titles == ["run", *(group.name for group in plan.targets), "GPU mem.", "memory"]
    assert [row[0] for row in rows] == list(dict.fromkeys(run for _, run, _ in plan.runs))
    world, configs = load_world(REPO / "config"), load_runs(REPO / "config")
    for run, *cells in rows:
        runs = [PlannedRun.of(world, group.name, configs[group.name, run]) for group in plan.targets]
        costs = [run_cost(job, HARDWARE["gpu"]) for job in runs]
        largest = [max(getattr(cost, f"{kind}_memory_bytes") for cost in costs) for kind in ("gpu", "host")]
        assert cells == [*(duration(cost.hours) for cost in costs), *map(size, largest)], run


@pytest.mark.parametrize(
    "path", ["config.yaml", "best.yaml", "picto.yaml", "picto-methods.yaml", "picto-gpu.yaml", "picto-tuning.yaml"]
)
def test_every_configuration_can_be_planned(path):
    plan = planned(path, "cpu")
    assert plan.total.hours > 0 and set(plan.runs) and not plan.bounds
    titles, rows = costs(plan, "dataset", plan.targets)
    assert rows[-1][:2] == ["all", str(len(plan.runs))] and {len(row) for row in rows} == {len(titles)}


def test_a_speed_can_be_given(in_repository, capsys):
    assert choose_hardware("gpu", 3e14).speed(2048) == pytest.approx(3e14)
    with pytest.raises(VixmlError, match="above 0"):
        choose_hardware("gpu", 0.0)
    assert cli.main(["plan", "--config", "config/paper.yaml", "--sustained", "300"]) == 0
    assert "300 TFLOP/s" in " ".join(capsys.readouterr().out.split())


def test_output_fits_80_columns(in_repository, capsys):
    for options in ([], ["--budget", "500h"], ["--device", "cpu"]):
        assert cli.main(["plan", "--config", "config/paper.yaml", *options]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
        assert ("Within 500h:" in shown) == ("--budget" in options)


def test_a_budget_lists_tables_that_fit_together_and_tables_that_fit_alone(in_repository, capsys):
    assert cli.main(["plan", "--config", "config/paper.yaml", "--budget", "24h"]) == 0
    said = " ".join(capsys.readouterr().out.split()).split("Within 24h:")[1].split(". Hours")[0]
    together, instead = (re.findall(r"Table \d+|Appendix A text", part) for part in said.split("Each alone"))
    plan = planned("paper.yaml")
    runs = {group.name: group.runs for group in plan.tables}
    assert {*together, *instead} == {name for name in runs if plan.cost(runs[name]).hours <= 24}
    bought = [key for name in together for key in runs[name]]
    assert plan.cost(bought).hours <= 24
    assert all(plan.cost([*bought, *runs[name]]).hours > 24 for name in runs if name not in together)


def test_json_is_for_programs(in_repository, capsys):
    assert cli.main(["plan", "--config", "config/paper.yaml", "--budget", "2d", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plan = planned("paper.yaml")
    assert found["total"]["hours"] == plan.total.hours and found["total"]["runs"] == len(plan.runs)
    assert sum(part["hours"] for part in found["parts"].values()) == pytest.approx(plan.total.hours)
    assert [line["table"] for line in found["budget"]] == [c.table for c in plan.choose(48)]
    assert cli.main(["plan", "--device", "cpu", "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_bad_input_is_one_block(in_repository, capsys):
    assert cli.main(["plan", "--config", "config/none.yaml"]) == 2
    assert "a configuration file is missing" in capsys.readouterr().err
    assert cli.main(["plan", "--budget", "soon"]) == 2
    assert "not a time" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paper", "paper-best"])
def test_the_page_of_costs_is_up_to_date(in_repository, capsys, name):
    """If this fails: vixml plan --config config/NAME.yaml --write docs/cost.md."""
    status = cli.main(["plan", "--config", f"config/{name}.yaml", "--write", "docs/cost.md", "--check"])
    assert status == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_named_and_then_rewritten(in_repository, tmp_path, capsys):
    page = tmp_path / "cost.md"
    text = (REPO / "docs/cost.md").read_text(encoding="utf-8")
    page.write_text(re.sub(r"\| all \|.*", "| all | typed by hand |", text, count=1), encoding="utf-8")
    command = ["plan", "--config", "config/paper.yaml", "--write", str(page)]
    assert cli.main([*command, "--check"]) == 2 and "out of date" in capsys.readouterr().err
    assert cli.main(command) == 0 and "typed by hand" not in page.read_text(encoding="utf-8")


def test_torch_is_not_imported():
    code = (
        "import sys; from vixml.cli import main; main(['plan', '--config', 'config/paper.yaml'])\n"
        "print('HEAVY', [n for n in ('torch', 'transformers', 'pandas', 'matplotlib', 'snakemake') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True, text=True)
    assert "HEAVY []" in done.stdout


def test_sizes_read_well():
    assert [size(n) for n in (0, 999e6, 1e9, 9.96e10, 1e12)] == ["–", "999 MB", "1.0 GB", "100 GB", "1.0 TB"]
