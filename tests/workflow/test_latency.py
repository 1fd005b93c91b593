"""Timings as part of the workflow: measured once, shown, and no reason to run anything again."""

from __future__ import annotations

import json
import shutil


def test_a_timing_is_measured_once_and_shown(copy):
    overlay = copy.root / "config" / "timed.yaml"
    overlay.write_text(json.dumps({"latencies": ["vixml-minilm-l3"], "tables": ["table3", "table8", "latencies"]}))
    options = ("paper_tables", "--configfile", "config/timed.yaml", "--cores", "1")
    try:
        assert copy.planned(*options)["measure_latency"] == 1
        copy.run("snakemake", *options)
        folder = copy.root / "results/runs/picto/vixml-minilm-l3/seed0/latency"
        found = json.loads((folder / "latency.json").read_text())
        for step in ("tokenise", "encode_alone", "encode_batched", "search"):
            times = found["milliseconds"][step]
            assert 0 < times["low"] <= times["median"] <= times["high"], step
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["stage"] == "measure-latency" and manifest["facts"]["device"] == "cpu"
        assert "ViXML" in (copy.root / "results/tables/latencies.md").read_text()
        assert "PICTO in miniature" in (copy.root / "results/tables/table8.md").read_text()
        page = (copy.root / "results/report.html").read_text()
        assert 'id="latencies"' in page and 'id="table8"' in page
        assert copy.planned(*options) == {}
    finally:
        overlay.unlink()
        for made in copy.root.glob("results/**/*latency*"):
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        copy.run("snakemake", "paper_tables", "--cores", "1")
