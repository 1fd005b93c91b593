"""A folder is put in place whole; a kill at any point loses neither the former one nor leaves half of one."""

from __future__ import annotations

import json
import os
from itertools import count

import pytest

from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.tagging.whole_folder import whole_folder


def marker(text):
    return json.dumps({"format": "vixml-demo-1", "text": text})


def write(out, text):
    with whole_folder(out, "marker", "demo") as work:
        write_text(work / "marker", marker(text))
        write_text(work / "deep" / "a.txt", text)


def killed_before(step, work):
    """Run ``work`` in a process that is killed before its rename or flush ``step``; return whether it was."""
    if (child := os.fork()) == 0:
        done = count()

        def counted(function):
            return lambda *arguments: os.kill(os.getpid(), 9) if next(done) == step else function(*arguments)

        for name in ("rename", "replace", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def test_killed_at_any_step_the_next_call_knows_the_former_folder_and_leaves_nothing_behind(tmp_path):
    out = tmp_path / "out"
    for step in count():
        write(out, "old")
        killed = killed_before(step, lambda: write(out, "new"))
        with pytest.raises(KeyError), whole_folder(out, "marker", "demo"):  # a call that fails
            raise KeyError
        assert (out / "marker").read_text() == marker((out / "deep/a.txt").read_text())
        assert (out / "deep/a.txt").read_text() in ("old", "new")
        write(out, "new")
        assert os.listdir(tmp_path) == ["out"] and (out / "deep/a.txt").read_text() == "new"
        if not killed:
            break
    assert step > 8


def test_a_folder_that_cannot_take_its_place_leaves_the_former_one(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    rename = os.rename

    def refuse(source, target):
        if os.path.basename(source) == "new":
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        write(tmp_path / "out", "new")
    assert (tmp_path / "out/marker").read_text() == marker("old") and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("found", [
    None, '{"learner": {}, "version": [3, 0, 0]}', '{"format": "layers-model"}', '{"format": 7}', "[1]", '"vixml-"', "no JSON", "[" * 100_000, "",
])  # fmt: skip
def test_a_folder_of_another_kind_is_kept_also_with_a_file_of_the_markers_name(tmp_path, found):
    if found is not None:
        write_text(tmp_path / "out/marker", found)
    write_text(tmp_path / "out/mine.txt", "x")
    with pytest.raises(VixmlError, match="is no demo"):
        write(tmp_path / "out", "new")
    assert sorted(os.listdir(tmp_path / "out")) == ["marker", "mine.txt"][found is None :]


def test_a_folder_that_another_process_writes_at_the_same_moment_is_replaced(tmp_path, monkeypatch):
    rename, others = os.rename, iter(["other", "another"])

    def late(source, target):
        if os.path.basename(source) == "new" and (text := next(others, None)):
            write_text(tmp_path / "out/marker", marker(text))
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    write(tmp_path / "out", "new")
    assert (tmp_path / "out/marker").read_text() == marker("new") and os.listdir(tmp_path) == ["out"]


def test_a_folder_of_another_kind_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(VixmlError, match="is no demo"), whole_folder(tmp_path / "out", "marker", "demo") as work:
        write_text(work / "marker", "new")
        write_text(tmp_path / "out/mine.txt", "x")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["mine.txt"]


def test_what_a_link_leads_to_is_replaced_or_made_and_the_link_stays(tmp_path):
    write(tmp_path / "disk/big", "old")
    link, dangling = tmp_path / "out", tmp_path / "new"
    link.symlink_to("disk/big")
    dangling.symlink_to(tmp_path / "disk/later/small")
    for out, target in ((link, "big"), (dangling, "later/small")):
        for text in ("one", "two", "three"):
            write(out, text)
            assert out.is_symlink() and (tmp_path / "disk" / target / "marker").read_text() == marker(text)
    assert sorted(os.listdir(tmp_path)) == ["disk", "new", "out"]
    assert sorted(os.listdir(tmp_path / "disk")) == ["big", "later"]


def test_a_link_that_an_earlier_version_moved_is_removed_and_one_that_leads_to_itself_refused(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / ".out-former").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "out", "new")
    assert (tmp_path / "out/marker").read_text() == marker("new") and os.listdir(tmp_path) == ["out"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(VixmlError, match="is no demo"):
        write(tmp_path / "loop", "new")
