"""Figure 2: measured hours only, every point in the CSV, the same bytes every time."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from result_files import METRICS, copy_config, write_picto, write_result

from vixml.config.published import load_published
from vixml.config.tables import load_figures
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.report.figures import make_figures, points, spread
from vixml.report.results import load


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draw the figure of everything, once."""
    root = tmp_path_factory.mktemp("figures")
    copy_config(root / "config")
    folders = write_picto(root / "results")
    make_figures(folders, root / "config", ["figure2"], root / "a")
    return folders, root / "a"


def read(folder):
    return list(csv.DictReader((folder / "figure2.csv").read_text(encoding="utf-8").splitlines()))


def test_files_and_their_bytes(drawn, config_dir, tmp_path):
    folders, first = drawn
    make_figures(list(reversed(folders)), config_dir, ["figure2"], tmp_path / "b")
    names = ["figure2.csv", "figure2.png", "figure2.svg"]
    assert sorted(p.name for p in first.iterdir()) == [*names, "manifest.json"]
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (first / "figure2.png").read_bytes().startswith(b"\x89PNG")
    text = (first / "figure2.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    assert "<dc:date>" not in text
    inputs = read_json(first / "manifest.json")["inputs"]
    assert "figure/figure2" in inputs and "score/picto/vixml-minilm-l3/seed2/test" in inputs


def test_published_values_have_no_hours(drawn):
    rows = read(drawn[1])
    published = [r for r in rows if r["kind"] == "published"]
    assert len(published) == 12
    assert {r["hours"] for r in rows if r["kind"] in ("published", "line")} == {""}
    assert {r["hours_are"] for r in published} == {"not tabulated by the paper"}
    text = {(r["label"], r["P@1"]) for r in published if r["modality"] == "text"}
    assert text >= {("MiniLM-L3", "41.72"), ("BERT", "45.87")}
    assert [r["P@1"] for r in rows if r["kind"] == "line"] == ["47.01"]


def test_each_seed_is_a_point_at_its_measured_hours(drawn):
    rows = [r for r in read(drawn[1]) if r["run"] == "vixml-minilm-l3"]
    assert [(r["seed"], r["P@1"], r["hours_are"]) for r in rows] == [
        ("0", "55.7000", "measured"), ("1", "56.3000", "measured"), ("2", "55.3000", "measured"),
    ]  # fmt: skip
    assert [float(r["hours"]) for r in rows] == pytest.approx([4.1 / 60, 4.305 / 60, 4.51 / 60], abs=1e-5)
    assert [r["hours"] for r in read(drawn[1]) if r["kind"] == "untrained"] == ["", ""]


def test_without_results_the_paper_alone_is_drawn(config_dir, tmp_path):
    make_figures([], config_dir, ["figure2"], tmp_path / "f")
    assert {r["kind"] for r in read(tmp_path / "f")} == {"published", "line"}
    assert (tmp_path / "f" / "figure2.png").stat().st_size > 10_000


def test_a_run_without_time_and_a_level_without_a_published_value_are_refused(config_dir, results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS)
    [spec], published = load_figures(config_dir, ["figure2"]), load_published(config_dir)
    with pytest.raises(VixmlError, match="training time"):
        points(spec, published, load([score]))
    line = spec.lines[0].model_copy(update={"published": {"method": "MAGIC"}})
    with pytest.raises(VixmlError, match="exactly one published value"):
        points(spec.model_copy(update={"lines": [line]}), published, load([]))


def test_labels_are_moved_apart_and_keep_their_order():
    heights = [44.86, 44.84, 45.87, 41.72, 47.42, 48.06, 47.01]
    placed = spread(heights, gap=0.6)
    order = sorted(range(7), key=lambda i: heights[i])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert min(gaps) >= 0.6 - 1e-9
    assert max(abs(a - b) for a, b in zip(heights, placed, strict=True)) < 0.7
    assert spread([], 1.0) == []
