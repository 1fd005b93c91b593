"""Every table of config/tables: the paper's cells once each, runs that measure their rows, PICTO in the same shape."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from report_page import CONFIG, EVERY_TABLE, build, rows, sources
from report_page import TABLES_OF_SCORES as EVERY

from vixml.config.load import load_runs, load_world, read_yaml
from vixml.config.published import PAPER, load_published
from vixml.config.tables import load_tables

DEMO = ("table1", "table3")


@pytest.mark.parametrize("name", EVERY)
def test_every_published_row_is_quoted_or_can_be_run_and_predicts_its_cost(name):
    table = build(name)
    states = table.states(True)
    assert states["not-run"] + states["not-comparable"] + states["blocked"] == len(table.cells(True))
    for row in rows(table):
        if row["P@1 verdict"] == "not-run" and row["P@1 paper"]:
            assert row["note"].startswith("predicted: "), row


def test_every_published_cell_has_its_place_in_one_table():
    """Every score that the paper printed, in a table or in a sentence, once; build() refuses a cell without a place."""
    claims = [c for c in load_published(CONFIG) if c.source == PAPER]
    specs = load_tables(CONFIG)
    assert {c.table for c in claims} == {spec.paper_table for spec in specs}
    assert sum(len(build(name).cells(True)) for name in EVERY) == len(claims) == 602


def reported(table: str) -> list[dict[str, str]]:
    """Read the paper's cells of a table without the code under test."""
    with open(CONFIG / "reported" / "reported_results.csv", encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["source"] == PAPER and row["paper_table"] == table]


@pytest.mark.parametrize("name", EVERY)
def test_each_cell_of_the_file_is_printed_once_and_none_is_invented(name):
    table = build(name)
    printed = Counter(
        (r["dataset"], r["params"], m, r[f"{m} paper"])
        for r in rows(table)
        for m in table.spec.metrics
        if r[f"{m} paper"]
    )
    file = reported(table.spec.paper_table)
    assert printed == Counter((c["dataset"], c["params"], f"{c['metric']}@{c['k']}", c["value"]) for c in file)
    for row in rows(table):
        assert (row["block"] == "measured here") == (row["dataset"] == "picto")
        assert row["dataset"] != "picto" or not any(row[f"{m} paper"] for m in table.spec.metrics)


@pytest.mark.parametrize("name", EVERY)
def test_each_line_is_one_row_of_the_file(name):
    """The cells of a line belong together: they differ in metric alone."""
    table = build(name)
    seen = set()
    for _, line in table.rows(published=True):
        identity = {(c.entry.dataset, *sorted(c.entry.row.items())) for c in line.cells}
        assert len(identity) == 1 and not identity & seen, line.label
        seen |= identity


def described(world, run):
    """Return what the paper says of a row as a run's configuration says it."""
    images = run.images if run.uses_images else None
    return {
        "modality": run.modality,
        "base_method": "" if run.method == "none" else run.method,
        "vision_encoder": world.vision_models[images.vision].title if images else "",
        "n_images": str(images.per_item) if images else "",
        "inference": {"label-search": "embedding MIPS"}.get(run.inference.method, run.inference.method),
    }


@pytest.mark.parametrize("name", EVERY)
def test_each_run_named_is_the_one_that_measures_its_row(name):
    """Its settings are what the row says, its language model the one of the paper's training."""
    config, world = load_runs(CONFIG), load_world(CONFIG)
    for section, line in build(name).rows(published=True):
        if not line.run:
            continue
        where = (section.dataset, line.label, line.run)
        row, run = dict(line.cells[0].entry.row), config[section.dataset, line.run]
        row["n_images"] = row["n_images"].removeprefix("0")  # Table 10 has text only as 0 images
        wanted = described(world, run)
        assert wanted == {column: row[column] for column in wanted}, where
        if run.uses_images:
            assert run.images.fusion == ("late" if row["method"] == "MUFIN" else "early"), where
        if line.paper_run:  # Table 2 shortens names of models; the list of trainings does not
            training = sources().runs[line.paper_run]
            names = (section.dataset, world.text_models[run.encoder.model].title)
            assert (training.dataset, training.backbone) == names, where


def test_one_training_of_the_paper_is_one_of_ours_in_every_table():
    ours = {}
    for spec in load_tables(CONFIG):
        for section, line in build(spec.id).rows(published=True):
            if line.paper_run:
                inference = line.cells[0].entry.row["inference"]
                run = (section.dataset, line.run, line.seed or 0)
                assert line.run and ours.setdefault((line.paper_run, inference), run) == run, (spec.id, line.label)
    assert max(Counter(ours.values()).values()) == 1
    assert {training for training, _ in ours} == {f"run{number:02}" for number in range(1, 72)}


WORDS = {"T1": "This product text", "T2": "and its text", "I1": "This product image", "I2": "and its image"}
PIECES = WORDS | {"E": "{text}", "V": "{images}", "EOS": "{eos}"}


def squeezed(template):
    return template.replace(" ", "")


@pytest.mark.parametrize("name", ["table6", "table11"])
def test_a_label_that_spells_a_prompt_names_the_run_with_that_prompt(name):
    """The paper's runs and PICTO's: words, order of text and images, and pooling."""
    config = load_runs(CONFIG)
    for section in build(name).sections:
        for line in section.rows:
            encoder = config[section.dataset, line.run].encoder
            if name == "table6":
                template = "".join(PIECES[piece] for piece in line.label.split("+"))
            else:
                template = line.label.removesuffix(" (*)").replace("[text]", "{text}") + "{eos}"
            assert squeezed(encoder.template) == squeezed(template), (line.label, line.run)
            assert encoder.pooling == ("last" if line.label.endswith("(*)") else "mean"), line.label


def test_every_run_measured_on_picto_exists_and_its_row_is_unique():
    runs = load_runs(CONFIG)
    for spec in load_tables(CONFIG):
        assert spec.measured, spec.id
        for block in spec.measured:
            assert block.dataset == "picto" and all((block.dataset, row.run) in runs for row in block.rows), spec.id
            assert max(Counter((row.run, row.seed) for row in block.rows).values()) == 1, spec.id
            assert max(Counter(row.label for row in block.rows).values()) == 1, spec.id


def test_the_demo_writes_two_tables_the_larger_configurations_all():
    def listed(name):
        return read_yaml(CONFIG / f"{name}.yaml").get("tables")

    assert listed("config") == list(DEMO)
    for name in ("picto-methods", "paper"):
        assert sorted(listed(name)) == EVERY_TABLE, name


def test_every_run_of_picto_methods_is_in_a_table():
    targets = read_yaml(CONFIG / "picto-methods.yaml")["targets"]
    measured = {run for target in targets for run in target["runs"]}
    shown = {row.run for spec in load_tables(CONFIG) for block in spec.measured for row in block.rows}
    assert measured <= shown, sorted(measured - shown)
