"""A workflow on a terminal: a few lines that are drawn anew, and two lines after an interruption."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time

from entry_points import CHECKPOINT, MODEL


def start(copy, *words: str) -> tuple[subprocess.Popen, int]:
    """Start the true Snakemake in a process group of its own on a pseudo-terminal; return it and the other end."""
    ours, theirs = pty.openpty()
    plain = ("CI", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in plain}
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", *words],
        cwd=copy.root,
        env=environment | {"PYTHONPATH": str(copy.root / "src"), "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background may have it ignored
    )
    os.close(theirs)
    return process, ours


def read(terminal: int) -> str:
    """Return all that was written, until the last process has closed the terminal."""
    said = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: nobody has it open any more
            break
        if not part:
            break
        said += part
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode("utf-8", "replace")).replace("\r", "\n")


def test_a_few_lines_instead_of_the_schedulers_log(apart):
    process, terminal = start(apart, "--forcerun", "make_tables")
    said = read(terminal)
    assert process.wait() == 0
    assert "Write the tables" in said and re.search(r"\d of \d jobs", said)
    assert "Finished jobid" not in said and "Report:" in said


def test_an_interrupted_run_says_what_is_kept_and_how_to_resume(apart):
    apart.edit("config/runs/picto.yaml", "epochs: 2", "epochs: 400")
    process, terminal = start(apart, MODEL)
    deadline = time.monotonic() + 300
    while not (apart.root / CHECKPOINT).exists():
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = [line for line in read(terminal).splitlines() if line.strip()]
    assert process.wait() == 130
    assert (
        said[-2] == "Interrupted. Finished results are kept, and training keeps its last checkpoint."
        and said[-1] == "To resume, run the same command again."
    )
    assert MODEL in apart.run("snakemake", "-n", MODEL), "the folder is not locked"
