"""Fetching images: all that are available, each once, whatever the server does; a killed run resumes; nothing else gets in."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import flip_a_bit, rows_of
from image_server import Server, bomb, image_file
from images_helpers import corpus as write_corpus
from images_helpers import write_url_corpus
from PIL import Image

from vixml.config.registry import Fetch
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import sha256_file
from vixml.identity import alone
from vixml.images.decode import prepare
from vixml.images.fetch import Fetched, Journal, _gather, _write, fetch_images
from vixml.images.http import Backend, Getter, Refused, is_public, retry_after
from vixml.images.store import ImageStore
from vixml.images.workers import Attempt, Workers
from vixml.provenance import read_manifest

# -- fetching ---------------------------------------------------------------------------------------------------------

SIZE = 24
# A second, not less: beside other tests even a server of this machine takes some tenths to answer.
QUICK = dict(backoff_seconds=0.01, timeout_seconds=1.0, allow_private=True)


@pytest.fixture
def server():
    with Server() as found:
        yield found
        found.shutdown()


def fetch(corpus: Path, out: Path, n_shards=2, threads=1, **changes):
    fetch_images(corpus, out, SIZE, n_shards, Fetch(**QUICK | changes), threads)
    return ImageStore.open(out), pq.read_table(out / "fetched.parquet").to_pylist()


def test_every_fault_has_the_expected_outcome(server, tmp_path):
    """Each image that can be had is had; each other one is missing, with its reason."""
    had = ["ok/0", "busy/1", "flaky/2", "stall/3", "cut/4", "moved/5", "late/6"]
    lost = {
        "gone/10": "HTTP 404", "down/11": "HTTP 500", "page/12": "not an image: text/html",
        "text/13": "not an image that can be read", "large/14": "larger than", "endless/15": "larger than",
        "bomb/16": "too large", "squeezed/17": "a content coding", "around/18": "too many redirects",
        "file/19": "a redirect to something",
    }  # fmt: skip
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url(path)] for path in [*had, *lost]])
    bomb()  # made beforehand: it takes longer than the client waits
    store, log = fetch(corpus, tmp_path / "images", max_bytes=150_000)
    assert [row["url"] for row in log] == Corpus.load(corpus).image_keys()
    for image, path in enumerate(had):
        assert store.read(image) == prepare(image_file(int(path.split("/")[1])), SIZE), path
        assert log[image]["status"] == 200 and log[image]["error"] is None and log[image]["bytes"] > 0
    for image, (path, reason) in enumerate(lost.items(), start=len(had)):
        assert image in store.missing and log[image]["error"].startswith(reason), (path, log[image])
    assert server.asked["/flaky/2"] == 3
    assert server.asked["/gone/10"] == 1, "what will not change is not asked for again"
    assert server.asked["/down/11"] == 10, "all tries, and once more at the shard's end"
    facts = read_manifest(tmp_path / "images")["facts"]
    assert facts["n_missing"] == len(lost) and facts["missing_reasons"]["HTTP 404"] == 1
    redirected = sum(server.asked[path] for path in ("/moved/5", "/around/18", "/file/19")) - 3
    assert facts["n_requests"] == server.asked.total() - redirected - server.asked["/ok/5"]
    assert facts["pct_with_images"] == {"train": 41.18, "test": 41.18, "label": 0.0}
    assert not (tmp_path / "images-fetching").exists()


def test_the_bytes_do_not_depend_on_connections_or_arrival(server, tmp_path):
    urls = [[server.url(f"late/{i}"), server.url(f"ok/{i}")] for i in range(20)]
    corpus, found = write_url_corpus(tmp_path / "corpus", urls), []
    for name, settings in {"a": {}, "b": {"concurrency": 1}, "c": {"concurrency": 7, "threads": 2}}.items():
        fetch(corpus, tmp_path / name, **settings)
        files = [*sorted((tmp_path / name).glob("*.parquet")), tmp_path / name / "store.json"]
        found.append(list(map(sha256_file, files)))
    assert found[0] == found[1] == found[2]
    assert max(server.asked.values()) == 3, "each once per run"


@pytest.mark.parametrize(("limits", "most"), [({"concurrency": 32, "per_host": 3}, 3), ({"concurrency": 4}, 4)])
def test_concurrent_requests_are_limited(server, tmp_path, limits, most):
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url(f"late/{i}")] for i in range(40)])
    fetch(corpus, tmp_path / "images", **limits)
    assert 1 < server.most <= most


def test_a_url_of_many_items_is_fetched_once(server, tmp_path):
    same, other = server.url("ok/1"), server.url("ok/2")
    corpus = write_url_corpus(tmp_path / "corpus", [[same, other], [other, same], [same, same]])
    store, _ = fetch(corpus, tmp_path / "images")
    lists = Corpus.load(corpus).images("train")
    assert rows_of(lists) == [[0, 1], [1, 0], [0]], "each item keeps its own order"
    assert len(store) == 2 and server.asked == {"/ok/1": 1, "/ok/2": 1}


CHILD = """
import json, sys
from pathlib import Path
from vixml.config.registry import Fetch
from vixml.images.fetch import fetch_images

