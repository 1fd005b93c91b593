"""Figure 1: what is drawn follows the configuration of its runs, and nothing overlaps whatever they are."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from result_files import REPO

from vixml.config.run import RunConfig
from vixml.config.tables import FigureSpec
from vixml.errors import VixmlError
from vixml.report.figures import COLOURS, STYLE, make_figures
from vixml.report.layout import wrapped
from vixml.report.overview import OverviewSpec, groups, load_drawings, overview
from vixml.report.results import Registry
from vixml.report.schematic import draw

REGISTRY = Registry.load(REPO / "config")


def spec(*runs: str, dataset: str = "picto") -> OverviewSpec:
    named = [{"title": "Encoder", "run": run} for run in runs]
    return OverviewSpec(
        kind="overview", id="figure1", paper_figure="Figure 1", title="ViXML", dataset=dataset, runs=named
    )


def figure(*runs: str, dataset: str = "picto"):
    with plt.rc_context(STYLE):
        return draw(overview(spec(*runs, dataset=dataset), REGISTRY), COLOURS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("overview") / "a"
    make_figures([], REPO / "config", ["figure1"], out)
    return out


def test_files_and_their_bytes(drawn, tmp_path):
    make_figures([], REPO / "config", ["figure1"], tmp_path / "b")
    names = ["figure1.csv", "figure1.png", "figure1.svg"]
    assert sorted(p.name for p in drawn.iterdir()) == [*names, "manifest.json"]
    for name in names:
        assert (drawn / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "<dc:date>" not in (drawn / "figure1.svg").read_text(encoding="utf-8")


def test_both_kinds_of_figures_are_read_side_by_side():
    found = load_drawings(REPO / "config", ["figure2", "figure1"])
    assert [type(one) for one in found] == [FigureSpec, OverviewSpec]
    assert [one.id for one in found] == ["figure2", "figure1"]
    with pytest.raises(VixmlError, match="no such figure"):
        load_drawings(REPO / "config", ["figure3"])


def test_the_svg_holds_the_labels(drawn):
    """Letters are outlines, so that the drawing looks the same everywhere; what they spell stands beside them."""
    text = (drawn / "figure1.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    said = " ".join(re.findall(r"<!-- (.*?) -->", text, re.DOTALL)).replace("\n", " ")
    models, vision = REGISTRY.world.text_models, REGISTRY.world.vision_models
    for label in (
        models["minilm-l3"].title, models["smollm2-135m"].title, vision["efficientnet-lite0"].title,
        "vision encoder, frozen", "linear projection", "text of the item", "word embeddings", "bidirectional attention",
        "causal attention", "first 6 layers", "LoRA, r = 32", "mean over all tokens", "label prototype network", "8 heads",
        "free vector", "centroid", "triplet loss, 10 hardest negatives", "margin 0.1 to 0.3", "inference", "$q_i$", "$u_r$",
        "$z_r$", "$L(q,u) + L(u,q)$", "run vixml-minilm-l3", "run vixml-smollm2",
    ):  # fmt: skip
        assert label in said, label


def places(drawn: Path) -> dict[str, list[tuple[str, float]]]:
    """Return for each panel the tokens of the SVG, with the left end of each."""
    found: dict[str, list[tuple[str, float]]] = {"a": [], "b": []}
    for group in ET.parse(drawn / "figure1.svg").iter("{http://www.w3.org/2000/svg}g"):
        name = re.fullmatch(r"([ab])-(\d+)-(\w+)", group.get("id", ""))
        if name:
            outline = group.find("{http://www.w3.org/2000/svg}path").get("d")
            left = min(float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", outline))
            found[name[1]].append((name[3], left))
    return found


def test_the_tokens_drawn_follow_the_template(drawn):
    """MiniLM-L3: {images}{text}; SmolLM2: This product text {text} and its image {images}{eos}; three images each."""
    images, text = ["images"] * 3, ["text"] * 4
    found = places(drawn)
    assert [kind for kind, _ in found["a"]] == [*images, *text]
    assert [kind for kind, _ in found["b"]] == ["words", *text, "words", *images, "eos"]
    for panel in found.values():
        lefts = [left for _, left in panel]
        assert all(left < right for left, right in pairwise(lefts))
    rows = list(csv.DictReader((drawn / "figure1.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["token"] for row in rows if row["panel"] == "b"] == [kind for kind, _ in found["b"]]
    assert [row["label"] for row in rows if row["token"] == "words"] == ["This product text", "and its image"]


@pytest.mark.parametrize(
    ("template", "kinds"),
    [
        ("{images}{text}", ["images", "text"]),
        ("{text}{images}{eos}", ["text", "images", "eos"]),
        ("This product image {images} and its text {text}{eos}", ["words", "images", "words", "text", "eos"]),
    ],
)
def test_another_template_is_another_order(template, kinds):
    config = RunConfig(encoder={"template": template}, images={"per_item": 2})
    assert [group.kind for group in groups(config)] == kinds
    assert [group.labels for group in groups(config) if group.kind == "images"] == [("$v_1$", "$v_2$")]
    text_only = RunConfig(modality="text", encoder={"template": template})
    assert [group.kind for group in groups(text_only)] == [kind for kind in kinds if kind != "images"]


def test_of_many_images_the_first_and_the_last_are_drawn():
    many = {group.kind: group.labels for group in groups(RunConfig(images={"per_item": 12}))}
    assert many["images"] == ("$v_1$", "$v_2$", "…", "$v_{12}$")


ALONE = sorted(
    (dataset, run)
    for (dataset, run), config in REGISTRY.runs.items()
    if config.method == "PRIME" and config.images.fusion == "early" and not config.reuse
)


def _looks(dataset: str, run: str) -> tuple:
    config = REGISTRY.runs[dataset, run]
    encoder = config.encoder
    return (
        encoder.template, encoder.train, encoder.model, encoder.layers, encoder.pooling, encoder.centre, config.modality,
        config.images.per_item, config.inference.method, config.prototype.unit_text,
    )  # fmt: skip


def _looks_below(dataset: str, run: str) -> tuple:
    """Return what the lower half shows, which is drawn from the first of two runs."""
    config = REGISTRY.runs[dataset, run]
    return (
        config.modality,
        config.inference.method,
        config.prototype.unit_text,
        config.prototype.heads,
        config.encoder.centre,
    )


def _pairs() -> list[tuple[str, ...]]:
    """Return drawings of two runs of a dataset in which every look is there (the other runs would be the same drawing)."""
    found, below = [], {}
    for dataset in sorted({dataset for dataset, _ in ALONE}):
        runs = [run for other, run in {_looks(*key): key for key in ALONE}.values() if other == dataset]
        found += [(dataset, *runs[i : i + 2]) for i in range(0, len(runs), 2)]
        below |= {_looks_below(dataset, run): (dataset, run) for run in runs}
    drawn = {_looks_below(dataset, first) for dataset, first, *_ in found}
    return found + [key for look, key in below.items() if look not in drawn]


PAIRS = _pairs()


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_nothing_overlaps_and_nothing_is_cut_off(names):
    dataset, *runs = names
    check(figure(*runs, dataset=dataset))


@pytest.mark.parametrize("runs", [("vixml-minilm-l3", "vixml-smollm2"), ("vixml-smollm2",)])
def test_one_panel_or_two(runs):
    shown = figure(*runs)
    check(shown)
    letters = [t.get_text() for t in shown.axes[0].texts if t.get_text() in list("abc")]
    assert letters == list("abc")[: len(runs) + 1]


def check(shown) -> None:
    """Assert that no two texts touch, that all lie inside the drawing, and what stands in a box within that box."""
    renderer = shown.canvas.get_renderer()
    texts = [(t.get_text(), t.get_window_extent(renderer)) for t in shown.axes[0].texts if t.get_text()]
    width, height = shown.get_size_inches() * shown.dpi
    try:
        for words, box in texts:
            assert box.x0 >= 3 and box.y0 >= 3 and box.x1 <= width - 3 and box.y1 <= height - 3, f"cut off: {words}"
        boxes = [p.get_window_extent(renderer) for p in shown.axes[0].patches if isinstance(p, FancyBboxPatch)]
        for words, box in texts:
            around = [b for b in boxes if b.contains((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)]
            for outer in around:
                assert outer.x0 < box.x0 and box.x1 < outer.x1, f"wider than its box: {words}"
                assert outer.y0 < box.y0 and box.y1 < outer.y1, f"higher than its box: {words}"
        for (one, a), (other, b) in combinations(texts, 2):
            assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
    finally:
        plt.close(shown)


def test_text_and_image_tokens_differ_in_grey():
    """Image tokens are filled and text tokens are hollow, as the marks of Figure 2."""
    shown = figure("vixml-minilm-l3", "vixml-smollm2")
    faces = {patch.get_gid(): patch.get_facecolor() for patch in shown.axes[0].patches if patch.get_gid()}
    plt.close(shown)
    grey = {gid: float(np.dot(face[:3], (0.299, 0.587, 0.114))) for gid, face in faces.items()}
    assert grey["legend-text"] - grey["legend-words"] > 0.08
    assert grey["legend-words"] - grey["legend-images"] > 0.4


def test_the_png_is_not_empty(drawn):
    image = np.asarray(Image.open(drawn / "figure1.png").convert("L"))
    assert image.shape == (1296, 1664) and 0.03 < (image < 250).mean() < 0.4


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(VixmlError, match="unknown key 'vixml-minilm-13'") as error:
        overview(spec("vixml-minilm-13"), REGISTRY)
    assert "vixml-minilm-l3" in error.value.hint
    with pytest.raises(VixmlError, match="prototype network of PRIME"):
        overview(spec("vixml-minilm-l3--ngame"), REGISTRY)
    late = next(
        r for (d, r), c in REGISTRY.runs.items() if d == "picto" and c.uses_images and c.images.fusion == "late"
    )
    with pytest.raises(VixmlError, match="images as tokens"):
        overview(spec(late), REGISTRY)


def test_words_are_wrapped_between_words():
    assert wrapped("The description of a product is:", 12) == "The\ndescription\nof a product\nis:"
    assert wrapped("", 5) == ""
