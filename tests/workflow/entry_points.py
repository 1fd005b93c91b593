"""The three entry points to the one workflow: their commands as documented, on copies of the miniature that hold raw files alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import one_node_slurm
import psutil
from tiny_world import Copy

GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main")
CONDA = ("snakemake", "--cores", "all", "--use-conda", "paper_tables")
DVC = ("dvc", "repro")
MODEL = "results/runs/picto/vixml-minilm-l3/seed0/model/manifest.json"
CHECKPOINT = MODEL.replace("model/manifest.json", "checkpoint/state.pt")


def slurm(*words: str) -> tuple[str, ...]:
    """Return the command through profiles/slurm, with what the site of these tests is: one node, no GPU, no accounts."""
    site = (
        "--config", "device=cpu", "--set-resources", "train_model:gpu=1",
        "--resources", "gpu=3", f"mem_mb={one_node_slurm.memory()}", "runtime=14400",
        "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2",
        "--latency-wait", "20",
    )  # fmt: skip
    return ("snakemake", "--profile", "profiles/slurm", *(words or ("paper_tables",)), *site)


def unmade(finished: Copy, root: Path, programs: str = "") -> Copy:
    """Return a copy, committed to git, in which nothing was made yet; its ``run`` uses ``programs``."""
    ignored = shutil.ignore_patterns(".git", ".snakemake", "__pycache__")
    copy = Copy(Path(shutil.copytree(finished.root, root, ignore=ignored)), programs)
    for made in (copy.root / "results").iterdir():
        if made.name not in ("raw", "reference"):
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    commit(copy, "the miniature")
    return copy


def commit(copy: Copy, message: str) -> str:
    """Commit everything; return the commit."""
    copy.run(*GIT, "init", "-q")
    copy.run(*GIT, "add", "-A")
    copy.run(*GIT, "commit", "-q", "--allow-empty", "-m", message)
    return copy.run("git", "rev-parse", "HEAD").strip()


def finished_rules(shown: str) -> list[str]:
    """Return the rules whose jobs a run finished, those left out that only gather."""
    rules = [line.split("Rule: ")[1].rstrip(")") for line in shown.splitlines() if line.startswith("Finished jobid")]
    return [rule for rule in rules if rule not in ("paper_tables", "data", "images")]


def start(copy: Copy, command: tuple[str, ...], **options: Any) -> subprocess.Popen[Any]:
    """Start a command in a process group of its own; unless ``options`` say otherwise, nobody reads what it prints."""
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    environment = os.environ | {"PYTHONPATH": str(copy.root / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=copy.root, env=environment, start_new_session=True, **options)


def kill_9(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything that it started, without warning."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def trainings(copy: Copy) -> list[psutil.Process]:
    """Return the training processes that run in a copy."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(copy.root) and "train" in words and any("vixml" in word for word in words):
            found.append(process)
    return found


def freeze(copy: Copy, process: subprocess.Popen) -> None:
    """Wait for the first checkpoint of a training that ``process`` started, and stop the training: it cannot end meanwhile."""
    checkpoint = copy.root / CHECKPOINT
    deadline = time.monotonic() + 600
    # The whole file: while it is written it has another name in the same folder.
    while not (checkpoint.exists() and trainings(copy)):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.05)
    for training in trainings(copy):
        training.send_signal(signal.SIGSTOP)
    assert checkpoint.exists(), "the training ended before it was stopped"


def thaw(copy: Copy) -> None:
    """Let stopped training processes continue: a signal to end reaches them only then."""
    for process in trainings(copy):
        process.send_signal(signal.SIGCONT)


def kill_in_training(copy: Copy, command: tuple[str, ...], *, alone: bool = False) -> None:
    """Start a command, and kill it after the first checkpoint.

    Args:
        copy: where.
        command: what.
        alone: kill the command only, not what it started.
    """
    process = start(copy, command)
    freeze(copy, process)
    if alone:
        process.kill()
        process.wait()
    else:
        kill_9(process)


def advice(shown: str) -> str:
    """Return the commands that the message on a stale lock tells to give, joined as a shell takes them."""
    lines = shown.split("what now: ")[1].split("then the same command again")[0].splitlines()
    return " && ".join(line.strip() for line in lines if line.strip())
