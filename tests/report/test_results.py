"""Score folders: what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
from helpers import update_manifest
from result_files import METRICS, write_manifest, write_picto, write_result

from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.provenance import stage
from vixml.report.results import find_scores, load, metric_over_seeds, over_seeds


def test_reads_scores_hours_and_manifest(results):
    score = write_result(results, "picto", "text-minilm-l3", 2, METRICS, minutes=3.0)
    [result] = load([score]).all()
    assert (result.dataset, result.run, result.seed, result.split) == ("picto", "text-minilm-l3", 2, "test")
    assert result.metrics["P@1"] == 50.0
    assert result.hours == pytest.approx(0.05)
    assert result.training["precision"] == "fp32"
    assert result.manifest["machine"]["processor"] == "Test Processor"


def test_fixture_manifests_have_the_keys_of_real_ones(tmp_path, results):
    with stage(tmp_path / "real", "score", config={"seed": 0}, inputs={}):
        pass
    fake = write_result(results, "picto", "popularity", 0, METRICS)
    assert read_json(tmp_path / "real/manifest.json").keys() == read_json(fake / "manifest.json").keys()


def test_find_lists_finished_test_scores_of_named_runs_only(results):
    done = write_result(results, "picto", "popularity", 0, METRICS)
    write_result(results, "picto", "popularity", 1, METRICS, split="validation")
    unfinished = write_result(results, "picto", "popularity", 2, METRICS)
    (unfinished / "manifest.json").unlink()
    write_result(results, "picto", "of-another-configuration", 0, METRICS)
    assert find_scores(results, {("picto", "popularity"), ("picto", "not-run")}) == [done]


def test_untrained_runs_have_no_hours(results):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    assert load([score]).all()[0].hours is None
    model = score.parent.parent / "model"
    model.mkdir()
    (model / "training.json").write_text('{"schema_version": 1, "steps": 0, "seconds": 0.2}', encoding="utf-8")
    assert load([score]).all()[0].hours is None


def test_a_reusing_run_has_the_training_of_the_run_it_reuses(results, monkeypatch):
    write_result(results, "picto", "long", 0, METRICS, minutes=30.0)
    own = write_result(results, "picto", "short", 0, METRICS, minutes=3.0)
    score = write_result(results, "picto", "short--augmented", 0, METRICS | {"P@1": 60.0}, trained_as="short")
    [result] = load([score]).all()
    assert (result.run, result.trained_as, result.reuses) == ("short--augmented", "short", True)
    assert result.hours == pytest.approx(0.05) and result.training["run"] == "short"
    assert result.place("train") == load([own]).all()[0].place("train")
    assert result.place("predict").parent == score.parent
    # Named from inside its own folder, it is found as well.
    monkeypatch.chdir(score.parent.parent)
    [result] = load(["test/score"]).all()
    assert result.hours == pytest.approx(0.05)


def test_a_score_from_before_models_were_reused_is_of_its_own_model(results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS, minutes=3.0)
    value = read_json(score / "scores.json")
    del value["trained_as"]
    write_json(score / "scores.json", value)
    update_manifest(score)
    [result] = load([score]).all()
    assert result.trained_as == "text-minilm-l3" and not result.reuses and result.hours == pytest.approx(0.05)


def test_seeds_are_ordered_and_summarised(results):
    folders = [write_result(results, "picto", "r", s, METRICS | {"P@1": 50.0 + s}, minutes=6.0 + s) for s in (2, 0, 1)]
    found = load(folders)
    runs = found.of("picto", "r")
    assert [r.seed for r in runs] == [0, 1, 2]
    value = metric_over_seeds(runs, "P@1")
    assert (value.mean, value.sd, value.n) == (51.0, 1.0, 3)
    assert over_seeds(runs, "hours").mean == pytest.approx(7 / 60)
    assert [r.seed for r in found.of("picto", "r", seed=1)] == [1]
    assert found.of("picto", None) == () and metric_over_seeds((), "P@1") is None


def test_hours_are_those_of_every_training_that_a_choice_rests_on(results):
    for run, minutes in (("a", 3.0), ("s0", 2.0), ("s1", 2.5)):
        write_result(results, "picto", run, 0, METRICS, minutes=minutes)
    score = write_result(results, "picto", "tagger", 0, METRICS, trained_as="a")

    def hours(held_out_by):
        write_json(score / "scores.json", read_json(score / "scores.json") | {"choice": {"held_out_by": held_out_by}})
        update_manifest(score)
        return load([score]).all()[0].hours

    assert hours(["a"]) == pytest.approx(0.05) and hours(["s0", "s1"]) == pytest.approx(0.125)
    assert hours(["s0", "gone"]) is None


def test_a_query_takes_what_its_index_and_its_ranking_took(results):
    """Of a run that reuses a model, encoding is that run's; without a measurement of both there is no time."""
    trained = write_result(results, "picto", "a", 0, METRICS, minutes=1).parents[1]
    score = write_result(results, "picto", "b", 0, METRICS, trained_as="a")
    popular = write_result(results, "picto", "popularity", 0, METRICS)

    def taken(folder, stage, value, **inputs):
        folder.mkdir(exist_ok=True)
        facts = {"milliseconds_per_query": value} if value else {}
        write_manifest(folder, stage, {"seed": 0}, facts=facts, inputs=inputs)

    taken(score.parent / "predictions", "predict", 0.25, index={"path": "index", "sha256": "1" * 64})
    assert load([score]).all()[0].query_ms is None, "the index is not here"
    taken(trained / "index", "build-index", None)
    assert load([score]).all()[0].query_ms is None
    taken(trained / "index", "build-index", 0.5)
    taken(popular.parent / "predictions", "predict", 0.125)
    found = load([score, popular])
    assert [found.of("picto", run)[0].query_ms for run in ("b", "popularity")] == [0.75, 0.125]
    assert over_seeds(found.of("picto", "b"), "query_ms").mean == 0.75


