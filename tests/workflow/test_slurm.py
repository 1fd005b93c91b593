"""What only a cluster does, on a real SLURM of one node (one_node_slurm.py), through profiles/slurm."""

from __future__ import annotations

import shutil
import subprocess

import one_node_slurm
import pytest
from entry_points import CHECKPOINT, MODEL, freeze, slurm, start
from tiny_world import Copy

from vixml.files import read_json

pytestmark = pytest.mark.slow
EPOCHS = 30


def begin(copy: Copy) -> tuple[subprocess.Popen[str], str]:
    """Start a training on the cluster, stop it after its first checkpoint; return Snakemake and SLURM's job."""
    copy.edit("config/runs/picto.yaml", "epochs: 2", f"epochs: {EPOCHS}")
    process = start(copy, slurm(MODEL), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    freeze(copy, process)
    listed = ["squeue", "-h", "-O", "JobID,tres-per-job"]
    job, gpus = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    assert "gpu" in gpus, "a training asks SLURM for a GPU of its own"
    return process, job


def end(copy: Copy, process: subprocess.Popen[str]) -> str:
    """Wait for Snakemake, and check that the training went on where it was; return what was printed."""
    shown, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, shown[-3000:]
    training = read_json((copy.root / MODEL).with_name("training.json"))
    assert training["epochs"] == EPOCHS
    assert not (copy.root / CHECKPOINT).parent.exists()
    log = (copy.root / "results/logs/train_model/picto/vixml-minilm-l3/seed0.log").read_text(encoding="utf-8")
    assert f"epoch 1/{EPOCHS}" not in log and f"epoch {EPOCHS}/{EPOCHS}" in log, "the training began again from nothing"
    return shown


def test_a_cancelled_training_goes_on_from_its_checkpoint(cluster, finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    process, job = begin(copy)
    subprocess.run(["scancel", job], check=True)
    shown = end(copy, process)
    assert shown.count("has been submitted with SLURM jobid") == 2, "asked for again, by itself"
    # It asks for more than the first time, but never for more than a node has.
    asked = ["squeue", "-h", "-t", "all", "-S", "i", "-n", shown.split("SLURM run ID: ")[1].split()[0], "-o", "%m"]
    sizes = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    first, second = (int(size.rstrip("M")) for size in sizes)
    assert first < second <= one_node_slurm.memory() or first == one_node_slurm.memory()


def test_a_preempted_training_goes_on_from_its_checkpoint(cluster, finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    process, job = begin(copy)
    urgent = ["sbatch", "--partition=urgent", "--gpus=1", "--output=/dev/null", "--wrap=sleep 3"]
    subprocess.run(urgent, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    shown = end(copy, process)
    assert shown.count("has been submitted with SLURM jobid") == 1, "it kept its place in SLURM's own queue"
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    assert "Restarts=1" in told


def test_a_partition_that_does_not_exist(cluster, copy):
    command = slurm("paper_tables", "--forcerun", "score_run", "--default-resources", "slurm_partition=nowhere")
    shown = copy.run(*command, check=False)
    assert "SLURM has no partition 'nowhere'" in shown and "sinfo lists: main, urgent" in shown
    assert shown.count("what now:") == 1 and "Traceback" not in shown and "has been submitted" not in shown


def test_seeds_as_an_array(cluster, finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    models = [MODEL.replace("seed0", f"seed{seed}") for seed in (1, 2, 3)]
    refused = copy.run(*slurm(*models), "--slurm-array-jobs", "train_model", "--resources", "gpu=2", check=False)
    assert "array of 3 jobs of train_model would never be submitted" in refused
    shown = copy.run(*slurm(*models), "--slurm-array-jobs", "train_model")
    asked = subprocess.run(["squeue", "-h", "-t", "all", "--array", "-o", "%F %K %Z"], capture_output=True, text=True)
    tasks = [line.split() for line in asked.stdout.splitlines() if line.endswith(str(copy.root))]
    assert len({array for array, _, _ in tasks}) == 1 and len({task for _, task, _ in tasks}) == 3, shown
    for seed, model in enumerate(models, start=1):
        assert read_json((copy.root / model).with_name("training.json"))["seed"] == seed
