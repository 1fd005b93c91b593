"""The process that starts those of a training stays: it holds their GPUs, and ends with their status, or they with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vixml import gpus
from vixml.cli import warm
from vixml.training import distributed
from vixml.training.distributed import start_processes


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Return a function that puts a script in the place of the launcher of processes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(tmp_path)

    def put(script: str) -> None:
        path = tmp_path / "launcher"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(distributed.sys, "executable", str(path))

    return put


def begin(device: str = "cpu") -> int:
    """Start processes in a fork, which ends with their status; return its id."""
    if (child := os.fork()) == 0:
        status = 99
        try:
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
            start_processes(2, device)
        except SystemExit as stop:
            status = stop.code
        finally:
            os._exit(status)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(path: Path) -> str:
    until = time.monotonic() + 600
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, path
        time.sleep(0.01)
    return path.read_text().strip()


def wait_for_end(process: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        while " Z " not in Path(f"/proc/{process}/stat").read_text():
            time.sleep(0.01)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_the_status_is_that_of_the_processes(launcher, script, status):
    launcher(script)
    assert status_of(begin()) == status


def test_their_cards_are_taken_before_they_take_part_in_the_lease(launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "folder", lambda: tmp_path / "locks")
    monkeypatch.setattr(gpus, "visible_gpus", lambda: [("0", "one"), ("1", "two")])
    monkeypatch.setattr(distributed.torch.version, "cuda", "13")
    monkeypatch.delenv(gpus.LEASED, raising=False)
    launcher("echo $CUDA_VISIBLE_DEVICES > started; read line < go")
    os.mkfifo("go")
    child = begin("cuda")
    assert wait_for(Path("started")) == "0,1"
    taken = [gpus._take(card) for card in ("one", "two")]
    Path("go").write_text("now\n")
    assert status_of(child) == 0 and taken == [None, None]
    again = gpus._take("one")
    assert again is not None, "they have ended"
    os.close(again)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_process_that_started_them(launcher, number):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent was killed")
    launcher("trap 'echo yes > ended; exit 1' TERM; echo $$ > started; while :; do sleep 0.02; done")
    child = begin()
    launched = int(wait_for(Path("started")))
    os.kill(child, number)
    assert status_of(child) == (143 if number == signal.SIGTERM else -9)
    wait_for_end(launched)
    assert Path("ended").exists()


def test_a_warm_program_lasts_as_long_as_its_training(launcher, tmp_path):
    script = "from vixml.training.distributed import start_processes\ndef main():\n    start_processes(2, 'cpu')\n"
    (tmp_path / "trains.py").write_text(script)
    programs = {"vixml": "trains:main"}
    warm.write_programs(tmp_path / "warm", programs)
    launcher("echo yes > started; read line < go; echo yes > trained; exit 5")
    os.mkfifo("go")
    if (server := os.fork()) == 0:
        try:
            warm.serve(tmp_path / "warm", os.getppid(), (), programs, lambda: None)
        finally:
            os._exit(1)
    try:
        while not (tmp_path / "warm/ready").exists():
            time.sleep(0.01)
        client = subprocess.Popen(["warm/bin/vixml"], env=os.environ | {"PYTHONPATH": str(tmp_path)})
        wait_for(Path("started"))
        Path("go").write_text("now\n")
        assert client.wait() == 5 and wait_for(Path("trained"))
    finally:
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)