SCORES, TRAINING, MANIFEST = "test/score/scores.json", "model/training.json", "test/score/manifest.json"
VERSION, TIME = "schema version", "no valid time"
BAD = [
    *((SCORES, {"metrics": METRICS | {"P@1": value}}, "not a percentage", "scores.json: metrics.P@1")
      for value in (-0.1, 100.1, float("nan"), float("inf"), "50", None)),
    *((SCORES, {"schema_version": version}, VERSION, "scores.json") for version in (0, 2, None, "1")),
    (SCORES, [], VERSION, "scores.json"),
    (SCORES, {"split": ...}, "lacks a key", "scores.json"),
    (SCORES, "{", "not a JSON file", "scores.json:1"),
    (TRAINING, {"schema_version": 9}, VERSION, "training.json"),
    *((TRAINING, {"seconds": seconds}, TIME, "training.json: seconds") for seconds in (..., 0, float("nan"), "60")),
    (MANIFEST, {"schema_version": 7}, VERSION, "manifest.json"),
    (MANIFEST, None, "missing", "manifest.json"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "keys", "message", "where"), BAD)
def test_a_damaged_result_is_refused_with_its_file(results, file, keys, message, where):
    score = write_result(results, "picto", "r", 0, METRICS, minutes=1)
    path = score.parents[1] / file
    if keys is None:
        path.unlink()
    elif isinstance(keys, dict):
        changed = read_json(path) | keys
        path.write_text(
            json.dumps({key: value for key, value in changed.items() if value is not ...}), encoding="utf-8"
        )
    else:
        path.write_text(keys or "[]", encoding="utf-8")
    if file != MANIFEST:
        with pytest.raises(VixmlError, match="not the one that its stage wrote"):
            load([score])
        update_manifest(path.parent)  # as a stage that is wrong would have written it
    with pytest.raises(VixmlError, match=message) as caught:
        load([score])
    assert str(path.parent / where) in str(caught.value)


def test_two_results_for_one_cell_are_both_named(results, tmp_path):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    other = write_result(tmp_path / "elsewhere", "picto", "popularity", 0, METRICS)
    for again in (score, other):
        with pytest.raises(VixmlError, match="two results") as caught:
            load([score, again])
        assert all(str(one / "scores.json") in str(caught.value) for one in (score, again))


def test_a_folder_that_was_renamed(results):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    moved = score.parents[2] / "seed1"
    score.parents[1].rename(moved)
    with pytest.raises(VixmlError, match="something else") as caught:
        load([moved / "test" / "score"])
    assert "seed0" in str(caught.value.found)


def test_validation_scores_and_other_corpora_stay_out_of_tables(results):
    first = write_result(results, "picto", "popularity", 0, METRICS)
    held_out = write_result(results, "picto", "popularity", 1, METRICS, split="validation")
    other = write_result(results, "picto", "text-minilm-l3", 0, METRICS, n_queries=31)
    for again, message in ((held_out, "validation split"), (other, "different queries")):
        with pytest.raises(VixmlError, match=message):
            load([first, again])


def test_a_metric_that_a_table_needs(results):
    score = write_result(results, "picto", "popularity", 0, {"P@1": 5.0})
    with pytest.raises(VixmlError, match="no R@100"):
        metric_over_seeds(load([score]).all(), "R@100")


def test_all_of_picto_is_read(results):
    found = load(write_picto(results))
    assert len(found.by_run) == 12 and len(found.all()) == 4 + 8 * 3
