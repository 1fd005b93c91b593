"""The report: one file that needs nothing else, readable without seeing, the same bytes every time."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from result_files import (
    METRICS,
    copy_config,
    write_corpus,
    write_manifest,
    write_picto,
    write_predictions,
    write_result,
)  # fmt: skip

from vixml.errors import VixmlError
from vixml.files import save_array
from vixml.reproduce.curves import curves, line_chart, read_log, ticks
from vixml.reproduce.figures import make_figures
from vixml.reproduce.gallery import gallery, sample
from vixml.reproduce.report import ReportOptions, context, make_report
from vixml.reproduce.results import load

COMPARE = ("text-minilm-l3", "vixml-minilm-l3")
VOID = {"meta", "img", "link", "br", "input"}


class Page(HTMLParser):
    """Collect elements, and check that every one that opens also closes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID and tag not in {"line", "circle", "polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make one report of everything, once."""
    root = tmp_path_factory.mktemp("report")
    results = root / "results"
    folders = write_picto(results)
    corpus, images = write_corpus(results)
    for folder in folders:
        if folder.parts[-4] in COMPARE:
            write_predictions(folder, shift=int("text" in folder.parts[-4]))
    config = root / "config"
    copy_config(config)
    make_figures(folders, config, ["figure2"], results / "figures")
    options = ReportOptions("demo", "A test.", "make demo", results / "figures", corpus, images)
    make_report(folders, config, ["table1", "table3"], options, results / "report")
    return folders, config, options, results / "report"


@pytest.fixture(scope="module")
def text(made):
    return (made[3] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_fetched(page, text):
    for tag, attrs in page.found:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base"}
        for key in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, key, value)
    assert "@import" not in text and "url(" not in text


def test_every_picture_has_words_and_every_table_a_caption(page):
    pictures = page.all("img")
    assert len(pictures) >= 12
    assert all(attrs.get("alt", "").strip() for attrs in pictures)
    assert all(attrs.get("aria-label") for attrs in page.all("svg")) and page.all("svg")
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in {"col", "row", "colgroup"} for attrs in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    assert [a for a in page.all("meta") if a.get("name") == "viewport"]
    assert len(page.all("h1")) == 1


def test_links_inside_the_page_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)


def test_it_warns_prints_and_follows_dark_mode(text):
    assert "Stand-in data." in text and "neither confirm nor refute" in text
    assert "@media print" in text and "prefers-color-scheme: dark" in text
    assert "0 are confirmed" in text
    assert "make demo" in text and "c0ffee000000" in text


def test_numbers_agree_with_the_results(text):
    assert text.count("49.97 ± 0.50") == 2  # main numbers, and its table
    assert text.count("<td>41.72</td>") == 1


def test_texts_of_the_data_are_escaped(text):
    assert "test 2 &lt;&amp;&gt;" in text and "<&>" not in text


def test_the_same_bytes_again(made, tmp_path):
    folders, config, options, report = made
    make_report(list(reversed(folders)), config, ["table1", "table3"], options, tmp_path / "r")
    assert (tmp_path / "r" / "report.html").read_bytes() == (report / "report.html").read_bytes()
    inputs = json.loads((report / "manifest.json").read_text())["inputs"]
    assert {"corpus", "images", "figures", "table/table1", "log/picto/vixml-minilm-l3/seed0"} <= set(inputs)
    assert "predictions/picto/vixml-minilm-l3/seed1" in inputs


def test_a_report_of_nothing(made, tmp_path):
    make_report([], made[1], ["table1"], ReportOptions(), tmp_path / "r")
    page = Page((tmp_path / "r" / "report.html").read_text())
    assert "Gallery" not in page.text and page.all("img") == []


def test_the_gallery_needs_both_folders(made, tmp_path):
    with pytest.raises(VixmlError, match="both"):
        make_report([], made[1], ["table1"], ReportOptions(corpus=made[2].corpus), tmp_path / "r")


def test_the_sample_does_not_depend_on_results():
    assert sample(1123).tolist() == sample(1123).tolist()
    assert len(sample(1123)) == 12 == len(set(sample(1123).tolist()))
    assert sorted(sample(5).tolist()) == [0, 1, 2, 3, 4]


