"""Published numbers: what is read, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vixml.config.published import PAPER, load_published, load_training_runs
from vixml.errors import VixmlError
from vixml.plan.cost import count, load_train_sizes, predict

REPO_CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_every_published_cell_is_read():
    claims = load_published(REPO_CONFIG)
    ours = Counter(c.table for c in claims if c.source == PAPER)
    assert (ours["Table 1"], ours["Table 3"], ours["Table 13"], sum(ours.values())) == (84, 84, 128, 602)
    assert len(claims) == 768


def test_printed_value_keeps_its_decimals():
    claim = next(c for c in load_published(REPO_CONFIG) if c.printed == "70.30" and c.table == "Table 1")
    assert (claim.value, claim.decimals, claim.run, claim.metric) == (70.3, 2, "run04", "R@100")


def test_runs_of_cells_agree_with_used_in_both_ways():
    runs = load_training_runs(REPO_CONFIG)
    stated = {(run.run, table) for run in runs.values() for table in run.used_in if table != "F2"}
    linked = {(c.run, "T" + c.table.removeprefix("Table ")) for c in load_published(REPO_CONFIG) if c.run}
    assert linked == stated
    assert len(runs) == 71


def test_figure_2_has_twelve_runs():
    assert sum("F2" in run.used_in for run in load_training_runs(REPO_CONFIG).values()) == 12


def edit(config_dir: Path, name: str, change) -> None:
    path = config_dir / "reported" / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("reported_results.csv", lambda ls: [*ls, ls[1]], "given twice"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace("41.72", "141.72"), *ls[2:]], "not a percentage"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace("41.72", ""), *ls[2:]], "not a percentage"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace("41.72", "nan"), *ls[2:]], "not a percentage"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace("run01", "run99"), *ls[2:]], "does not belong to it"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace("run01", "run13"), *ls[2:]], "does not belong to it"),
        ("reported_results.csv", lambda ls: [ls[0], ls[1].replace(",high", ""), *ls[2:]], "number of fields"),
        ("training_runs.csv", lambda ls: [*ls, ls[1]], "listed twice"),
        ("training_runs.csv", lambda ls: [ls[0], ls[1].replace(",300,", ",many,"), *ls[2:]], "not a whole number"),
    ],
)
def test_bad_files_are_refused_with_their_line(config_dir, name, change, message):
    edit(config_dir, name, change)
    with pytest.raises(VixmlError, match=message) as caught:
        load_published(config_dir)
    assert name in str(caught.value)
    assert ":" in str(caught.value.where)


def test_a_claim_for_a_run_that_does_not_exist_names_both_files(config_dir):
    edit(config_dir, "reported_results.csv", lambda ls: [ls[0], ls[1].replace("run01", "run99"), *ls[2:]])
    with pytest.raises(VixmlError) as caught:
        load_published(config_dir)
    said = str(caught.value)
    assert "reported_results.csv:2, column run" in said and "training_runs.csv" in said and "run99" in said


def test_missing_file(config_dir):
    (config_dir / "reported" / "training_runs.csv").unlink()
    with pytest.raises(VixmlError, match="is missing"):
        load_published(config_dir)


def test_predicted_cost_scales_with_epochs_and_parameters():
    runs, sizes = load_training_runs(REPO_CONFIG), load_train_sizes(REPO_CONFIG)
    text, image = predict(runs["run01"], "17.4M", sizes), predict(runs["run07"], "17.4M", sizes)
    # Half the epochs, three tokens more for the images.
    assert image.flop == pytest.approx(text.flop / 2 * 35 / 32)
    assert text.flop == pytest.approx(6 * 17.4e6 * 32 * 2 * 294_805 * 300)
    assert text.hours == pytest.approx(text.flop / 1e14 / 3600)
    with pytest.raises(VixmlError):
        count("many")
