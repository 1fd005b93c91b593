"""Stage ``fetch-images``: fetch every image of a corpus that names them by URL, into the image store.

Shard by shard: what is settled stands in a journal (:mod:`vixml.images.fetch`) until the shard is written, beside the
output, so that a run killed at any moment resumes. Which image has which id follows from the corpus, so
neither the order of arrival nor the number of connections reaches the result.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from vixml.config.registry import Fetch
from vixml.data.corpus import URLS, Corpus
from vixml.errors import VixmlError
from vixml.files import atomic_path, write_json
from vixml.images.embeddings import coverage
from vixml.images.http import Getter
from vixml.images.pool import kept_folder
from vixml.images.render import Undrawable, prepare
from vixml.images.store import FORMAT, shard_name, shard_range, write_shard
from vixml.progress import Quiet, bar
from vixml.provenance import describe_input, stage

LOG = "fetched.parquet"
FEW = 20  # images of a shard from which on their failing says something of the network
LOG_SCHEMA = pa.schema(
    [("image", pa.int32()), ("url", pa.string()), ("status", pa.int16()), ("bytes", pa.int64()),
     ("sha256", pa.string()), ("attempts", pa.int16()), ("error", pa.string())]
)  # fmt: skip


def fetch_images(
    corpus_dir: Path | str,
    out: Path | str,
    size: int,
    n_shards: int,
    settings: Fetch,
    threads: int = 1,
) -> None:
    """Fetch, check and prepare the images of a corpus and publish an image store.

    Each URL is fetched once, however many items name it. An image that cannot be had (gone, refused, not an image, too
    large) is missing, with its reason in ``fetched.parquet``; missing ones are counted by reason in the manifest.

    Args:
        corpus_dir: a corpus with ``image_urls.parquet``.
        out: folder to write. Beside it, ``<out>-fetching`` holds what a killed run had already.
        size: side in pixels of the prepared images (METHOD: 384).
        n_shards: files of the store.
        settings: connections, retries, limits.
        threads: processes that decode and prepare; the result does not depend on it.

    Raises:
        VixmlError: the corpus names no URLs, or not one image could be had.
    """
    corpus_dir, out = Path(corpus_dir), Path(out)
    corpus = Corpus.load(corpus_dir)
    if not (corpus_dir / URLS).exists():
        raise VixmlError(
            "this corpus names no images by address",
            where=corpus_dir / URLS,
            hint="vixml render-images prepares drawings and local files",
        )
    urls = corpus.image_keys()
    config = {"image_size": size, "shards": n_shards, "fetch": settings.model_dump()}
    facts: dict[str, object] = {}
    with stage(out, "fetch-images", config=config, inputs={"corpus": corpus_dir}, facts=facts) as work:
        identity = {"corpus": describe_input(corpus_dir)["sha256"], "size": size, "shards": n_shards}
        kept = kept_folder(out, "fetching", identity)
        with bar("fetching images", len(urls)) as advance:
            asyncio.run(_fetch_all(urls, kept, size, n_shards, settings, threads, advance))
        missing, reasons = _gather(kept, work, len(urls), n_shards)
        if urls and len(missing) == len(urls):
            raise VixmlError(
                "not one image could be fetched",
                where=corpus_dir / URLS,
                found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
                hint=f"is the network there? what was tried stands in {kept}: delete it to try again",
            )
        header = {"format": FORMAT, "n_images": len(urls), "n_shards": n_shards, "missing": missing}
        write_json(work / "store.json", header)
        facts |= {"n_images": len(urls), "n_missing": len(missing), "missing_reasons": dict(reasons)}
        facts["pct_with_images"] = coverage(corpus, missing)
    shutil.rmtree(kept)


async def _fetch_all(
    urls: list[str], kept: Path, size: int, n_shards: int, settings: Fetch, threads: int, advance: Quiet
) -> None:
    counts = {"missing": 0, "now": 0, "since": time.monotonic()}

    def note() -> str:
        speed = counts["now"] / max(time.monotonic() - counts["since"], 1e-9)
        return f"{speed:.0f} a second, {counts['missing']} missing"

    with Preparers(threads, size) as preparers:
        async with Getter(settings) as getter:
            for shard in range(n_shards):
                ids = shard_range(shard, len(urls), n_shards)
                if (kept / shard_name(shard)).exists():
                    advance.skip(len(ids))
                    continue
                path = kept / f"journal-{shard:05d}.sqlite"
                with Journal(path, asyncio.get_running_loop().call_soon) as journal:
                    tried = journal.settled()
                    advance.skip(len(tried))

                    async def work(waiting: Iterator[int], before: dict[int, int], journal: Journal) -> None:
                        for image in waiting:  # shared: each worker takes the next
                            row = await _one(image, urls[image], getter, preparers, before.get(image, 0))
                            journal.add(row)
                            await asyncio.sleep(0)  # the journal is written before the next request is sent
                            counts["now"] += 1
                            counts["missing"] += row.png is None
                            if image not in before:
                                advance(1, note)

                    async def go(images: list[int], before: dict[int, int], journal: Journal = journal) -> None:
                        waiting = iter(images)
                        try:
                            # More than there are connections: none lies idle while an image is prepared.
                            workers = settings.concurrency + settings.concurrency // 2
                            async with asyncio.TaskGroup() as group:
                                for _ in range(min(workers, len(images))):
                                    group.create_task(work(waiting, before, journal))
                        except ExceptionGroup as errors:  # all fail for the same reason: a full disk, a dead process
                            raise errors.exceptions[0] from errors

                    await go([image for image in ids if image not in tried], {})
                    # What failed in a way that may pass has had the time of the whole shard to do so.
                    again = journal.may_pass()
                    await go(list(again), again)
                    _require_network(journal, kept, len(ids))
                    _write(journal, kept, shard)
                for leftover in kept.glob(f"journal-{shard:05d}.sqlite*"):
                    leftover.unlink()


def _require_network(journal: Journal, kept: Path, n: int) -> None:
    """Stop where half of a shard failed in a way that may pass: the network is down, and nothing is missing yet."""
    failed = journal.may_pass()
    if n < FEW or 2 * len(failed) < n:
        return
    reasons = Counter(row.error for row in journal if row.may_pass)
    journal.forget(failed)
    raise VixmlError(
        "half of the images cannot be had just now",
        where=kept,
        found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
        expected="a network, and servers that answer",
        hint="run the same command again later: what was fetched is kept",
    )


async def _one(image: int, url: str, getter: Getter, preparers: Preparers, attempts: int) -> Fetched:
    answer = await getter.get(url)
    png, error = None, answer.error
    if answer.data is not None:
        png, error = await preparers.prepared(answer.data)
    length = None if answer.data is None else len(answer.data)
    made = attempts + answer.attempts
    return Fetched(image, url, answer.status, length, answer.sha256, made, error, png, answer.may_pass)


def _write(journal: Journal, kept: Path, shard: int) -> None:
    """Write a shard and its log from the journal; the shard comes last, since it says that all is there."""
    log: list[list[object]] = [[] for _ in LOG_SCHEMA]
    for row in journal:
        values = (row.image, row.url, row.status, row.bytes, row.sha256, row.attempts, row.error)
        for column, value in zip(log, values, strict=True):
            column.append(value)
    with atomic_path(kept / f"log-{shard:05d}.parquet") as temporary:
        pq.write_table(pa.table(log, schema=LOG_SCHEMA), temporary)
    write_shard(kept / shard_name(shard), ((row.image, row.url, row.png) for row in journal if row.png is not None))


def _gather(kept: Path, work: Path, n_images: int, n_shards: int) -> tuple[list[int], Counter[str]]:
    """Link the shards into the output and put the logs together; returns the missing ids and their reasons."""
    missing: list[int] = []
    reasons: Counter[str] = Counter()
    with atomic_path(work / LOG) as temporary, pq.ParquetWriter(temporary, LOG_SCHEMA) as writer:
        for shard in range(n_shards):
            os.link(kept / shard_name(shard), work / shard_name(shard))
            table = pq.read_table(kept / f"log-{shard:05d}.parquet")
            writer.write_table(table)
            for image, error in zip(table["image"].to_pylist(), table["error"].to_pylist(), strict=True):
                if error is not None:
                    missing.append(image)
                    reasons[error.split(":")[0]] += 1
    return missing, reasons


# -- preparing in other processes -------------------------------------------------------------------------------------

Prepared = tuple[bytes | None, str | None]
# Files handed over at once, at most: of a few MB each, a portion must not fill the memory.
PORTION = 32


class Preparers:
    """Processes that prepare images. Use it as a context, inside an event loop.

    Args:
        processes: how many; the result does not depend on it.
        size: side in pixels of a prepared image.
    """

    def __init__(self, processes: int, size: int) -> None:
        self.size = size
        # One portion more than processes, so that none waits for the next.
        self._free = processes + 1
        self._waiting: deque[tuple[bytes, asyncio.Future[Prepared]]] = deque()
        # spawn: a fork of a process that runs an event loop may hang.
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))

    def __enter__(self) -> Preparers:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def prepared(self, data: bytes) -> Prepared:
        """Return an image as :func:`vixml.images.render.prepare` makes it, or None and the reason.

        Raises:
            VixmlError: a process died.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((data, future))
        self._hand_over()
        try:
            return await future
        except BrokenProcessPool as error:
            raise VixmlError(
                "a process that prepares images died",
                where="fetch-images",
                found=str(error),
                hint="out of memory? run the same command again: what was fetched is kept; --threads 1 takes less",
            ) from error

    def _hand_over(self) -> None:
        if not self._free or not self._waiting:
            return
        self._free -= 1
        portion = [self._waiting.popleft() for _ in range(min(PORTION, len(self._waiting)))]
        files, futures = [data for data, _ in portion], [future for _, future in portion]
        try:
            asked = asyncio.get_running_loop().run_in_executor(self._pool, prepare_all, files, self.size)
        except BrokenProcessPool as error:  # the processes are dead: those who wait must not wait for ever
            asked = asyncio.get_running_loop().create_future()
            asked.set_exception(error)
        asked.add_done_callback(lambda done: self._hand_back(futures, done))

    def _hand_back(self, futures: list[asyncio.Future[Prepared]], done: asyncio.Future[list[Prepared]]) -> None:
        self._free += 1
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for number, future in enumerate(futures):
            if future.done():  # whoever waited was cancelled
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[number])
        self._hand_over()


