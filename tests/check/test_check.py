"""Checks in stages: results in order pass, and each corruption names its stage, although later stages are wrong as well."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checked_tree import COUNTS, change_array, write_tree
from helpers import update_manifest
from result_files import copy_config
from safetensors.numpy import load_file, save_file

from vixml.check.check import CHECKS, Absent, attempt, inspect, last_line, line, open_results
from vixml.cli import main
from vixml.config.load import read_yaml
from vixml.config.run import RunConfig, SeededRun
from vixml.errors import VixmlError
from vixml.evaluation.choose import choose_inference
from vixml.files import read_json, sha256_json, write_json, write_text
from vixml.manifest import with_digest
from vixml.provenance import MANIFEST, stage
from vixml.retrieval.predict import predict
from vixml.stages import PLACES

# -- corruptions, each with the stage and the message that must report it ---------------------------------------------

DATA = "data/picto"
SEED = "runs/picto/searching/seed0"
EMBEDDINGS, INDEX, PREDICTED = f"{DATA}/embeddings/eyes", f"{SEED}/index", f"{SEED}/test/predictions"


def raw_altered(results: Path) -> None:
    write_text(results / "raw" / "icon_mcp-0.1.0-py3-none-any.whl", "short")


def not_as_registered(results: Path) -> None:
    path = results.parent / "config" / "datasets.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("n_train: 30", "n_train: 31"), encoding="utf-8")


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """Alter bytes of a file; it keeps its size and can still be read."""

    def spoil(results: Path) -> None:
        data = (results / name).read_bytes()
        assert old in data and len(old) == len(new)
        (results / name).write_bytes(data.replace(old, new, 1))

    return spoil


def written(name: str, text: str, updated: bool = False) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        (results / name).write_text(text, encoding="utf-8")
        if updated:
            update_manifest((results / name).parent)

    return spoil


def removed(name: str) -> Callable[[Path], None]:
    return lambda results: (results / name).unlink()


def value(name: str, at: object, number: float, folder: str | None = None) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        change_array(results / name, at, number)
        update_manifest(results / folder if folder else (results / name).parent)

    return spoil


def keys(name: str, **changed: object) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        write_json(results / name, read_json(results / name) | changed)
        update_manifest((results / name).parent)

    return spoil


def rebuilt(folder: str) -> Callable[[Path], None]:
    """Let a stage have run again with another result, which is in order by itself."""

    def spoil(results: Path) -> None:
        (results / folder / "note.txt").write_text("a file more", encoding="utf-8")
        update_manifest(results / folder)

    return spoil


def a_row_less(results: Path) -> None:
    folder = results / DATA / "tokens" / "tiny-8" / "test"
    offsets = np.load(folder / "offsets.npy")
    np.save(folder / "values.npy", np.load(folder / "values.npy")[: offsets[-2]])
    np.save(folder / "offsets.npy", offsets[:-1])
    header = read_json(folder / "header.json")
    write_json(folder / "header.json", header | {"n_rows": len(offsets) - 2, "n_values": int(offsets[-2])})
    update_manifest(folder.parent)


def not_finite(kind: str, number: int) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        file = results / SEED / "model" / "model.safetensors"
        tensors = load_file(file)
        tensors[kind].reshape(-1)[number] = np.inf
        save_file(tensors, file)
        update_manifest(file.parent)

    return spoil


def a_bfloat16_that_is_not_a_number(results: Path) -> None:
    from safetensors.torch import save_file as save

    file = results / SEED / "model" / "model.safetensors"
    save({"x": torch.tensor([1.0, -3e38, float("nan")], dtype=torch.bfloat16)}, file)
    update_manifest(file.parent)


def another_label_ranked(results: Path) -> None:
    folder = results / SEED / "test" / "predictions"
    labels = np.load(folder / "labels.npy")
    # The last label becomes the worst of all, with its true score.
    vectors, queries = (np.load(results / SEED / "index" / f"{name}.npy") for name in ("label_z", "test"))
    worst = int(np.argmin(vectors @ queries[5]))
    labels[5, -1] = worst
    scores = np.load(folder / "scores.npy")
    scores[5, -1] = vectors[worst] @ queries[5]
    np.save(folder / "labels.npy", labels)
    np.save(folder / "scores.npy", scores)
    update_manifest(folder)


def through_an_index(results: Path, recall: float) -> None:
    """Turn the predictions into those of an approximate index that misses one of 120 labels."""
    another_label_ranked(results)
    path = results / SEED / "test" / "predictions" / MANIFEST
    manifest = read_json(path)
    manifest["config"]["inference"] |= {"index": "ivf", "index_recall": recall}
    manifest["config_sha256"] = sha256_json(manifest["config"])
    write_json(path, with_digest(manifest))


def moved(results: Path) -> None:
    (results / SEED).rename((results / SEED).with_name("seed1"))


def another_score(results: Path) -> None:
    path = results / SEED / "test" / "score" / "scores.json"
    scores = read_json(path)
    scores["metrics"]["P@5"] += 0.01
    write_json(path, scores)
    update_manifest(path.parent)


CORRUPTIONS = [
    ("data", "altered or cut short", raw_altered),
    ("data", "does not hold what it counts", keys(f"{DATA}/corpus/counts.json", n_test=13)),
    ("data", "does not have the counts of the registry", not_as_registered),
    ("data", "not the one that its stage wrote", replaced(f"{DATA}/corpus/train.parquet", b"train 0", b"trail 0")),
    ("data", "not a JSON file", written(f"{DATA}/corpus/manifest.json", "{")),
    ("data", "a manifest lacks a part", written(f"{DATA}/corpus/manifest.json", '{"schema_version": 1}')),
    ("data", "filter|missing", removed(f"{DATA}/corpus/filter_test/values.npy")),
    ("tokens", "not those of the corpus", a_row_less),
    ("tokens", "out of range", value(f"{DATA}/tokens/tiny-8/label/values.npy", 3, 50, f"{DATA}/tokens/tiny-8")),
    ("tokens", "made from another corpus .* stale", rebuilt(f"{DATA}/corpus")),
    ("images", "image store does not match its store.json", keys(f"{DATA}/images/store.json", n_images=16)),
    ("images", "store is not that of the corpus", keys(f"{DATA}/images/store.json", n_images=16, missing=[4, 15])),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", (7, 2), np.nan)),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", 7, 0)),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", 4, 1)),
    ("images", "made from another images", rebuilt(f"{DATA}/images")),
    ("model", "weight is not finite", not_finite("a", 5)),
    ("model", "weight is not finite", not_finite("c", 6)),
    ("model", "weight is not finite", a_bfloat16_that_is_not_a_number),
    ("model", "record of something else", keys(f"{SEED}/model/training.json", seed=3)),
    ("model", "result of something else", moved),
    ("model", "is missing", removed("models/tiny/tokenizer.json")),
    ("index", "not of length 1", value(f"{INDEX}/label_z.npy", (19, 0), 2.0)),
    ("index", "not of length 1", value(f"{INDEX}/train.npy", (0, 0), np.nan)),
    ("index", "its stage did not write", written(f"{INDEX}/label_w.npy", "left over")),
    ("index", "made from another trained", rebuilt(f"{SEED}/model")),
    ("predictions", "not that of an exact search", another_label_ranked),
    ("predictions", "not the inner products", value(f"{PREDICTED}/scores.npy", (0, 0), 1.5)),
    ("predictions", "predicted twice", value(f"{PREDICTED}/labels.npy", (2, slice(0, 2)), 1)),
    ("predictions", "label does not exist", value(f"{PREDICTED}/labels.npy", (2, 0), 20)),
    ("predictions", "made from another index", rebuilt(INDEX)),
    ("scores", "P@5 is not that of the predictions", another_score),
    ("scores", "something else than its folder", keys(f"{SEED}/validation/score/scores.json", split="test")),
    ("scores", "not a JSON file", written(f"{SEED}/test/score/scores.json", "{", updated=True)),
    ("scores", "does not hold what it should", written(f"{SEED}/test/score/scores.json", "[]", updated=True)),
]  # fmt: skip


# -- the checks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Write the tree and its configuration once."""
    root = tmp_path_factory.mktemp("checked")
    copy_config(root / "config")
    path = root / "config" / "datasets.yaml"
    world = read_yaml(path)
    world["datasets"]["picto"]["expect"] = COUNTS
    path.write_text(yaml.safe_dump(world), encoding="utf-8")
    write_tree(root / "results", root / "config")
    return root


