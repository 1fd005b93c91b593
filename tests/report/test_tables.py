"""Tables of scores: no published cell is invented or lost; a layout that does not fit is refused, and a new one needs no code."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from report_page import build, rows
from result_files import METRICS, register_real, write_picto, write_real, write_result

from vixml.config.tables import load_tables
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.report.results import Registry, aggregate, mean_sd
from vixml.report.write_tables import make_tables, to_markdown

NAMES = ("table1", "table3")


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def by_key(table):
    return {(r["dataset"], r["block"], r["row"]): r for r in rows(table)}


@pytest.mark.parametrize("name", NAMES)
def test_markdown_prints_each_published_value_once(config_dir, name):
    table = build(name, config_dir)
    numbers = Counter(re.findall(r"(?<![\w.])\d+\.\d{2}(?=[ ]\|)", to_markdown(table)))
    assert numbers == Counter(c.entry.printed for c in table.cells(True)) and numbers.total() == 84


@pytest.mark.parametrize("name", NAMES)
def test_without_results_every_cell_says_so(config_dir, name):
    table = build(name, config_dir)
    assert all(r[f"{m} ours"] == "not run" for r in rows(table) for m in table.spec.metrics)
    assert all(r["n"] == "0" and r["hours"] == "" for r in rows(table))
    assert table.states(True)["blocked"] == 84
    assert table.states(False)["not-run"] == len(table.cells(False))


def test_paper_and_ours_never_share_a_column(config_dir, results):
    table = build("table1", config_dir, write_picto(results))
    for row in rows(table):
        for metric in table.spec.metrics:
            own = row["block"] == "measured here"
            assert (row[f"{metric} paper"] == "") == own
            assert own or row[f"{metric} ours"] == "not run"
    assert sum(row["P@1 ours"] != "not run" for row in rows(table)) == 7, "the rows that were run, no other"
    text = to_markdown(table)
    assert "paper P@1" in text and "ours P@1" in text
    assert "paper" not in text.split("## PICTO")[1].split("## Verdicts")[0]


def test_measured_rows(config_dir, results):
    table = build("table1", config_dir, write_picto(results))
    row = by_key(table)["picto", "measured here", "MiniLM-L3"]
    expected = aggregate([49.9, 50.5, 49.5])
    assert (row["run"], row["seeds"], row["n"]) == ("text-minilm-l3", "0 1 2", "3")
    numbers = [float(row[name]) for name in ("P@1 ours", "P@1 sd", "P@1 low", "hours")]
    assert numbers == pytest.approx([expected.mean, expected.sd, expected.low, 3.15 / 60], abs=1e-4)
    assert "49.97 ± 0.50 (3)" in to_markdown(table)
    assert by_key(table)["picto", "measured here", "Popularity"]["hours"] == ""


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
    table = build("table1", config_dir, write_real(results, **options))
    states = table.states(True)
    assert states[state] == 4
    # The five backbones without a run here are blocked on their run, the other datasets on their data.
    assert states["blocked"] == 80


def test_a_published_row_with_other_data_or_weights_is_a_stand_in(config_dir, results):
    register_real(config_dir, stand_in=True)
    table = build("table1", config_dir, write_real(results))
    assert table.states(True)["stand-in"] == 4 and table.states(True)["matches"] == 0
    # Nobody vouches for a run that is not configured.
    table = build("table1", config_dir, write_real(results, "text-bert"))
    assert table.states(True)["stand-in"] == 4


def test_a_users_own_data_stand_in_for_nothing_and_confirm_nothing(config_dir, results):
    register_real(config_dir, vision_stand_in=True)
    path = config_dir / "datasets.yaml"
    own = "LF-AmazonTitles-131K, builder: catalogue, catalogue: {folder: x}"
    text = path.read_text(encoding="utf-8").replace("LF-AmazonTitles-131K, builder: picto, stand_in: false", own)
    path.write_text(text, encoding="utf-8")
    states = build("table1", config_dir, write_real(results)).states(True)
    assert own in text and (states["not-comparable"], states["stand-in"], states["matches"]) == (4, 0, 0)
    # Nor do their weights, in a table of their own beside the paper's.
    edit(config_dir / "tables/best.yaml", "dataset: picto", "dataset: LF-AmazonTitles-131K")
    metrics = METRICS | {"R@10": 60.0}
    score = write_result(results, "LF-AmazonTitles-131K", "vixml-minilm-l3", 0, metrics)
    assert Registry(config_dir).stand_in("LF-AmazonTitles-131K", "vixml-minilm-l3")
    table = build("best", config_dir, [score])
    assert table.states(False)["not-comparable"] == len(metrics) and "stand-in" not in to_markdown(table)


def test_a_vision_encoder_that_stands_in_marks_only_runs_with_images(config_dir, results):
    register_real(config_dir, vision_stand_in=True)
    registry = Registry(config_dir)
    assert registry.stand_in("LF-AmazonTitles-131K", "text-minilm-l3") is None
    assert "EfficientNet" in registry.stand_in("LF-AmazonTitles-131K", "vixml-minilm-l3")
    table = build("table3", config_dir, write_real(results, "vixml-minilm-l3"))
    assert table.states(True)["stand-in"] == 4


def test_a_runnable_row_predicts_its_cost(config_dir):
    register_real(config_dir)
    key = ("LF-AmazonTitles-131K", "dual-encoder learning", "MiniLM-L3")
    row = by_key(build("table1", config_dir))[key]
    assert row["P@1 verdict"] == "not-run"
    assert row["note"].startswith("predicted: at most ") and " FLOP, " in row["note"]
    edit(config_dir / "runs/real.yaml", "{modality: text}", "{modality: text, training: {epochs: 3}}")
    assert by_key(build("table1", config_dir))[key]["note"] != row["note"], "the prediction follows our run's settings"


def test_two_runs_give_the_same_bytes(config_dir, results, tmp_path):
    folders = write_picto(results)
    make_tables(folders, config_dir, NAMES, tmp_path / "a")
    make_tables(list(reversed(folders)), config_dir, NAMES, tmp_path / "b")
    names = ["metrics.json", "summary.json", *(f"{name}.{kind}" for name in NAMES for kind in ("csv", "md", "tex"))]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([*names, "manifest.json"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    inputs = read_json(tmp_path / "a/manifest.json")["inputs"]
    assert {"score/picto/popularity/seed0/test", "training/picto/text-minilm-l3/seed0/test"} <= inputs.keys()


def test_summary_counts_every_state(config_dir, results, tmp_path):
    make_tables(write_picto(results), config_dir, NAMES, tmp_path / "t")
    summary = read_json(tmp_path / "t/summary.json")
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
    edit(config_dir / "tables/table1.yaml", "run: text-minilm-l3--slow,", "run: text-minilm-l3--slwo,")
    row = by_key(build("table1", config_dir))["picto", "measured here", "MiniLM-L3, lr 2e-4"]
    assert (row["P@1 ours"], row["P@1 verdict"]) == ("not run", "blocked")
    assert "no run text-minilm-l3--slwo of picto in config/runs" in row["note"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("      - {label: BERT, published: {backbone: BERT}, run: text-bert}\n", "", "no place"),
        ("LF-AmazonTitles-1.3M, ", "", "no place"),
        ('"PSP@1", ', "", "no place"),
        ("published: {backbone: BERT}", "published: {backbone: ALBERT}", "selects no published cell"),
        ("published: {backbone: BERT}", "published: {backbone: MiniLM-L3}", "already has a place"),
        ("published: {backbone: BERT}", "published: {bakbone: BERT}", "bakbone"),
        ("metrics:", "metrix:", "metrics"),
        ("id: table1", "id: table2", "not the file's name"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(config_dir, old, new, message):
    edit(config_dir / "tables/table1.yaml", old, new)
    with pytest.raises(VixmlError, match=message):
        build("table1", config_dir)


def test_an_unknown_table_names_the_known_ones(config_dir):
    with pytest.raises(VixmlError, match="no such table") as caught:
        load_tables(config_dir, ["table99"])
    assert "table1" in caught.value.hint


LAYOUT = """
id: {id}
paper_table: {paper_table}
title: A title
datasets: [LF-AmazonTitles-131K, {datasets}]
metrics: ["P@1", "P@5", "PSP@1", {metrics}]
blocks:
  - rows:
"""
SEEDS = LAYOUT.format(id="table12", paper_table="Table 12", datasets="", metrics='"R@100"') + "".join(
    f"      - {{label: '{s}', published: {{method: 'dual-decoder learning, seed {s}'}}, run: text-minilm-l3, seed: {s}}}\n"
    for s in range(1, 6)
)
OTHERS = "MM-AmazonTitles-300K, LF-AmazonTitles-1.3M, LF-Amazon-131K"
CITED = LAYOUT.format(id="table7", paper_table="Table 7", datasets=OTHERS, metrics="") + "".join(
    f"      - {{label: {m}, published: {{method: {m}}}}}\n"
    for m in ("DEXML", "UniDEC", "PRIME", "Renee", "DEXA", "OAK", "MOGIC", "MUFIN", "PINA", "ViXML (Ours)")
)


def test_a_table_with_one_row_per_seed_needs_no_code(config_dir, results):
    (config_dir / "tables" / "table12.yaml").write_text(SEEDS, encoding="utf-8")
    register_real(config_dir)
    table = build("table12", config_dir, write_real(results, seeds=(1, 2)))
    assert [(line.seeds, line.cells[0].ours is None) for line in table.sections[0].rows] == [
        ((1,), False), ((2,), False), ((), True), ((), True), ((), True),
    ]  # fmt: skip


def test_a_measured_row_may_be_one_seed_or_all(config_dir, results):
    (config_dir / "tables" / "table12.yaml").write_text(
        SEEDS
        + "measured:\n  - dataset: picto\n    title: PICTO\n    rows:\n"
        + "".join(f"      - {{label: s{s}, run: text-minilm-l3, seed: {s}}}\n" for s in (0, 1, 3))
        + "      - {label: all, run: text-minilm-l3}\n",
        encoding="utf-8",
    )
    values = enumerate((44.0, 46.0, 45.0))
    folders = [write_result(results, "picto", "text-minilm-l3", s, dict.fromkeys(METRICS, v)) for s, v in values]
    lines = build("table12", config_dir, folders).sections[-1].rows
    assert [(line.label, line.seeds) for line in lines] == [("s0", (0,)), ("s1", (1,)), ("s3", ()), ("all", (0, 1, 2))]
    assert [mean_sd(line.cells[0].ours) for line in lines] == ["44.00 (1)", "46.00 (1)", "not run", "45.00 ± 1.00 (3)"]


def test_a_table_with_blanks_and_quoted_rows_needs_no_code(config_dir):
    (config_dir / "tables" / "table7.yaml").write_text(CITED, encoding="utf-8")
    table = build("table7", config_dir)
    assert len(table.cells(True)) == 73
    assert table.sections[0].title == "LF-AmazonTitles-131K"
    assert "| DEXML |  | 42.52 | 20.64 | – |" in to_markdown(table)
