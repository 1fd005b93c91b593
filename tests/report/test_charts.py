"""Charts of trainings and of parts of scores: what is drawn is what was measured."""

from __future__ import annotations

import re

import pytest
from result_files import METRICS, write_result

from vixml.errors import VixmlError
from vixml.report.charts import Bars, Series, bar_chart, curves, line_chart, read_log, ticks
from vixml.report.results import aggregate, load


def test_curves_skip_what_is_not_a_number(results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS, minutes=1)
    log = score.parent.parent / "model" / "log.jsonl"
    log.write_text('{"epoch": 0, "loss": NaN, "P@1/u": 5}\n{"epoch": 1, "loss": 0.3, "P@1/u": NaN}\n', encoding="utf-8")
    found = curves(load([score]).all())
    run, charts = found
    assert run == "text-minilm-l3" and len(charts) == 2
    assert "nan" not in "".join(charts).lower()
    log.write_text("oops\n", encoding="utf-8")
    with pytest.raises(VixmlError, match="not JSON") as caught:
        read_log(log)
    assert str(caught.value.where).endswith(":1")
    log.unlink()
    assert curves(load([score]).all()) is None


@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.5), (0.0, 0.0, 0.0), (1e-6, 3e5)])
def test_charts_of_flat_and_steep_lines(values):
    svg = line_chart([Series("a <b>", tuple(range(1, len(values) + 1)), values)], "label", "title")
    assert "a &lt;b&gt;" in svg and "nan" not in svg and "inf" not in svg


def test_ticks_are_round_and_inside():
    for low, high in [(0, 1), (-3, 7), (0.32, 0.331), (1, 300)]:
        found = ticks(low, high)
        assert 2 <= len(found) <= 6 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_bars_are_as_high_as_their_values():
    bars = [
        Bars("a <b>", (aggregate([1.0]), aggregate([4.0]))),
        Bars("b", (aggregate([2.0, 2.0]), aggregate([0.0, 0.0]))),
    ]
    svg = bar_chart(["x", "y"], bars, "P@1", "labels")
    drawn = [float(height) for height in re.findall(r'<rect class="b\d" [^>]*width="[^"]*" height="([\d.]+)"/>', svg)]
    legend, drawn = drawn[:2], drawn[2:]
    assert legend == [9.0, 9.0]
    # By group: 1 and 2, then 4 and 0.
    scale = drawn[2] / 4
    assert drawn == pytest.approx([scale, 2 * scale, 4 * scale, 0.0], abs=0.1)
    assert svg.count('class="error"') == 2, "a line only where there are seeds"
    assert "a &lt;b&gt;: x 1.0, y 4.0" in svg


def test_bars_of_nothing():
    svg = bar_chart(["x"], [Bars("a", (aggregate([0.0]),))], "P@1", "labels")
    assert "nan" not in svg and "inf" not in svg
