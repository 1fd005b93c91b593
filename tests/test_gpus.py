"""Leases on GPUs, of pretended cards: each job has its own, and one that ends in whatever way gives it back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vixml import gpus
from vixml.errors import VixmlError
from vixml.gpus import lease, visible_gpus

# A job: takes cards, says which, and computes until it is told to end.
JOB = """
import sys
from vixml.gpus import lease
print(",".join(lease(int(sys.argv[1]))), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """Pretend that this machine has three cards, and give their locks a folder of this test."""
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "$i, GPU-$i$i$i$i-aa"; done\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(gpus, "folder", lambda: tmp_path / "vixml-gpus")
    monkeypatch.setattr(gpus, "PATIENCE", 0.0)
    monkeypatch.setattr(gpus, "_held", [])
    for name in (gpus.VISIBLE, gpus.LEASED):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    yield
    for lock in gpus._held:
        os.close(lock)


def start(n: int = 1, **environment: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a job of ``n`` cards; return it and its cards."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", JOB, str(n)]
    job = subprocess.Popen(command, env=os.environ | environment, text=True, **pipes)
    return job, job.stdout.readline().strip().split(",")


def end(*jobs: subprocess.Popen[str]) -> None:
    for job in jobs:
        job.communicate()


def test_every_job_has_a_card_of_its_own(cards):
    one, (first,) = start()
    two, pair = start(2)
    assert sorted([first, *pair]) == ["0", "1", "2"]
    with pytest.raises(VixmlError, match="no GPU is free") as caught:
        lease()
    assert f"process {one.pid}" in caught.value.found and f"process {two.pid}" in caught.value.found
    end(one, two)


def test_a_killed_job_gives_its_card_back(cards):
    jobs = [start()[0] for _ in range(3)]
    jobs[1].send_signal(signal.SIGKILL)
    jobs[1].wait()
    again, (card,) = start()
    assert card == "1"
    end(*jobs, again)


def test_one_that_waits_takes_the_card_of_one_that_ends(cards, monkeypatch):
    monkeypatch.setattr(gpus, "PATIENCE", 60.0)
    jobs = [start()[0] for _ in range(3)]
    assert lease(say=lambda line: end(jobs[2])) == ["2"]
    assert os.environ[gpus.VISIBLE] == "2"
    end(*jobs)


def test_processes_of_a_job_share_its_cards_and_keep_them_when_it_ends_first(cards):
    assert lease(2) == ["0", "1"]
    child, seen = start()  # it inherits the lease and takes none
    assert seen == ["0", "1"]
    for lock in gpus._held:
        os.close(lock)
    gpus._held.clear()
    del os.environ[gpus.LEASED], os.environ[gpus.VISIBLE]
    assert lease() == ["2"]
    end(child)


def test_cards_that_a_batch_system_assigned(cards, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "2,GPU-0000")
    assert visible_gpus() == [("2", "GPU-2222-aa"), ("GPU-0000", "GPU-0000-aa")]
    assert lease(2) == ["2", "GPU-0000"]
    other, card = start(**{gpus.VISIBLE: "", gpus.LEASED: ""})
    assert card == [""], "every card is hidden"
    end(other)


def test_more_cards_than_there_are(cards):
    with pytest.raises(VixmlError, match="4 GPUs are asked for, more than there are") as caught:
        lease(4)
    assert caught.value.found == "3: 0, 1, 2"


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found", "sleep 0; echo"])
def test_without_cards_there_is_nothing_to_lease(cards, tmp_path, script):
    (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    assert visible_gpus() == [] and lease() == [] and gpus.VISIBLE not in os.environ


def refused(where: Path, found: str) -> None:
    with pytest.raises(VixmlError, match="lock of a GPU cannot be used") as caught:
        lease()
    assert caught.value.where == where and found in caught.value.found and "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_link_in_the_place_of_a_lock_is_not_followed(cards, tmp_path, target):
    (tmp_path / "vixml-gpus").mkdir()
    (tmp_path / "precious").write_text("kept")
    lock = tmp_path / "vixml-gpus/GPU-0000-aa"
    lock.symlink_to(tmp_path / target)
    refused(lock, "symbolic link")
    assert (tmp_path / "precious").read_text() == "kept" and not (tmp_path / "nowhere").exists()


def test_locks_that_cannot_be_used_are_one_error(cards, tmp_path, monkeypatch):
    (tmp_path / "vixml-gpus").write_text("a file")
    refused(tmp_path / "vixml-gpus", "Not a directory")
    (tmp_path / "vixml-gpus").unlink()
    lock = tmp_path / "vixml-gpus/GPU-0000-aa"
    lock.mkdir(parents=True)
    refused(lock, "Is a directory")
    lock.rmdir()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(gpus.fcntl, "flock", no_locks)  # some network file systems
    refused(lock, "No locks available")


def as_nobody(card: str) -> str:
    """Take a card in a process of another user; return what it says."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setuid(65534)
            said = str(gpus._take(card) is not None)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()


@pytest.mark.skipif(os.getuid() != 0, reason="changes its user")
def test_locks_of_another_user(monkeypatch):
    """Those that we make are everybody's; those that somebody made for himself are one error."""
    with tempfile.TemporaryDirectory() as parent:  # that of pytest is private
        os.chmod(parent, 0o755)
        folder = Path(parent) / "vixml-gpus"
        monkeypatch.setattr(gpus, "folder", lambda: folder)
        os.close(gpus._open("one"))
        assert as_nobody("one") == "True" and as_nobody("two") == "True", "locks and their folder are for all"
        (folder / "one").chmod(0o644)
        folder.chmod(0o755)
        for card, where in (("one", folder / "one"), ("three", folder)):
            said = as_nobody(card)
            assert said.startswith("VixmlError: the lock of a GPU cannot be used") and f"{where}\n" in said
            assert "Permission denied, owned by user 0" in said