@pytest.fixture
def tree(pristine, tmp_path) -> Path:
    """Return a copy that a test may corrupt: the folders `config` and `results`."""
    return Path(shutil.copytree(pristine, tmp_path / "tree"))


def look(tree: Path, **options) -> list:
    return list(inspect(open_results(tree / "results", tree / "config", **options)))


def test_every_stage_that_leaves_a_folder_is_checked():
    assert {PLACES[stage] for stages in CHECKS.values() for stage in stages} == set(PLACES.values())


@pytest.mark.parametrize(
    ("shown", "name", "folder"),
    [
        ("tokens", "hash-texts", f"{DATA}/lexical"),
        ("images", "export-dataset", "exported/picto"),
        ("index", "measure-latency", f"{SEED}/latency"),
        ("predictions", "install-peers", "peers"),
    ],
)
def test_an_altered_file_of_any_stage_is_found(tree, shown, name, folder):
    identity, inputs = (
        {"dataset": "picto", "run": "searching", "seed": 0},
        {"corpus": tree / "results" / DATA / "corpus"},
    )
    with stage(tree / "results" / folder, name, config=identity, inputs=inputs) as work:
        (work / "file").write_bytes(b"as it was")
    assert last_line(look(tree)) == "every stage that is there is in order"
    (tree / "results" / folder / "file").write_bytes(b"as it is!")
    assert last_line(look(tree)).startswith(f"the stage {shown} failed")


