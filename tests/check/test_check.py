"""Checks in stages: results in order pass, and each corruption names its stage, although later stages are wrong as well."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from checked_tree import COUNTS, write_tree
from corruptions import CORRUPTIONS, DATA, INDEX, replaced, through_an_index, value
from result_files import copy_config

from vixml.check.check import STAGES, Absent, attempt, inspect, last_line, line, open_results
from vixml.cli import main
from vixml.config.load import read_yaml
from vixml.errors import VixmlError
from vixml.provenance import MANIFEST


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


def test_results_in_order_pass_every_stage(pristine):
    reports = look(pristine)
    assert [report.stage for report in reports] == list(STAGES)
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
    with pytest.raises(VixmlError, match="unknown key 'serching'") as error:
        look(tree, run="serching")
    assert "searching" in error.value.hint
    with pytest.raises(VixmlError, match="unknown key 'other'"):
        look(tree, dataset="other")


def test_the_command_prints_one_line_per_stage_and_returns_a_status(tree, capsys):
    options = ["--results", str(tree / "results"), "--config-dir", str(tree / "config")]
    assert main(["check", *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in shown[:-1]] == list(STAGES)
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
    assert str(attempt(lambda: Path("/nowhere/at/all").read_bytes())) == str(
        VixmlError(
            "a file cannot be read",
            where="/nowhere/at/all",
            found="No such file or directory",
            expected="a readable file",
        )
    )
    assert attempt(lambda: json.loads("[]")["a"], "there").what == "a file does not hold what it should"
    assert isinstance(attempt(miss), Absent) and attempt(lambda: None) == ""
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
