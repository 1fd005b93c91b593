"""The workflow on a real SLURM cluster of one node (one_node_slurm.py), through profiles/slurm."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import one_node_slurm
import pytest
from tiny_world import Copy

# What the site of these tests is: no accounts, short jobs, no GPU but one that SLURM believes in.
SITE = (
    "--profile", "profiles/slurm", "--config", "device=cpu", "--set-resources", "train_model:gpu=1",
    "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2",
    "--latency-wait", "20",
)  # fmt: skip
MODEL = "results/runs/picto/vixml-minilm-l3/seed0/model/manifest.json"

pytestmark = pytest.mark.slow


def without_hours(path: Path) -> list[dict[str, str]]:
    """Return a table's rows less the time of their training, which no two trainings share."""
    return [{key: value for key, value in row.items() if key != "hours"} for row in csv.DictReader(path.open())]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    why = one_node_slurm.missing()
    if why is not None:
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    with one_node_slurm.cluster(tmp_path_factory.mktemp("slurm")) as folder:
        yield folder


def test_the_same_bytes_and_nothing_left_to_do(cluster, finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    for made in ("runs", "tables", "figures", "report"):
        shutil.rmtree(copy.root / "results" / made)
    shown = copy.run("snakemake", "paper_tables", *SITE)
    assert "has been submitted with SLURM jobid" in shown
    compared = 0
    for path in sorted((finished.root / "results").rglob("*")):
        inside = path.relative_to(finished.root)
        if path.suffix in {".safetensors", ".npy"} or path.name in {"scores.json", "metrics.json", "summary.json"}:
            assert (copy.root / inside).read_bytes() == path.read_bytes(), inside
            compared += 1
        elif path.suffix == ".csv" and inside.parts[1] == "tables":
            assert without_hours(copy.root / inside) == without_hours(path), inside
            compared += 1
    assert compared > 30
    assert copy.planned() == {}, "Snakemake alone finds nothing left"
    assert copy.planned("paper_tables", *SITE) == {}


def test_a_cancelled_training_goes_on_from_its_checkpoint(cluster, finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    copy.edit("config/runs/picto.yaml", "epochs: 2", "epochs: 1500")
    process = subprocess.Popen(
        ["snakemake", MODEL, *SITE],
        cwd=copy.root,
        env=os.environ | {"PYTHONPATH": str(copy.root / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoint = copy.root / MODEL.replace("model/manifest.json", "checkpoint")
    deadline = time.monotonic() + 180
    while not (checkpoint.is_dir() and any(checkpoint.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.1)
    job, gpus = subprocess.run(
        ["squeue", "-h", "-O", "JobID,tres-per-job"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "gpu" in gpus, "a training asks SLURM for a GPU of its own"
    subprocess.run(["scancel", job], check=True)
    shown, _ = process.communicate(timeout=500)
    assert process.returncode == 0, shown[-3000:]
    assert shown.count("has been submitted with SLURM jobid") == 2, "asked for again, by itself"
    training = json.loads((copy.root / MODEL).with_name("training.json").read_text())
    assert training["epochs"] == 1500 and not checkpoint.exists()
    log = (copy.root / "results/logs/train_model/picto/vixml-minilm-l3/seed0.log").read_text()
    assert "epoch 1/1500" not in log and "epoch 1500/1500" in log, "the training began again from nothing"
