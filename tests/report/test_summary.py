"""The main numbers: terminal, reference file, README and docs/results.md."""

from __future__ import annotations

import pytest
from result_files import REPO, register_real, write_manifest, write_picto, write_real, write_result
from typer.testing import CliRunner

from vixml.cli import app
from vixml.config.tables import load_summary, load_tables
from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.report.pages import SummaryOptions, fill, load_reference, select_rows
from vixml.report.pages import summary as run
from vixml.report.results import load
from vixml.report.tables import Sources, missing_cost
from vixml.text import duration

TABLES = ("table1", "table3")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def summary(results, scores, reference, config_dir, **options):
    run(SummaryOptions(results, scores, reference, TABLES, config_dir, **options))


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nafter\n", encoding="utf-8")
    return path


@pytest.fixture
def reference(config_dir, results, tmp_path):
    write_picto(results)
    summary(results, None, None, config_dir, write_reference=tmp_path / "ref.json")
    return tmp_path / "ref.json"


def test_reference_and_results_give_the_same_table(config_dir, results, reference, readme, tmp_path):
    summary(results, None, None, config_dir, readme=readme)
    first = readme.read_text(encoding="utf-8")
    summary(tmp_path / "none", None, reference, config_dir, readme=readme, check=True)
    assert (
        "| MiniLM-L3 | 49.97 ± 0.50 | 35.00 ± 0.00 | 30.00 ± 0.00 | 80.00 ± 0.00 | 48.7 to 51.2 | 3.1 min | 3 |"
        in first
    )
    assert {line.count("|") for line in first.splitlines() if line.startswith("|")} == {9}
    assert "Stand-in data" in first and "commit c0ffee000000" in first and "30 test queries" in first
    assert "| 95 % of P@1 over seeds |" in first and "; the draw of test queries is not in them. Stand-in" in first
    assert first.startswith("# Title\n") and first.endswith(f"{END}\n\nafter\n")


def test_what_a_query_takes_has_a_column_where_it_was_measured(config_dir, results, readme):
    for folder in (score.parent / "predictions" for score in write_picto(results) if "popularity" in str(score)):
        folder.mkdir()
        write_manifest(folder, "predict", {"seed": 0}, facts={"milliseconds_per_query": 0.0312})
    summary(results, None, None, config_dir, readme=readme)
    page = readme.read_text(encoding="utf-8")
    assert "| training | query | seeds |" in page
    assert [line.split("|")[-3].strip() for line in page.splitlines() if line.startswith("| Pop")] == ["0.031 ms"]
    assert {line.split("|")[-3].strip() for line in page.splitlines() if line.startswith("| MiniLM")} == {"–"}


def test_check_notices_an_edit_and_changes_nothing(config_dir, reference, readme, tmp_path):
    for _ in range(2):  # a second time writes the same
        summary(tmp_path, None, reference, config_dir, readme=readme)
        assert readme.read_text(encoding="utf-8").count("| Popularity |") == 1
    edited = readme.read_text(encoding="utf-8").replace("49.97", "59.97")
    readme.write_text(edited, encoding="utf-8")
    with pytest.raises(VixmlError, match="out of date"):
        summary(tmp_path, None, reference, config_dir, readme=readme, check=True)
    assert readme.read_text(encoding="utf-8") == edited


def test_runs_without_results_say_so(config_dir, results, capsys):
    write_result(results, "picto", "popularity", 0, {"P@1": 5.0, "P@5": 4.0, "PSP@1": 1.0, "R@100": 30.0})
    summary(results, None, None, config_dir)
    printed = capsys.readouterr().out
    assert "over seeds" not in printed and "5.00" in printed and "more rows of these tables were not run" in printed
    assert "tables:  not made yet" in printed and "report:  not made yet" in printed


