"""One number edited, one run removed: its cells change in CSV, Markdown, LaTeX and the report, and no other cell anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import update_manifest
from printed_forms import read_report, read_tables
from result_files import copy_config, register_real, write_picto, write_real

from vixml.files import read_json, write_json
from vixml.report.report import ReportOptions, make_report
from vixml.report.write_tables import make_tables

TABLES = ["table1", "table3", "table5", "table10", "table13"]
RUN, PSP = "vixml-minilm-l3", "PSP@1"
REAL = "LF-AmazonTitles-131K"
# Its row in each table that shows it.
LABELS = {"table3": "MiniLM-L3 ViXML", "table5": "PRIME + ViXML", "table10": "3", "table13": "ViXML (DEL)"}


class World:
    """Results, made into tables and a report as often as a test asks."""

    def __init__(self, root: Path) -> None:
        self.root, self.config, self.made = root, root / "config", 0
        copy_config(self.config)
        register_real(self.config)
        self.folders = write_picto(root / "results") + write_real(root / "results", spread=0.05, shift=0.5)

    def make(self, folders: list[Path] | None = None):
        """Return what tables and report print, each cell by its place."""
        self.made += 1
        out, folders = self.root / f"made{self.made}", self.folders if folders is None else folders
        make_tables(folders, self.config, TABLES, out / "t")
        make_report(folders, self.config, TABLES, ReportOptions(), out / "r")
        page = read_report((out / "r/report.html").read_text(encoding="utf-8"))
        return read_tables(out / "t", TABLES), page, read_json(out / "t/summary.json")

    def edit(self, dataset: str, run: str, metric: str, by: float) -> None:
        """Change one metric of one seed."""
        path = self.root / "results/runs" / dataset / run / "seed1/test/score/scores.json"
        value = read_json(path)
        value["metrics"][metric] += by
        write_json(path, value)
        update_manifest(path.parent)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def changed(before, after):
    """Return {place: changed columns} of what `make` printed twice."""
    assert before.keys() == after.keys(), "no row comes or goes"
    found = {key: {c for c in before[key] if before[key][c] != after[key][c]} for key in before}
    return {key: columns for key, columns in found.items() if columns}


def test_an_edited_value_moves_its_cells_in_every_form(world):
    tables, page, summary = world.make()
    world.edit("picto", RUN, PSP, 3.0)
    tables_after, page_after, summary_after = world.make()
    found = changed(tables, tables_after)
    expected = {"csv": {f"{PSP} {part}" for part in ("ours", "sd", "low", "high")}}
    expected |= {form: {f"ours {PSP}"} for form in ("md", "tex")}
    assert {(key[0], key[1], key[4]): columns for key, columns in found.items()} == {
        (form, table, label): columns for form, columns in expected.items() for table, label in LABELS.items()
    }
    assert summary == summary_after, "a stand-in keeps its verdict, whatever its value"

    cells = [key for key in page if page[key] != page_after[key]]
    shown = {(caption, row.split(" ", 1)[1]) for caption, _, row, _ in cells}
    own = {(caption, label) for caption, label in shown if caption.startswith("Table ")}
    assert {label for _, label in own} == set(LABELS.values()) and len(own) == len(LABELS)
    # Beside the tables: the main numbers, and the evidence that the cell opens, where the seed and its summary moved.
    assert shown - own == {("PICTO, measured here, text and images", LABELS["table3"]), ("Seed by seed, percent", PSP)}
    assert len(cells) == len(LABELS) + 1 + 4
    assert len({place for caption, place, _, _ in cells if caption == "Seed by seed, percent"}) == 1


def test_an_edited_value_of_the_papers_data_moves_difference_and_verdict_too(world):
    tables, _, summary = world.make()
    world.edit(REAL, "text-minilm-l3", "P@1", 30.0)
    tables_after, _, summary_after = world.make()
    found = {(key[0], key[1], key[4]): columns for key, columns in changed(tables, tables_after).items()}
    counted = {("md", "table1", state) for state in ("above", "consistent")}
    assert found.keys() == {(form, "table1", "MiniLM-L3") for form in ("csv", "md", "tex")} | counted
    parts = {"ours", "sd", "low", "high", "delta", "verdict"}
    assert {f"P@1 {part}" for part in parts} == found["csv", "table1", "MiniLM-L3"]
    assert {"ours P@1", "Δ P@1", "verdict"} == found["md", "table1", "MiniLM-L3"]
    assert {"ours P@1", r"$\Delta$ P@1", "verdict"} == found["tex", "table1", "MiniLM-L3"]
    before, after = (s["tables"]["table1"]["published"] for s in (summary, summary_after))
    # 0.5 above with a spread of 0.05 is above; 30 points more in one seed is an interval that holds anything.
    assert {s: after[s] - before[s] for s in before if after[s] != before[s]} == {"above": -1, "consistent": 1}


def test_a_removed_run_turns_its_cells_to_not_run_and_nothing_else(world):
    tables, page, summary = world.make()
    tables_after, page_after, summary_after = world.make([f for f in world.folders if f.parts[-4] != RUN])
    found = changed(tables, tables_after)
    counts = {key: columns for key, columns in found.items() if key[2] == "Verdicts"}
    assert {key[4] for key in counts} == {"stand-in", "not-run"}
    rows = {key: columns for key, columns in found.items() if key not in counts}
    assert {(key[0], key[1], key[4]) for key in rows} == {
        (form, table, label) for form in ("csv", "md", "tex") for table, label in LABELS.items()
    }
    for key in rows:
        row = tables_after[key]
        ours = {row[column] for column in row if column.startswith("ours ") or column.endswith(" ours")}
        assert ours == {"not run"}, key
        state = {text for column, text in row.items() if column == "verdict" or column.endswith(" verdict")}
        assert state == {"not-run"}, key
    for name, table in summary["tables"].items():
        moved = 4 if name in LABELS else 0
        after = summary_after["tables"][name]
        assert after["published"] == table["published"]
        assert after["measured"]["not-run"] == table["measured"]["not-run"] + moved
        assert after["measured"]["stand-in"] == table["measured"]["stand-in"] - moved
        assert after["gpu_hours_not_run"] == table["gpu_hours_not_run"], "it is a stand-in: no hours of the paper's"

    def rows_of(report):
        found = {}
        for (caption, _, row, column), text in report.items():
            if caption.startswith("Table "):
                found.setdefault((caption, row.split(" ", 1)[1], row.split(" ", 1)[0]), {})[column] = text
        return found

    before, after = rows_of(page), rows_of(page_after)
    assert before.keys() == after.keys()
    gone = {key for key in before if before[key] != after[key]}
    assert {label for _, label, _ in gone} == set(LABELS.values()) and len(gone) == len(LABELS)
    assert all(list(after[key].values()).count("not run") == 4 for key in gone)


def test_a_missing_seed_says_n_in_every_form(world):
    gone = [f for f in world.folders if f.parts[-4:-2] != (RUN, "seed1")]
    tables, page, _ = world.make(gone)
    for (form, name, _, _, label), row in tables.items():
        if name not in LABELS or label != LABELS[name] or row.get("run", RUN) != RUN:
            continue
        if form == "csv":
            assert (row["n"], row["seeds"], row["P@1 low"]) == ("2", "0 2", "")
        elif "ours P@1" in row and row["ours P@1"] != "not run":
            assert row["ours P@1"].endswith("(2)"), (form, name)
    shown = [text for (caption, *_), text in page.items() if caption.startswith("Table ") and text.endswith("(2)")]
    assert len(shown) == 4 * len(LABELS)
