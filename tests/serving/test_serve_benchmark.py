"""The benchmark of the server runs, and nothing fails in it. No timing is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vixml.stages import place


@pytest.mark.slow
def test_the_benchmark_of_the_server(shop, packed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import serve

    store = place("render-images", shop.project.results, dataset="shop")
    options = ["--model", str(packed("images")), "--store", str(store), "--clients", "3", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", ["serve", *options, "--out", str(tmp_path / "found.json")])
    serve.main()
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 2 and all(
        row["check"]["passed"] and row["outcomes"]["200"] > 3 and row["p95_ms"] > 0 for row in rows
    )