def prepare_all(files: list[bytes], size: int) -> list[Prepared]:
    """Prepare some images; a failure is a reason beside ``None``."""
    found: list[Prepared] = []
    for data in files:
        try:
            found.append((prepare(data, size), None))
        except Undrawable as error:
            found.append((None, str(error)))
    return found


# -- the journal ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """One image's fate.

    Attributes:
        image: its id.
        url: where it was asked for.
        status: the last HTTP status, or None.
        bytes: length of the file as it came, or None.
        sha256: of the file as it came, or None.
        attempts: requests made.
        error: why there is no image, or None.
        png: the image, prepared, or None.
        may_pass: whether the failure is one that may pass: then it is tried once more before the shard is written.
    """

    image: int
    url: str
    status: int | None
    bytes: int | None
    sha256: str | None
    attempts: int
    error: str | None
    png: bytes | None
    may_pass: bool = False


COLUMNS = [field.name for field in fields(Fetched)]


class Journal:
    """Keep :class:`Fetched` rows by image id. Use it as a context.

    Args:
        path: the file; made where there is none.
        soon: calls a function a moment later, as an event loop's ``call_soon`` does: rows that come at once are then written
            at once, which takes a tenth of the time. None writes each row by itself.
    """

    def __init__(self, path: Path, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self.path, self._soon, self._open = path, soon, True
        self._base = sqlite3.connect(path, isolation_level=None)  # transactions are ours
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS fetched (image INTEGER PRIMARY KEY, url TEXT, status INTEGER, bytes INTEGER, "
            "sha256 TEXT, attempts INTEGER, error TEXT, png BLOB, may_pass INTEGER)"
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._commit()
        self._open = False
        self._base.close()

    def add(self, row: Fetched) -> None:
        """Keep a row for good."""
        if self._soon is not None and not self._base.in_transaction:
            self._base.execute("BEGIN")
            self._soon(self._commit)
        values = [getattr(row, name) for name in COLUMNS]
        self._base.execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _commit(self) -> None:
        if self._open and self._base.in_transaction:
            self._base.commit()

    def settled(self) -> dict[int, int]:
        """Return the requests made for each image that was tried."""
        return dict(self._base.execute("SELECT image, attempts FROM fetched"))

    def may_pass(self) -> dict[int, int]:
        """Return the requests made for each image whose failure may pass."""
        return dict(self._base.execute("SELECT image, attempts FROM fetched WHERE may_pass"))

    def forget(self, images: Iterable[int]) -> None:
        """Drop rows, so that these are tried again."""
        self._base.executemany("DELETE FROM fetched WHERE image = ?", [(image,) for image in images])

    def __iter__(self) -> Iterator[Fetched]:
        """Yield all rows, ascending."""
        for row in self._base.execute("SELECT * FROM fetched ORDER BY image"):
            yield Fetched(*row)
