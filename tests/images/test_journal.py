"""The journal of what was fetched: rows written together are kept as surely as rows written one by one."""

from __future__ import annotations

import subprocess
import sys

from vixml.images.fetch import Fetched, Journal


def row(image: int, **over) -> Fetched:
    values = {"url": f"u{image}", "status": 200, "bytes": 3, "sha256": "s", "attempts": 1, "error": None, "png": b"png"}
    return Fetched(image, **values | over)


def test_rows_that_arrive_together_are_written_together(tmp_path):
    later = []
    with Journal(tmp_path / "a.sqlite", later.append) as journal:
        rows = [row(2), row(0, error="HTTP 503", png=None, may_pass=True), row(1)]
        for one in rows:
            journal.add(one)
        assert len(later) == 1, "one transaction for all"
        assert list(journal) == sorted(rows, key=lambda one: one.image) and journal.may_pass() == {0: 1}
        with Journal(tmp_path / "a.sqlite") as other:
            assert not other.settled(), "not written yet"
            later.pop()()
            assert set(other.settled()) == {0, 1, 2}
        journal.add(row(3))
    later.pop()()  # a moment that comes after the end
    with Journal(tmp_path / "a.sqlite") as journal:
        assert set(journal.settled()) == {0, 1, 2, 3}, "what was not written yet is, at the end"
        journal.forget([2, 3])
        assert set(journal.settled()) == {0, 1}


CHILD = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import row
from vixml.images.fetch import Journal
later = []
journal = Journal(Path(sys.argv[1]), later.append)
journal.add(row(0)); journal.add(row(1)); later.pop()()
journal.add(row(2))
os._exit(9)
"""


def test_a_killed_process_loses_at_most_the_last_rows(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a.sqlite"), str(__file__).rsplit("/", 1)[0]]
    assert subprocess.run(command).returncode == 9
    with Journal(tmp_path / "a.sqlite") as journal:
        assert set(journal.settled()) == {0, 1}
