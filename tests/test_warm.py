"""Programs forked from a warm process: their status, and an interruption that lasts until the command has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from vixml.cli import warm

COMMANDS = """
import os, signal, sys, time

def ends_slowly():
    def end(number, frame):
        time.sleep(0.3)
        open("ended", "w").close()
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    open("started", "w").close()
    time.sleep(60)

def seven():
    return 7
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Start a server that imports nothing; return the folder of its programs."""
    (tmp_path / "commands.py").write_text(COMMANDS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    named = {"slow": "commands:ends_slowly", "seven": "commands:seven"}
    warm.write_programs(tmp_path / "warm", named)
    source = f"""
import sys
from pathlib import Path
from vixml.cli.warm import serve
serve(Path({str(tmp_path / "warm")!r}), {os.getpid()}, (), {named!r}, lambda: None)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    server = subprocess.Popen([sys.executable, "-c", source], env=environment)
    warm.wait(tmp_path / "warm", server)
    yield tmp_path / "warm/bin"
    server.terminate()
    server.wait()


def test_a_program_has_the_status_of_its_command(programs):
    assert subprocess.run([programs / "seven"]).returncode == 7


def test_an_interpreter_whose_path_no_first_line_can_contain(programs, tmp_path, monkeypatch):
    python = tmp_path / "it's my folder" / ("long" * 60) / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    shutil.rmtree(programs)
    warm.write_programs(programs.parent, {"seven": ""})
    assert subprocess.run([programs / "seven"]).returncode == 7


def test_a_client_that_ends_in_the_middle_of_its_message_ends_its_command():
    source = """
import socket
from vixml.cli.warm import _work
client, server = socket.socketpair()
socket.send_fds(client, [(9).to_bytes(8, "big")], [0, 1, 2])
client.sendall(b"[")
client.close()
_work(server, {})
"""
    assert subprocess.run([sys.executable, "-c", source], timeout=600).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_ends_after_its_command(programs, tmp_path, number):
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    client = subprocess.Popen(
        [programs / "slow"], env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    client.send_signal(number)
    assert client.wait(timeout=30) == 130
    assert (tmp_path / "ended").exists(), "what it leaves behind would come after its workflow has cleaned up"
