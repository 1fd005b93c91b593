"""A small sample of `make torture`: files, images and their faults that need no finished workflow."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import run

    return run


def test_a_sample_has_none_bad(run, tmp_path):
    assert run.torture(16, 7, ["input", "image"], tmp_path, processes=1).counts == {"input good": 12, "image good": 4}


def test_what_is_bad_is_said_and_can_be_repeated(run, tmp_path):
    def bad(folder):
        (folder / "file").write_text("x")
        raise KeyError("a defect")

    case = run.Case("input", "a case", bad)
    said = run.tried(case, tmp_path / "case")
    assert "KeyError: 'a defect'" in said
    run._keep(case, tmp_path / "case", said, tmp_path / "out", 3)
    text = (tmp_path / "out/input-a-case/bad.txt").read_text()
    assert "--seed 3 --kinds input --only 'a case'" in text and (tmp_path / "out/input-a-case/files/file").exists()
    crash = run.Case("input", "crash", lambda _: os.kill(os.getpid(), 9))
    assert run.tried(crash, tmp_path / "case").startswith("signal 9")
    assert "not done" in run.tried(run.Case("input", "hang", lambda _: time.sleep(600)), tmp_path / "case", 0.2)
