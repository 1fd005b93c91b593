"""The report: one file that needs nothing else, readable without seeing, the same bytes every time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import update_manifest
from report_page import TABLES, Page, without_code
from result_files import METRICS, write_result

from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.report.report import ReportOptions, make_report
from vixml.report.write_tables import make_tables

TEMPLATES = Path(make_report.__code__.co_filename).parent / "templates"


@pytest.fixture(scope="module")
def page(everything):
    return Page(everything.text)


@pytest.fixture
def text(everything):
    return everything.text


def test_nothing_is_fetched(page, text):
    for tag, attrs in page.found:
        assert tag not in {"iframe", "object", "embed", "base"}
        for key in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
            value = attrs.get(key)
            # A link that a reader follows fetches nothing by itself.
            assert value is None or value.startswith(("data:", "#")) or (tag, key) == ("a", "href"), (tag, key, value)
    assert "@import" not in text and "url(" not in text


def test_every_image_has_an_alternative_text_and_every_table_a_caption(page):
    images = page.all("img")
    assert len(images) >= 12
    assert all(attrs.get("alt", "").strip() for attrs in images)
    assert all(attrs.get("aria-label") for attrs in page.all("svg")) and page.all("svg")
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in {"col", "row", "colgroup", "rowgroup"} for attrs in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    assert [a for a in page.all("meta") if a.get("name") == "viewport"]
    assert len(page.all("h1")) == 1


def test_links_inside_the_page_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a") if attrs["href"].startswith("#")} <= set(ids)
    labelled = {attrs["aria-labelledby"] for _, attrs in page.found if "aria-labelledby" in attrs}
    assert {attrs["popovertarget"] for attrs in page.all("button")} | labelled <= set(ids)


def test_it_warns_prints_and_follows_dark_mode(text):
    assert "Stand-in data." in text and "neither confirm nor refute" in text
    assert "@media print" in text and "prefers-color-scheme: dark" in text
    assert "0 are confirmed" in text
    assert "make demo" in text and "c0ffee000000" in text


def test_numbers_are_those_of_the_results(text):
    assert text.count("49.97 ± 0.50") == 2  # main numbers, and its table
    assert text.count(">41.72</button>") == 1


def test_texts_of_the_data_are_escaped(text):
    assert "test 2 &lt;&amp;&gt;" in text and "<&>" not in text


def test_the_same_bytes_again(everything, tmp_path):
    make_report(everything.folders[::-1], everything.config, TABLES, everything.options, tmp_path / "r")
    assert (tmp_path / "r" / "report.html").read_text(encoding="utf-8") == everything.text
    inputs = read_json(everything.report / "manifest.json")["inputs"]
    assert {"corpus", "images", "figures", "table/table1", "log/picto/vixml-minilm-l3/seed0"} <= set(inputs)
    assert "predictions/picto/vixml-minilm-l3/seed1" in inputs


def test_rows_that_were_run_come_first_and_the_others_are_folded(page, text):
    order = re.findall(r'<section id="(\w+)"', text)
    assert order[:3] == ["numbers", "gallery", "tables"] and order.index("verdicts") > order.index("tables")
    main = text[text.index('<section id="numbers"') : text.index('<section id="gallery"')]
    assert "55.77 ± 0.50" in main and "54.5 to 57.0" in main and "not run</td>" not in main
    tables = text[text.index('<section id="tables"') : text.index('<section id="figures"')]
    folded = re.findall(r'<details class="not-run"><summary>(.*?)</summary>(.*?)</details>', tables, re.DOTALL)
    assert len(folded) == 8 and all("not run, " in summary for summary, _ in folded)
    assert not any(re.search(r"\d ± |\(3\)", body) for _, body in folded)
    assert "49.97 ± 0.50" in tables and tables.index("49.97 ± 0.50") < tables.index("<details")


def test_one_seed_has_an_interval_over_queries(everything, tmp_path):
    results = tmp_path / "results"
    scores = [
        write_result(results, "picto", "text-minilm-l3", 0, METRICS),
        write_result(results, "picto", "popularity", 0, METRICS),
    ]
    path = scores[0] / "scores.json"
    write_json(path, read_json(path) | {"standard_errors": {"P@1": 1.0}})
    update_manifest(path.parent)
    make_report(scores, everything.config, TABLES, ReportOptions(), tmp_path / "r")
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    main = text[text.index('<section id="numbers"') : text.index('<section id="tables"')]
    # 50 ± 2.045, the t quantile of 30 queries; the other score has no errors.
    assert main.count("48.0 to 52.0 *") == 1 and main.count("* of one seed") == 1 and main.count("<td>–</td>") >= 1


def test_a_report_of_nothing(everything, tmp_path):
    make_report([], everything.config, ["table1"], ReportOptions(), tmp_path / "r")
    page = Page((tmp_path / "r" / "report.html").read_text(encoding="utf-8"))
    assert "Gallery" not in page.text and page.all("img") == []
    with pytest.raises(VixmlError, match="both"):  # a gallery needs corpus and images
        make_report([], everything.config, ["table1"], ReportOptions(corpus=everything.options.corpus), tmp_path / "r")


def test_a_run_is_in_the_page_once_however_many_cells_open_it(page, text):
    opened = [attrs["popovertarget"] for attrs in page.all("button") if attrs.get("class") == "open"]
    key = "run-picto-vixml-minilm-l3"
    assert opened.count(key) >= 4 and text.count(f'id="{key}"') == 1
    panels = {attrs["id"] for attrs in page.all("section") if "popover" in attrs}
    assert set(opened) == panels


def test_every_cell_opens(page):
    inside = [attrs for tag, attrs in page.found if tag == "button" and attrs.get("class") == "open"]
    published = {attrs["popovertarget"] for attrs in inside if attrs["popovertarget"].startswith("published-")}
    # Rows of Tables 1 and 3: 21 lines each (datasets x backbones that the paper filled).
    assert len(published) == 42


def test_rows_of_ours_alone_are_compared_with_nothing(everything, tmp_path):
    results, metrics = tmp_path / "results", METRICS | {"R@10": 60.0}
    scores = [write_result(results, "picto", "linear", 0, metrics)]
    scores += [write_result(results, "picto", "text-minilm-l3", seed, metrics) for seed in range(3)]
    make_report(scores, everything.config, ["best"], ReportOptions("best"), tmp_path / "r")
    make_tables(scores, everything.config, ["best"], tmp_path / "t")
    page = without_code((tmp_path / "r/report.html").read_text(encoding="utf-8"))
    markdown, latex = ((tmp_path / f"t/best.{form}").read_text(encoding="utf-8") for form in ("md", "tex"))
    for text in (page, markdown, latex):
        assert re.search("50.00 .+ 0.00 .3.", text)
        assert not re.search("publish|verdict|reproduced|as printed|million", text, re.IGNORECASE)
    # What the data are is still said.
    assert "Stand-in data: none of these numbers confirms or refutes" in page and 'class="warning"' not in page


def test_the_verdicts_count_tables_that_have_published_cells(everything, tmp_path):
    make_report([], everything.config, ["table1", "best"], ReportOptions(), tmp_path / "r")
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    first, second = text[text.index('<section id="verdicts"') :].split("<tbody>")[1:3]
    assert 'href="#table1"' in first and 'href="#best"' not in first.split("</tbody>")[0]
    assert 'href="#best"' in second
    best = text[text.index('<h3 id="best"') : text.index('<section id="verdicts"')]
    assert ">verdict</th>" in text and ">verdict</th>" not in best


def test_intervals_over_seeds_say_so(everything, text, tmp_path):
    said = "The 95 % intervals are over seeds; the draw of test queries is not in them."
    assert text.count(said) == 1 and '<th scope="col">95 % over seeds</th>' in text
    score = write_result(tmp_path / "results", "picto", "text-minilm-l3", 0, METRICS)
    make_report([score], everything.config, ["table1"], ReportOptions(), tmp_path / "r")
    page = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert said not in page and "standard deviation over seeds" not in page


def test_the_page_of_a_finished_workflow_stays_small(text):
    assert len(text.encode()) < 600_000


def _colours(text: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))


def _contrast(one: str, other: str) -> float:
    """Return WCAG's contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_in_every_colour_scheme():
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    roots = [_colours(found) for found in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]
    assert len(roots) == 3
    light = roots[0]
    for colours in (light, light | roots[1], light | roots[2]):
        for ink in ("ink", "soft", "good", "link"):
            for ground in ("paper", "band"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert _contrast(colours["warn-ink"], colours["warn"]) >= 4.5
        # Lines and bars of drawings: 3 is what WCAG asks of graphics.
        assert all(_contrast(colours[f"s{i}"], colours["paper"]) >= 3 for i in range(5))
