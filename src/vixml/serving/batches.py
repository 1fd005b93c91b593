"""One thread runs the model; what waits while it works is its next batch.

No request is held back to fill a batch: the thread takes what waits as soon as it is free. So batching delays a request by the
batch that is running, and under load by those queued before it: at most ``queue / BATCH + 1`` batches in all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np

from vixml.errors import VixmlError
from vixml.retrieval.ranking import Queries
from vixml.serving.limits import CALM, RANKED, Limits, Refusal
from vixml.serving.metrics import Metrics
from vixml.tagging.tagger import Read, Tag, Tagger

# Largest batch, with an image as IMAGE texts: on two cores about 50 ms of texts, 150 ms of images.
BATCH, IMAGE = 128, 8


@dataclass(frozen=True)
class Asked:
    """Parameters of a request; items of requests with the same ones are ranked together.

    ``k`` labels per item (0: vectors only), ``voters`` per label, labels that the request adds, and their offset.
    """

    k: int = 0
    voters: int = 0
    labels: tuple[str, ...] = ()
    offset: float = 0.0


@dataclass(frozen=True)
class Found:
    """The answer about the items of a request.

    Attributes:
        vectors: (n, dim) float32 text vectors.
        tags: of each item, best first.
        added: of each item, row of an added label (from 0) -> its rank (from 1) and score, if it is among the first RANKED.
        names: ids of the added labels.
        tokens: of each item, how many were read; counted where vectors only are asked for.
    """

    vectors: np.ndarray
    tags: list[list[Tag]]
    added: list[dict[int, tuple[int, float]]]
    names: Sequence[str] = ()
    tokens: Sequence[int] = ()


@dataclass
class _Job:
    reads: Sequence[Read]
    asked: Asked
    future: Future[Found] = field(default_factory=Future)

    @property
    def weight(self) -> int:
        return sum(1 + IMAGE * len(read.pixels) for read in self.reads)


class Batches:
    """The thread that alone computes with the model, and its queue. Use it as a context.

    ``waiting`` counts items and images that were admitted and are not answered yet.
    """

    def __init__(self, tagger: Tagger, limits: Limits, metrics: Metrics) -> None:
        self._tagger, self._limits, self._metrics = tagger, limits, metrics
        self.waiting, self._speed = 0, 100.0  # items and images per second; measured as soon as there are any
        self._jobs: deque[_Job] = deque()
        self._ready, self._closed = Condition(), False
        self._extended: tuple[tuple[str, ...], float, Tagger] | None = None
        self._thread = Thread(target=self._run, name="model", daemon=True)

    def __enter__(self) -> Batches:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()
        for job in self._jobs:
            job.future.cancel()

    @property
    def alive(self) -> bool:
        """Return whether the model's thread runs."""
        return self._thread.is_alive()

    @contextmanager
    def admitted(self, n: int) -> Iterator[None]:
        """Keep n places of the queue; called by the event loop only.

        Raises:
            Refusal: the queue has fewer.
        """
        if self.waiting + n > self._limits.queue:
            wait = math.ceil(self.waiting / self._speed)
            raise Refusal(429, "busy", f"too many requests wait; {CALM}", wait=max(1, min(wait, 60)))
        self.waiting += n
        try:
            yield
        finally:
            self.waiting -= n

    async def answer(self, reads: Sequence[Read], asked: Asked) -> Found:
        """Return what the model finds; a request that is cancelled before its batch begins costs nothing.

        Raises:
            VixmlError: labels that cannot be added.
        """
        job = _Job(reads, asked)
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        return await asyncio.wrap_future(job.future)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next():
            begun, n = time.perf_counter(), sum(len(job.reads) for job in batch)
            self._metrics.batches += 1
            self._metrics.items += n
            self._answer(batch)
            seconds = time.perf_counter() - begun
            self._metrics.batch_seconds.add(seconds)
            places = n + sum(len(read.pixels) for job in batch for read in job.reads)
            self._speed += 0.2 * (places / max(seconds, 1e-4) - self._speed)

    def _next(self) -> list[_Job]:
        """Return the jobs of the next batch; none at the end."""
        batch: list[_Job] = []
        with self._ready:
            while not batch:
                self._ready.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return []
                weight = 0
                while self._jobs and (not batch or weight + self._jobs[0].weight <= BATCH):
                    job = self._jobs.popleft()
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
                        weight += job.weight
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        """Answer all jobs; if that fails, each alone: one request must not fail the others, nor end the thread."""
        try:
            self._compute(batch)
        except BaseException as error:
            for job in batch:
                if not job.future.done():
                    self._answer([job]) if len(batch) > 1 else job.future.set_exception(error)

    def _compute(self, batch: list[_Job]) -> None:
        """Encode all items at once; rank those together that ask the same."""
        queries = self._tagger.queries([read for job in batch for read in job.reads])
        alike: dict[Asked, list[tuple[_Job, np.ndarray]]] = {}
        row = 0
        for job in batch:
            rows = np.arange(row, row := row + len(job.reads))
            alike.setdefault(job.asked, []).append((job, rows))
        for asked, jobs in alike.items():
            rows = np.concatenate([some for _, some in jobs])
            try:
                found = self._rank(queries.take(rows), asked)
            except VixmlError as error:  # of the labels that these jobs add
                for job, _ in jobs:
                    job.future.set_exception(error)
                continue
            first = 0
            for job, some in jobs:
                own = slice(first, first := first + len(some))
                tokens = () if asked.k else self._tagger.n_tokens(job.reads)
                job.future.set_result(Found(found.vectors[own], found.tags[own], found.added[own], found.names, tokens))

    def _rank(self, queries: Queries, asked: Asked) -> Found:
        added: list[dict[int, tuple[int, float]]] = [{} for _ in range(len(queries))]
        if not asked.k:
            return Found(queries.text, [[] for _ in added], added)
        if not asked.labels:
            return Found(queries.text, self._tagger.tags(queries, asked.k, asked.voters), added)
        if self._extended is None or self._extended[:2] != (asked.labels, asked.offset):
            self._extended = None  # before the next copy of the label vectors is made
            self._extended = (asked.labels, asked.offset, self._tagger.with_labels(asked.labels, asked.offset))
        tagger = self._extended[2]
        ids, scores = tagger.rank(queries, RANKED)
        for item, place in zip(*np.nonzero(ids >= tagger.n_known), strict=True):
            added[item][int(ids[item, place]) - tagger.n_known] = (int(place) + 1, float(scores[item, place]))
        tags = tagger.described(queries, ids[:, : asked.k], scores[:, : asked.k], asked.voters)
        return Found(queries.text, tags, added, tagger.ids[tagger.n_known :])
