"""Images prepared in other processes: each caller gets its own, whatever is handed over together."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from image_server import Server, image_file
from images_helpers import write_url_corpus

from vixml.config.registry import Fetch
from vixml.errors import VixmlError
from vixml.images.fetch import PORTION, Preparers, fetch_images
from vixml.images.render import attempt_all, prepare


def die(make, files, size):
    """Stand for what ends a process: memory, a crash in a decoder."""
    os._exit(1)


def test_each_caller_gets_its_image():
    async def go() -> list:
        with Preparers(1, 24) as preparers:
            files = [image_file(number) if number % 5 else b"no image" for number in range(3 * PORTION)]
            return await asyncio.gather(*map(preparers.prepared, files))

    found = asyncio.run(go())
    for number, (png, reason) in enumerate(found):
        if number % 5:
            assert png == prepare(image_file(number), 24) and reason is None
        else:
            assert png is None and reason.startswith("not an image")
    assert attempt_all(prepare, [image_file(1)], 24) == found[1:2]


def test_a_cancelled_caller_does_not_affect_others():
    async def go() -> list:
        with Preparers(1, 24) as preparers:
            gone = asyncio.create_task(preparers.prepared(image_file(0)))
            stays = asyncio.create_task(preparers.prepared(image_file(1)))
            await asyncio.sleep(0)
            gone.cancel()
            return await asyncio.gather(gone, stays, return_exceptions=True)

    gone, stays = asyncio.run(go())
    assert isinstance(gone, asyncio.CancelledError) and stays == (prepare(image_file(1), 24), None)


def test_a_process_that_dies_is_one_clear_error(tmp_path, monkeypatch):
    """Not a group of sixty-four."""
    monkeypatch.setattr("vixml.images.fetch.attempt_all", die)
    with Server() as server:
        corpus = write_url_corpus(tmp_path / "corpus", [[server.url(f"ok/{number}")] for number in range(9)])
        with pytest.raises(VixmlError, match="a process that prepares images died") as caught:
            fetch_images(corpus, tmp_path / "out", 24, 1, Fetch(allow_private=True))
        server.shutdown()
    assert "what was fetched is kept" in caught.value.hint and (tmp_path / "out-fetching").exists()


def test_a_process_that_dies_is_an_error_for_all_callers():
    async def go() -> list:
        with Preparers(1, 24) as preparers:
            await preparers.prepared(image_file(0))
            for process in preparers._pool._processes.values():
                os.kill(process.pid, signal.SIGKILL)
            return await asyncio.gather(*map(preparers.prepared, [image_file(1)] * 3), return_exceptions=True)

    assert all(isinstance(one, VixmlError) for one in asyncio.run(go()))
