"""The evidence behind each number: whose it is, seed by seed, and the command that makes it again."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from report_page import add_parts, parts, without_images
from result_files import METRICS, REPO, register_real, write_manifest, write_real, write_result

from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.manifest import with_digest
from vixml.report.charts import breakdowns, curves
from vixml.report.evidence import Commands, evidence
from vixml.report.report import ReportOptions, context, make_report
from vixml.report.results import load

NONE = Commands("", {})


def test_a_reused_model_is_drawn_once_and_named_in_the_evidence(results, config_dir):
    folders = [write_result(results, "picto", "vixml-minilm-l3", s, METRICS, minutes=4.0) for s in (0, 1)]
    folders.append(write_result(results, "picto", "a--augmented", 0, METRICS, trained_as="vixml-minilm-l3"))
    predictions = folders[2].parent / "predictions"
    predictions.mkdir()
    own = {"dataset": "picto", "run": "a--augmented", "seed": 0, "inference": {"method": "retrieval-augmented"}}
    write_manifest(predictions, "predict", own)
    found = context(load(folders), config_dir, ["table1"], ReportOptions())
    assert [run for run, _ in found["curves"]] == ["vixml-minilm-l3"]
    assert found["curves"][0] == curves(load(folders[:2]).all())
    reused = found["evidence"]["run-picto-a--augmented"]
    assert [manifest["stage"] for _, manifest in reused.stages] == ["train", "predict", "score"]
    shown = json.loads(reused.config)
    assert shown["run"] == "a--augmented" and shown["inference"] == own["inference"] and "training" in shown
    assert reused.training[0].startswith("seed 0, model of vixml-minilm-l3: ")
    # Scored alone, it still shows how its model was trained.
    assert context(load(folders[2:]), config_dir, ["table1"], ReportOptions())["curves"][0][0] == "vixml-minilm-l3"
    make_report(folders[2:], config_dir, ["table1"], ReportOptions(), results / "report")
    inputs = read_json(results / "report/manifest.json")["inputs"]
    assert {"log/picto/vixml-minilm-l3/seed0", "training/picto/a--augmented/seed0/test"} <= set(inputs)


def test_an_approximate_search_shows_its_curve(results, config_dir):
    folder = write_result(results, "picto", "a", 0, METRICS)
    predictions = folder.parent / "predictions"
    predictions.mkdir()
    write_manifest(predictions, "predict", {"dataset": "picto", "run": "a", "seed": 0})
    index = {
        "kind": "ivf",
        "n": 1_305_265,
        "dim": 384,
        "k": 100,
        "effort": 16,
        "build_seconds": 61.23,
        "bytes": 2.015e9,
    }
    index["curve"] = [{"effort": 8, "recall": 0.97, "ms": 0.5}, {"effort": 16, "recall": 0.9912, "ms": 0.9}]
    manifest = read_json(predictions / "manifest.json")
    write_json(predictions / "manifest.json", with_digest(manifest | {"facts": {"indexes": [index]}}))
    make_report([folder], config_dir, ["table1"], ReportOptions(), results / "report")
    page = (results / "report" / "report.html").read_text(encoding="utf-8")
    about = "ivf over 1,305,265 vectors of 384, built in 61.2 s, 2,015 MB, 100 sought"
    assert f"Approximate search, seed 0: {about}<" in page and ">ms per query<" in page
    for cells in (("8", "0.9700", "0.500"), ("16", "0.9912", "0.900")):
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in page


def test_each_seed_is_listed_with_the_mean_and_its_interval(results):
    values = (49.0, 50.0, 51.0)
    folders = [write_result(results, "picto", "a", seed, METRICS | {"P@1": value}) for seed, value in enumerate(values)]
    found = evidence(load(folders), NONE, ["P@5", "P@1", "unknown"])["run-picto-a"]
    assert [metric for metric, *_ in found.metrics] == ["P@5", "P@1"]
    assert {metric for metric, *_ in found.more_metrics} == set(METRICS) - {"P@1", "P@5"}
    _, shown, summary = found.metrics[1]
    assert shown == values and (summary.mean, summary.sd) == (50.0, 1.0)
    assert round(summary.low, 2) == 47.52 and round(summary.high, 2) == 52.48


def test_every_input_is_named_by_its_hash_once(results):
    folders = [write_result(results, "picto", "a", seed, METRICS, minutes=1.0) for seed in (0, 1)]
    found = evidence(load(folders), NONE)["run-picto-a"]
    assert found.inputs == (("results/data/picto/corpus", "1" * 64),)
    stages = [(seed, manifest["stage"]) for seed, manifest in found.stages]
    assert stages == [(0, "train"), (0, "score"), (1, "train"), (1, "score")]
    assert found.last["stage"] == "score" and found.last["config"]["seed"] == 0


def test_a_command_names_the_scores_of_exactly_that_run(results, monkeypatch):
    monkeypatch.chdir(results.parent)
    folders = [write_result(results, "picto", run, seed, METRICS) for run in ("a", "b") for seed in (0, 3)]
    folders = [folder.relative_to(results.parent) for folder in folders]
    found = evidence(load(folders), Commands("config/picto.yaml", {}))
    words = shlex.split(found["run-picto-b"].command)
    # Whatever follows --configfile is read as a file, so the scores stand before it.
    assert words[:3] == ["snakemake", "--cores", "all"] and words[-2:] == ["--configfile", "config/picto.yaml"]
    assert words[3:-2] == ["results/runs/picto/b/seed{0,3}/test/score/manifest.json"]
    assert "--configfile" not in evidence(load(folders), NONE)["run-picto-a"].command


def test_a_run_of_the_paper_is_asked_for_with_the_configuration_that_has_it():
    commands = Commands.load(REPO / "config")
    shown = commands.planned("LF-AmazonTitles-131K", "text-qwen2.5-0.5b")
    targets = "results/runs/LF-AmazonTitles-131K/text-qwen2.5-0.5b/seed{0,1,2,3,4}/test/score/manifest.json"
    assert shown == f"snakemake --cores all {targets} --configfile config/paper.yaml"
    assert "/seed2/" in commands.planned("LF-AmazonTitles-131K", "text-qwen2.5-0.5b", 2)
    # PICTO's runs need no other configuration than the default one.
    assert "--configfile" not in commands.planned("picto", "text-minilm-l3")


def panels(folders, config_dir, table, out):
    """Return the panel of each published row in a report of one table, by its title."""
    make_report(folders, config_dir, [table], ReportOptions(), out)
    page = (out / "report.html").read_text(encoding="utf-8")
    found = re.findall(r'<section popover id="published-.*?</section>', page, re.DOTALL)
    return {re.search("<h3 .*?>(.*?)</h3>", panel)[1]: panel for panel in found}


def test_a_published_row_shows_its_origin_and_the_command_that_runs_it(results, config_dir):
    register_real(config_dir)
    found = panels(write_real(results), config_dir, "table1", results / "report")
    row = found["Table 1, LF-AmazonTitles-131K: MiniLM-L3"]
    for text in (
        "<dt>published</dt><dd>P@1 41.72, P@5", ", in arXiv:2511.13189v1</dd>", "<dt>parameters</dt><dd>17.4M</dd>",
        "run01: MiniLM-L3 on text of LF-AmazonTitles-131K, 300 epochs, 32 tokens", "<dd>text-minilm-l3 <button",
        'popovertarget="run-LF-AmazonTitles-131K-text-minilm-l3"', "<dt>verdict</dt><dd>matches</dd>",
        "Run it again", "/text-minilm-l3/seed0/",
    ):  # fmt: skip
        assert text in row, text
    other = found["Table 1, LF-AmazonTitles-131K: BERT"]
    assert "<dt>verdict</dt><dd>blocked: " in other and "predicted" in other
    assert "Run it" not in other and "what it scored" not in other


def test_rows_quoted_from_others_have_no_training(config_dir, tmp_path):
    found = panels([], config_dir, "table7", tmp_path / "report")
    quoted = next(panel for title, panel in found.items() if title.endswith(": DEXML"))
    assert "none: the paper quotes this row from other authors" in quoted and "Run it" not in quoted


def test_parts_are_means_over_seeds_in_the_order_asked_for(results):
    folders = [write_result(results, "picto", run, seed, METRICS) for run in ("a", "b", "c") for seed in (0, 1)]
    for folder in folders:
        add_parts(folder, parts(2.0 * int(folder.parts[-3].removeprefix("seed")), without=40.0))
    (found,) = breakdowns(load(folders), ["c", "absent", "a"])
    assert [run.run for run in found.runs] == ["c", "a", "b"] and found.compared == ("c", "a")
    first = found.runs[0].values["by_frequency", "P@1"]
    assert [value.mean for value in first] == [group + 2.0 for group in range(10)] and first[0].n == 2
    assert [group["frequency"] for group in found.groups][:2] == ["1", "2"]
    assert [value.mean for value in found.runs[0].values["by_query_image", "P@1"]] == [50.0, 40.0]
    assert len(found.charts) == 5 and "c: 1 2.0" in found.charts[0]


def test_without_queries_there_is_no_precision(results):
    folder = write_result(results, "picto", "a", 0, METRICS)
    add_parts(folder, parts())
    (found,) = breakdowns(load([folder]), ["a"])
    assert found.runs[0].values["by_query_image", "P@1"][1] is None and found.n_queries == (30, 0)
    assert len(found.charts) == 4


def test_data_without_images_are_not_split_by_image(results, config_dir):
    folder = write_result(results, "picto", "a", 0, METRICS)
    add_parts(folder, without_images(parts()))
    (found,) = breakdowns(load([folder]), ["a"])
    assert [part for part, _ in found.runs[0].values] == ["by_frequency", "by_frequency"] and len(found.charts) == 2
    make_report([folder], config_dir, ["table1"], ReportOptions(side_by_side=("a",)), results / "report")
    page = (results / "report/report.html").read_text(encoding="utf-8")
    assert "group of labels, rarest first" in page and "with an image" not in page


def test_a_side_without_labels_has_no_value(results):
    folder = write_result(results, "picto", "a", 0, METRICS)
    split = parts(without=40.0)
    nothing = {"n_labels": 0, "n_true_pairs": 0, "contribution": {"P@1": 0.0, "P@5": 0.0}}
    add_parts(folder, split | {"by_label_image": split["by_label_image"] | {"without": nothing}})
    (found,) = breakdowns(load([folder]), ["a"])
    with_image, without = found.runs[0].values["by_label_image", "P@1"]
    assert with_image.mean == 20.0 and without is None and len(found.charts) == 3


def test_scores_without_a_breakdown_are_named(results):
    folders = [write_result(results, "picto", run, 0, METRICS) for run in ("a", "b")]
    assert breakdowns(load(folders), ["a"]) == []
    add_parts(folders[0], parts())
    assert breakdowns(load(folders), ["a"])[0].without == ("b",)


def test_bad_breakdowns_name_their_file(results):
    folders = [write_result(results, "picto", run, 0, METRICS) for run in ("a", "b")]
    add_parts(folders[0], parts())
    add_parts(folders[1], {key: value for key, value in parts().items() if key != "by_query_image"})
    with pytest.raises(VixmlError, match="lacks a part") as caught:
        breakdowns(load(folders), ["a"])
    assert "/b/" in str(caught.value.where)
    other = parts()
    other["by_frequency"][3]["n_labels"] += 1
    add_parts(folders[1], other)
    with pytest.raises(VixmlError, match="different groups") as caught:
        breakdowns(load(folders), ["a"])
    assert "/b/" in str(caught.value.where) and "/a/" in str(caught.value.expected)
