"""A stage's folder appears whole, with a manifest that records how it was made, or not at all."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vixml import provenance
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file, write_json, write_text
from vixml.manifest import holds, verify
from vixml.provenance import MANIFEST, describe_input, git_state, read_manifest, require_space, stage, versions


def demo(out, inputs=None, **config):
    return stage(out, "demo", config=config, inputs=inputs or {})


def make(out, text="x", inputs=None, **config):
    with demo(out, inputs, **config) as work:
        write_text(work / "deep" / "a.txt", text)
    return read_manifest(out)


def seen(folder):
    """Return the names in a folder, without the records of what was published."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith("-files"))


def test_a_manifest_records_how_the_folder_was_made(tmp_path):
    (tmp_path / "raw.bin").write_bytes(b"raw")
    made = make(tmp_path / "one", inputs={"raw": tmp_path / "raw.bin"}, k=1)
    assert made["stage"] == "demo" and made["config"] == {"k": 1}
    assert made["inputs"]["raw"]["sha256"] == sha256_file(tmp_path / "raw.bin")
    assert made["outputs"] == {"deep/a.txt": {"sha256": sha256_file(tmp_path / "one/deep/a.txt"), "bytes": 1}}
    for key in ("versions", "source", "machine", "started_at", "wall_seconds", "peak_memory_mb", "command"):
        assert made[key] is not None
    assert made["peak_memory_mb"] > 1 and made["machine"]["cores"] >= 1


def test_a_stage_names_its_input_stage_by_what_that_wrote(tmp_path):
    first = make(tmp_path / "one", "x")
    again = make(tmp_path / "same", "x")
    assert first["outputs_sha256"] == again["outputs_sha256"], "times and places are not content"
    second = make(tmp_path / "two", inputs={"one": tmp_path / "one"})
    assert second["inputs"]["one"]["sha256"] == first["outputs_sha256"]
    assert make(tmp_path / "one", "y")["outputs_sha256"] != first["outputs_sha256"]


def test_inputs_that_were_made_from_one_another_are_of_one_making(tmp_path):
    """After a corpus was built again, its old tokens are whole, and row i of them is another item."""
    corpus, tokens, index, other = (tmp_path / name for name in ("corpus", "tokens", "index", "other"))
    make(corpus, "x")
    make(tokens, inputs={"corpus": corpus})
    make(index, inputs={"tokens": tokens})
    make(other)
    for read in ({"tokens": tokens}, {"index": index}):
        make(tmp_path / "out", inputs={"corpus": corpus, "other": other, **read})
    make(corpus, "y")
    for read in ({"tokens": tokens}, {"index": index}):
        with pytest.raises(VixmlError, match="older than what it was made from") as caught:
            make(tmp_path / "out", inputs={"corpus": corpus, "other": other, **read})
        assert caught.value.where == str(tokens)
        make(tmp_path / "out", inputs=read)  # which reads the old ones only
    make(corpus, "x")
    make(tmp_path / "out", inputs={"corpus": corpus, "index": index})


def test_what_is_no_input_any_more_says_nothing_about_the_inputs(tmp_path):
    corpus, tokens, index, file = (tmp_path / name for name in ("corpus", "tokens", "index", "runs.yaml"))
    file.write_text("a", encoding="utf-8")
    make(corpus, "x")
    make(tokens, inputs={"corpus": corpus})
    make(index, inputs={"tokens": tokens, "file": file})
    # Configuration is read by many stages, and reruns none.
    file.write_text("a  # a comment", encoding="utf-8")
    make(tmp_path / "out", inputs={"index": index, "file": file})
    # The tokens of another corpus: the index was made from the former ones.
    make(tmp_path / "corpus2", "y")
    make(tokens, "of corpus2", inputs={"corpus": tmp_path / "corpus2"})
    make(tmp_path / "corpus2", "z")
    make(tmp_path / "out", inputs={"corpus": corpus, "corpus2": tmp_path / "corpus2", "index": index})
    (tokens / "manifest.json").write_text("{", encoding="utf-8")
    make(tmp_path / "out", inputs={"corpus": corpus, "index": index})


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    before = make(tmp_path / "one", "old")
    with pytest.raises(RuntimeError), demo(tmp_path / "one") as work:
        write_text(work / "a.txt", "half")
        raise RuntimeError
    assert read_manifest(tmp_path / "one") == before
    assert seen(tmp_path) == ["one"]


