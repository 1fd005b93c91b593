"""The page on what is reproduced: in step with its sources, and its words follow from its numbers."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
from result_files import REPO

from vixml.errors import VixmlError
from vixml.reproduce.claims import load_claims
from vixml.reproduce.reproduction import COMPARISONS, pages, reproduction


def row(run, mean, sd, n):
    return {"run": run, "n": n, "metrics": {"P@1": {"mean": mean, "sd": sd}}}


@pytest.fixture
def reference(tmp_path):
    def write(*rows):
        path = tmp_path / "reference.json"
        path.write_text(json.dumps({"schema_version": 1, "rows": list(rows)}))
        return (path,)

    return write


def shape(references):
    lines = pages(REPO / "config", references)["shape"].splitlines()[2:]
    return {(one.says, one.other): line.split(" | ") for one, line in zip(COMPARISONS, lines, strict=True)}


def test_the_committed_page_is_in_step():
    reproduction(REPO / "config", REPO / "docs/reproduction.md", check=True)


def test_a_page_that_is_out_of_date_is_refused(tmp_path):
    page = tmp_path / "page.md"
    shutil.copy(REPO / "docs/reproduction.md", page)
    page.write_text(re.sub(r"All together [\d,]+ hours", "All together 3 hours", page.read_text()))
    with pytest.raises(VixmlError, match="out of date"):
        reproduction(REPO / "config", page, check=True)


def test_every_published_score_is_counted():
    parts = pages(REPO / "config")["parts"]
    counted = [line.split(" | ") for line in parts.splitlines() if line.startswith("| Table")]
    of_scores = [int(cells[2]) for cells in counted if cells[0] not in {"| Table 8", "| Table 9"}]
    tables = {f"Table {number}" for number in range(1, 15)}
    assert sum(of_scores) == sum(claim.table in tables for claim in load_claims(REPO / "config"))


@pytest.mark.parametrize(
    ("ours", "theirs", "n", "word"),
    [
        (58.0, 53.0, 3, "yes"),
        (53.0, 58.0, 3, "the other way"),
        (53.5, 53.0, 3, "not settled"),
        (58.0, 53.0, 2, "too few"),
    ],
)
def test_the_word_follows_from_the_interval(reference, ours, theirs, n, word):
    found = shape(reference(row("vixml-minilm-l3", ours, 1.0, n), row("text-minilm-l3", theirs, 1.0, n)))
    assert found["images help an encoder", "text-minilm-l3"][5].startswith(word)


@pytest.mark.parametrize(("shuffled", "word"), [(55.0, "a part of the gain stays"), (53.1, "no gain is left")])
def test_a_control_is_read_the_other_way_round(reference, shuffled, word):
    found = shape(reference(row("vixml-minilm-l3--shuffled", shuffled, 0.3, 5), row("text-minilm-l3", 53.0, 0.3, 5)))
    cells = found["control: another item's images do not", "text-minilm-l3"]
    assert cells[5].startswith(word)
    half = 2.306004 * math.sqrt(2 * 0.3**2 / 5)  # t of 8 degrees of freedom
    assert cells[4] == f"{shuffled - 53:+.1f} ({shuffled - 53 - half:+.1f} to {shuffled - 53 + half:+.1f})"


def test_what_was_not_run_says_so(reference):
    found = shape(reference(row("text-minilm-l3", 53.0, 1.0, 3)))
    assert all("not run" in cells[5] for cells in found.values())
