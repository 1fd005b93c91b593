"""Where the speeds behind predicted costs come from: the benchmark, the rehearsal, times that are known."""

from __future__ import annotations

import pytest
from result_files import REPO

from vixml.files import write_json
from vixml.plan.assumptions import CLUSTERS, HARDWARE, HOST
from vixml.report.plan_page import BENCHMARK, REFERENCE, REHEARSAL, host_speed, known, rehearsed, sustained_here


def test_the_speed_of_a_core_is_that_of_the_benchmark():
    for way, speed in (("ours, bf16", HARDWARE["cpu"].speed(384)), ("ours, fp32", HARDWARE["cpu"].float32)):
        found = sustained_here(REPO / "config", REPO / BENCHMARK, way)
        assert speed == pytest.approx(sum(found.values()) / 2, rel=0.01)
        assert max(found.values()) < 1.1 * min(found.values()), "text and images agree on one speed"


def test_the_speeds_of_the_host_are_those_of_the_rehearsal():
    found = host_speed(REPO / REHEARSAL)
    assert found["centroids"] == pytest.approx(HOST, rel=0.05)
    assert found["balanced 2-means"] == pytest.approx(CLUSTERS, rel=0.05)
    assert HARDWARE["cpu"].clusters == CLUSTERS < HARDWARE["gpu"].clusters


def test_the_rehearsal_is_listed_part_by_part(tmp_path):
    one = {"rows": 1000, "size": 0.0625, "seconds": 0.25, "peak_mb": 512}
    two = {"rows": 16000, "size": 1, "seconds": 4.0, "peak_mb": 2048}
    path = tmp_path / "scale.json"
    write_json(path, {"parts": {"x": {"words": "what it is", "measured": [one, two], "growth": 1.0}}})
    assert rehearsed(path) == [["what it is", "0.25 s (1/16), 4 s (all)", "16,000", "1.00", "2.0 GB"]]


def test_known_times_are_met_within_a_stated_factor():
    """The paper's two trainings disagree on a speed (docs/cost.md); the rest lies within a third or so."""
    ratios = {(what, where): ratio for what, where, *_, ratio in known(REPO / "config", REPO / REFERENCE)}
    trainings = {what: ratio for (what, where), ratio in ratios.items() if where == "paper" and "1.3M" in what}
    assert trainings["vixml-distilbert, LF-AmazonTitles-1.3M"] == pytest.approx(2.64, abs=0.1)
    assert trainings["vixml-qwen2.5-3b, LF-AmazonTitles-1.3M"] == pytest.approx(1.18, abs=0.05)
    latencies = [ratio for (what, _), ratio in ratios.items() if what.startswith(("a ", "an "))]
    assert len(latencies) == 5 and all(0.75 < ratio < 1.1 for ratio in latencies)
    ours = [ratio for (_, where), ratio in ratios.items() if where.startswith("here")]
    assert ours and all(0.5 < ratio < 1.6 for ratio in ours)
