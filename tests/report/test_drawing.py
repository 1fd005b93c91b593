"""Figure 1 is a committed drawing: what it names and counts is what the configuration of its runs says."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from result_files import REPO

from vixml.config.load import read_yaml
from vixml.config.tables import DrawingSpec, FigureSpec, load_figures
from vixml.errors import VixmlError
from vixml.report.figures import make_figures
from vixml.report.results import Registry

FIGURES = REPO / "config/figures"
REGISTRY = Registry(REPO / "config")
DATASET = read_yaml(FIGURES / "figure1.yaml")["dataset"]
PARTS = list(csv.DictReader((FIGURES / "figure1.csv").read_text(encoding="utf-8").splitlines()))


def said() -> str:
    """Return the words of the drawing: letters are outlines, and what they spell stands beside them."""
    found = re.findall(r"<!-- (.*?) -->", (FIGURES / "figure1.svg").read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(found).replace("\n", " ").replace("$", "").replace("\\cdot", "·").replace("\\,", " ")


def setting(run: str, key: str) -> object:
    """Return what a run's configuration says; of its language model, the registry."""
    config = REGISTRY.runs[DATASET, run]
    start = REGISTRY.world.text_models[config.encoder.model] if key == "attention" else config
    return reduce(getattr, key.split("."), start)


def shown(run: str, key: str) -> str:
    """Return how the drawing has to show a setting; empty where its words cannot be computed from it."""
    value, world = setting(run, key), REGISTRY.world
    images = " ".join(f"v_{i + 1}" for i in range(REGISTRY.runs[DATASET, run].images.per_item))
    if key == "encoder.template":
        spaced = value.replace("}{", "} {").replace("{eos}", "eos")
        return spaced.replace("{images}", images).replace("{text}", "e_1 e_2 … e_n")
    words = {
        "encoder.model": lambda: world.text_models[value].title,
        "images.vision": lambda: world.vision_models[value].title,
        "images.per_item": lambda: images,
        "encoder.train": lambda: {"full": "all weights trained"}[value],
        "prototype.free_vectors": lambda: "free vector",
        "inference.method": lambda: {"label-search": "labels ranked"}[value],
        "inference.labels_as": lambda: f"{value}_r",
    }
    return words[key]() if key in words else str(value)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["part"])
def test_each_part_shows_what_its_run_says(part):
    assert str(setting(part["run"], part["key"])) == part["value"]
    assert shown(part["run"], part["key"]) in part["drawn"]
    assert part["drawn"] in said() and f"run {part['run']}" in said()


def test_every_number_of_the_drawing_is_a_setting():
    words = re.sub(r"[ve]_\d", "", said())
    named = {shown(part["run"], part["key"]) for part in PARTS if ".model" in part["key"] or ".vision" in part["key"]}
    for name in named | {part["run"] for part in PARTS}:
        words = words.replace(name, "")
    assert set(re.findall(r"\d+(?:\.\d+)?", words)) <= {part["value"] for part in PARTS}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drawing") / "a"
    make_figures([], REPO / "config", ["figure1"], out)
    return out


def test_the_files_are_those_committed_and_a_png(drawn, tmp_path):
    names = ["figure1.csv", "figure1.png", "figure1.svg"]
    assert sorted(p.name for p in drawn.iterdir()) == [*names, "manifest.json"]
    for name in ("figure1.csv", "figure1.svg"):
        assert (drawn / name).read_bytes() == (FIGURES / name).read_bytes()
    assert ET.parse(drawn / "figure1.svg").getroot().tag.endswith("svg")
    image = np.asarray(Image.open(drawn / "figure1.png").convert("L"))
    assert image.shape[1] == 1664 and 0.03 < (image < 250).mean() < 0.4
    make_figures([], REPO / "config", ["figure1"], tmp_path / "b")
    assert (drawn / "figure1.png").read_bytes() == (tmp_path / "b/figure1.png").read_bytes()


def test_both_kinds_of_figures_are_read_side_by_side():
    found = load_figures(REPO / "config", ["figure2", "figure1"])
    assert [type(one) for one in found] == [FigureSpec, DrawingSpec]
    assert [one.id for one in found] == ["figure2", "figure1"]
    with pytest.raises(VixmlError, match="no such figure"):
        load_figures(REPO / "config", ["figure3"])


def test_a_drawing_without_its_file_is_refused(config_dir, tmp_path):
    path = config_dir / "figures/another.yaml"
    path.write_text(yaml.safe_dump(read_yaml(FIGURES / "figure1.yaml") | {"id": "another"}), encoding="utf-8")
    with pytest.raises(VixmlError, match="lacks a file") as caught:
        make_figures([], config_dir, ["another"], tmp_path / "f")
    assert str(caught.value.where).endswith("another.svg")
