"""The benchmarks run, their straightforward ways agree with ours, and one table shows them all. No timing is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Return a function that runs a benchmark's `main` in this process and returns what it wrote."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()

    def run(name: str, *arguments: str) -> dict:
        for module in (name, "measure", "table"):
            sys.modules.pop(module, None)  # names like `metrics` are taken for this run only
        out = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(out)])
        __import__(name).main()
        return json.loads(out.read_text())

    yield run
    torch.set_num_threads(threads)
    for name in ("clustering", "search", "metrics", "index", "measure", "table"):
        sys.modules.pop(name, None)


def rows(found: dict) -> list[dict]:
    assert {"benchmark", "machine", "versions", "source"} <= set(found)
    for row in found["rows"]:
        assert row["ours"]["median"] > 0 and row["limit"] > 0 and row["limit_by"]
    return found["rows"]


def test_clustering(benchmark):
    found = rows(benchmark("clustering", "--points", "600", "--dim", "16", "--rounds", "1"))
    assert [row["threads"] for row in found] == [1, 2]
    for row in found:
        assert row["same_whatever_the_threads"]
        assert row["objective"]["ours"] > row["objective"]["straightforward"] - 0.02


def test_search(benchmark):
    (row,) = rows(
        benchmark("search", "--queries", "40", "--labels", "900", "--dim", "16", "--rounds", "1", "--threads", "1")
    )
    assert row["agrees"]["ours"] == 1.0 and row["agrees"]["straightforward"] > 0.99


def test_metrics(benchmark):
    first, second = rows(
        benchmark("metrics", "--queries", "400", "--paired", "300", "--labels", "5000", "--rounds", "1")
    )
    assert first["largest_difference"] < 1e-9 and second["process_mb"] > 100 and second["straightforward"] is None


def test_index(benchmark):
    found = rows(benchmark("index", "--queries", "30", "--labels", "800", "--dim", "16", "--k", "10", "--rounds", "1"))
    assert len(found) == 2 and all(row["recall"] > 0.95 and row["bytes"] > 800 * 64 for row in found)


def test_the_table_shows_every_result_and_what_is_owed(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(BENCHMARKS.parent)
    sys.modules.pop("table", None)
    import table

    table.main()
    shown = capsys.readouterr().out.splitlines()
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        for row in table.rows_of(json.loads(path.read_text())):
            cells = table.cells(row)
            assert len(cells) == len(table.HEAD)
            assert any(all(cell in line for cell in cells) for line in shown), path
    for _, _, name, command in table.OWED:
        assert (BENCHMARKS / command.split()[1].removeprefix("benchmarks/")).exists()
        stands = any(f"--out benchmarks/results/{name}" in line for line in shown)
        assert stands == (not (BENCHMARKS / "results" / name).exists())
    sys.modules.pop("table", None)


def test_growth_is_a_power_of_the_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    sizes = [{"rows": n, "seconds": 1e-3 * n**1.5} for n in (10, 100, 1000)]
    assert scale.growth(sizes) == pytest.approx(1.5)
    made = scale.lists(2000, 50, 4.0)
    made.check("made up")
    assert all((np.diff(made.row(i)) > 0).all() for i in range(2000)), "ascending, no value twice"
    assert 3 < made.lengths.mean() < 5
    for module in ("scale", "measure"):
        sys.modules.pop(module, None)
