"""Timings as part of the workflow: measured once, shown, and no reason to run anything again."""

from __future__ import annotations

from vixml.files import read_json, write_json


def test_a_timing_is_measured_once_and_shown(apart):
    overlay = apart.root / "config" / "timed.yaml"
    write_json(overlay, {"latencies": ["vixml-minilm-l3"], "tables": ["table3", "table8", "latencies"]})
    options = ("paper_tables", "--configfile", "config/timed.yaml", "--cores", "1")
    assert apart.planned(*options)["measure_latency"] == 1
    apart.run("snakemake", *options)
    folder = apart.root / "results/runs/picto/vixml-minilm-l3/seed0/latency"
    found = read_json(folder / "latency.json")
    for step in ("tokenise", "encode_alone", "encode_batched", "search"):
        times = found["milliseconds"][step]
        assert 0 < times["low"] <= times["median"] <= times["high"], step
    manifest = read_json(folder / "manifest.json")
    assert manifest["stage"] == "measure-latency" and manifest["facts"]["device"] == "cpu"
    assert "ViXML" in (apart.root / "results/tables/latencies.md").read_text(encoding="utf-8")
    assert "PICTO in miniature" in (apart.root / "results/tables/table8.md").read_text(encoding="utf-8")
    page = (apart.root / "results/report.html").read_text(encoding="utf-8")
    assert 'id="latencies"' in page and 'id="table8"' in page
    assert apart.planned(*options) == {}
