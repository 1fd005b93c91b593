"""Tables: nothing invented, nothing lost, and each result moves its own cells only."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter

import pytest
from result_files import METRICS, register_real, write_picto, write_real, write_result

from vixml.config.published import PAPER, load_published
from vixml.config.tables import load_tables
from vixml.errors import VixmlError
from vixml.report.results import GREEN, Registry, Results, aggregate, load
from vixml.report.tables import Sources, build_table
from vixml.report.write_tables import make_tables, mean_sd, to_csv, to_markdown

NAMES = ("table1", "table3")


def build(config_dir, folders=(), name="table1"):
    return build_table(load_tables(config_dir, [name])[0], Sources.load(config_dir, load(folders)))


def rows(table):
    return list(csv.DictReader(to_csv(table).splitlines()))


def by_key(table):
    return {(r["dataset"], r["block"], r["row"]): r for r in rows(table)}


@pytest.mark.parametrize("name", NAMES)
def test_each_published_cell_appears_exactly_once_and_none_is_invented(config_dir, name):
    table = build(config_dir, name=name)
    printed = Counter(
        (r["dataset"], r["row"], m, r[f"{m} paper"]) for r in rows(table) for m in table.spec.metrics if r[f"{m} paper"]
    )
    published = Counter(
        (c.dataset, c.row["backbone"], c.metric, c.printed)
        for c in load_published(config_dir)
        if c.source == PAPER and c.table == table.spec.paper_table
    )
    assert printed == published
    assert len(printed) == 84


@pytest.mark.parametrize("name", NAMES)
def test_markdown_prints_each_published_value_once(config_dir, name):
    table = build(config_dir, name=name)
    numbers = Counter(re.findall(r"(?<![\w.])\d+\.\d{2}(?=[ ]\|)", to_markdown(table)))
    published = Counter(c.entry.printed for c in table.cells(True))
    assert numbers == published


@pytest.mark.parametrize("name", NAMES)
def test_without_results_every_cell_says_so(config_dir, name):
    table = build(config_dir, name=name)
    assert all(r[f"{m} ours"] == "not run" for r in rows(table) for m in table.spec.metrics)
    assert all(r["n"] == "0" and r["hours"] == "" for r in rows(table))
    assert table.states(True)["blocked"] == 84
    assert table.states(False)["not-run"] == len(table.cells(False))


def test_paper_and_ours_never_share_a_column(config_dir, results):
    table = build(config_dir, write_picto(results))
    for row in rows(table):
        for metric in table.spec.metrics:
            own = row["block"] == "measured here"
            assert (row[f"{metric} paper"] == "") == own
            assert own or row[f"{metric} ours"] == "not run"
    assert sum(row["P@1 ours"] != "not run" for row in rows(table)) == 7, "the rows that were run, no other"
    text = to_markdown(table)
    assert (
        "paper P@1" in text and "ours P@1" in text and "paper" not in text.split("## PICTO")[1].split("## Verdicts")[0]
    )


def test_measured_rows(config_dir, results):
    table = build(config_dir, write_picto(results))
    row = by_key(table)["picto", "measured here", "MiniLM-L3"]
    expected = aggregate([49.9, 50.5, 49.5])
    assert (row["run"], row["seeds"], row["n"]) == ("text-minilm-l3", "0 1 2", "3")
    assert float(row["P@1 ours"]) == pytest.approx(expected.mean, abs=1e-4)
    assert float(row["P@1 sd"]) == pytest.approx(expected.sd, abs=1e-4)
    assert float(row["P@1 low"]) == pytest.approx(expected.low, abs=1e-4)
    assert float(row["hours"]) == pytest.approx(3.15 / 60, abs=1e-4)
    assert "49.97 ± 0.50 (3)" in to_markdown(table)
    assert by_key(table)["picto", "measured here", "Popularity"]["hours"] == ""


@pytest.mark.parametrize("run", ["text-minilm-l3", "knn-text-minilm-l3"])
def test_editing_one_value_changes_exactly_its_cells(config_dir, results, run):
    folders = write_picto(results)
    before = by_key(build(config_dir, folders))
    path = next(f for f in folders if f.parts[-4] == run and f.parts[-3] == "seed0") / "scores.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["metrics"]["P@5"] += 1.0
    path.write_text(json.dumps(value), encoding="utf-8")
    after = by_key(build(config_dir, folders))
    changed = {(key, column) for key in before for column in before[key] if before[key][column] != after[key][column]}
    assert {key for key, _ in changed} == {key for key in before if before[key]["run"] == run and key[0] == "picto"}
    assert {column for _, column in changed} <= {"P@5 ours", "P@5 sd", "P@5 low", "P@5 high"}
    assert (next(iter(changed))[0], "P@5 ours") in changed
    assert rows(build(config_dir, folders, "table3")) == rows(build(config_dir, write_picto(results / "new"), "table3"))


def test_removing_a_run_turns_its_cells_to_not_run_and_nothing_else(config_dir, results):
    folders = write_picto(results)
    before = by_key(build(config_dir, folders))
    after = by_key(build(config_dir, [f for f in folders if f.parts[-4] != "text-minilm-l3"]))
    assert before.keys() == after.keys()
    for key, row in after.items():
        if key == ("picto", "measured here", "MiniLM-L3"):
            assert all(
                row[f"{m} ours"] == "not run" and row[f"{m} verdict"] == "not-run"
                for m in METRICS
                if f"{m} ours" in row
            )
            assert (row["n"], row["seeds"], row["P@1 sd"]) == ("0", "", "")
        else:
            assert row == before[key]


def test_a_missing_seed_shows_in_n(config_dir, results):
    folders = [f for f in write_picto(results) if f.parts[-4:-2] != ("text-minilm-l3", "seed1")]
    row = by_key(build(config_dir, folders))["picto", "measured here", "MiniLM-L3"]
    assert (row["n"], row["seeds"], row["P@1 low"]) == ("2", "0 2", "")
    assert "49.70 ± 0.28 (2)" in to_markdown(build(config_dir, folders))


def test_a_stand_in_is_never_green(config_dir, results):
    table = build(config_dir, write_picto(results))
    assert {c.verdict.state for c in table.cells(False) if c.ours is not None} == {"stand-in"}
    assert {c.verdict.state for c in table.cells(False) if c.ours is None} == {"not-run"}
    assert not GREEN & {c.verdict.state for c in table.cells(False)}


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, "matches"),
        ({"spread": 1.0, "shift": 0.5}, "consistent"),
        ({"spread": 0.1, "shift": 2.0}, "above"),
        ({"spread": 0.1, "shift": -2.0}, "below"),
        ({"shift": 2.0, "seeds": (0, 1)}, "not-comparable"),
    ],
)
def test_published_rows_that_were_run(config_dir, results, options, state):
    register_real(config_dir)
    table = build(config_dir, write_real(results, **options))
    states = table.states(True)
    assert states[state] == 4
    # The five backbones without a run here are blocked on their run, the other datasets on their data.
    assert states["blocked"] == 80


def test_a_published_row_with_other_data_or_weights_is_a_stand_in(config_dir, results):
    register_real(config_dir, stand_in=True)
    table = build(config_dir, write_real(results))
    assert table.states(True)["stand-in"] == 4 and table.states(True)["matches"] == 0


def test_a_vision_encoder_that_stands_in_marks_only_runs_with_images(config_dir, results):
    register_real(config_dir, vision_stand_in=True)
    registry = Registry.load(config_dir)
    assert registry.stand_in("LF-AmazonTitles-131K", "text-minilm-l3") is None
    assert "EfficientNet" in registry.stand_in("LF-AmazonTitles-131K", "vixml-minilm-l3")
    table = build(config_dir, write_real(results, "vixml-minilm-l3"), "table3")
    assert table.states(True)["stand-in"] == 4


def test_a_run_that_nobody_configured_cannot_confirm_anything(config_dir, results):
    register_real(config_dir)
    table = build(config_dir, write_real(results, "text-bert"))
    assert table.states(True)["stand-in"] == 4


def test_a_runnable_row_predicts_its_cost(config_dir):
    register_real(config_dir)
    row = by_key(build(config_dir))["LF-AmazonTitles-131K", "dual-encoder learning", "MiniLM-L3"]
    assert row["P@1 verdict"] == "not-run"
    assert row["note"].startswith("predicted: at most ") and " FLOP, " in row["note"]
    shorter = config_dir / "runs" / "real.yaml"
    before = row["note"]
    shorter.write_text(
        shorter.read_text(encoding="utf-8").replace("{modality: text}", "{modality: text, training: {epochs: 3}}"),
        encoding="utf-8",
    )
    row = by_key(build(config_dir))["LF-AmazonTitles-131K", "dual-encoder learning", "MiniLM-L3"]
    assert row["note"] != before, "the prediction is that of our run's configuration"


def test_two_runs_give_the_same_bytes(config_dir, results, tmp_path):
    folders = write_picto(results)
    make_tables(folders, config_dir, NAMES, tmp_path / "a")
    make_tables(list(reversed(folders)), config_dir, NAMES, tmp_path / "b")
    names = ["metrics.json", "summary.json", *(f"{name}.{kind}" for name in NAMES for kind in ("csv", "md", "tex"))]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([*names, "manifest.json"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text(encoding="utf-8"))
    assert "score/picto/popularity/seed0/test" in manifest["inputs"]
    assert "training/picto/text-minilm-l3/seed0/test" in manifest["inputs"]


def test_summary_counts_every_state(config_dir, results, tmp_path):
    make_tables(write_picto(results), config_dir, NAMES, tmp_path / "t")
    summary = json.loads((tmp_path / "t" / "summary.json").read_text(encoding="utf-8"))
    one = summary["tables"]["table1"]
    assert one["published_cells"] == 84 == sum(one["published"].values())
    # Seven rows of Table 1 and five of Table 3 were run; the others were not. Four metrics each.
    first, third = (4 * sum(len(b.rows) for b in spec.measured) for spec in load_tables(config_dir, NAMES))
    assert one["measured_cells"] == first == sum(one["measured"].values())
    assert one["measured"]["stand-in"] == 28 and one["measured"]["not-run"] == first - 28 > 0
    assert set(one["published"]) == set(summary["states"])
    assert summary["states"]["stand-in"] == 28 + 20
    assert sum(summary["states"].values()) == 84 * 2 + first + third


def test_a_failing_table_leaves_the_folder_alone(config_dir, results, tmp_path):
    make_tables([], config_dir, ["table1"], tmp_path / "t")
    before = (tmp_path / "t" / "table1.csv").read_bytes()
    bad = write_result(results, "picto", "popularity", 0, {"P@1": 1.0})
    with pytest.raises(VixmlError, match="which a table needs"):
        make_tables([bad], config_dir, ["table1"], tmp_path / "t")
    assert (tmp_path / "t" / "table1.csv").read_bytes() == before
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


def test_a_row_of_a_run_that_does_not_exist_says_so(config_dir):
    """Misspelt, it would else be "not run" for ever."""
    path = config_dir / "tables" / "table1.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("run: text-minilm-l3--slow,", "run: text-minilm-l3--slwo,"),
        encoding="utf-8",
    )
    row = by_key(build(config_dir))["picto", "measured here", "MiniLM-L3, lr 2e-4"]
    assert (row["P@1 ours"], row["P@1 verdict"]) == ("not run", "blocked")
    assert "no run text-minilm-l3--slwo of picto in config/runs" in row["note"]


def test_numbers_as_printed():
    assert mean_sd(None) == "not run"
    assert mean_sd(aggregate([49.9])) == "49.90 (1)"
    assert Results().all() == [] and not Results()
