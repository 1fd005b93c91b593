"""Shapes of tables are data: what does not fit is refused, and another table needs no code."""

from __future__ import annotations

import pytest
from result_files import METRICS, register_real, write_real, write_result

from vixml.config.tables import load_tables
from vixml.errors import VixmlError
from vixml.report.results import load
from vixml.report.tables import Sources, build_table
from vixml.report.write_tables import mean_sd, to_markdown


def build(config_dir, folders=(), name="table1"):
    return build_table(load_tables(config_dir, [name])[0], Sources.load(config_dir, load(folders)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{label: BERT, claim: {backbone: BERT}, run: text-bert}", "", "no place"),
        ("LF-AmazonTitles-1.3M, ", "", "no place"),
        ('"PSP@1", ', "", "no place"),
        ("claim: {backbone: BERT}", "claim: {backbone: ALBERT}", "selects no published cell"),
        ("claim: {backbone: BERT}", "claim: {backbone: MiniLM-L3}", "already has a place"),
        ("claim: {backbone: BERT}", "claim: {bakbone: BERT}", "bakbone"),
        ("metrics:", "metrix:", "metrics"),
        ("id: table1", "id: table2", "not the file's name"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(config_dir, old, new, message):
    path = config_dir / "tables" / "table1.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    text = text.replace(f"      - {old}\n", "") if not new and old.startswith("{") else text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VixmlError, match=message):
        build(config_dir)


def test_an_unknown_table_names_the_known_ones(config_dir):
    with pytest.raises(VixmlError, match="no such table") as caught:
        load_tables(config_dir, ["table99"])
    assert "table1" in caught.value.hint


SEEDS = """
id: table12
paper_table: Table 12
title: Seeds
row_title: seed
datasets: [LF-AmazonTitles-131K]
metrics: ["P@1", "P@5", "PSP@1", "R@100"]
blocks:
  - rows:
""" + "".join(
    f"      - {{label: '{s}', claim: {{method: 'dual-decoder learning, seed {s}'}}, run: text-minilm-l3, seed: {s}}}\n"
    for s in range(1, 6)
)
CITED = """
id: table7
paper_table: Table 7
title: Related work
row_title: method
datasets: [LF-AmazonTitles-131K, MM-AmazonTitles-300K, LF-AmazonTitles-1.3M, LF-Amazon-131K]
metrics: ["P@1", "P@5", "PSP@1"]
blocks:
  - rows:
""" + "".join(
    f"      - {{label: {m}, claim: {{method: {m}}}}}\n"
    for m in ("DEXML", "UniDEC", "PRIME", "Renee", "DEXA", "OAK", "MOGIC", "MUFIN", "PINA", "ViXML (Ours)")
)


def test_a_table_with_a_row_a_seed_needs_no_code(config_dir, results):
    (config_dir / "tables" / "table12.yaml").write_text(SEEDS, encoding="utf-8")
    register_real(config_dir)
    table = build(config_dir, write_real(results, seeds=(1, 2)), "table12")
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
    values = {0: 44.0, 1: 46.0, 2: 45.0}
    folders = [
        write_result(results, "picto", "text-minilm-l3", seed, dict.fromkeys(METRICS, value))
        for seed, value in values.items()
    ]
    lines = build(config_dir, folders, "table12").sections[-1].rows
    assert [(line.label, line.seeds) for line in lines] == [("s0", (0,)), ("s1", (1,)), ("s3", ()), ("all", (0, 1, 2))]
    assert [mean_sd(line.cells[0].ours) for line in lines] == ["44.00 (1)", "46.00 (1)", "not run", "45.00 ± 1.00 (3)"]


def test_a_table_with_blanks_and_quoted_rows_needs_no_code(config_dir):
    (config_dir / "tables" / "table7.yaml").write_text(CITED, encoding="utf-8")
    table = build(config_dir, name="table7")
    assert len(table.cells(True)) == 73
    assert table.sections[0].title == "LF-AmazonTitles-131K"
    assert "| DEXML |  | 42.52 | 20.64 | – |" in to_markdown(table)
