"""conda, DVC and SLURM lead to the same bytes, leave each other nothing to do, and go on where they were killed.

What is killed, and what conda starts, are the true programs; the rest starts at once (warm.py).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from entry_points import CONDA, DVC, MODEL, advice, finished_rules, kill_9, kill_in_training, slurm, start, thaw, unmade
from same_bytes import assert_same
from tiny_world import Copy

from vixml.files import read_json
from vixml.provenance import MANIFEST

pytestmark = pytest.mark.slow
JOBS = 20  # of the miniature
HERE = 3  # of them are light, and made where Snakemake runs: tables, figures, report
LONG = ("epochs: 2", "epochs: 30")
ENTRY_POINTS = ["by_dvc", "by_slurm", "by_conda"]  # the environment of the last takes long to make


@pytest.fixture(scope="module")
def by_conda(finished, conda, programs, tmp_path_factory) -> Copy:
    """The miniature, made with a conda environment for every job."""
    copy = unmade(finished, tmp_path_factory.mktemp("by-conda") / "repository", programs)
    shown = copy.run(*CONDA)
    assert shown.count("Activating conda environment") == len(finished_rules(shown)) == JOBS
    return copy


@pytest.fixture(scope="module")
def by_dvc(finished, programs, tmp_path_factory) -> Copy:
    """The miniature, made by DVC."""
    copy = unmade(finished, tmp_path_factory.mktemp("by-dvc") / "repository", programs)
    assert len(finished_rules(copy.run(*DVC))) == JOBS
    return copy


@pytest.fixture(scope="module")
def by_slurm(finished, cluster, programs, tmp_path_factory) -> Copy:
    """The miniature, made on the cluster."""
    copy = unmade(finished, tmp_path_factory.mktemp("by-slurm") / "repository", programs)
    shown = copy.run(*slurm())
    assert len(finished_rules(shown)) == JOBS
    assert shown.count("has been submitted with SLURM jobid") == JOBS - HERE
    return copy


@pytest.fixture(scope="module")
def long(once, finished, programs) -> Copy:
    """The miniature with a training that is long enough to be killed, made without a break."""

    def run(root: Path) -> None:
        copy = Copy(Path(shutil.copytree(finished.root, root, symlinks=True)), programs)
        copy.edit("config/runs/picto.yaml", *LONG)
        copy.run("snakemake", "--cores", "2")

    return Copy(once("long-run", run), programs)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_the_same_bytes(entry_point, finished, request):
    made = request.getfixturevalue(entry_point)
    assert_same(finished.root / "results", made.root / "results")
    assert made.planned() == {}, "Snakemake alone finds nothing left"


def test_jobs_ran_in_the_environment_of_their_rule(by_conda):
    manifest = read_json(by_conda.root / MODEL)
    program = manifest["command"].split()[0]
    assert program.startswith(f"{by_conda.root}/.snakemake/conda/"), "vixml was installed by the post-deploy script"


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_what_one_entry_point_made_the_others_leave_as_it_is(entry_point, request, conda, cluster):
    made = request.getfixturevalue(entry_point)
    before = {path: path.stat().st_mtime_ns for path in (made.root / "results").rglob(MANIFEST)}
    # An environment is made once for each folder, which takes a minute; so where conda made it, conda looks again.
    first = CONDA if entry_point == "by_conda" else ("snakemake", "--cores", "all", "paper_tables")
    for command in (first, DVC, slurm(), DVC):
        shown = made.run(*command)
        assert finished_rules(shown) == [] and "has been submitted" not in shown, command
    assert "Stage 'results' didn't change, skipping" in shown and "up to date" in made.run("dvc", "status")
    assert {path: path.stat().st_mtime_ns for path in (made.root / "results").rglob(MANIFEST)} == before


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_table_names_what_it_came_from(entry_point, request):
    made = request.getfixturevalue(entry_point)
    head = made.run("git", "rev-list", "--max-parents=0", "HEAD").strip()
    tables = made.root / "results/tables"
    assert {path.name for path in tables.iterdir()} - {MANIFEST} == set(read_json(tables / MANIFEST)["outputs"])
    waiting, stages, raw = [tables], set(), set()
    while waiting:
        folder = waiting.pop()
        manifest = read_json(folder / MANIFEST)
        stages.add(manifest["stage"])
        assert manifest["source"] == {"commit": head, "modified": False}, folder
        assert manifest["config"] and manifest["config_sha256"]
        assert manifest["environment"]["sha256"] and manifest["environment"]["packages"] > 60
        for named in manifest["inputs"].values():
            path = made.root / named["path"]
            if path.is_dir():
                assert read_json(path / MANIFEST)["outputs_sha256"] == named["sha256"], path
                waiting.append(path)
            elif path.parent.name == "raw":
                raw.add(path.name)
    assert stages >= {
        "make-tables", "score", "predict", "build-index", "train", "tokenize", "embed-images", "prepare-model",
    }  # fmt: skip
    assert raw == {path.name for path in (made.root / "results/raw").glob("*.whl")}, "down to what was downloaded"


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_killed_in_the_middle_of_a_training(entry_point, request, long):
    made = request.getfixturevalue(entry_point)
    made.edit("config/runs/picto.yaml", *LONG)
    # Each wave of jobs takes SLURM ten seconds, so there the training alone.
    command = {"by_conda": CONDA, "by_dvc": DVC}.get(entry_point) or slurm(MODEL)
    kill_in_training(made, command)
    assert not (made.root / MODEL).exists(), "half a model would pass for a whole one"
    shown = Copy(made.root).run(*command, check=False)  # it looks for processes that are called snakemake
    assert shown.count("locked by a run that was killed") == 1
    todo = advice(shown)
    assert todo.endswith("snakemake --unlock") and ("scancel" in todo) == (entry_point == "by_slurm")
    made.run("bash", "-c", todo)
    thaw(made)
    made.run(*command)
    log = (made.root / "results/logs/train_model/picto/vixml-minilm-l3/seed0.log").read_text(encoding="utf-8")
    assert "epoch 1/30" not in log and "epoch 30/30" in log, "the training began again from nothing"
    made.run("snakemake", "--cores", "2")
    assert_same(long.root / "results", made.root / "results")


def test_killed_again_and_again(finished, programs, tmp_path):
    made = unmade(finished, tmp_path / "repository", programs)
    command = ("snakemake", "--cores", "2", "paper_tables")
    moments, kills = random.Random(0), 0

    def stages() -> int:
        # os.walk passes over a folder that a job renames meanwhile, where rglob raises.
        return sum(MANIFEST in files for _, _, files in os.walk(made.root / "results"))

    while True:
        # Five stages further each time, so that there is an end however slow the machine is; then at any moment.
        before, process = stages(), start(made, command)
        while process.poll() is None and stages() < before + 5:
            time.sleep(0.1)
        try:
            process.wait(timeout=moments.random())
            break
        except subprocess.TimeoutExpired:
            kill_9(process)
            kills += 1
        made.run("snakemake", "--unlock")
    assert process.returncode == 0 and kills > 2
    assert_same(finished.root / "results", made.root / "results")
    assert made.planned() == {} and not list((made.root / "results").rglob(".tmp-*"))


def test_jobs_that_outlive_their_snakemake_are_named(long, tmp_path):
    made = Copy(shutil.copytree(long.root, tmp_path / "repository"), long.programs)
    made.edit("config/runs/picto.yaml", LONG[1], "epochs: 40")
    command = ("snakemake", "--cores", "1", MODEL)
    kill_in_training(made, command, alone=True)
    shown = Copy(made.root).run(*command, check=False)  # it looks for processes that are called snakemake
    assert "jobs that it started still run" in shown
    todo = advice(shown)
    assert todo.startswith("kill ")
    made.run("bash", "-c", todo)
    thaw(made)
    time.sleep(1)
    made.run(*command)
    assert read_json((made.root / MODEL).with_name("training.json"))["epochs"] == 40
