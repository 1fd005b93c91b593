"""A workflow killed without warning goes on with the same command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from tiny_world import Copy

MODEL = "results/runs/picto/vixml-minilm-l3/seed0/model/manifest.json"


@pytest.mark.slow
def test_kill_9_of_everything_while_training(finished, tmp_path):
    copy = Copy(shutil.copytree(finished.root, tmp_path / "repository"))
    copy.edit("config/runs/picto.yaml", "epochs: 2", "epochs: 400")
    command = ["snakemake", MODEL, "--cores", "1", "--rerun-triggers", "mtime", "params", "input"]
    process = subprocess.Popen(
        command,
        cwd=copy.root,
        env=os.environ | {"PYTHONPATH": str(copy.root / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoint = copy.root / MODEL.replace("model/manifest.json", "checkpoint")
    deadline = time.monotonic() + 120
    while not (checkpoint.is_dir() and any(checkpoint.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (copy.root / MODEL).exists(), "half a model would pass for a whole one"
    shown = copy.run(*command, check=False)
    assert "locked by a run that was killed" in shown and "what now: snakemake --unlock" in shown
    copy.run("snakemake", "--unlock")
    copy.run(*command)
    training = json.loads((copy.root / MODEL).with_name("training.json").read_text())
    assert training["epochs"] == 400 and not checkpoint.exists()
    log = (copy.root / "results/logs/train_model/picto/vixml-minilm-l3/seed0.log").read_text()
    assert "epoch 1/400" not in log and "epoch 400/400" in log, "the training began again from nothing"
