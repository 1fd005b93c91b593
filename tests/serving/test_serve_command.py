"""The command: it starts, says where, serves, and ends cleanly when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from http.client import HTTPConnection

import pytest

from vixml import cli


def test_it_starts_serves_and_ends_on_sigterm_after_the_requests_that_run(packed, shop):
    environment = os.environ | {"VIXML_TOKEN": "s3cret"}
    command = [sys.executable, "-m", "vixml", "serve", "--model", packed("images"), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = process.stdout.readline()
        assert "serves" in said and "--threads" in said and "Ctrl-C" in said
        port = int(said.split()[0].rsplit(":", 1)[1])
        kept, idle = HTTPConnection("127.0.0.1", port, timeout=600), HTTPConnection("127.0.0.1", port, timeout=600)
        idle.connect()
        idle.sock.sendall(b"GET /heal")  # never more
        headers = {"content-type": "application/json", "authorization": "Bearer s3cret"}
        statuses: list[int] = []

        def ask() -> None:
            body = '{"items": [' + ", ".join(['"box river toy"'] * 60) + '], "voters": 10}'
            kept.request("POST", "/v1/tags", body, headers)
            statuses.append(kept.getresponse().status)

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.01)
        process.send_signal(signal.SIGTERM)
        rest, faults = process.communicate(timeout=600)
        asking.join()
    finally:
        process.kill()
    assert (process.returncode, rest, faults) == (0, "stopped\n", "")
    assert statuses in ([200], [])  # answered, or refused because it came too late


@pytest.mark.parametrize(("options", "what"), [
    (["--port", "0"], "not a model folder"), (["--queue", "3"], "queue is shorter"), (["--host", "203.0.113.7"], "cannot listen"),
])  # fmt: skip
def test_what_cannot_be_served_is_one_error(tmp_path, capsys, options, what):
    assert cli.main(["serve", "--model", str(tmp_path), *options]) == 2
    assert what in capsys.readouterr().err


def test_without_its_libraries_it_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.main(["serve", "--model", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert "fastapi" in shown and "vixml[serve]" in shown
