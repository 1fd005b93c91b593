"""Tuning: settings are compared on held-out train queries, a test score is refused, and the choice is on the grid."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers import update_manifest
from result_files import METRICS, REPO, write_manifest, write_result
from typer.testing import CliRunner

from vixml.cli import app
from vixml.config.load import load_runs, read_yaml
from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.provenance import read_manifest
from vixml.report.tuning import make_tuning

RUNS = load_runs(REPO / "config")
FAMILY = read_yaml(REPO / "config" / "runs" / "picto-tuning.yaml")
GRID = list(FAMILY["runs"])
LAST = {"epoch": 9, "P@1/u": 31.0, "P@1/z": 52.0, "P@1/centroid": 41.0, "P@1/knn": 61.0}


def tuned(results, run, seed=0, p1=50.0, split="validation", trained="", **changed) -> Path:
    """Write a run of the grid: its score and its model folder with the settings that it was trained with."""
    metrics = METRICS | {"P@1": p1}
    score = write_result(results, "picto", run, seed, metrics, minutes=3.0 + seed, split=split, n_queries=679)
    model = score.parent.parent / "model"
    write_json(model / "training.json", read_json(model / "training.json") | {"last_epoch": LAST, "n_validation": 679})
    config = RUNS["picto", run].model_dump() | {"dataset": "picto", "run": trained or run, "seed": seed} | changed
    write_manifest(model, "train", config)
    return score


def written(scores: list[Path], out: Path) -> tuple[list[dict[str, str]], str]:
    """Return the rows and the page that ``make-tuning`` writes."""
    make_tuning(scores, out)
    table, page = ((out / f"tuning.{form}").read_text(encoding="utf-8") for form in ("csv", "md"))
    return list(csv.DictReader(table.splitlines())), page


def comparable(dataset: str, run: str) -> dict:
    return RUNS[dataset, run].model_dump(exclude={"row": True, "training": {"validation"}})


@pytest.mark.parametrize("chosen", ["text-minilm-l3", "vixml-minilm-l3"])
def test_a_chosen_run_is_one_point_of_the_grid(chosen):
    wanted = comparable("picto", chosen)
    near = {
        run: {key: (value, wanted[key]) for key, value in comparable("picto", run).items() if value != wanted[key]}
        for run in GRID
    }
    equal = [run for run, differs in near.items() if not differs]
    assert len(equal) == 1, f"bring picto-tuning.yaml and picto.yaml in step; what differs (grid, chosen): {near}"


def test_the_grid_differs_in_the_rate_and_in_nothing_else():
    modality = {"text": "text", "vixml": "text+image"}
    seen = set()
    for run in GRID:
        _, kind, rate = run.split("-", 2)
        config = RUNS["picto", run]
        assert config.modality == modality[kind] and config.optimizer.lr == float(rate.removeprefix("lr"))
        assert config.training.validation >= 0.1, "too few held-out queries to choose by"
        rest = comparable("picto", run)
        del rest["modality"], rest["optimizer"]["lr"]
        seen.add(str(rest))
    assert len(seen) == 1


def test_the_workflow_scores_the_whole_grid_on_held_out_queries_only():
    overlay = read_yaml(REPO / "config" / "picto-tuning.yaml")
    assert [target["split"] for target in overlay["targets"]] == ["validation"]
    assert overlay["targets"][0]["runs"] == GRID
    assert overlay["tables"] == overlay["figures"] == []


FORM = list(read_yaml(REPO / "config" / "runs" / "picto-form.yaml")["runs"])


def test_the_two_forms_of_training_differ_in_the_keys_of_the_preset_and_in_nothing_else():
    overlay = read_yaml(REPO / "config" / "picto-form.yaml")
    assert overlay["targets"] == [{"dataset": "picto", "seeds": [0, 1, 2], "split": "validation", "runs": FORM}]
    assert overlay["tables"] == overlay["figures"] == []
    official = read_yaml(REPO / "config" / "presets" / "official.yaml")
    expected = {(part, key): v for part, keys in official.items() if part != "mining" for key, v in keys.items()}
    for modality in ("text", "vixml"):
        for split in range(3):
            names = (f"form-{modality}{form}-split{split}" for form in ("", "-official"))
            ours, theirs = (RUNS["picto", name].model_dump() for name in names)
            assert ours["training"]["validation_split"] == split and ours["training"]["validation"] >= 0.15
            changed = {
                (part, key): value
                for part, keys in theirs.items()
                if isinstance(keys, dict)
                for key, value in keys.items()
                if value != ours[part][key]
            }
            assert changed == expected and ours["mining"] is theirs["mining"] is None


def test_splits_share_a_row_and_forms_are_compared_pair_by_pair(results, tmp_path):
    """Gains of the second form of 1, 2 and 6 points: mean 3, sample standard deviation sqrt(7), t interval by hand."""
    scores = []
    for split, gain in enumerate((1.0, 2.0, 6.0)):
        scores += [
            tuned(results, f"form-text-split{split}", split, p1=40.0 + 10 * split),
            tuned(results, f"form-text-official-split{split}", split, p1=40.0 + 10 * split + gain),
            tuned(results, f"form-vixml-split{split}", split, p1=70.0),
        ]
    found, page = written(scores, tmp_path / "out")
    assert [row["run"] for row in found] == ["form-text", "form-text-official", "form-vixml"]
    assert found[0]["splits"] == found[0]["seeds"] == "0 1 2" and found[0]["P@1"] == "50.0000"
    assert page.startswith("# Scores on 679 held-out train queries of picto in each of 3 splits; test was not read")
    half = 4.302653 * 7**0.5 / 3**0.5
    line = next(line for line in page.splitlines() if line.startswith("| form-text-official | form-text |"))
    assert f"| 3 | +3.0 ({3 - half:+.1f} to {3 + half:+.1f}) | +0.0" in line
    assert "form-vixml | form-text" not in page, "another modality is no pair"


def test_other_seeds_or_splits_are_no_pairs(results, tmp_path):
    scores = [tuned(results, f"form-text-split{split}", 0) for split in range(3)]
    scores += [tuned(results, f"form-text-official-split{split}", 1) for split in range(3)]
    assert "Differences" not in written(scores, tmp_path / "out")[1]


def test_one_row_per_run_by_modality_and_rate(results, tmp_path):
    scores = [tuned(results, run, p1=50.0 + i) for i, run in enumerate(GRID)]
    found, page = written(scores[::-1], tmp_path / "out")
    assert [row["run"] for row in found] == GRID
    assert [row["P@1"] for row in found] == [f"{50 + i:.4f}" for i in range(len(GRID))]
    wanted = {"modality": "text", "lr": "0.0002", "split": "validation", "n_queries": "679"}
    wanted |= {"P@1/u": "31.0000", "P@1/z": "52.0000", "P@1/centroid": "41.0000", "P@1/knn": "61.0000"}
    assert {key: found[0][key] for key in wanted} == wanted
    assert page.splitlines()[0] == "# Scores on 679 held-out train queries of picto; test was not read"
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(GRID)
    assert len({line.count("|") for line in table}) == 1
    optimizer = RUNS["picto", GRID[0]].optimizer
    assert f"| 0.0002 | {optimizer.lr_new:g} | {optimizer.warmup_steps} " in table[2]
    assert "| 50.00 (1) |" in table[2] and table[2].endswith("| 3.0 (1) |")
    manifest = read_manifest(tmp_path / "out")
    assert f"model/picto/{GRID[0]}/seed0" in manifest["inputs"]
    assert all("/test/" not in entry["path"] for entry in manifest["inputs"].values())


def test_seeds_are_summarised(results, tmp_path):
    (row,), page = written([tuned(results, GRID[0], seed, p1=50.0 + 2 * seed) for seed in (0, 1)], tmp_path / "out")
    wanted = {"seeds": "0 1", "n": "2", "P@1": "51.0000", "P@1 sd": "1.4142", "minutes": "3.5000"}
    assert {key: row[key] for key in wanted} == wanted and "| 51.00 ± 1.41 (2) |" in page


def test_a_run_without_training_has_scores_and_no_diagnostics(results, tmp_path):
    score = tuned(results, GRID[0])
    path = score.parent.parent / "model" / "training.json"
    write_json(path, read_json(path) | {"steps": 0, "seconds": 0.0, "last_epoch": {}})
    update_manifest(path.parent)
    (row,), page = written([score], tmp_path / "out")
    assert row["P@1/knn"] == row["minutes"] == "" and page.endswith("| – | – | – | – | – |\n")


def test_a_reusing_run_has_the_training_of_the_run_it_reuses(results, tmp_path):
    own = tuned(results, GRID[0])
    about = {"split": "validation", "n_queries": 679, "trained_as": GRID[0]}
    reusing = write_result(results, "picto", f"{GRID[0]}--augmented", 0, METRICS | {"P@1": 60.0}, **about)
    (first, second), _ = written([own, reusing], tmp_path / "out")
    assert (first["run"], second["run"], second["P@1"]) == (GRID[0], f"{GRID[0]}--augmented", "60.0000")
    assert all(first[key] == second[key] for key in ("lr", "epochs", "P@1/z", "minutes"))


def test_scores_that_cannot_be_compared_are_refused(results, tmp_path):
    first, *_ = GRID
    good, test_score = tuned(results, first), tuned(results, GRID[1], split="test")
    other_settings = tuned(results, first, seed=1, optimizer=RUNS["picto", GRID[1]].optimizer.model_dump())
    moved, silent = tuned(results, GRID[2], trained=first), tuned(results, GRID[3])
    path = silent.parents[1] / "model/training.json"
    write_json(path, read_json(path) | {"last_epoch": {"loss": 0.1}})
    update_manifest(path.parent)
    for scores, message in (
        ([], "no score to compare"),
        ([good, test_score], "a score of the test split, where validation is wanted(.|\n)*test selects nothing"),
        ([good, other_settings], "unlike settings"),
        ([moved], "a model folder holds another run"),
        ([silent], "did not measure P@1/u"),
    ):
        with pytest.raises(VixmlError, match=message):
            make_tuning(scores, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_the_command_line_does_the_same(results, tmp_path):
    scores = [tuned(results, run) for run in GRID[:2]]
    make_tuning(scores, tmp_path / "api")
    options = [part for score in scores for part in ("--score", str(score))]
    done = CliRunner().invoke(app, ["make-tuning", *options, "--out", str(tmp_path / "command")])
    assert done.exit_code == 0, done.output
    for name in ("tuning.csv", "tuning.md"):
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "api" / name).read_bytes()
