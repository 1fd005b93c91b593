"""Published numbers: what is read, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vixml.config.published import PAPER, load_published, load_training_runs
from vixml.errors import VixmlError
from vixml.plan.cost import predicted_from_print

REPO_CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_every_published_cell_is_read():
    values = load_published(REPO_CONFIG)
    tables = Counter(value.table for value in values if value.source == PAPER)
    assert (tables["Table 1"], tables["Table 3"], tables["Table 13"], sum(tables.values())) == (84, 84, 128, 602)
    assert len(values) == 768


def test_a_published_value_keeps_its_decimals():
    value = next(v for v in load_published(REPO_CONFIG) if v.printed == "70.30" and v.table == "Table 1")
    assert (value.value, value.decimals, value.run, value.metric) == (70.3, 2, "run04", "R@100")


def test_runs_of_cells_agree_with_used_in_both_ways():
    runs = load_training_runs(REPO_CONFIG)
    stated = {(run.run, table) for run in runs.values() for table in run.used_in}
    linked = {(v.run, "T" + v.table.removeprefix("Table ")) for v in load_published(REPO_CONFIG) if v.run}
    in_figure = {(run, table) for run, table in stated if table == "F2"}
    assert linked == stated - in_figure
    assert len(runs) == 71 and len(in_figure) == 12


@pytest.mark.parametrize(
    ("name", "old", "new", "where", "says"),
    [
        ("reported_results.csv", "", "", ":770", "given twice"),
        ("reported_results.csv", "41.72", "141.72", ":2, column value", "not a percentage"),
        ("reported_results.csv", "41.72", "", ":2, column value", "not a percentage"),
        ("reported_results.csv", "41.72", "nan", ":2, column value", "not a percentage"),
        ("reported_results.csv", "run01", "run99", ":2, column run", "a run of training_runs.csv"),
        ("reported_results.csv", "run01", "run13", ":2, column run", "a run of training_runs.csv"),
        ("reported_results.csv", ",high", "", ":2", "number of fields"),
        ("training_runs.csv", "", "", ":73", "listed twice"),
        ("training_runs.csv", ",300,", ",many,", ":2", "not a whole number"),
    ],
)
def test_bad_files_are_refused_with_their_line(config_dir, name, old, new, where, says):
    """The first line after the header is edited, or repeated at the end."""
    path = config_dir / "reported" / name
    head, first, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [head, first.replace(old, new), *rest] if old else [head, first, *rest, first]
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        load_published(config_dir)
    assert says in str(caught.value) and str(caught.value.where).endswith(f"{name}{where}")
    assert new.strip(",") in str(caught.value)


def test_missing_file(config_dir):
    (config_dir / "reported" / "training_runs.csv").unlink()
    with pytest.raises(VixmlError, match="is missing"):
        load_published(config_dir)


def test_predicted_cost_scales_with_epochs_and_parameters():
    run = load_training_runs(REPO_CONFIG)["run07"]
    flop = 6 * 17.4e6 * 35 * 2 * 294_805 * run.epochs  # 32 tokens of text, 3 images
    wanted = f"predicted: at most {flop:.1e} FLOP, {flop / 1e14 / 3600:.1f} h at 100 TFLOP/s"
    assert predicted_from_print(run, "17.4M", 294_805) == wanted
