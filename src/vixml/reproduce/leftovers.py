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
        if process.pid not in own and place == here and any(Path(word).name == program for word in words[:3]):
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
    """Return why ``folder`` is locked and which commands clear it; empty if it is not, or if a Snakemake runs in it.

    Args:
        folder: where the workflow lies.
    """
    if not locked(folder) or processes(folder, "snakemake"):
        return ""
    ends = []
    if jobs := processes(folder, "vixml"):
        ends.append(f"kill {' '.join(map(str, jobs))}")
    if waiting := queued(folder):
        ends.append(f"scancel {' '.join(waiting)}")
    said = "This folder is locked by a run that was killed; "
    if ends:
        said += (
            "jobs that it started still run. Wait until they have ended, or end them; two trainings of the same run\n"
            f"would stand in each other's way. What it finished is kept.\n  what now: {'; '.join(ends)}\n            "
        )
    else:
        said += "nothing runs here any more. What it finished is kept.\n  what now: "
    return said + "snakemake --unlock\n            then the same command again; a training goes on from its checkpoint"
