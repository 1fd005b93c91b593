"""Stage ``fetch-images``: fetch every image of a corpus that names them by URL, into the image store.

Shards are fetched one after the other. A :class:`Journal` beside the output holds the results until the shard is written, so
that a killed run resumes. Image ids come from the corpus, so neither the order of arrival nor the number of connections
affects the result.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vixml.config.registry import Fetch
from vixml.data.corpus import URLS, Corpus
from vixml.digest import module_hashes
from vixml.errors import VixmlError, expect_equal
from vixml.files import atomic_path, disk_full, link, read_json, sha256_file, write_json
from vixml.identity import alone, discard, kept_folder
from vixml.images.embeddings import coverage
from vixml.images.http import Getter, Schedule
from vixml.images.store import FORMAT, shard_name, shard_range, write_shard
from vixml.images.workers import Workers
from vixml.manifest import holds
from vixml.progress import Quiet, bar
from vixml.provenance import describe_input, stage

LOG = "fetched.parquet"
FEW = 20  # in a shard with fewer images, failures do not prove that the network is down
LOG_SCHEMA = pa.schema(
    [("image", pa.int32()), ("url", pa.string()), ("status", pa.int16()), ("bytes", pa.int64()), ("sha256", pa.string()),
     ("error", pa.string())]
)  # fmt: skip
# How often a server had to be asked is luck, so it is not part of the result.
ATTEMPTS = pa.field("attempts", pa.int32())


def fetch_images(
    corpus_dir: Path | str, out: Path | str, size: int, n_shards: int, settings: Fetch, threads: int = 1
) -> None:
    """Fetch, check and prepare the images of a corpus and write an image store.

    Each URL is one image, however many items name it. Beside ``out``, ``<out>-fetching`` holds the results of a killed
    run, which asks again only for those in flight. An unavailable image (gone, refused, not an image, too large) is
    missing, with its reason in ``fetched.parquet``; missing ones are counted by reason in the manifest.

    Args:
        size: side in pixels of the prepared images (METHOD: 384).
        threads: processes that decode and prepare; the result does not depend on it.

    Raises:
        VixmlError: the corpus names no URLs, no image could be fetched, or another process writes ``out``.
    """
    corpus_dir, out = Path(corpus_dir), Path(out)
    describe_input(corpus_dir)  # verified before it is read for the addresses
    corpus = Corpus.load(corpus_dir)
    if not holds(corpus_dir, URLS):
        raise VixmlError(
            "this corpus does not name its images by URL",
            where=corpus_dir / URLS,
            hint="vixml render-images prepares drawings and local files",
        )
    urls = corpus.image_keys()
    config = {"image_size": size, "shards": n_shards, "fetch": settings.model_dump()}
    facts: dict[str, object] = {}
    with alone(out, "fetching"):
        with stage(out, "fetch-images", config=config, inputs={"corpus": corpus_dir}, facts=facts) as work:
            kept = kept_folder(out, "fetching", _identity(describe_input(corpus_dir)["sha256"], config))
            with bar("fetching images", len(urls)) as advance:

                async def fetch() -> None:
                    with Workers(threads, size) as workers:
                        async with Getter(settings) as getter:
                            fetcher = Fetcher(urls, kept, getter, workers, advance)
                            for shard in range(n_shards):
                                await fetcher.shard(shard, shard_range(shard, len(urls), n_shards))

                asyncio.run(fetch())
            missing, reasons, requests = _gather(kept, work, n_shards)
            if urls and len(missing) == len(urls):
                raise VixmlError(
                    "no image could be fetched",
                    where=corpus_dir / URLS,
                    found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
                    hint=f"check the network; {kept} records the attempts: delete it to try again",
                )
            header = {"format": FORMAT, "n_images": len(urls), "n_shards": n_shards, "missing": missing}
            write_json(work / "store.json", header)
            facts |= {"n_images": len(urls), "n_missing": len(missing), "missing_reasons": dict(reasons)}
            facts["n_requests"] = requests
            facts["pct_with_images"] = coverage(corpus, missing)
        discard(kept)


def _identity(corpus: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return what decides whether and how an image is kept: a run that resumes must share it.

    Not how often and how fast servers are asked, and not the code that asks: what was fetched may have taken days.
    """
    settings = config | {"fetch": {key: value for key, value in config["fetch"].items() if key in Fetch.decisive}}
    return {"corpus": corpus, "config": settings, "code": module_hashes("vixml.images.workers")}