if __name__ == "__main__":
    corpus, out, settings = json.loads(sys.argv[1])
    fetch_images(Path(corpus), Path(out), 24, 2, Fetch(**settings), 1)
"""


def test_a_killed_run_resumes_and_fetches_nothing_twice(server, tmp_path):
    urls = [server.url(f"late/{i}") for i in range(120)]
    corpus = write_url_corpus(tmp_path / "corpus", [[url] for url in urls])
    script, out = tmp_path / "child.py", tmp_path / "images"
    script.write_text(CHILD, encoding="utf-8")
    arguments = json.dumps([str(corpus), str(out), QUICK | {"concurrency": 4}])
    command = [sys.executable, str(script), arguments]
    child = subprocess.Popen(command, env=os.environ | {"VIXML_PROGRESS": "0"}, start_new_session=True)
    deadline = time.monotonic() + 600
    while sum(server.asked.values()) < 80 and time.monotonic() < deadline:  # in the second of two shards
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = dict(server.asked)
    assert 80 <= len(before) < 120 and not out.exists() and (tmp_path / "images-fetching").exists()
    store, log = fetch(corpus, out)
    assert not store.missing and len(log) == 120
    again = [path for path, count in server.asked.items() if count > 1]
    assert len(again) <= 6, "no more than those asked for, or being prepared, when it was killed"
    assert all(store.read(i) == prepare(image_file(i), SIZE) for i in range(120))


def test_a_network_that_is_down_loses_nothing(server, tmp_path):
    urls = [server.url(f"down/{i}") for i in range(30)] + [server.url("ok/1")]
    corpus = write_url_corpus(tmp_path / "corpus", [[url] for url in urls])
    with pytest.raises(VixmlError, match="are unavailable at the moment") as caught:
        fetch(corpus, tmp_path / "images", n_shards=1, attempts=1)
    assert "run the same command again" in str(caught.value)
    with pytest.raises(VixmlError, match="unavailable at the moment"):
        fetch(corpus, tmp_path / "images", n_shards=1, attempts=1)
    assert server.asked["/down/3"] == 4 and server.asked["/ok/1"] == 1, "tried again; what was there is kept"


def test_two_processes_do_not_fetch_into_the_same_folder(server, tmp_path):
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url("ok/0")]])
    with alone(tmp_path / "store", "fetching"), pytest.raises(VixmlError, match="another process writes this folder"):
        fetch(corpus, tmp_path / "store")
    assert not server.asked
    assert fetch(corpus, tmp_path / "store")[0].read(0)


def get(*urls: str, **changes) -> list:
    async def go():
        async with Getter(Fetch(**QUICK | changes)) as getter:
            return [await getter.get(url) for url in urls]

    return asyncio.run(go())


def test_a_host_that_wants_to_be_left_alone_delays_no_other(server, tmp_path):
    """Its addresses are put back with their time; here it has most of them, and they come first."""
    with Server() as busy:
        urls = [busy.url(f"later/{i}") for i in range(80)] + [server.url(f"ok/{i}") for i in range(81)]
        corpus = write_url_corpus(tmp_path / "corpus", [[url] for url in urls])
        started = time.monotonic()
        store, log = fetch(corpus, tmp_path / "images", n_shards=1, concurrency=8, per_host=8)
        busy.shutdown()
    assert store.missing == set(range(80))
    assert {row["error"] for row in log[:80]} == {"HTTP 429: asks to wait longer than 120 s"}
    assert max(busy.asked.values()) == 2, "once, and once more at the end of the shard"
    assert time.monotonic() - started < 60


def test_an_address_waits_as_long_as_the_server_asks_while_others_are_fetched(server, tmp_path):
    urls = [server.url(f"second/{i}") for i in range(20)] + [server.url("ok/1")]
    corpus = write_url_corpus(tmp_path / "corpus", [[url] for url in urls])
    started = time.monotonic()
    store, _ = fetch(corpus, tmp_path / "images", n_shards=1, concurrency=2)
    assert not store.missing and server.asked.total() == 41
    assert 1 <= time.monotonic() - started < 15, "one after the other they would wait for 20 s"


def test_cookies_are_not_kept(server):
    answers = get(*(server.url(f"cookie/{i}") for i in range(3)))
    assert all(answer.data == image_file(i) for i, answer in enumerate(answers))


def test_a_drawing_is_drawn(server, tmp_path):
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url("svg/1")], [server.url("ok/1")]])
    store, _ = fetch(corpus, tmp_path / "images", n_shards=1)
    black = np.asarray(Image.open(io.BytesIO(store.read(0))))
    assert (black[:, : SIZE // 2] == 0).all() and (black[:, SIZE // 2 :] == 255).all()


def test_one_bad_address_never_stops_the_rest(server, tmp_path):
    urls = [*BAD_ADDRESSES, server.url("port/1"), server.url("redirects/1"), server.url("ok/1")]
    corpus = write_url_corpus(tmp_path / "corpus", [[url] for url in urls])
    store, log = fetch(corpus, tmp_path / "images", n_shards=1)
    assert store.missing == set(range(len(urls) - 1)) and all(row["error"] for row in log[:-1])
    assert log[-3]["error"].startswith("a redirect to something") and log[-2]["status"] == 302


def test_a_full_disk_is_an_error_and_loses_no_image(server, tmp_path, monkeypatch):
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url(f"late/{i}")] for i in range(60)])
    commit, seen = Journal.commit, []

    def full(journal):
        seen.append(1)
        if len(seen) == 9:  # a moment is enough
            journal._base.rollback()
            journal._base.execute("PRAGMA max_page_count = 1")
            with journal._using():
                raise sqlite3.OperationalError("database or disk is full")
        commit(journal)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "commit", full)
        with pytest.raises(VixmlError, match="no space left on the disk"):
            fetch(corpus, tmp_path / "images")
    assert not (tmp_path / "images").exists()
    store, log = fetch(corpus, tmp_path / "images")
    assert not store.missing and [row["image"] for row in log] == list(range(60))


def test_a_journal_that_lacks_an_image_is_never_published(server, tmp_path, monkeypatch):
    add = Journal.add
    monkeypatch.setattr(Journal, "add", lambda journal, row: row.image == 1 or add(journal, row))
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url(f"ok/{i}")] for i in range(3)])
    with pytest.raises(VixmlError, match="does not hold every image"):
        fetch(corpus, tmp_path / "images", n_shards=1)
    assert not (tmp_path / "images").exists()


def test_a_damaged_journal_is_one_clear_error(server, tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database" * 999)
    with pytest.raises(VixmlError, match="journal of fetched images"):
        Journal(path)


def test_this_machine_running_out_of_files_is_no_fault_of_an_address(monkeypatch):
    async def no_files(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("anyio.connect_tcp", no_files)
    with pytest.raises(VixmlError, match="cannot open more connections"):
        get("http://127.0.0.1:9/a.png")


def test_no_image_at_all_is_an_error(server, tmp_path):
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url("gone/1")]])
    with pytest.raises(VixmlError, match="no image could be fetched") as caught:
        fetch(corpus, tmp_path / "images")
    assert "HTTP 404" in str(caught.value.found)


def test_images_fetched_for_another_corpus_are_not_reused(server, tmp_path):
    first = write_url_corpus(tmp_path / "a", [[server.url("gone/1")]])
    with pytest.raises(VixmlError):
        fetch(first, tmp_path / "images", n_shards=1)
    second = write_url_corpus(tmp_path / "b", [[server.url("ok/2")]])
    store, _ = fetch(second, tmp_path / "images", n_shards=1)
    assert store.read(0) == prepare(image_file(2), SIZE)


@pytest.mark.parametrize("changed", ["max_bytes", "code"])
def test_unfinished_work_of_other_settings_or_code_is_not_resumed(server, tmp_path, monkeypatch, capsys, changed):
    monkeypatch.delenv("VIXML_PROGRESS", raising=False)
    out = tmp_path / "images"
    corpus = write_url_corpus(tmp_path / "corpus", [[server.url("ok/1")], [server.url("ok/2")]])
    few = {"max_bytes": len(image_file(1)) - 1} if changed == "max_bytes" else {}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("vixml.images.fetch._gather", killed)
        fetch(corpus, out, **few)
    if changed == "code":
        monkeypatch.setattr("vixml.images.fetch.module_hashes", lambda entry: {"vixml.images.decode": "another"})
    store, log = fetch(corpus, out, concurrency=3)
    assert not store.missing and [row["error"] for row in log] == [None, None]
    assert changed in capsys.readouterr().err and set(server.asked.values()) == {2}


BAD_ADDRESSES = [
    "http://host:99999/a.jpg", "http://host:0/a.jpg", "http://host:port/a.jpg", "http://host:-1/", "//host/a.png", "a b c",
    "data:image/png;base64,AAAA", "http:///a.png", "http://[::1/a.png", "http://[1.2.3]/", "http://xn--a/\x00", "https://",
    "http://" + "a" * 64 + ".test/", "http://a..b/", "http://\u2603\u2603" + "x" * 70 + ".test/", "http://user@/a", "HTTP:", "?",
    "http://127.0.0.1:1/refused", "http://\u202e.test/",
]  # fmt: skip


@pytest.mark.parametrize("url", ["http://user:word@HOST/ok/1", "http://HOST/ok/1#part", "HTTP://HOST/ok/1?a b=\u00e9"])
def test_odd_but_valid_addresses_are_asked_for(url, server):
    answer = get(url.replace("HOST", f"127.0.0.1:{server.server_port}"))[0]
    assert answer.data == image_file(1), answer


@pytest.mark.parametrize(
    "address",
    ["224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "100.64.0.1", "192.88.99.1", "192.0.2.1", "198.18.0.1",
     "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::1", "::127.0.0.1", "::8.8.8.8", "::ffff:8.8.8.8", "ff0e::1", "fec0::1",
     "fe80::1%lo", "fc00::1", "2001::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "::", "::1", "0.1.2.3"],
)  # fmt: skip
def test_only_globally_routable_addresses_are_public(address):
    assert not is_public(address)
    assert is_public("8.8.8.8") and is_public("2606:4700:4700::1111")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a.png", "http://", "no address", "http://[::1", "javascript:alert(1)"],
)
def test_anything_but_a_web_address_is_refused(url):
    answer = get(url)[0]
    assert answer.data is None and answer.attempts == 0 and "web address" in answer.error


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[64:ff9b::7f00:1]", "10.0.0.1", "192.168.1.1", "169.254.169.254",
     "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_private_addresses_are_refused(host, server):
    answer = get(f"http://{host}:{server.server_port}/ok/1", allow_private=False)[0]
    assert answer.data is None and "not public" in answer.error and answer.attempts == 1
    assert not server.asked, "no request was sent"


def test_a_redirect_or_a_name_to_a_private_address_is_refused(monkeypatch):
    """The address connected to is checked, not the name: here a public-looking name that leads home."""

    async def home(self, host, port, **_):
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", home)
    with pytest.raises(Refused, match="not public"):
        asyncio.run(Backend(allow_private=False).connect_tcp("images.example.org", 80))


def test_a_connection_closed_by_the_other_side_is_detected():
    """The library asks every idle connection before it takes one; without an answer it would send into the void."""

    async def go() -> list[bool]:
        async def hang_up(reader, writer):
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        stream = await Backend(allow_private=True).connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], 5)
        found = [stream.get_extra_info("is_readable")]
        await stream.write(b"x")
        while not stream.get_extra_info("is_readable"):
            await asyncio.sleep(0.01)
        found += [await stream.read(1, 5) == b"", stream.get_extra_info("server_addr")[0] == "127.0.0.1"]
        await stream.aclose()
        server.close()
        return found

    assert asyncio.run(asyncio.wait_for(go(), 10)) == [False, True, True]


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("7") == 7.0 and retry_after(None) is None and retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0 and retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e9
    odd = ["\u00b2", "-5", "1e3", "", "9" * 400, "\x00"]
    odd += ["Wed, 99 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359"]
    assert all(retry_after(value) is None or retry_after(value) > 120 for value in odd)


def test_a_corpus_without_urls_is_refused(tmp_path):
    write_corpus(tmp_path / "corpus", ["pack:a.svg"])
    with pytest.raises(VixmlError, match="does not name its images by URL"):
        fetch(tmp_path / "corpus", tmp_path / "images")


# -- preparing in other processes -------------------------------------------------------------------------------------


async def prepared(workers: Workers, data: bytes) -> Attempt:
    return await asyncio.get_running_loop().run_in_executor(workers.threads, workers.attempt, data)


def test_each_caller_gets_its_image():
    async def go() -> list:
        with Workers(1, 24) as workers:
            files = [image_file(number) if number % 5 else b"no image" for number in range(100)]
            return await asyncio.gather(*(prepared(workers, file) for file in files))

    found = asyncio.run(go())
    for number, (png, reason) in enumerate(found):
        if number % 5:
            assert png == prepare(image_file(number), 24) and reason is None
        else:
            assert png is None and reason.startswith("not an image")


def test_a_cancelled_caller_does_not_affect_others():
    async def go() -> list:
        with Workers(1, 24) as workers:
            gone = asyncio.create_task(prepared(workers, image_file(0)))
            stays = asyncio.create_task(prepared(workers, image_file(1)))
            await asyncio.sleep(0)
            gone.cancel()
            return await asyncio.gather(gone, stays, return_exceptions=True)

    gone, stays = asyncio.run(go())
    assert isinstance(gone, asyncio.CancelledError) and stays == (prepare(image_file(1), 24), None)


def test_a_process_that_is_killed_is_an_error_for_its_caller():
    async def go() -> list:
        with Workers(1, 24) as workers:
            await prepared(workers, image_file(0))
            for worker in workers._all:
                os.kill(worker.process.pid, signal.SIGKILL)
            files = [image_file(1), image_file(2)]
            return await asyncio.gather(*(prepared(workers, file) for file in files), return_exceptions=True)

    killed, next_one = asyncio.run(go())
    assert isinstance(killed, VixmlError) and "what was fetched is kept" in killed.hint
    assert next_one == (prepare(image_file(2), 24), None)


# -- the journal ------------------------------------------------------------------------------------------------------


def row(image: int, **over) -> Fetched:
    values = {"url": f"u{image}", "status": 200, "bytes": 3, "sha256": "s", "attempts": 1, "error": None, "png": b"png"}
    return Fetched(image, **values | over)


def test_rows_are_written_together(tmp_path):
    with Journal(tmp_path / "a.sqlite") as journal:
        rows = [row(2), row(0, error="HTTP 503", png=None, may_pass=True), row(1)]
        for one in rows:
            journal.add(one)
        assert list(journal) == sorted(rows, key=lambda one: one.image) and journal.may_pass() == {0: 1}
        with Journal(tmp_path / "a.sqlite") as other:
            assert not other.settled(), "not written yet"
            journal.commit()
            assert other.settled() == {0, 1, 2}
        journal.add(row(3))
    with Journal(tmp_path / "a.sqlite") as journal:
        assert journal.settled() == {0, 1, 2, 3}, "what was not written yet is, at the end"
        journal.forget([2, 3])
        assert journal.settled() == {0, 1}


def test_a_journal_that_failed_fails_at_once(tmp_path):
    """Each of hundreds of waiting requests would wait for a locked file, one after the other."""
    with Journal(tmp_path / "a.sqlite") as journal, sqlite3.connect(tmp_path / "a.sqlite") as other:
        journal._base.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(VixmlError, match="cannot be read or written") as first:
            journal.add(row(0))
        other.rollback()
        with pytest.raises(VixmlError) as second:
            journal.add(row(1))
        assert second.value is first.value
        journal._failure = None  # it may be closed


def test_a_damaged_row_of_the_journal_is_refused(tmp_path):
    with Journal(tmp_path / "a.sqlite") as journal:
        journal.add(row(0, png=b"a picture" * 100))
    data = (tmp_path / "a.sqlite").read_bytes()
    (tmp_path / "a.sqlite").write_bytes(data.replace(b"a picture", b"b picture", 1))
    with Journal(tmp_path / "a.sqlite") as journal, pytest.raises(VixmlError, match="not the one that was written"):
        list(journal)


def test_a_shard_that_was_damaged_before_all_were_there_is_refused(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "work").mkdir()
    with Journal(tmp_path / "a.sqlite") as journal:
        journal.add(row(0))
        _write(journal, tmp_path / "kept", 0, range(1))
    assert _gather(tmp_path / "kept", tmp_path / "work", 1)[0] == []
    (tmp_path / "work" / "shard-00000.parquet").unlink()
    for name in ("shard-00000.parquet", "log-00000.parquet"):
        path = tmp_path / "kept" / name
        kept = path.read_bytes()
        flip_a_bit(path, 0.1)
        with pytest.raises(VixmlError) as caught:
            _gather(tmp_path / "kept", tmp_path / "work", 1)
        assert name in str(caught.value.where) and "fetched again" in caught.value.hint
        path.write_bytes(kept)


JOURNAL_CHILD = """
import os, sys
from pathlib import Path
from vixml.images.fetch import Fetched, Journal
journal = Journal(Path(sys.argv[1]))
rows = [Fetched(image, "u", 200, 3, "s", 1, None, b"png") for image in range(3)]
journal.add(rows[0]); journal.add(rows[1]); journal.commit()
journal.add(rows[2])
os._exit(9)
"""


def test_a_killed_process_loses_at_most_the_last_rows(tmp_path):
    assert subprocess.run([sys.executable, "-c", JOURNAL_CHILD, str(tmp_path / "a.sqlite")]).returncode == 9
    with Journal(tmp_path / "a.sqlite") as journal:
        assert journal.settled() == {0, 1}
