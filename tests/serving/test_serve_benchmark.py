"""The benchmark of the server runs, and nothing fails in it. No timing is asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vixml.files import read_json
from vixml.stages import place


@pytest.mark.slow
def test_the_benchmark_of_the_server(shop, packed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import serve

    store = place("render-images", shop.project.results, dataset="shop")
    options = ["--model", str(packed("images")), "--store", str(store), "--clients", "3", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", ["serve", *options, "--out", str(tmp_path / "found.json")])
    serve.main()
    rows = read_json(tmp_path / "found.json")["rows"]
    assert len(rows) == 2
    assert all(row["check"]["passed"] and row["outcomes"]["200"] > 3 and row["p95_ms"] > 0 for row in rows)