def test_gallery_marks_true_labels_and_skips_missing_pictures(made):
    folders, _, options, _ = made
    found = gallery(options.corpus, options.images, (*COMPARE, "absent"), load(folders))
    assert found.runs == ((COMPARE[0], 0), (COMPARE[1], 0), ("absent", None))
    assert [q.row for q in found.queries] == sample(30).tolist()
    for query in found.queries:
        text, image = query.answers
        # ViXML answers row, row + 1, ...; text starts one later. True are row and row + 3.
        assert [hit for _, hit in image.labels] == [True, False, False, True, False]
        assert [hit for _, hit in text.labels] == [False, False, True, False, False]
        assert len(query.pictures) == (0 if query.row < 2 else 1)
        assert len(query.truth) == 2 and image.hits == 2
    assert "seed 0" in found.rule and "12 of 30" in found.rule


def test_predictions_of_another_corpus(results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS)
    corpus, images = write_corpus(results)
    write_predictions(score)
    save_array(score.parent / "predictions" / "labels.npy", np.full((30, 5), 99, dtype=np.int32))
    with pytest.raises(VixmlError, match="do not belong"):
        gallery(corpus, images, COMPARE, load([score]))


def test_a_reused_model_is_drawn_once_and_named_in_the_evidence(results, config_dir):
    folders = [write_result(results, "picto", "vixml-minilm-l3", s, METRICS, minutes=4.0) for s in (0, 1)]
    folders.append(write_result(results, "picto", "a--augmented", 0, METRICS, trained_as="vixml-minilm-l3"))
    predictions = folders[2].parent / "predictions"
    predictions.mkdir()
    own = {"dataset": "picto", "run": "a--augmented", "seed": 0, "inference": {"method": "retrieval-augmented"}}
    write_manifest(predictions, "predict", own)
    found = context(folders, config_dir, ["table1"], ReportOptions())
    assert [one.run for one in found["curves"]] == ["vixml-minilm-l3"]
    assert found["curves"][0] == curves(load(folders[:2]).all())
    reused = found["evidence"][0]
    assert [record.stage for record in reused.stages] == ["train", "predict", "score"]
    shown = json.loads(reused.config)
    assert shown["run"] == "a--augmented" and shown["inference"] == own["inference"] and "training" in shown
    assert reused.training[0].startswith("seed 0, model of vixml-minilm-l3: ")
    # Scored alone, it still shows how its model was trained.
    assert context(folders[2:], config_dir, ["table1"], ReportOptions())["curves"][0].run == "vixml-minilm-l3"
    make_report(folders[2:], config_dir, ["table1"], ReportOptions(), results / "report")
    inputs = json.loads((results / "report" / "manifest.json").read_text())["inputs"]
    assert {"log/picto/vixml-minilm-l3/seed0", "training/picto/a--augmented/seed0/test"} <= set(inputs)


def test_curves_skip_what_is_not_a_number(results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS, minutes=1)
    log = score.parent.parent / "model" / "log.jsonl"
    log.write_text('{"epoch": 0, "loss": NaN, "P@1/u": 5}\n{"epoch": 1, "loss": 0.3, "P@1/u": NaN}\n')
    found = curves(load([score]).all())
    assert len(found.charts) == 2
    assert "nan" not in "".join(found.charts).lower()
    log.write_text("oops\n")
    with pytest.raises(VixmlError, match="not JSON") as caught:
        read_log(log)
    assert str(caught.value.where).endswith(":1")
    log.unlink()
    assert curves(load([score]).all()) is None


@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.5), (0.0, 0.0, 0.0), (1e-6, 3e5)])
def test_charts_of_flat_and_steep_lines(values):
    from vixml.reproduce.curves import Series

    svg = line_chart([Series("a <b>", tuple(range(1, len(values) + 1)), values)], "label", "title")
    assert "a &lt;b&gt;" in svg and "nan" not in svg and "inf" not in svg


def test_ticks_are_round_and_inside():
    for low, high in [(0, 1), (-3, 7), (0.32, 0.331), (1, 300)]:
        found = ticks(low, high)
        assert 2 <= len(found) <= 6 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
