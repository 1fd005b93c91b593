"""DVC over the workflow: it records what Snakemake made, makes only what is out of date, and shares it with a clone."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml
from tiny_world import Copy

GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main")


@pytest.fixture(scope="module")
def recorded(finished, tmp_path_factory) -> Copy:
    """A repository in which Snakemake has run and `make record` has told DVC."""
    root = tmp_path_factory.mktemp("dvc") / "repository"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    copy = Copy(root)
    copy.run(*GIT, "init", "-q")
    copy.run("dvc", "commit", "--force", "--quiet")
    commit(copy, "recorded")
    return copy


def commit(copy: Copy, message: str) -> None:
    copy.run(*GIT, "add", "-A")
    copy.run(*GIT, "commit", "-q", "-m", message)


def ran(shown: str) -> set[str]:
    """Return the rules whose jobs a run of `dvc repro` finished."""
    finished = {line.split("Rule: ")[1].rstrip(")") for line in shown.splitlines() if line.startswith("Finished jobid")}
    return finished - {"paper_tables", "data", "images"}  # targets, which do nothing themselves


def test_what_snakemake_made_is_up_to_date_for_dvc_and_the_other_way_round(recorded):
    assert "up to date" in recorded.run("dvc", "status")
    assert ran(recorded.run("dvc", "repro")) == set()
    assert recorded.planned() == {}
    assert recorded.run("git", "status", "--porcelain") == "", "results are ignored, the lock is committed"


def test_every_out_is_kept_when_a_stage_runs_again(recorded):
    stages = yaml.safe_load((recorded.root / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    assert all(settings["persist"] for out in outs for settings in out.values())
    lock = (recorded.root / "dvc.lock").read_text()
    for never in ("results/raw", "results/logs", "results/benchmarks", "checkpoint"):
        assert never not in lock


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
    recorded.run("dvc", "push", "--quiet")
    commit(recorded, "changed")
    subprocess.run(["git", "clone", "-q", recorded.root, tmp_path / "clone"], check=True)
    clone = Copy(tmp_path / "clone")
    clone.run("dvc", "pull", "--quiet")
    assert "up to date" in clone.run("dvc", "status")
    # What was pulled has times in no order, so Snakemake may or may not want to make it again: that is what adopt is for.
    adopt = (clone.root / "Makefile").read_text().split("\nadopt:")[1]
    assert "snakemake data images paper_tables --touch" in adopt
    clone.run("snakemake", "data", "images", "paper_tables", "--touch", "--cores", "1")
    assert clone.planned() == {} and "up to date" in clone.run("dvc", "status")
    for made in (recorded.root / "results/tables").iterdir():
        assert (clone.root / "results/tables" / made.name).read_bytes() == made.read_bytes()


def test_a_remote_that_is_not_there_is_said_so(recorded):
    recorded.run("dvc", "remote", "add", "--quiet", "--force", "--default", "nowhere", "/proc/nowhere")
    try:
        shown = recorded.run("dvc", "push", check=False)
        assert "ERROR" in shown and "Traceback" not in shown
    finally:
        recorded.run("dvc", "remote", "remove", "nowhere")
