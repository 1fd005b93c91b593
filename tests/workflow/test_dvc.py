"""DVC over the workflow: it records what Snakemake made, makes only what is out of date, and shares it with a clone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from entry_points import commit, finished_rules
from tiny_world import Copy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recorded(finished, tmp_path_factory) -> Copy:
    """A repository in which Snakemake has run and `make record` has told DVC."""
    root = tmp_path_factory.mktemp("dvc") / "repository"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    copy = Copy(root)
    commit(copy, "the miniature")
    assert "up to date" in make(copy, "record")
    commit(copy, "recorded")
    return copy


def make(copy: Copy, target: str, *, check: bool = True) -> str:
    """Run a target of the Makefile with the environment of these tests."""
    return copy.run("make", "--no-print-directory", "ACTIVATE=true", target, check=check)


def ran(shown: str) -> set[str]:
    """Return the rules whose jobs a run of `dvc repro` finished."""
    return set(finished_rules(shown))


def test_what_snakemake_made_is_up_to_date_for_dvc_and_the_other_way_round(recorded):
    assert "up to date" in recorded.run("dvc", "status")
    assert ran(recorded.run("dvc", "repro")) == set()
    assert recorded.planned() == {}
    assert recorded.run("git", "status", "--porcelain") == "", "results are ignored, the lock is committed"


def test_every_out_is_kept_when_a_stage_runs_again(recorded):
    stages = yaml.safe_load((recorded.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    assert all(settings["persist"] for out in outs for settings in out.values())
    lock = (recorded.root / "dvc.lock").read_text(encoding="utf-8")
    for never in ("results/raw", "results/logs", "results/benchmarks", "checkpoint"):
        assert never not in lock


def test_the_stage_of_the_results_writes_into_no_output_of_the_stage_of_the_data(tmp_path):
    def missing(*targets: str) -> set[str]:
        command = ["snakemake", "-n", *targets, "--configfile", "config/best.yaml", "--config", f"results={tmp_path}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        named = rf"Missing output files: {tmp_path}/((?:data|models)/[^\s;]+)"
        return set(re.findall(named, done.stdout + done.stderr))

    data = missing("data", "images")
    assert "data/picto/lexical/manifest.json" in data and missing("paper_tables") <= data


def test_a_change_is_made_once_compared_and_shared(recorded, tmp_path):
    recorded.edit("config/runs/picto.yaml", "neighbours: 5", "neighbours: 2")
    assert ran(recorded.run("dvc", "repro")) == {
        "predict_labels", "score_run", "make_tables", "make_figures", "make_report",
    }, "nothing is trained"  # fmt: skip
    assert recorded.planned() == {}, "nor does Snakemake find anything left"
    changed = json.loads(recorded.run("dvc", "metrics", "diff", "--json"))["results/tables/metrics.json"]
    assert changed and all(key.startswith("picto.knn-vixml-minilm-l3.") for key in changed)
    recorded.edit("config/config.yaml", "name: tiny", "name: small")
    shown = json.loads(recorded.run("dvc", "params", "diff", "--json"))
    assert shown == {"config/config.yaml": {"name": {"old": "tiny", "new": "small"}}}
    assert "make_report" in ran(recorded.run("dvc", "repro"))
    assert ran(recorded.run("dvc", "repro")) == set()

    # To a remote, and from there into a fresh clone.
    recorded.run("dvc", "remote", "add", "--quiet", "--default", "shared", str(tmp_path / "remote"))
    make(recorded, "push")
    commit(recorded, "changed")
    subprocess.run(["git", "clone", "-q", recorded.root, tmp_path / "clone"], check=True)
    clone = Copy(tmp_path / "clone")
    # What was pulled has times in no order, so Snakemake may or may not want to make it again: `make pull` gives it times.
    make(clone, "pull")
    assert clone.planned() == {} and "up to date" in clone.run("dvc", "status")
    assert not list((clone.root / "results").glob("raw/*.whl")), "downloads are not shared"
    # Nothing is made again.
    assert ran(clone.run("dvc", "repro")) == set() == ran(clone.run("snakemake", "--cores", "1"))
    for made in (recorded.root / "results/tables").iterdir():
        assert (clone.root / "results/tables" / made.name).read_bytes() == made.read_bytes()


def test_snakemake_by_hand_is_recorded(recorded):
    recorded.edit("config/runs/picto.yaml", "retrieved_queries: 10", "retrieved_queries: 8")
    recorded.run("snakemake", "--cores", "1")
    assert "modified" in recorded.run("dvc", "status"), "DVC has not been told yet"
    assert "up to date" in make(recorded, "record")
    assert ran(recorded.run("dvc", "repro")) == set()


@pytest.mark.parametrize(
    "cut", ['{"write": {"/results/da', "", "[]", '{"write": 1}', '{"writf": {}}', '{"read": {"/x": [1]}}']
)
def test_a_list_of_running_commands_that_a_kill_cut_does_not_defeat_the_documented_recovery(recorded, cut):
    listed = recorded.root / ".dvc/tmp/rwlock"
    listed.write_text(cut, encoding="utf-8")
    shown = recorded.run("snakemake", "--unlock")
    assert shown.count("rwlock") == 1 and "a kill had cut it" in shown and not listed.exists()
    recorded.run("dvc", "commit", "--force")
    assert "rwlock" not in recorded.run("snakemake", "--unlock")


def test_the_targets_of_make_need_no_recovery(recorded):
    (recorded.root / ".dvc/tmp/rwlock").write_text("[", encoding="utf-8")
    shown = make(recorded, "record")
    assert "a kill had cut it" in shown and "up to date" in shown


def test_a_configuration_without_pages_is_recorded_and_none_of_another_stays(recorded):
    kept = (recorded.root / "params.yaml").read_text(encoding="utf-8")
    overlay = recorded.root / "config" / "bare.yaml"
    target = "{dataset: picto, runs: [popularity], split: validation}"
    overlay.write_text(f"name: bare\ntargets: [{target}]\ntables: []\nfigures: []\n", encoding="utf-8")
    (recorded.root / "params.yaml").write_text("configfile: config/bare.yaml\n", encoding="utf-8")
    try:
        recorded.run("dvc", "repro")
        assert "up to date" in recorded.run("dvc", "status")
        assert [path.name for path in (recorded.root / "results/figures").iterdir()] == ["manifest.json"]
        assert not list((recorded.root / "results/tables").glob("table*"))
        # Another folder of results is refused before anything is computed.
        overlay.write_text(overlay.read_text(encoding="utf-8") + "results: elsewhere\n", encoding="utf-8")
        shown = recorded.run("dvc", "repro", check=False)
        assert "DVC tracks the folder `results`" in shown and shown.count("what now:") == 1 and not ran(shown)
        assert [path.name for path in (recorded.root / "elsewhere").iterdir()] == ["raw"]
    finally:
        (recorded.root / "params.yaml").write_text(kept, encoding="utf-8")
        overlay.unlink()
    recorded.run("dvc", "repro")


def test_a_remote_that_is_not_there_is_said_so(recorded):
    recorded.run("dvc", "remote", "add", "--quiet", "--force", "--default", "nowhere", "/proc/nowhere/deeper")
    try:
        for target in ("push", "pull"):
            shown = make(recorded, target, check=False)
            assert "error: the DVC remote 'nowhere' is not there" in shown and shown.count("what now:") == 1
            assert "dvc remote modify nowhere url" in shown and "Traceback" not in shown
        assert "ERROR" in recorded.run("dvc", "push", check=False)
    finally:
        recorded.run("dvc", "remote", "remove", "nowhere")


def test_pages_name_what_no_stage_tracks(recorded):
    page = (recorded.root / "docs/dvc.md").read_text(encoding="utf-8")
    stages = yaml.safe_load((recorded.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    tracked = {out for stage in stages.values() for entry in stage["outs"] for out in entry}
    never = {"results/raw", "results/logs", "results/benchmarks"}
    there = {f"results/{path.name}" for path in (recorded.root / "results").iterdir() if path.name[0] != "."}
    assert tracked == there - never - {"results/reference"}, "that one is git's"
    for name in tracked | never | {"checkpoint", "s3://", "gs://", "ssh://"}:
        assert f"`{name}`" in page, name
