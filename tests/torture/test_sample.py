"""A small sample of `make torture`: files, images and their faults that need no finished workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")


def test_a_sample_has_none_bad(tmp_path):
    command = [
        sys.executable,
        RUN,
        "--kinds",
        "input,image",
        "--cases",
        "56",
        "--seed",
        "7",
        "--out",
        tmp_path,
        "--processes",
        "1",
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all          56     56      0" in done.stdout


def test_what_is_bad_is_said_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RUN.parent))
    import run

    def bad(folder):
        (folder / "file").write_text("x")
        raise KeyError("a defect")

    case = run.Case("input", "a case", bad)
    said = run.tried(case, tmp_path / "case")
    assert "KeyError: 'a defect'" in said
    run._keep(case, tmp_path / "case", said, tmp_path / "out", 3)
    text = (tmp_path / "out/input-a-case/bad.txt").read_text()
    assert "--seed 3 --kinds input --only 'a case'" in text and (tmp_path / "out/input-a-case/files/file").exists()
    assert run.tried(run.Case("input", "crash", lambda _: os.abort()), tmp_path / "case").startswith("signal 6")
    assert "not done" in run.tried(
        run.Case("input", "hang", lambda _: __import__("time").sleep(600)), tmp_path / "case", 0.2
    )
