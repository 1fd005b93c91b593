"""What a killed run left behind: its lock, and jobs that go on without it, here or in SLURM's queue."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil


def locked(folder: Path) -> bool:
    """Return whether Snakemake holds ``folder`` locked, or did when it was killed."""
    return any((folder / ".snakemake" / "locks").glob("*.lock"))


def processes(folder: Path, program: str) -> list[int]:
    """Return the processes of a program that were started in ``folder``, this one and its parents left out.

    A Snakemake that a batch system started for one job of another one counts as that job, not as a Snakemake.

    Args:
        folder: where the workflow lies.
        program: the name of a command, ``snakemake`` or ``vixml``.
    """
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    here, found = folder.resolve(), []
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), Path(process.cwd())
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's
        if place != here or process.pid in own or not any(Path(word).name == program for word in words[:3]):
            continue
        if "--mode" not in words:
            found.append(process.pid)
    return sorted(found)


def queued(folder: Path) -> list[str]:
    """Return the jobs in SLURM's queue that were submitted from ``folder``; none where there is no SLURM."""
    if shutil.which("squeue") is None:
        return []
    try:
        asked = ["squeue", "--me", "--noheader", "--array", "--format=%i %Z"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    return [job for job, place in rows if Path(place).resolve() == folder.resolve()]


def explain_lock(folder: Path) -> str:
    """Return why ``folder`` is locked and which commands clear it; empty if it is not locked.

    Args:
        folder: where the workflow lies.
    """
    if not locked(folder):
        return ""
    if holders := processes(folder, "snakemake"):
        named = " ".join(map(str, holders))
        return (
            f"A Snakemake is at work in this folder already, process {named}.\n"
            f"  what now: wait until it has finished; or stop it, with its jobs: kill -INT {named}"
        )
    # A job of SLURM may run on this very node: it is ended through SLURM.
    if waiting := queued(folder):
        ends = f"scancel {' '.join(waiting)}"
    elif jobs := processes(folder, "vixml"):
        ends = f"kill {' '.join(map(str, jobs))}"
    else:
        ends = ""
    if ends:
        said = (
            "jobs that it started still run. Wait until they have ended, or end them; two trainings of the same run\n"
            f"would stand in each other's way. What it finished is kept.\n  what now: {ends}\n            "
        )
    else:
        said = "nothing runs here any more. What it finished is kept.\n  what now: "
    clear = "snakemake --unlock\n            then the same command again; a training goes on from its checkpoint"
    return f"This folder is locked by a run that was killed; {said}{clear}"
