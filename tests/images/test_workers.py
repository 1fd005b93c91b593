"""Processes for untrusted images: a file that takes too long, too much memory, or crashes the decoder is missing, with its reason."""

from __future__ import annotations

import os
import resource
import time

import pytest
from image_server import image_file
from images_helpers import svg
from misbehaving import misbehave, stop

from vixml.errors import VixmlError
from vixml.images import workers
from vixml.images.decode import prepare
from vixml.images.workers import Workers

TURBULENCE = '<filter id="f"><feTurbulence numOctaves="2000000000" baseFrequency=".1"/></filter>'
SLOW = svg(TURBULENCE + '<rect width="24" height="24" filter="url(#f)"/>')


def test_a_file_that_exceeds_a_limit_is_missing_and_the_others_are_not():
    ok = image_file(1)
    with Workers(1, 24, misbehave, memory=256 << 20) as workers:
        found = [workers.attempt(file) for file in (ok, b"crash", ok, b"memory", b"crash", ok)]
        assert [reason for _, reason in found] == [
            None, "crashes its decoder: SIGSEGV", None, "takes too much memory: more than 256 MB",
            "crashes its decoder: SIGSEGV", None,
        ]  # fmt: skip
        assert found[0][0] == found[2][0] == found[5][0] == prepare(ok, 24)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="KeyError"):  # a defect of ours is no fault of a file
                workers.attempt(b"bug")
        assert workers.attempt(ok) == found[0] and len(workers._all) == 1, "the process goes on"
        with pytest.raises(VixmlError, match="died") as caught:
            workers.attempt(b"exit")
    assert caught.value.found == "exit status 3"


def test_a_drawing_without_end_is_missing():
    with Workers(1, 24, seconds=1.5) as workers:
        found = [workers.attempt(file) for file in (image_file(1), SLOW, image_file(2), "no such file")]
    assert [reason for _, reason in found] == [
        None, "takes too long: more than 1.5 s of processor time", None, "no such file",
    ]  # fmt: skip


def test_leaving_ends_a_drawing_without_end():
    started = time.monotonic()
    with Workers(1, 24, seconds=3600) as workers:
        job = workers.threads.submit(workers.attempt, SLOW)
        while not workers._all or not next(iter(workers._all)).process.is_alive():
            time.sleep(0.01)
        process = next(iter(workers._all)).process
    assert not process.is_alive() and isinstance(job.exception(), VixmlError) and time.monotonic() - started < 600


def test_a_process_that_does_nothing_is_stuck(monkeypatch):
    monkeypatch.setattr("vixml.images.workers.PATIENCE", 0.5)
    with Workers(1, 24, stop, seconds=1.0) as workers:
        found = [workers.attempt(b""), workers.attempt(b"stop")]
    assert found == [(b"", None), (None, "takes too long: more than 0 s")]


def test_the_limits_are_those_of_the_process_only():
    with Workers(1, 24) as some:
        some.attempt(image_file(1))
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_a_limit_of_the_machine_is_kept():
    """`ulimit -v` of a cluster cannot be raised, and need not be."""
    child = os.fork()
    if child == 0:
        hard = 64 << 30
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        for more, most in ((1 << 30, hard - 1), (None, hard), (1 << 50, hard)):
            workers._limit_memory(more)
            if not 0 < resource.getrlimit(resource.RLIMIT_AS)[0] <= most:
                os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
