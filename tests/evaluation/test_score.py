"""The stage ``score`` on a corpus small enough to count by hand, and its verb."""

from pathlib import Path

import numpy as np
import pytest
from corpus_data import CorpusData, Items
from typer.testing import CliRunner

from vixml.cli import app
from vixml.config.registry import Dataset
from vixml.errors import VixmlError
from vixml.evaluation.score import break_down, frequency_deciles, score
from vixml.files import read_json, save_array, write_text
from vixml.provenance import stage
from vixml.ragged import Ragged

ENTRY = Dataset(title="Tiny", builder="picto")
KS = {"ks": (1, 2), "deep_ks": (1, 3)}


def corpus_at(folder: Path, with_filter: bool = True) -> Path:
    """Write 4 train and 3 test queries over 4 labels; label 3 and test query 1 have an image."""
    data = CorpusData(
        items={split: Items.of([str(i) for i in range(n)]) for split, n in (("train", 4), ("test", 3), ("label", 4))},
        labels={
            # Frequencies 3, 1, 1, 1.
            "train": Ragged.from_rows([[0], [0, 1], [0, 2], [3]], 4),
            "test": Ragged.from_rows([[0, 3], [3], []], 4),
        },
        image_keys=["image"],
        image_sources=["x"],
        images={
            "train": Ragged.from_rows([[0], [], [], [0]], 1),
            "test": Ragged.from_rows([[], [0], []], 1),
            "label": Ragged.from_rows([[], [], [], [0]], 1),
        },
        filters={
            "train": Ragged.from_rows([[], [1], [], []], 4),
            "test": Ragged.from_rows([[], [0], []], 4),
        }
        if with_filter
        else {},
    )
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    return folder


def predictions_at(folder: Path, labels: list[list[int]], rows: list[int] | None = None, **identity) -> Path:
    """Write predictions as ``predict`` does."""
    labels = np.array(labels, dtype=np.int32)
    config = {"dataset": "tiny", "run": "one", "seed": 0, "split": "validation" if rows else "test"} | identity
    with stage(folder, "predict", config=config, inputs={}) as work:
        save_array(work / "labels.npy", labels)
        save_array(work / "scores.npy", np.zeros(labels.shape, dtype=np.float32))
        if rows is not None:
            save_array(work / "rows.npy", np.array(rows, dtype=np.int64))
    return folder


RANKED = [[0, 1, 2], [0, 3, 1], [2, 1, 0]]


def scored(tmp_path, predictions, corpus=None, entry=ENTRY, seed=0, split="test", **ks):
    """Return what ``score`` writes."""
    inputs = {"corpus": corpus or corpus_at(tmp_path / "corpus"), "predictions": predictions}
    names = {"dataset": "tiny", "run": "one", "seed": seed, "split": split}
    score(names, entry, inputs, tmp_path / "score", **(KS | ks))
    return read_json(tmp_path / "score" / "scores.json")


def test_scores_and_where_they_come_from(tmp_path):
    found = scored(tmp_path, predictions_at(tmp_path / "p", RANKED))
    # Query 1: label 0 is filtered, so label 3 moves to the first position and is right; query 2 has no true label.
    metrics = found["metrics"]
    assert metrics["P@1"] == pytest.approx(100 * 2 / 3)
    assert metrics["R@3"] == pytest.approx(100 * (1 / 2 + 1) / 3)
    # C = (log 4 - 1) 3.6^0.6; weights 1 + C (3 + 2.6)^-0.6 and 1 + C (1 + 2.6)^-0.6 = log 4.
    frequent, rare = 1 + (np.log(4) - 1) * (3.6 / 5.6) ** 0.6, np.log(4)
    assert metrics["PSP@1"] == pytest.approx(100 * (frequent + rare) / (rare + rare))
    for key, value in {
        "schema_version": 1, "dataset": "tiny", "run": "one", "seed": 0, "split": "test", "n_queries": 3, "n_labels": 4,
        "n_queries_without_positives": 1, "n_filtered_predictions": 1, "n_filtered_positives": 0, "filtered": True,
        "ks": [1, 2], "deep_ks": [1, 3],
    }.items():  # fmt: skip
        assert found[key] == value, key
    parts = found["breakdown"]
    by_frequency = parts["by_frequency"]
    assert len(by_frequency) == 10
    assert sum(group["contribution"]["P@1"] for group in by_frequency) == pytest.approx(metrics["P@1"])
    assert sum(group["n_labels"] for group in by_frequency) == 4
    # 6 pairs: labels of frequency 1 hold the first 3 (middle 1.5 of 6: group 2), label 0 the others (4.5: group 7).
    assert by_frequency[2]["train_count"] == [1, 1] and by_frequency[7]["train_count"] == [3, 3]
    assert by_frequency[7]["contribution"] == pytest.approx({"P@1": 100 / 3, "P@5": 100 / 15})
    assert by_frequency[0] == {
        "n_labels": 0, "train_count": None, "n_true_pairs": 0, "contribution": {"P@1": 0, "P@5": 0},
    }  # fmt: skip
    assert parts["by_query_image"] == {
        "with": {"n_queries": 1, "P@1": pytest.approx(100)},
        "without": {"n_queries": 2, "P@1": pytest.approx(50)},
    }
    assert parts["by_label_image"]["with"] == {
        "n_labels": 1, "n_true_pairs": 2, "contribution": pytest.approx({"P@1": 100 / 3, "P@5": 100 / 15}),
    }  # fmt: skip