def publish(out, files):
    """Publish the files of a stage: name -> text."""
    with demo(out) as work:
        for name, text in files.items():
            write_text(work / name, text)


def contents(folder):
    """Return the files below a folder, without the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


OLD = {
    "a.txt": "old",
    "filter/values.txt": "old",
    "filter/deep/x.txt": "old",
    "kind": "a file",
    "form/x.txt": "a folder",
    "same/deep/x.txt": "old",
    "same/y.txt": "old",
}
NEW = {"a.txt": "new", "b.txt": "new", "kind/x.txt": "a folder", "form": "a file"}
NEW |= {"same/deep/x.txt": "new", "same/deep/z.txt": "new"}


def test_a_folder_holds_what_was_published_last_and_what_a_user_put_there(tmp_path):
    publish(tmp_path / "one", OLD)
    own = ("notes.txt", "filter/notes.txt", "same/notes.txt", "same/deep/notes.txt", "same/own/notes.txt")
    for name in own:
        write_text(tmp_path / "one" / name, "mine")
    publish(tmp_path / "one", NEW)
    assert contents(tmp_path / "one") == NEW | dict.fromkeys(own, "mine")
    assert all(holds(tmp_path / "one", name) for name in ("a.txt", "kind", "kind/x.txt"))
    assert not any(holds(tmp_path / "one", name) for name in (*own, "filter", "filter/deep/x.txt", "kin"))


def test_snakemake_removes_the_manifest_before_a_job_and_nothing_is_left_over(tmp_path):
    for files in ({"a.txt": "first"}, OLD, NEW):  # more files, then fewer
        publish(tmp_path / "one", files)
        (tmp_path / "one" / MANIFEST).unlink()
    assert contents(tmp_path / "one") == NEW and not (tmp_path / "one" / "filter").exists()


class Killed(BaseException):
    """The end of a process."""


def killed_before(step, work):
    """Run ``work`` and end it before its file operation ``step``; return whether it was."""
    done = count()

    def counted(function):
        def run(*arguments, **named):
            if next(done) == step:
                raise Killed
            return function(*arguments, **named)

        return run

    with pytest.MonkeyPatch.context() as patched:
        for name in ("replace", "unlink", "rmdir", "mkdir", "fsync"):
            patched.setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("by_snakemake", [False, True])
def test_killed_at_any_step_no_old_file_counts_and_none_is_left_over(tmp_path, monkeypatch, by_snakemake):
    for described in ("git_state", "versions", "environment", "machine"):
        monkeypatch.setattr(f"vixml.provenance.{described}", dict)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # they take most of the time
    for step in count():
        out = tmp_path / str(step) / "one"
        publish(out, OLD)
        if by_snakemake:
            (out / MANIFEST).unlink()
        killed = killed_before(step, lambda out=out: publish(out, NEW))
        if (out / MANIFEST).exists():
            verify(out)
            assert set(read_manifest(out)["outputs"]) in (set(OLD), set(NEW))
        # A second kill, elsewhere, forgets nothing.
        killed_before(step // 2, lambda out=out: publish(out, {"c.txt": "between"}))
        publish(out, NEW)
        assert contents(out) == NEW and not (out / "filter").exists(), step
        if not killed:
            break
    assert step > 20


def test_nothing_outside_the_folder_is_removed_whatever_a_record_or_a_manifest_names(tmp_path):
    publish(tmp_path / "one", {"a.txt": "x", "deep/a.txt": "x"})
    write_text(tmp_path / "kept.txt", "mine")
    write_text(tmp_path / "other" / "a.txt", "mine")
    (tmp_path / "one" / "link").symlink_to(tmp_path / "other")
    names = ["../kept.txt", str(tmp_path / "kept.txt"), "link/a.txt", ".", "", "deep", "a.txt\0", 7, None]
    write_json(tmp_path / ".one-files", {"outputs": names})
    publish(tmp_path / "one", {"b.txt": "y"})
    assert (tmp_path / "kept.txt").exists() and (tmp_path / "other" / "a.txt").exists()
    for damaged in ("", "[", "[]", '{"outputs": 1}', "\udcff"):
        (tmp_path / ".one-files").write_bytes(damaged.encode("utf-8", "surrogatepass"))
        publish(tmp_path / "one", {"b.txt": "z"})
        assert contents(tmp_path / "one")["b.txt"] == "z"


def no_locks(descriptor, how):
    """Lock a file, on a network disk."""
    raise OSError(errno.ENOLCK, "No locks available")


def published_at_once(out, results, locks):
    """Publish each of ``results`` in a process of its own, all at once; return how they ended."""
    ready, start = os.pipe()
    children = []
    for files in results:
        if (child := os.fork()) == 0:
            status = 1
            try:
                if not locks:
                    provenance.fcntl.flock = no_locks
                os.read(ready, 1)
                publish(out, files)
                status = 0
            except (OSError, VixmlError):  # it met the other one's files
                status = 2
            finally:
                os._exit(status)
        children.append(child)
    os.write(start, b"x" * len(children))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_a_mixture_of_two_processes_without_locks_is_refused_and_repaired(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    results = [{f"{n}.txt": str(who) for n in range(20)} | {f"own{who}/x.txt": ""} for who in range(2)]
    for _ in range(5):
        assert set(published_at_once(tmp_path / "one", results, locks=False)) <= {0, 2}
        try:
            verify(tmp_path / "one")
        except VixmlError:  # mixed, or neither has finished: known, and the same command repairs it
            publish(tmp_path / "one", results[0])
        verify(tmp_path / "one")
    assert published_at_once(tmp_path / "two", results, locks=True) == [0, 0]
    verify(tmp_path / "two")
    assert contents(tmp_path / "two") in results


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_that_publish_one_folder_leave_one_of_both_results(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(provenance.fcntl, "flock", no_locks)
        publish(tmp_path / "one", OLD)
        publish(tmp_path / "one", NEW)
        assert contents(tmp_path / "one") == NEW
        return
    results = [{f"{n}.txt": str(who) for n in range(20)} | {f"own{who}/x.txt": ""} for who in range(2)]
    for _ in range(5):
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda files: publish(tmp_path / "one", files), results))
        verify(tmp_path / "one")
        assert contents(tmp_path / "one") in results


# /dev/full answers a write as a full disk does; NumPy and torch then lose the system's reason.
WRITERS = {
    "text": lambda stream: stream.write(b"x" * 100_000),
    "numpy": lambda stream: np.ones(100_000).tofile(stream),
    "parquet": lambda stream: pq.write_table(pa.table({"x": np.arange(100_000)}), stream),
    "torch": lambda stream: torch.save({"weights": torch.zeros(100_000)}, stream),
    "torch by path": lambda stream: torch.save({"weights": torch.zeros(100_000)}, stream.name),
}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_whatever_meets_a_full_disk_says_so_and_keeps_what_was_there(tmp_path, write):
    before = make(tmp_path / "one", "old")
    with (
        pytest.raises(VixmlError, match="no space left") as caught,
        demo(tmp_path / "one"),
        open("/dev/full", "wb", buffering=0) as stream,
    ):
        write(stream)
    assert caught.value.where == tmp_path / "one"
    assert read_manifest(tmp_path / "one") == before and seen(tmp_path) == ["one"]


def test_other_failures_are_not_taken_for_a_full_disk(tmp_path):
    for failure in (OSError(errno.EINVAL, "Invalid argument"), RuntimeError("shapes differ")):
        with pytest.raises(type(failure), match=failure.args[-1]), demo(tmp_path / "a"):
            raise failure


def test_space_is_checked_before_a_memory_map_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("vixml.provenance.shutil.disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    require_space(tmp_path / "not" / "there" / "yet", 5_000_000)
    with pytest.raises(VixmlError, match="no space left") as caught:
        require_space(tmp_path / "out", 7_000_000)
    assert (caught.value.found, caught.value.expected) == ("5 MB free", "7 MB")


def test_unfinished_and_missing_inputs_are_refused(tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(VixmlError, match="not complete"):
        describe_input(tmp_path / "half")
    with pytest.raises(VixmlError, match="missing"):
        make(tmp_path / "one", inputs={"x": tmp_path / "none"})
    assert not (tmp_path / "one").exists()


def test_a_manifest_of_another_version_is_refused(tmp_path):
    make(tmp_path / "one")
    path = tmp_path / "one" / MANIFEST
    write_json(path, read_json(path) | {"schema_version": 99})
    with pytest.raises(VixmlError, match="schema version"):
        read_manifest(tmp_path / "one")


def test_versions_and_commit():
    assert {"python", "vixml", "numpy", "torch", "snakemake"} <= set(versions())
    assert set(git_state()) == {"commit", "modified"}