class Fetcher:
    """Fetches and prepares the images of one shard after the other."""

    def __init__(self, urls: list[str], kept: Path, getter: Getter, workers: Workers, advance: Quiet) -> None:
        self.urls, self.kept, self.getter, self.workers, self.advance = urls, kept, getter, workers, advance
        self._started, self._fetched, self._missing = time.monotonic(), 0, 0

    async def shard(self, shard: int, ids: range) -> None:
        """Fetch a shard and write it, unless it is there."""
        if (self.kept / shard_name(shard)).exists():
            self.advance.skip(len(ids))
            return
        path = self.kept / f"journal-{shard:05d}.sqlite"
        with Journal(path) as journal:
            tried = journal.settled()
            self.advance.skip(len(tried))
            await self._fetch([image for image in ids if image not in tried], {}, journal)
            # Temporary failures have had the time of the whole shard to pass.
            again = journal.may_pass()
            await self._fetch(list(again), again, journal)
            _require_network(journal, self.kept, len(ids))
            _write(journal, self.kept, shard, ids)
        for leftover in self.kept.glob(f"{path.name}*"):
            leftover.unlink()

    async def _fetch(self, images: list[int], before: dict[int, int], journal: Journal) -> None:
        """Fetch images; ``before`` holds the requests made for those that are tried again."""
        # More workers than connections: none is idle while an image is prepared.
        connections = self.getter.settings.concurrency
        schedule = Schedule(images, self.urls, self.getter.settings)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(connections + connections // 2, len(images))):
                    group.create_task(self._work(schedule, before, journal))
        except ExceptionGroup as errors:  # all fail for the same reason: a full disk, a dead process
            raise errors.exceptions[0] from errors

    async def _work(self, schedule: Schedule, before: dict[int, int], journal: Journal) -> None:
        while (image := await schedule.next()) is not None:
            answer = await self.getter.get(self.urls[image])
            if (attempts := schedule.answered(image, answer)) is None:
                continue  # it is asked for again when its time has come
            png, error = None, answer.error
            if answer.data is not None:
                loop = asyncio.get_running_loop()
                png, error = await loop.run_in_executor(self.workers.threads, self.workers.attempt, answer.data)
            journal.add(
                Fetched(
                    image=image,
                    url=self.urls[image],
                    status=answer.status,
                    bytes=None if answer.data is None else len(answer.data),
                    sha256=None if answer.data is None else hashlib.sha256(answer.data).hexdigest(),
                    attempts=before.get(image, 0) + attempts,
                    error=error,
                    png=png,
                    may_pass=answer.may_pass,
                )
            )
            await asyncio.sleep(0)  # others may add rows
            journal.commit()
            self._fetched += 1
            self._missing += png is None
            if image not in before:
                self.advance(1, self._note)

    def _note(self) -> str:
        speed = self._fetched / max(time.monotonic() - self._started, 1e-9)
        return f"{speed:.0f} per second, {self._missing} missing"


def _require_network(journal: Journal, kept: Path, n: int) -> None:
    """Stop if half of a shard failed temporarily: the network is down, and the images are not missing yet."""
    failed = journal.may_pass()
    if n < FEW or 2 * len(failed) < n:
        return
    reasons = Counter(row.error for row in journal if row.may_pass)
    journal.forget(failed)
    raise VixmlError(
        "half of the images are unavailable at the moment",
        where=kept,
        found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
        expected="a working network, and servers that answer",
        hint="run the same command again later: what was fetched is kept",
    )


def _write(journal: Journal, kept: Path, shard: int, ids: range) -> None:
    """Write a shard, its log and their hashes from the journal; the shard last: where it is, all are complete."""
    schema = LOG_SCHEMA.append(ATTEMPTS)
    log = [{name: getattr(row, name) for name in schema.names} for row in journal]
    what, hint = "a journal does not hold every image of its shard", "run the same command again"
    lost = sorted(set(ids) - {row["image"] for row in log})
    expect_equal(f"{len(ids) - len(lost)} images", f"{len(ids)} images", what, where=journal.path, hint=hint)
    path = kept / f"log-{shard:05d}.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(log, schema=schema), temporary)
    with atomic_path(kept / shard_name(shard)) as unnamed:
        write_shard(unnamed, ((row.image, row.url, row.png) for row in journal if row.png is not None))
        sums = {shard_name(shard): sha256_file(unnamed), path.name: sha256_file(path)}
        write_json(kept / f"sums-{shard:05d}.json", sums)


def _gather(kept: Path, work: Path, n_shards: int) -> tuple[list[int], Counter[str], int]:
    """Link the shards into the output and join the logs; return the missing ids, the counts of reasons and of requests."""
    missing: list[int] = []
    reasons: Counter[str] = Counter()
    requests = 0
    with atomic_path(work / LOG) as temporary, pq.ParquetWriter(temporary, LOG_SCHEMA) as writer:
        for shard in range(n_shards):
            for name, expected in read_json(kept / f"sums-{shard:05d}.json").items():
                hint = f"delete {kept / shard_name(shard)}: its images are then fetched again"
                what = "a file of an unfinished run is not the one that was written"
                expect_equal(sha256_file(kept / name), expected, what, where=kept / name, hint=hint)
            link(kept / shard_name(shard), work / shard_name(shard))
            table = pq.read_table(kept / f"log-{shard:05d}.parquet")
            requests += sum(table["attempts"].to_pylist())
            table = table.drop_columns(["attempts"])
            writer.write_table(table)
            for image, error in zip(table["image"].to_pylist(), table["error"].to_pylist(), strict=True):
                if error is not None:
                    missing.append(image)
                    reasons[error.split(":")[0]] += 1
    return missing, reasons, requests


# -- the journal ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """The outcome of one image.

    Attributes:
        status: the last HTTP status, or None.
        bytes, sha256: length and hash of the file as received, or None.
        attempts: requests made.
        png: the image, prepared, or None; ``error`` says why there is none.
        may_pass: whether the failure is temporary: then the image is tried once more before the shard is written.
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
    """Keep :class:`Fetched` rows by image id in a file, which is created if needed. Use it as a context.

    Raises:
        VixmlError: by any method: the disk is full, or the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failure: VixmlError | None = None
        with self._using():
            self._base = sqlite3.connect(path)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            columns = ", ".join([*COLUMNS[1:], "checksum"])
            self._base.execute(f"CREATE TABLE IF NOT EXISTS fetched (image INTEGER PRIMARY KEY, {columns})")

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Turn what SQLite raises into one clear error; after the first, nobody waits for a locked file again."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except sqlite3.Error as error:
            other = VixmlError(
                "the journal of fetched images cannot be read or written",
                where=self.path,
                found=str(error),
                hint="run the same command again when no other one writes there; if it is damaged, delete its folder: "
                "its images are then fetched again",
            )
            self._failure = disk_full(self.path) if "full" in str(error) else other
            raise self._failure from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with nullcontext() if error is None else suppress(VixmlError):  # the first error says more
                self.commit()
        finally:
            self._base.close()

    def add(self, row: Fetched) -> None:
        """Add a row; :meth:`commit` writes it."""
        values = [*astuple(row), _checksum(row)]
        with self._using():
            self._base.execute(f"INSERT OR REPLACE INTO fetched VALUES ({', '.join('?' * len(values))})", values)

    def commit(self) -> None:
        """Write the rows that were added since the last time: together, in a tenth of the time."""
        with self._using():
            self._base.commit()

    def settled(self) -> set[int]:
        """Return the images that were tried."""
        with self._using():
            return {image for (image,) in self._base.execute("SELECT image FROM fetched")}

    def may_pass(self) -> dict[int, int]:
        """Return the requests made for each image with a temporary failure."""
        with self._using():
            return dict(self._base.execute("SELECT image, attempts FROM fetched WHERE may_pass"))

    def forget(self, images: Iterable[int]) -> None:
        """Delete rows, so that these images are tried again."""
        with self._using():
            self._base.executemany("DELETE FROM fetched WHERE image = ?", [(image,) for image in images])

    def __iter__(self) -> Iterator[Fetched]:
        """Yield all rows, ascending."""
        with self._using():
            for *values, checksum in self._base.execute("SELECT * FROM fetched ORDER BY image"):
                row = Fetched(*values)
                if _checksum(row) != checksum:  # SQLite has none of its own
                    raise VixmlError(
                        "a row of the journal of fetched images is not the one that was written",
                        where=f"{self.path}, image {row.image}",
                        hint="delete this file: the images of its shard are then fetched again",
                    )
                yield row


def _checksum(row: Fetched) -> int:
    """Return a checksum of a row; SQLite gives a truth value back as a number."""
    return zlib.crc32(repr([*astuple(row)[:-1], bool(row.may_pass)]).encode())
