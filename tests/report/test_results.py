"""Score folders: what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
from result_files import METRICS, write_manifest, write_picto, write_result

from vixml.errors import VixmlError
from vixml.provenance import stage
from vixml.report.results import find, hours_over_seeds, load, metric_over_seeds


def change(score, file="scores.json", without="", **keys):
    value = json.loads((score / file).read_text(encoding="utf-8")) | keys
    value.pop(without, None)
    (score / file).write_text(json.dumps(value), encoding="utf-8")


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
    keys = [
        set(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))) for folder in (tmp_path / "real", fake)
    ]
    assert keys[0] == keys[1]


def test_find_lists_finished_test_scores_only(results):
    done = write_result(results, "picto", "popularity", 0, METRICS)
    write_result(results, "picto", "popularity", 1, METRICS, split="validation")
    unfinished = write_result(results, "picto", "popularity", 2, METRICS)
    (unfinished / "manifest.json").unlink()
    assert find(results) == [done]


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
    change(score, without="trained_as")
    [result] = load([score]).all()
    assert result.trained_as == "text-minilm-l3" and not result.reuses and result.hours == pytest.approx(0.05)


def test_seeds_are_ordered_and_summarised(results):
    folders = [write_result(results, "picto", "r", s, METRICS | {"P@1": 50.0 + s}, minutes=6.0 + s) for s in (2, 0, 1)]
    found = load(folders)
    runs = found.of("picto", "r")
    assert [r.seed for r in runs] == [0, 1, 2]
    value = metric_over_seeds(runs, "P@1")
    assert (value.mean, value.sd, value.n) == (51.0, 1.0, 3)
    assert hours_over_seeds(runs).mean == pytest.approx(7 / 60)
    assert [r.seed for r in found.of("picto", "r", seed=1)] == [1]
    assert found.of("picto", None) == () and metric_over_seeds((), "P@1") is None


@pytest.mark.parametrize("value", [-0.1, 100.1, float("nan"), float("inf"), "50", None])
def test_a_metric_that_is_no_percentage(results, value):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    change(score, metrics=METRICS | {"P@1": value})
    with pytest.raises(VixmlError, match="not a percentage") as caught:
        load([score])
    assert "metrics.P@1" in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_schema_version(results, version):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    change(score, schema_version=version)
    with pytest.raises(VixmlError, match="schema version") as caught:
        load([score])
    assert str(score / "scores.json") in str(caught.value)


def test_another_schema_version_of_the_training_record(results):
    score = write_result(results, "picto", "r", 0, METRICS, minutes=1)
    (score.parent.parent / "model" / "training.json").write_text('{"schema_version": 9}', encoding="utf-8")
    with pytest.raises(VixmlError, match="schema version") as caught:
        load([score])
    assert "training.json" in str(caught.value)


def test_training_without_time(results):
    score = write_result(results, "picto", "r", 0, METRICS, minutes=1)
    (score.parent.parent / "model" / "training.json").write_text('{"schema_version": 1, "steps": 5}', encoding="utf-8")
    with pytest.raises(VixmlError, match="no valid time"):
        load([score])


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


def test_validation_scores_stay_out_of_tables(results):
    score = write_result(results, "picto", "popularity", 0, METRICS, split="validation")
    with pytest.raises(VixmlError, match="validation split"):
        load([score])


def test_results_of_two_corpora_do_not_mix(results):
    first = write_result(results, "picto", "popularity", 0, METRICS)
    second = write_result(results, "picto", "text-minilm-l3", 0, METRICS, n_queries=31)
    with pytest.raises(VixmlError, match="different queries"):
        load([first, second])


def test_incomplete_folders(results):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    change(score, without="split")
    with pytest.raises(VixmlError, match="lacks a key"):
        load([score])
    (score / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(VixmlError, match="not a JSON file"):
        load([score])
    (score / "manifest.json").unlink()
    with pytest.raises(VixmlError, match="missing"):
        load([score])


def test_a_metric_that_a_table_needs(results):
    score = write_result(results, "picto", "popularity", 0, {"P@1": 5.0})
    with pytest.raises(VixmlError, match="no R@100"):
        metric_over_seeds(load([score]).all(), "R@100")


def test_manifest_of_another_version(results):
    score = write_result(results, "picto", "popularity", 0, METRICS)
    write_manifest(score, "score", {"seed": 0})
    change(score, "manifest.json", schema_version=7)
    with pytest.raises(VixmlError, match="schema version"):
        load([score])


def test_all_of_picto_is_read(results):
    found = load(write_picto(results))
    assert len(found.by_run) == 12 and len(found.all()) == 4 + 8 * 3
