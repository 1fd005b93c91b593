"""The benchmark of tagging runs, and its straightforward way names the same first tags. No timing is asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vixml.files import read_json
from vixml.stages import place

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("run", ["text", "images"])
def test_the_benchmark_of_tagging(shop, packed, tmp_path, monkeypatch, run):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tagging

    store = place("render-images", shop.project.results, dataset="shop")
    options = ["--store", str(store), "--images", "4"] if run == "images" else ["--rows", "30"]
    options += ["--model", str(packed(run)), "--texts", "30", "--rounds", "1", "--out", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["tagging", *options])
    tagging.main()
    rows = read_json(tmp_path / "found.json")["rows"]
    assert len(rows) == (5 if run == "images" else 4)
    assert all(row["ours"]["median"] > 0 and row["limit"] > 0 for row in rows)
    assert run == "images" or rows[0]["first_tag_agrees"] > 0.95
