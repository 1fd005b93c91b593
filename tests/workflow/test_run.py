"""The whole DAG, run on a miniature, and which edits rerun which jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import tiny_world

from vixml.files import read_json, write_json

PAGES = {"make_tables": 1, "make_figures": 1, "make_report": 1, "paper_tables": 1}


def test_every_stage_leaves_a_manifest_a_log_and_a_benchmark(finished):
    results = finished.root / "results"
    stages = sorted(read_json(path)["stage"] for path in results.rglob("manifest.json"))
    assert set(stages) == {
        "build-corpus", "tokenize", "prepare-model", "render-images", "embed-images", "train", "build-index", "predict",
        "score", "make-tables", "make-figures", "make-report",
    }  # fmt: skip
    # Popularity needs neither, nor does a reused model.
    assert stages.count("train") == stages.count("build-index") == 2
    assert stages.count("score") == len(tiny_world.RUNS["runs"])
    logs, timed = (
        {path.relative_to(results / folder).with_suffix("") for path in (results / folder).rglob(f"*{end}")}
        for folder, end in (("logs", ".log"), ("benchmarks", ".tsv"))
    )
    assert logs == timed and len(logs) == len(stages)
    assert {Path("train_model/picto/vixml-minilm-l3/seed0"), Path("score_run/picto/popularity/seed0/test")} < logs
    assert not list(results.rglob(".tmp-*")) and not list(results.rglob("checkpoint"))


def test_pages_show_the_runs(finished):
    results = finished.root / "results"
    page = (results / "report.html").read_text()
    assert page == (results / "report" / "report.html").read_text()
    assert "PICTO in miniature" in page
    assert "MiniLM-L3 ViXML" in (results / "tables" / "table3.md").read_text()
    assert (results / "figures" / "figure2.svg").exists()


def test_the_formats_page_names_every_file_and_every_key(finished):
    page = (finished.root / "docs/formats.md").read_text()
    results = finished.root / "results"
    known = set(re.findall(r"`([^`]+)`", page)) | {"manifest.json"}
    files = [path for path in results.rglob("*") if path.suffix in {".json", ".jsonl", ".npy", ".parquet"}]
    others = {"raw", "models", "logs", "benchmarks"}
    files = [path for path in files if path.is_file() and not others & set(path.relative_to(results).parts)]
    names = {re.sub(r"shard-\d+", "shard-00000", path.name) for path in files}
    assert names - {"train.parquet", "test.parquet", "label.parquet"} <= known
    for path in files:
        if path.name in {"scores.json", "training.json", "embeddings.json", "store.json", "header.json", "log.jsonl"}:
            for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                keys = set(json.loads(line))
                assert keys <= known, f"docs/formats.md lacks {keys - known} of {path.name}"
    score = read_json(next(results.rglob("scores.json")))
    for part in score["breakdown"].values():
        for group in part if isinstance(part, list) else part.values():
            assert set(group) <= known


def test_jobs_use_the_threads_they_were_given(finished):
    manifest = finished.root / "results/runs/picto/vixml-minilm-l3/seed0/model/manifest.json"
    assert read_json(manifest)["machine"]["threads"] == 1


def test_a_log_holds_what_was_shown(finished):
    log = finished.root / "results/logs/train_model/picto/vixml-minilm-l3/seed0.log"
    assert "vixml-minilm-l3" in log.read_text()


def test_a_second_run_does_nothing(copy):
    assert copy.planned() == {}
    assert copy.planned("all") == {}


def test_new_times_of_files_change_nothing(copy):
    for path in copy.root.rglob("*"):
        # What git or a download would give a new time: everything that the workflow did not make itself.
        inside = path.relative_to(copy.root).parts
        if path.is_file() and inside[0] != ".snakemake" and (inside[0] != "results" or inside[1] == "raw"):
            os.utime(path)  # now, after all that was made; in the future, a job's output would be older than its input
    assert copy.planned() == {}


def test_comments_docstrings_and_layout_change_nothing(copy):
    for path in (copy.root / "src").rglob("*.py"):
        path.write_text(path.read_text().replace('"""', '"""New words: ', 1) + "\n\n# A remark.\n")
    for path in (copy.root / "config").rglob("*.yaml"):
        path.write_text("# A remark.\n" + path.read_text())
    assert copy.planned() == {}


ONCE_AGAIN = {"predict_labels": 1, "score_run": 1} | PAGES
RUNS, TABLE = "config/runs/picto.yaml", "config/tables/table3.yaml"


@pytest.mark.parametrize(
    ("path", "old", "new", "planned"),
    [
        (RUNS, "neighbours: 5", "neighbours: 6", ONCE_AGAIN),
        (RUNS, "retrieved_queries: 10", "retrieved_queries: 9", ONCE_AGAIN),
        (TABLE, "label: MiniLM-L3 ViXML,", "label: ViXML,", {"make_tables": 1, "make_report": 1, "paper_tables": 1}),
        ("config/datasets.yaml", "PICTO in miniature", "Little PICTO", PAGES),
    ],
    ids=["inference", "inference of a reused model", "row of a table", "title of a dataset"],
)
def test_an_edited_configuration_reruns_only_what_obeys_it(copy, path, old, new, planned):
    copy.edit(path, old, new)
    assert copy.planned() == planned


def test_edited_training_reruns_training_and_edited_metrics_rerun_scores(copy):
    def edit(name: str) -> dict[str, int]:
        path = copy.root / "src/vixml" / name
        path.write_text(path.read_text() + "\n\ndef another() -> int:\n    return 1\n")
        return copy.planned()

    assert edit("evaluation/metrics.py") == {"score_run": 4} | PAGES
    planned = edit("training/losses.py")
    assert planned["train_model"] == planned["build_index"] == 2
    assert not {"build_corpus", "tokenize_corpus", "render_images", "embed_images", "prepare_model"} & set(planned)


def test_an_edited_key_of_training_retrains(copy):
    copy.edit(RUNS, "free_vectors: 8", "free_vectors: 9")
    assert copy.planned()["train_model"] == 2


def test_two_runs_with_one_model_are_trained_and_encoded_once(copy):
    overlay = copy.root / "config" / "again.yaml"
    runs = ["vixml-minilm-l3", "vixml-minilm-l3--augmented"]
    try:
        for split in ("test", "validation"):
            target = {"dataset": "picto", "runs": runs, "seeds": [1], "split": split}
            # The reusing run alone asks for the same training.
            for asked in (runs, runs[1:]):
                write_json(overlay, {"targets": [target | {"runs": asked}], "tables": [], "figures": []})
                planned = copy.planned("all", "--configfile", "config/again.yaml")
                assert planned["train_model"] == planned["build_index"] == 1
                assert planned["predict_labels"] == planned["score_run"] == len(asked)
    finally:
        overlay.unlink()


def test_a_reusing_run_says_whose_model_it_used(finished):
    runs = finished.root / "results/runs/picto"
    assert [path.name for path in sorted((runs / "vixml-minilm-l3--augmented/seed0").iterdir())] == ["test"]
    for run in ("vixml-minilm-l3", "vixml-minilm-l3--augmented"):
        score = read_json(runs / run / "seed0/test/score/scores.json")
        assert (score["run"], score["trained_as"]) == (run, "vixml-minilm-l3")
    page = (finished.root / "results/report.html").read_text()
    assert "seed 0, model of vixml-minilm-l3:" in page
    shown = finished.run("vixml", "train", "picto", "vixml-minilm-l3--augmented", check=False)
    assert "no model of its own" in shown and "name vixml-minilm-l3;" in shown


def test_runs_are_compared_on_held_out_queries(apart):
    overlay = apart.root / "config" / "tuning.yaml"
    target = {"dataset": "picto", "runs": ["vixml-minilm-l3"], "split": "validation"}
    write_json(overlay, {"name": "tuning", "targets": [target], "tables": [], "figures": []})
    options = ("tuning_table", "--cores", "1", "--configfile", "config/tuning.yaml")
    assert apart.planned(*options) == {"predict_labels": 1, "score_run": 1, "make_tuning": 1, "tuning_table": 1}
    apart.run("snakemake", *options)
    made = (apart.root / "results/pages/tuning/tuning/tuning.md").read_text()
    assert "held-out train queries of picto; test was not read" in made and "| vixml-minilm-l3 |" in made
    assert apart.planned(*options) == {} and apart.planned() == {}


def test_another_source_file_is_built_from(copy):
    raw = copy.root / "results/raw/tablerpy-1.0-py3-none-any.whl"
    before = raw.read_bytes()
    try:
        raw.write_bytes(before + b" ")
        # Altered, but declared as before: the times of raw files do not count, their declared hash does.
        assert copy.planned() == {}
        declared = hashlib.sha256(before).hexdigest()
        copy.edit("config/datasets.yaml", declared, hashlib.sha256(before + b" ").hexdigest())
        planned = copy.planned()
        assert planned["build_corpus"] == planned["render_images"] == 1
        assert "prepare_model" not in planned
    finally:
        raw.write_bytes(before)


def test_a_stage_by_hand_gives_the_same_files(copy, tmp_path):
    made = copy.root / "results/data/picto/corpus"
    copy.run("vixml", "build-corpus", "picto", "--out", str(tmp_path / "corpus"))
    ours, theirs = (read_json(folder / "manifest.json") for folder in (tmp_path / "corpus", made))
    assert ours["outputs_sha256"] == theirs["outputs_sha256"]


def test_bad_input_stops_with_a_clear_message(copy):
    raw = Path("results/raw/tiny_eyes-1.0-py3-none-any.whl")
    content = (copy.root / raw).read_bytes()
    try:
        (copy.root / raw).write_bytes(content[:1000])
        command = ("vixml", "embed-images", "picto", "efficientnet-lite0", "--out", "results/nothing")
        shown = copy.run(*command, check=False)
        assert "error:" in shown and "where:" in shown and "Traceback" not in shown
        assert not (copy.root / "results/nothing").exists()
    finally:
        (copy.root / raw).write_bytes(content)
