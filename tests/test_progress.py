"""Progress: lines in a log, nothing when silenced, a bar on a terminal; errors pass through."""

from __future__ import annotations

import pytest

from vixml import progress
from vixml.progress import bar


def test_silent_when_asked(capsys, monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")
    with bar("x", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_a_line_now_and_then_without_a_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setenv("VIXML_PROGRESS", "1")
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with bar("drawing", 10) as advance:
        for _ in range(10):
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing: 3/10, about 28 s left" and 2 <= len(lines) <= 4


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("VIXML_PROGRESS", "1")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with bar("pooling", 2) as advance:
        advance(2)
    assert "pooling" in capsys.readouterr().err


def test_an_error_passes_through():
    with pytest.raises(KeyError), bar("x", 1):
        raise KeyError("mine")
