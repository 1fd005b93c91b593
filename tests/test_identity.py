"""Unfinished work of another identity is put aside."""

from __future__ import annotations

import shutil

from vixml.identity import kept_folder


def test_unfinished_work_is_resumed_or_put_aside_never_deleted(tmp_path, capsys):
    identity = {"config": {"size": 1}, "code": {"vixml.one": "1"}}
    kept = kept_folder(tmp_path / "out", "fetching", identity)
    (kept / "days of work").touch()
    assert kept_folder(tmp_path / "out", "fetching", identity) == kept and (kept / "days of work").exists()
    for n, changed in enumerate([{"config": {"size": 2}}, {"code": {"vixml.one": "2"}}], start=1):
        assert not capsys.readouterr().err
        assert kept_folder(tmp_path / "out", "fetching", identity | changed) == kept
        assert not (kept / "days of work").exists() and len(list(tmp_path.rglob("days of work"))) == n
        said = capsys.readouterr().err
        assert ("config.size: 1, now 2" if n == 1 else "code of vixml.one") in said and "out-fetching-" in said
        shutil.rmtree(kept)
        kept_folder(tmp_path / "out", "fetching", identity)
        (kept / "days of work").touch()