def test_terminal_table_fits_80_columns(config_dir, results, capsys):
    write_picto(results)
    (results / "tables").mkdir()
    summary(results, None, None, config_dir)
    printed = capsys.readouterr().out
    assert "49.97±0.50" in printed and "3.1 min" in printed and "training seeds" in printed
    assert f"tables:  {results / 'tables'}" in printed
    places = ("tables:", "figures:", "report:")
    assert all(len(line) <= 80 or line.startswith(places) for line in printed.splitlines())


def test_published_cells_and_the_cost_of_the_rest_are_one_sentence(config_dir, results, capsys):
    register_real(config_dir)
    summary(results, write_picto(results) + write_real(results), None, config_dir)
    said = " ".join(capsys.readouterr().out.split())
    # Four cells of Table 1 were run; of Table 3, the one row that has a run here is left.
    assert "Of 168 published cells of Table 1, Table 3: 4 matches, 4 not-run, 160 blocked; those not run" in said
    sources = Sources.load(config_dir, load([]))
    left = missing_cost(load_tables(config_dir, ["table3"]), sources).total.hours
    assert f"would take {duration(left)} of one H100, as predicted." in said


def test_nothing_to_summarise(config_dir, results):
    with pytest.raises(VixmlError, match="no finished scores"):
        summary(results, None, None, config_dir)


def test_reference_of_another_version(reference):
    write_json(reference, read_json(reference) | {"schema_version": 2})
    with pytest.raises(VixmlError, match="another schema version"):
        load_reference(reference)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_markers_must_be_there_once(text):
    with pytest.raises(VixmlError, match="no place"):
        fill(text, "table", "README.md")


@pytest.mark.parametrize(
    ("reference", "layout", "page", "place"),
    [
        ("picto-summary", "readme", "README.md", "results"),
        ("picto-summary", None, "docs/results.md", "results"),
        ("picto-methods-summary", None, "docs/results.md", "methods"),
        ("picto-best-summary", "best", "docs/results.md", "best"),
    ],
)
def test_the_tables_of_the_pages_are_up_to_date(reference, layout, page, place):
    file = REPO / f"results/reference/{reference}.json"
    summary(REPO, None, file, REPO / "config", layout=layout, readme=REPO / page, place=place, check=True)


def test_a_layout_selects_rows_of_a_reference_file():
    found = load_reference(REPO / "results/reference/picto-summary.json")
    layout = load_summary(REPO / "config", "readme")
    rows = select_rows(found, layout)["rows"]
    wanted = [row for block in layout.measured for row in block.rows]
    assert [(row["run"], row["label"]) for row in rows] == [(row.run, row.label) for row in wanted]
    numbers = {row["run"]: row["metrics"] for row in found["rows"]}
    assert all(row["metrics"] == numbers[row["run"]] for row in rows)
    lacking = {**found, "rows": [row for row in found["rows"] if row["run"] != wanted[0].run]}
    with pytest.raises(VixmlError, match="lacks") as caught:
        select_rows(lacking, layout)
    assert wanted[0].run in str(caught.value.found)


def test_commands_end_to_end(config_dir, results, tmp_path):
    folders = write_picto(results)
    scores = [word for folder in folders for word in ("--score", str(folder))]
    common = ["--config-dir", str(config_dir), *scores]
    tables = ["--tables", "table1", "--tables", "table3"]
    runs = [
        ["make-tables", *tables, *common, "--out", str(tmp_path / "t")],
        ["make-figures", "--figures", "figure2", *common, "--out", str(tmp_path / "f")],
        ["make-report", *tables, *common, "--figures-dir", str(tmp_path / "f"), "--out", str(tmp_path / "r")],
        f"summary --results {results} --config-dir {config_dir} --write-reference {tmp_path / 'ref'}".split(),
    ]
    for arguments in runs:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    made = ["t/table1.md", "t/table3.csv", "t/summary.json", "f/figure2.svg", "r/report.html", "ref"]
    assert all((tmp_path / name).exists() for name in made)
