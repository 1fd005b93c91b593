"""What scores are worth: probabilities of tags, a wanted precision, items unlike all others, and the report on them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from helpers import run_stage

from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.report.chosen import chosen_runs
from vixml.report.results import load
from vixml.retrieval.calibration import Alarm, Threshold
from vixml.stages import place
from vixml.tagging.stream import Wanted, aside_of, tag_table
from vixml.tagging.tagger import Tagger

NAMES = ["box ember", "kite river", "post moss", "flag plum", "zzz qqq"]


@pytest.fixture(scope="module")
def tagger(packed):
    return Tagger.load(packed("chosen"))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,name,more\n" + "".join(f"{n},{name},box\n" for n, name in enumerate(NAMES)), encoding="utf-8")
    return path


def test_a_tag_has_the_probability_of_its_score(tagger):
    (tags,) = tagger.tag(["box ember"], k=5)
    expected = tagger.calibration(np.array([tag.score for tag in tags]))
    assert [tag.probability for tag in tags] == pytest.approx(expected.tolist())
    assert 0 < tags[-1].probability <= tags[0].probability < 1


def test_an_added_label_has_no_probability(packed):
    tagger = Tagger.load(packed("chosen"))
    tagger.add_labels(["box ember"])
    (tags,) = tagger.tag(["box ember"], k=10)
    assert {tag.label: tag.probability is None for tag in tags}["box ember"]
    assert sum(tag.probability is None for tag in tags) == 1


def test_a_wanted_precision_leaves_out_tags_and_unlike_items_are_put_aside(
    tagger, table, tmp_path, monkeypatch, capsys
):
    queries = tagger.queries([tagger.read({"name": name, "more": "box"}) for name in NAMES])
    similarity, (_, scores) = tagger.similarity(queries), tagger.rank(queries, 4)
    least, half = float(np.sort(similarity)[1]), float(np.median(scores))
    fitted = tagger.calibration.model_copy(update={
        "thresholds": [Threshold(precision=0.8, score=half, recall=0.5, labels_per_item=1, items=0.9)],
        "alarms": [Alarm(share=0.01, similarity=least)],
    })  # fmt: skip
    monkeypatch.setattr(tagger, "calibration", fitted)
    out = tmp_path / "tags.csv"
    wanted = Wanted(precision=0.75, unlike=0.02, probability=True)
    counts = tag_table(tagger, table, out, 4, wanted=wanted)
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    kept = {str(n) for n in range(5) if similarity[n] >= least}
    expected = [(str(n), f"{score:.6f}") for n in range(5) if str(n) in kept for score in scores[n] if score >= half]
    assert [(row["id"], row["score"]) for row in rows] == expected and len(kept) == 4
    for row in rows:
        assert float(row["probability"]) == pytest.approx(fitted(np.array([float(row["score"])]))[0], abs=1e-5)
    assert (counts["tagged"], counts["aside"]) == (4, 1)
    assert counts["no_tag"] == len(kept - {row["id"] for row in rows})
    (unlike,) = csv.DictReader(aside_of(out).read_text(encoding="utf-8").splitlines())
    assert unlike["id"] not in kept and "unlike all training items" in unlike["reason"] and unlike["tagged"] == "no"
    said = capsys.readouterr().err
    assert "on held-out items 80% of them were true" in said and "happened to 1.0% of the held-out items" in said


def test_every_format_has_the_probability_if_asked(tagger, table, tmp_path):
    tag_table(tagger, table, tmp_path / "tags.jsonl", 2, wanted=Wanted(probability=True))
    first = json.loads((tmp_path / "tags.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["id", "rank", "label", "score", "probability"]
    tag_table(tagger, table, tmp_path / "tags.jsonl", 2)
    assert "probability" not in (tmp_path / "tags.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("wanted", [Wanted(precision=0.8), Wanted(unlike=0.01), Wanted(probability=True)])
def test_a_model_that_cannot_tell_says_so(packed, table, tmp_path, wanted):
    tagger = Tagger.load(packed("text"))
    assert tagger.tag(["box"])[0][0].probability is None
    with pytest.raises(VixmlError, match="does not know what its scores are worth"):
        tag_table(tagger, table, tmp_path / "tags.csv", wanted=wanted)
    assert not (tmp_path / "tags.csv").exists()


def test_the_report_shows_the_choice_and_what_probabilities_are_worth(shop, packed, tmp_path):
    packed("chosen")
    project = shop.project
    predictions = place("predict", project.results, dataset="shop", run="chosen", seed=0, split="test")
    folder = tmp_path / "runs/shop/chosen/seed0/test/score"
    options = ("--predictions", predictions, "--out", folder, "--ks", "1,3,5", "--deep-ks", "5")
    run_stage("score", "shop", "chosen", *options, "--results", project.results, "--config-dir", project.config_dir)
    scores = read_json(folder / "scores.json")
    found = scores["reliability"]
    assert scores["choice"]["inference"]["method"] == "local-ridge" and 0 <= found["error"] <= 1
    (one,) = chosen_runs(load([folder]))
    assert "4 held-out queries are too few to choose" in one.sentences[0]
    assert "expected calibration error" in one.sentences[1]
    assert "predicted probability (%)" in one.charts[-1]
