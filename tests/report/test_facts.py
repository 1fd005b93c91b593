"""Tables of facts: every published fact has one place, ours is counted or read, and a change moves its cell alone."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import yaml
from report_page import CONFIG, build, rows, sources
from result_files import write_corpus

from vixml.config.load import read_yaml
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.report.tables import Measured, compare, statistics
from vixml.report.write_tables import to_markdown

NAMES = ("table8", "table9", "latencies", "claims")


def reported(name):
    return list(csv.DictReader((CONFIG / "reported" / f"{name}.csv").open(encoding="utf-8")))


def test_every_published_fact_has_one_place():
    printed = sorted(cell.published.replace(",", "") for cell in build("table8").cells(True))
    columns = ("n_train", "n_test", "n_labels", "avg_labels_per_query", "avg_queries_per_label",
        "pct_train_queries_with_images", "pct_test_queries_with_images", "pct_labels_with_images")  # fmt: skip
    assert printed == sorted(row[column] for row in reported("datasets") for column in columns)
    table9 = [row["value"] for row in reported("hyperparameters") if row["group"] == "backbone (Table 9)"]
    assert sorted(cell.published for cell in build("table9").cells(True)) == sorted(table9)
    said = {"latencies": [], "claims": []}
    for row in reported("other_facts"):
        if row["topic"].startswith("latency"):
            said["latencies"].append(row["value"])
        else:
            said["claims"].append(f"{row['value']} {row['unit']}".strip())
    for name, values in said.items():
        assert sorted(cell.published for cell in build(name).cells(True)) == sorted(values)


def test_the_runs_named_beside_stated_times_exist():
    named = {(row["dataset"], row["run"]) for row in reported("other_facts") if row["run"]}
    assert len(named) == 7 and named <= sources().registry.runs.keys()


@pytest.mark.parametrize(
    ("printed", "ours", "state"),
    [
        ("294805", 294805, "matches"), ("294805", 294806, "above"), ("294805", 294804, "below"),
        ("79.45", 79.4549, "matches"), ("79.45", 79.456, "above"), ("2.29", 2.284, "below"),
        ("5e-4", 5e-4, "matches"), ("5e-4", 2e-4, "below"), ("17.4", 17.389824, "matches"),
    ],
)  # fmt: skip
def test_a_value_matches_to_its_last_printed_digit(printed, ours, state):
    assert compare(printed, ours).state == state


def test_a_corpus_is_counted_as_by_hand(tmp_path):
    corpus_dir, _ = write_corpus(tmp_path)
    corpus, found = Corpus.load(corpus_dir), statistics(Corpus.load(corpus_dir))
    truth = corpus.labels("train")
    pairs = sum(len(truth.row(i)) for i in range(len(truth)))
    assert found["n_train"] == len(corpus.texts("train")) and found["n_labels"] == len(corpus.texts("label"))
    assert found["avg_labels_per_query"] == pairs / len(truth)
    assert found["avg_queries_per_label"] == pairs / found["n_labels"]
    with_images = [len(corpus.images("test").row(i)) > 0 for i in range(corpus.n("test"))]
    assert found["pct_test_queries_with_images"] == pytest.approx(100 * np.mean(with_images))


def test_counts_are_shown_in_their_row_and_a_stand_in_confirms_nothing(tmp_path):
    corpus_dir, _ = write_corpus(tmp_path)
    assert corpus_dir.parent.name == "picto"
    before, after = rows(build("table8")), rows(build("table8", measured=Measured({"picto": corpus_dir})))
    assert after[:-1] == before and after[-1]["row"] == "PICTO"
    assert {value for key, value in after[-1].items() if key.endswith("verdict")} == {"stand-in"}
    # The same corpus under the name of one of the paper's: counts that differ say so.
    named = rows(build("table8", measured=Measured({"LF-Amazon-131K": corpus_dir})))
    row = next(r for r in named if r["row"] == sources().registry.title("LF-Amazon-131K"))
    assert row["train queries verdict"] == "below" and row["train queries paper"] == "294,805"


def test_a_changed_entry_of_the_registry_changes_its_cell_alone(config_dir):
    before, models = rows(build("table9", config_dir)), read_yaml(config_dir / "models.yaml")
    models["text_models"]["qwen2.5-3b"]["n_parameters"] = 3_100_000_000
    (config_dir / "models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    after = rows(build("table9", config_dir))
    changed = {(b["row"], key) for b, a in zip(before, after, strict=True) for key in b if b[key] != a[key]}
    assert changed == {
        ("Qwen2.5-3B-I", "parameters ours"), ("Qwen2.5-3B-I", "parameters verdict"), ("Qwen2.5-3B-I", "note"),
    }  # fmt: skip


def latency(folder, dataset="picto", run="text-minilm-l3", version=1):
    folder.mkdir(parents=True)
    steps = {
        step: {"median": 0.5, "low": 0.4, "high": 0.7}
        for step in ("tokenise", "encode_alone", "encode_batched", "search")
    }
    about = {"schema_version": version, "dataset": dataset, "run": run, "seed": 0, "device": "a processor"}
    write_json(folder / "latency.json", about | {"threads": 1, "batch_size": 8, "milliseconds": steps})
    return folder


def test_latencies_are_beside_the_papers_or_in_other_rows(tmp_path):
    own = latency(tmp_path / "one")
    theirs = latency(tmp_path / "two", "LF-AmazonTitles-131K", "text-bert")
    table = build("latencies", measured=Measured(latencies=(own, theirs)))
    found = {row["row"]: row for row in rows(table)}
    assert found["BERT text-only, length 32, per query"]["encode, a batch ours"] == "0.500 (0.400 to 0.700)"
    assert found["BERT text-only, length 32, per query"]["encode, a batch verdict"] == "not-comparable"
    assert found["BERT ViXML, per query"]["encode, a batch ours"] == "not run"
    assert found["MiniLM-L3"]["search verdict"] == "stand-in" and len(found) == 6
    with pytest.raises(VixmlError, match="another schema version"):
        build("latencies", measured=Measured(latencies=(latency(tmp_path / "old", version=0),)))


def test_two_measurements_of_one_cell_are_both_named(tmp_path):
    one, two = latency(tmp_path / "one"), latency(tmp_path / "two")
    with pytest.raises(VixmlError, match="two latencies of one run") as caught:
        build("latencies", measured=Measured(latencies=(one, two)))
    assert str(one / "latency.json") in str(caught.value) and str(two / "latency.json") in str(caught.value)
    folders = [tmp_path / name / "picto" / "corpus" for name in ("here", "there")]
    with pytest.raises(VixmlError, match="two corpora of picto") as caught:
        Measured.of(folders, [])
    assert all(str(folder) in str(caught.value) for folder in folders)


@pytest.mark.parametrize("change", [{"low": 0.0}, {"median": float("nan")}, {"high": 0.1}])
def test_an_invalid_latency_is_refused_with_its_file(tmp_path, change):
    folder = latency(tmp_path / "one")
    found = read_json(folder / "latency.json")
    found["milliseconds"]["search"] |= change
    (folder / "latency.json").write_text(json.dumps(found), encoding="utf-8")  # as Python writes NaN
    with pytest.raises(VixmlError, match="no time") as caught:
        build("latencies", measured=Measured(latencies=(folder,)))
    assert f"{folder / 'latency.json'}: milliseconds.search" in str(caught.value)


@pytest.mark.parametrize("change", ["drop", "add"])
def test_a_sentence_without_a_row_and_a_row_without_a_sentence_are_errors(config_dir, change):
    path = config_dir / "tables/claims.yaml"
    spec = read_yaml(path)
    first, *others = spec["claims"]
    spec["claims"] = others if change == "drop" else [first, *others, first | {"item": "another"}]
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(VixmlError, match="different sentences"):
        build("claims", config_dir)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_has_every_row(name):
    table = build(name)
    labels = [row.label for section in table.sections for row in section.rows]
    assert [row["row"] for row in rows(table)] == labels
    found = re.findall(r"^\| (.*?) \| ", to_markdown(table).split("## Verdicts")[0], re.MULTILINE)
    heads = (table.spec.row_title, "run")
    assert [label.replace("\\|", "|") for label in found if label not in heads] == labels