@pytest.mark.parametrize(("says", "trained_as"), [({}, "one"), ({"trained_as": "two"}, "two")])
def test_a_score_names_the_run_whose_model_was_used(tmp_path, says, trained_as):
    found = scored(tmp_path, predictions_at(tmp_path / "p", RANKED, **says))
    assert (found["run"], found["trained_as"]) == ("one", trained_as)


def test_validation_scores_the_held_out_rows_of_train(tmp_path):
    predictions = predictions_at(tmp_path / "p", [[3, 0, 1], [1, 2, 0]], rows=[3, 1])
    found = scored(tmp_path, predictions, split="validation")
    # Row 3: label 3, right. Row 1: label 1 is filtered, label 2 is first and wrong, label 0 is second and right.
    assert found["metrics"]["P@1"] == pytest.approx(50)
    assert found["metrics"]["MRR@3"] == pytest.approx(75)
    assert (found["n_queries"], found["n_filtered_positives"]) == (2, 1)
    assert found["breakdown"]["by_query_image"]["with"]["n_queries"] == 1


def test_deciles_hold_equal_volumes_and_keep_frequencies_together():
    counts = np.random.default_rng(0).zipf(1.5, 3000).clip(max=400)
    group = frequency_deciles(counts)
    volume = np.bincount(group, weights=counts, minlength=10)
    assert volume.sum() == counts.sum()
    # A group is off by at most the frequencies at its two ends.
    largest = np.bincount(counts, weights=counts).max()
    assert np.abs(volume - counts.sum() / 10).max() <= largest
    assert all(len(set(group[counts == count].tolist())) == 1 for count in set(counts.tolist()))
    assert (np.diff(group[np.argsort(counts, kind="stable")]) >= 0).all()
    assert frequency_deciles(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def test_contributions_add_up(tmp_path):
    rng = np.random.default_rng(1)
    predictions = np.stack([rng.permutation(30)[:8] for _ in range(50)]).astype(np.int32)
    truth = Ragged.from_rows([np.flatnonzero(rng.random(30) < 0.3) for _ in range(50)], 30)
    with_image = rng.random(50) < 2
    parts = break_down(predictions, truth, rng.integers(0, 9, 30), with_image, rng.random(30) < 0.5)
    hits = [[label in truth.row(i) for label in row] for i, row in enumerate(predictions.tolist())]
    for k in (1, 5):
        precision = 100 * np.mean([row[:k] for row in hits])
        for groups in (parts["by_frequency"], parts["by_label_image"].values()):
            assert sum(group["contribution"][f"P@{k}"] for group in groups) == pytest.approx(precision)
    assert parts["by_query_image"]["without"] == {"n_queries": 0, "P@1": None}


def test_data_that_would_be_scored_wrongly_are_refused(tmp_path):
    corpus, good = corpus_at(tmp_path / "corpus"), predictions_at(tmp_path / "good", RANKED)

    def attempt(predictions=good, corpus=corpus, **how):
        scored(tmp_path, predictions, corpus, **how)

    with pytest.raises(VixmlError, match="predictions of something else"):
        attempt(seed=1)
    with pytest.raises(VixmlError, match="predictions of something else"):
        attempt(split="validation")
    with pytest.raises(VixmlError, match="not the predictions of the validation split"):
        attempt(predictions_at(tmp_path / "a", RANKED, split="validation"), split="validation")
    with pytest.raises(VixmlError, match="too few labels were kept") as error:
        attempt(deep_ks=(1, 100))
    assert "inference.top_k of the run to 100" in error.value.hint
    with pytest.raises(VixmlError, match="filter that this dataset requires is missing"):
        attempt(corpus=corpus_at(tmp_path / "bare", False), entry=ENTRY.model_copy(update={"filter_required": True}))
    with pytest.raises(VixmlError, match="does not exist"):
        attempt(predictions_at(tmp_path / "b", [[9, 0, 1], *RANKED[1:]]))
    with pytest.raises(VixmlError, match="do not fit the corpus"):
        attempt(predictions_at(tmp_path / "c", RANKED[:2]))
    assert not (tmp_path / "score").exists()


def test_both_commands_have_help_and_score_takes_options(tmp_path):
    for verb in ("predict", "score"):
        shown = CliRunner().invoke(app, [verb, "--help"])
        assert shown.exit_code == 0 and f"vixml {verb}" in shown.output
    config = tmp_path / "config"
    write_text(config / "datasets.yaml", "datasets:\n  tiny: {title: Tiny, builder: picto}\n")
    write_text(config / "models.yaml", "text_models: {}\nvision_models: {}\n")
    arguments = [
        "score", "tiny", "one", "--corpus", str(corpus_at(tmp_path / "corpus")),
        "--predictions", str(predictions_at(tmp_path / "p", RANKED)), "--out", str(tmp_path / "score"),
        "--config-dir", str(config), "--ks", "2,1",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--deep-ks", "1,3"])
    assert done.exit_code == 0, done.output
    assert read_json(tmp_path / "score" / "scores.json")["ks"] == [1, 2]
    wrong = CliRunner().invoke(app, [*arguments, "--deep-ks", "all"])
    assert isinstance(wrong.exception, VixmlError) and wrong.exception.where == "--deep-ks"