def test_results_in_order_pass_every_stage(pristine):
    reports = look(pristine)
    assert [report.stage for report in reports] == list(CHECKS)
    assert not [str(failure) for report in reports for failure in report.failed]
    assert {r.stage: r.n_folders for r in reports} == {
        "data": 1, "tokens": 1, "images": 2, "model": 2, "index": 1, "predictions": 4, "scores": 4,
    }  # fmt: skip
    shown = {report.stage: line(report) for report in reports}
    assert "picto: 30 train, 12 test, 20 labels, 15 images, as registered" in shown["data"]
    assert "tiny-8: 62 texts" in shown["tokens"]
    assert "% of test" in shown["images"] and "1 of 15 missing" in shown["images"]
    assert "norms of 15 of 15 vectors" in shown["images"]
    assert "recall@10 = 1 against exact search (2 times)" in shown["predictions"]
    assert "16 metrics computed again (4 times)" in shown["scores"]
    assert all("\n" not in text for text in shown.values())
    assert last_line(reports) == "every stage that is there is in order"


@pytest.mark.parametrize("recall", [0.99, 1.0])
def test_an_index_may_miss_what_the_run_allows(tree, recall):
    through_an_index(tree / "results", recall)
    shown = {report.stage: report for report in look(tree)}["predictions"]
    assert not [failure for failure in shown.failed if "index" in str(failure)]
    assert f"recall@10 of at least {recall:g} through an index (ivf)" in shown.answers


def test_an_index_that_misses_more_is_named(tree, monkeypatch):
    monkeypatch.setattr("vixml.check.check.SAMPLED", 0.0)
    through_an_index(tree / "results", 1.0)
    (failure,) = {report.stage: report for report in look(tree)}["predictions"].failed
    assert "misses more than the run allows" in str(failure) and "recall@10 = 0.9917" in str(failure)


@pytest.mark.parametrize(("stage", "what", "spoil"), CORRUPTIONS)
def test_a_corruption_names_its_stage(tree, stage, what, spoil):
    spoil(tree / "results")
    reports = look(tree)
    assert [r.stage for r in reports if r.failed] == [stage] == [reports[-1].stage]
    assert reports[-1].failed[0].where is not None
    shown = line(reports[-1])
    assert shown.startswith(f"{stage:<12} FAILED")
    assert re.search(what, shown), shown
    assert last_line(reports).startswith(f"the stage {stage} failed")


def test_quick_compares_only_the_size_of_large_files(tree, monkeypatch):
    replaced(f"{DATA}/corpus/train.parquet", b"train 0", b"trail 0")(tree / "results")
    assert look(tree, quick=True)[-1].stage == "data", "a small file is always hashed"
    monkeypatch.setattr("vixml.check.check.BIG", 100)
    assert look(tree, quick=True)[-1].stage == "scores"
    (tree / "results" / DATA / "corpus" / "train.parquet").write_bytes(b"")
    assert look(tree, quick=True)[-1].stage == "data"


def test_a_run_is_checked_with_the_run_whose_model_it_uses(tree):
    reports = {r.stage: r for r in look(tree, dataset="picto", run="searching--augmented")}
    assert (reports["index"].n_folders, reports["scores"].n_folders) == (1, 2)
    assert "retrieval-augmented: rankings whole (2 times)" in line(reports["predictions"])


