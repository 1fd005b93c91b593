"""What a run asks for and its data do not have is an error before anything is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from vixml.check.fit import expect_fit, expect_known_rows, parse, runs_value
from vixml.config.load import load_runs, load_workflow, read_yaml
from vixml.config.project import Project
from vixml.config.tables import load_any_tables
from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.stages import place

COUNTS = {"n_train": 100, "n_test": 20, "n_labels": 10, "n_images": 50, "most_images_per_item": 2}
BASE = {"training": {"validation": 0.1}}


@pytest.fixture
def project(config_dir, results):
    """Return a function that gives a project with a run of picto, whose corpus has some counts."""

    def made(run, counts=COUNTS, **others):
        family = {"dataset": "picto", "base": BASE, "runs": {"mine": run} | others}
        (config_dir / "runs" / "mine.yaml").write_text(yaml.safe_dump(family), encoding="utf-8")
        corpus = place("build-corpus", results, dataset="picto")
        if counts is not None:
            write_json(corpus / "counts.json", counts)
            write_json(corpus / "manifest.json", {})
        return Project(config_dir, results)

    return made


TEXT = {"modality": "text"}
VECTORS = {"method": "none", "training": {"epochs": 0}}
NEIGHBOURS = VECTORS | {"inference": {"method": "knn", "image_weight": 0.5}}
WITH_LINEAR = {"inference": {"method": "chosen", "ridge": {"linear_weight": 1}}}


@pytest.mark.parametrize(
    ("run", "split", "changes", "key"),
    [
        ({"images": {"per_item": 3}}, "test", {}, "images.per_item"),
        ({}, "test", {"n_images": 0, "most_images_per_item": 0}, "modality"),
        (TEXT | NEIGHBOURS, "test", {"n_images": 0}, "inference.image_weight"),
        (TEXT | {"inference": {"top_k": 50}}, "test", {}, "inference.top_k"),
        (TEXT | {"training": {"validation": 0.0}}, "validation", {}, "training.validation"),
        (TEXT | {"training": {"validation": 0.004}}, "validation", {}, "training.validation"),
        (TEXT | {"training": {"validation": 0.996}}, "test", {}, "training.validation"),
        (TEXT, "test", {"n_train": 2}, ""),
        (TEXT | VECTORS | {"inference": {"method": "linear"}}, "test", {"n_train": 10**6}, "inference.method"),
        (TEXT | WITH_LINEAR, "test", {"n_labels": 10**6}, "inference.ridge.linear_weight"),
    ],
)
def test_what_the_data_do_not_have(project, run, split, changes, key):
    found = project(run, COUNTS | changes)
    with pytest.raises(VixmlError) as caught:
        expect_fit(found, [("picto", "mine", split)])
    at = f"runs.mine.{key}" if key else "runs.mine"
    assert f"mine.yaml: {at} (picto" in caught.value.where and caught.value.hint


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_runs_that_inference_is_chosen_on_fit_their_data(project, share):
    split = {"inherit": "mine", "training": {"validation": share}}
    found = project(TEXT | {"inference": {"method": "chosen", "chosen_on": ["split"]}}, COUNTS, split=split)
    with pytest.raises(VixmlError) as caught:
        expect_fit(found, [("picto", "mine", "test")])
    assert "mine.yaml: runs.split.training.validation" in caught.value.where


def test_runs_that_are_compared_on_held_out_queries_hold_out_one_share(project):
    other = {"inherit": "mine", "training": {"validation": 0.2}}
    found = project(TEXT, COUNTS, other=other, same={"inherit": "mine"})
    one, two, same = (("picto", run, "validation") for run in ("mine", "other", "same"))
    expect_fit(found, [one, same])
    expect_fit(found, [one, ("picto", "other", "test")])
    with pytest.raises(VixmlError) as caught:
        expect_fit(found, [one, same, two])
    assert "mine.yaml: runs.other.training.validation" in caught.value.where
    assert (caught.value.found, caught.value.expected) == (0.2, "0.1, as mine")


def test_what_fits_and_what_is_not_known_yet(project):
    expect_fit(project({"images": {"per_item": 9}}, None), [("picto", "mine", "test")])
    expect_fit(project({"images": {"per_item": 2}}), [("picto", "mine", "validation")])


@pytest.mark.parametrize(
    ("run", "key"),
    [
        ({"encoder": {"layers": 9}}, "encoder.layers"),
        ({"encoder": {"max_len": 64}}, "encoder.max_len"),
        ({"prototype": {"heads": 3}}, "prototype.heads"),
    ],
)
def test_the_prepared_model_decides(project, results, run, key):
    found = project(TEXT | {"encoder": {"model": "qwen2.5-3b"}} | run)
    model = place("prepare-model", results, model=found.run("picto", "mine").encoder.model)
    write_json(model / "config.json", {"hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 48})
    write_json(model / "manifest.json", {})
    with pytest.raises(VixmlError) as caught:
        expect_fit(found, [("picto", "mine", "test")])
    assert f"runs.mine.{key}" in caught.value.where


def test_names_of_runs_travel_as_one_text():
    scored = [{"dataset": "a", "run": "b.c", "seed": seed, "split": "test"} for seed in (0, 1)]
    assert parse(runs_value(scored)) == [("a", "b.c", "test")] and parse("") == parse("odd") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [({"metrics": ["P@7"]}, "metric"), ({"run": "vixml-minilm-l4"}, "run")],
    ids=["metric", "run"],
)
def test_a_table_names_runs_and_metrics_that_exist(config_dir, results, change, says):
    found = Project(config_dir, results)
    tables = dict(zip(["table1"], load_any_tables(config_dir, ["table1"]), strict=True))
    expect_known_rows(found, tables, config_dir)
    content = {"metrics": ["P@1"], "datasets": ["picto"], "rows": [{"run": "vixml-minilm-l3"} | change]} | change
    spec = SimpleNamespace(model_dump=lambda: content, metrics=content["metrics"])
    with pytest.raises(VixmlError, match=f"unknown {says} '") as caught:
        expect_known_rows(found, {"table1": spec}, Path(__file__))  # a configuration of one file
    assert caught.value.where.endswith({"metric": "metrics", "run": "a row of picto"}[says]) and caught.value.hint


def test_a_latency_needs_an_encoder(config_dir):
    data = read_yaml(Path(__file__).parents[2] / "config/config.yaml") | {"config_dir": str(config_dir)}
    dataset = data["targets"][0]["dataset"]
    popular = next(run for (of, run), one in load_runs(config_dir).items() if of == dataset and not one.needs_encoder)
    for name in (popular, "no-such-run"):
        with pytest.raises(VixmlError):
            load_workflow(data | {"latencies": [name]}, config_dir / "config.yaml")
