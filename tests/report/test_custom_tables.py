"""A configuration of your own, beside the project's: tables without the paper's rows, and no published numbers."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from report_page import add_parts, parts, without_code
from result_files import METRICS, REPO, write_result

from vixml.check.doctor import configurations
from vixml.config.load import read_yaml
from vixml.config.tables import load_tables
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.report.report import ReportOptions, make_report
from vixml.report.write_tables import make_tables

EXAMPLE = REPO / "examples/cataclysm/config"
RUNS = {"text": 68.0, "vixml": 66.0}


@pytest.fixture
def own(tmp_path):
    """Return the example's configuration at another place, beside a copy of the project's registry of models."""
    shutil.copytree(EXAMPLE, tmp_path / "mine/a/b")
    (tmp_path / "config").mkdir()
    shutil.copy(REPO / "config/models.yaml", tmp_path / "config/models.yaml")
    return tmp_path / "mine/a/b"


def change(own, keys):
    """Change keys of the table's layout."""
    path = own / "tables/cataclysm.yaml"
    path.write_text(yaml.safe_dump(read_yaml(path) | keys), encoding="utf-8")


@pytest.fixture
def scores(tmp_path):
    return [
        write_result(tmp_path / "results", "cataclysm", run, 0, METRICS | {"P@1": p1}, minutes=2.0)
        for run, p1 in RUNS.items()
    ]


def test_a_table_of_ones_own_speaks_of_no_published_numbers(own, scores, tmp_path):
    make_tables(scores, own, ["cataclysm"], tmp_path / "tables")
    for score in scores:
        add_parts(score, parts())
    options = ReportOptions("cataclysm", side_by_side=("vixml", "text"), configfile="mine/my table.yaml")
    make_report(scores, own, ["cataclysm"], options, tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    markdown, latex = ((tmp_path / f"tables/cataclysm.{form}").read_text(encoding="utf-8") for form in ("md", "tex"))
    for text in (without_code(page), markdown, latex):
        assert "68.00 (1)" in text
        assert not re.search("publish|stand-in|paper|verdict|reproduced|million|stays last", text, re.IGNORECASE)
    assert "<code>snakemake --cores all --configfile &#39;mine/my table.yaml&#39;</code>" in page
    assert markdown.startswith("# Components of crafted items\n")
    assert ">Components of crafted items</h3>" in page and ": Components of crafted items" not in page
    summary = read_json(tmp_path / "tables/summary.json")["tables"]["cataclysm"]
    assert summary["title"] == "Components of crafted items" and summary["published_cells"] == 0
    # The registry that the folder includes is an input too: a change there changes the tables.
    assert "config/../../../config/models.yaml" in read_json(tmp_path / "tables/manifest.json")["inputs"]
    assert read_json(tmp_path / "report/manifest.json")["config"]["side_by_side"] == ["vixml", "text"]


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"measured": []}, "no rows"),
        ({"blocks": [{"rows": [{"label": "x", "published": {"backbone": "x"}}]}]}, "paper_table"),
        ({"measurd": []}, "unknown key 'measurd'"),
    ],
)
def test_a_table_that_can_show_nothing_is_refused(own, over, says):
    change(own, over)
    with pytest.raises(VixmlError) as caught:
        load_tables(own, ["cataclysm"])
    assert says in str(caught.value) and str(caught.value.where).startswith(str(own / "tables/cataclysm.yaml"))


def test_rows_of_the_paper_without_its_numbers_are_an_error(own, scores, tmp_path):
    rows = [{"label": "MiniLM-L3", "published": {"backbone": "MiniLM-L3"}}]
    change(own, {"paper_table": "Table 1", "blocks": [{"rows": rows}]})
    with pytest.raises(VixmlError, match="selects no published cell of Table 1"):
        make_tables(scores, own, ["cataclysm"], tmp_path / "tables")


def test_the_doctor_reads_a_folder_without_the_default_configuration(own):
    assert configurations(own) == "ok: cataclysm.yaml"