def test_a_choice_is_checked_with_the_trainings_that_it_rests_on(tree):
    runs, corpus = tree / "results/runs/picto", tree / "results" / DATA / "corpus"
    for name, made in (("model", "train"), ("index", "build-index")):
        other = {"dataset": "picto", "run": "other", "seed": 0}
        with stage(runs / "other/seed0" / name, made, config=other, inputs={"corpus": corpus}) as work:
            for file in (runs / "searching/seed0" / name).iterdir():
                if file.name == "training.json":
                    write_json(work / file.name, read_json(file) | other)
                elif file.name != MANIFEST:
                    shutil.copy(file, work)
    how = {"method": "chosen", "chosen_on": ["other"], "top_k": 10}
    run = SeededRun("picto", "chosen", 0, RunConfig(reuse="searching", inference=how))
    inputs = {"corpus": corpus, "index_1": runs / "other/seed0/index", "trained_1": runs / "other/seed0/model"}
    choice, predicted = runs / "chosen/seed0/choice", runs / "chosen/seed0/test/predictions"
    choose_inference(run, inputs, choice, torch.device("cpu"))
    predict(run, "test", {"corpus": corpus, "index": runs / "searching/seed0/index", "choice": choice}, predicted)
    reports = {r.stage: r for r in look(tree, dataset="picto", run="chosen")}
    assert {name: reports[name].n_folders for name in ("model", "index", "predictions")} == {
        "model": 3, "index": 2, "predictions": 2,
    }  # fmt: skip
    assert not reports["predictions"].failed
    write_json(choice / "choice.json", read_json(choice / "choice.json") | {"n_queries": 1})
    assert "choice.json" in str(look(tree)[-1].failed[0]) and look(tree)[-1].stage == "predictions"


def test_inputs_of_moved_results_are_found(tree, monkeypatch):
    """Manifests name the folders that the stages read, which are elsewhere now."""
    monkeypatch.chdir(tree)
    reports = list(inspect(open_results(Path("results"), Path("config"))))
    assert not any(report.failed or report.absent for report in reports if report.stage != "data")
    results = open_results(tree / "results", tree / "config")
    assert results.locate("/elsewhere/data/results/data/picto/corpus") == tree / "results" / DATA / "corpus"
    assert results.locate("/elsewhere/results/data/other/corpus") is None
    (tree / "results" / "vision" / "eyes").mkdir(parents=True)
    assert results.locate("/elsewhere/results/vision/eyes") == tree / "results" / "vision" / "eyes"


def test_absent_and_unfinished_folders_are_listed_and_no_failure(tree):
    (tree / "results" / INDEX / MANIFEST).unlink()
    reports = {r.stage: r for r in look(tree)}
    assert "1 unfinished" in line(reports["index"])
    assert line(reports["index"]).split()[1:3] == ["not", "there"]
    assert "not compared: index of" in line(reports["predictions"])
    shutil.rmtree(tree / "results" / "models")
    assert "model of" in line({r.stage: r for r in look(tree)}["model"])


def test_nothing_to_check_is_refused(tree, tmp_path):
    with pytest.raises(VixmlError, match="nothing to check"):
        open_results(tmp_path / "none", tree / "config")
    with pytest.raises(VixmlError, match="unknown run 'serching'") as error:
        look(tree, run="serching")
    assert "searching" in error.value.hint
    with pytest.raises(VixmlError, match="unknown dataset 'other'"):
        look(tree, dataset="other")


def test_the_command_prints_one_line_per_stage_and_returns_a_status(tree, capsys):
    options = ["--results", str(tree / "results"), "--config-dir", str(tree / "config")]
    assert main(["check", *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in shown[:-1]] == list(CHECKS)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    value(f"{INDEX}/label_z.npy", (19, 0), 2.0)(tree / "results")
    assert main(["check", *options, "--run", "searching"]) == 1
    shown = capsys.readouterr().out
    assert "index        FAILED" in shown and "not looked at: predictions, scores" in shown
    assert "label_z.npy, row 19" in shown and "expected:" in shown
    assert main(["check", *options, "--run", "serching"]) == 2
    changed = [p for p, time in before.items() if p.stat().st_mtime_ns != time]
    assert {p.relative_to(tree / "results" / INDEX).name for p in changed} <= {"", "label_z.npy", MANIFEST}


def test_an_error_in_a_check_is_its_answer():
    def refuse():
        raise VixmlError("bad", where="here", found=1, expected=2)

    def miss():
        raise Absent("it")

    assert str(attempt(refuse, "there")) == str(VixmlError("bad", where="here", found=1, expected=2))
    said = attempt(lambda: Path("/nowhere/at/all").read_bytes())
    assert (said.what, said.where) == ("a file cannot be read", "/nowhere/at/all")
    assert (said.found, said.expected) == ("No such file or directory", "a readable file")
    assert attempt(lambda: json.loads("[]")["a"], "there").what == "a file does not hold what it should"
    assert isinstance(attempt(miss), Absent) and attempt(lambda: None) == ""
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
