"""The page on what is reproduced: in step with its sources, and its words follow from its numbers."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest
from report_page import CONFIG, EVERY_TABLE, sources
from result_files import REPO

from vixml.config.published import load_published
from vixml.config.tables import Comparison, load_any_tables, load_comparisons
from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.report.pages import in_the_paper, pages, reproduction
from vixml.report.tables import missing_cost
from vixml.text import duration

COMPARISONS = load_comparisons(CONFIG)
PUBLISHED = load_published(CONFIG)


def row(run, mean, sd, n):
    return {"run": run, "n": n, "metrics": {"P@1": {"mean": mean, "sd": sd}}}


@pytest.fixture
def reference(tmp_path):
    def write(*rows):
        path = tmp_path / "reference.json"
        write_json(path, {"schema_version": 1, "rows": list(rows)})
        return (path,)

    return write


def shape(references):
    lines = pages(CONFIG, references)["shape"].splitlines()[2:]
    return {(one.says, one.runs[1]): line.split(" | ") for one, line in zip(COMPARISONS, lines, strict=True)}


def test_the_committed_page_is_up_to_date_and_another_is_refused(tmp_path):
    committed, page = REPO / "docs/reproduction.md", tmp_path / "page.md"
    reproduction(CONFIG, committed, check=True)
    text = re.sub(r"In total, [\d,]+ hours", "In total, 3 hours", committed.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    with pytest.raises(VixmlError, match="out of date"):
        reproduction(CONFIG, page, check=True)


def test_every_published_score_is_counted():
    parts = pages(CONFIG)["parts"]
    counted = [line.split(" | ") for line in parts.splitlines() if line.startswith("| Table")]
    of_scores = [int(cells[2]) for cells in counted if cells[0] not in {"| Table 8", "| Table 9"}]
    tables = {f"Table {number}" for number in range(1, 15)}
    assert sum(of_scores) == sum(claim.table in tables for claim in PUBLISHED)


@pytest.mark.parametrize(("ours", "theirs", "n", "word"), [
    (58.0, 53.0, 3, "yes"), (53.0, 58.0, 3, "the other way"), (53.5, 53.0, 3, "not settled"), (58.0, 53.0, 2, "too few"),
])  # fmt: skip
def test_the_verdict_follows_from_the_interval(reference, ours, theirs, n, word):
    found = shape(reference(row("vixml-minilm-l3", ours, 1.0, n), row("text-minilm-l3", theirs, 1.0, n)))
    assert found["images help an encoder", "text-minilm-l3"][6].startswith(word)


@pytest.mark.parametrize(("shuffled", "word"), [(55.0, "part of the gain remains"), (53.1, "no gain remains")])
def test_a_control_is_read_the_other_way_round(reference, shuffled, word):
    found = shape(reference(row("vixml-minilm-l3--shuffled", shuffled, 0.3, 5), row("text-minilm-l3", 53.0, 0.3, 5)))
    cells = found["control: another item's images do not", "text-minilm-l3"]
    assert cells[6].startswith(word)
    half = 2.306004 * math.sqrt(2 * 0.3**2 / 5)  # t of 8 degrees of freedom
    assert cells[5] == f"{shuffled - 53:+.1f} ({shuffled - 53 - half:+.1f} to {shuffled - 53 + half:+.1f})"


def test_rows_without_a_run_say_so(reference):
    found = shape(reference(row("text-minilm-l3", 53.0, 1.0, 3)))
    assert all("not run" in cells[6] for cells in found.values())


def test_a_claim_of_the_paper_is_a_difference_of_two_of_its_cells():
    found = {(one.says, one.runs[1]): in_the_paper(one, PUBLISHED) for one in COMPARISONS}
    # By hand: 47.18 - 41.72 of Tables 3 and 1, and 55.03 - 53.44 of Table 4 (config/reported/discrepancies.csv).
    assert found["images help an encoder", "text-minilm-l3"] == ["Tables 1 and 3", "+5.46 (MiniLM-L3)"]
    fusion = found["early fusion is ahead of late", "vixml-minilm-l3--late-fusion"]
    assert fusion == ["Table 4", "+1.59 (DistilBERT)"]
    assert all(cells == ["–", "–"] for one, cells in zip(COMPARISONS, found.values(), strict=True) if not one.published)
    # A control and a variant of ours are nothing that the paper says; every other row is.
    assert [one.says for one in COMPARISONS if not one.published and not one.control] == ["... both centred"]
    assert all(float(cells[1].split()[0]) > 0 for cells in found.values() if cells[1] != "–")


@pytest.mark.parametrize("columns", [{"backbone": "MiniLM-L4"}, {}])
def test_a_claim_must_select_one_cell_each(columns):
    scores = [{"paper_table": "Table 1", **one} for one in (columns, {"backbone": "MiniLM-L3"})]
    odd = Comparison(says="x", runs=("a", "b"), published=scores)
    with pytest.raises(VixmlError, match="exactly one published value"):
        in_the_paper(odd, PUBLISHED)


def test_published_values_and_ours_never_share_a_column():
    head, _, *lines = pages(CONFIG)["shape"].splitlines()
    columns = [name.strip() for name in head.strip("| ").split(" | ")]
    published = {claim.printed for claim in PUBLISHED}
    assert columns[2].startswith("paper") and not any("paper" in name for name in columns[3:])
    for line in lines:
        assert not published & set(re.findall(r"\d+\.\d\d\b", "|".join(line.split(" | ")[3:])))


def test_hours_and_disk_are_those_of_what_was_not_run():
    missing, said = missing_cost(load_any_tables(CONFIG), sources()), pages(CONFIG)["parts"]
    shown = {line.split(" | ")[6].strip("` |"): line.split(" | ")[4] for line in said.splitlines() if "`" in line}
    assert shown == {name: duration(missing.by_table[name].hours or None) for name in EVERY_TABLE}
    assert f"In total, {missing.total.hours:,.0f} hours" in said


def test_every_part_of_the_paper_and_every_deviation_has_its_line():
    made = pages(CONFIG)
    parts = [f"Table {n}" for n in range(1, 15)] + ["Figure 1", "Figure 2", "Text latency", "Text time", "Text PRIME"]
    shown = re.findall(r"^\| ((?:Table|Figure|Text) \w+) \|", made["parts"], re.MULTILINE)
    assert sorted(shown) == sorted(parts)
    known = re.findall(r"^\| (D\d+) \|", (REPO / "docs/deviations.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"D\d+", made["deviations"])) == sorted(known)


def test_the_page_needs_no_results(tmp_path, monkeypatch):
    """A clone without results writes the same page: nothing but committed files is read."""
    for part in ("config", "docs", "results/reference"):
        shutil.copytree(REPO / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    reproduction(Path("config"), Path("docs/reproduction.md"), check=False)
    assert (tmp_path / "docs/reproduction.md").read_bytes() == (REPO / "docs/reproduction.md").read_bytes()
