"""Search of a run: exact, or through an index that visits a part of the labels only (faiss).

An index *proposes*, float64 decides: scores are true inner products and ties go to the smaller id, as in
:mod:`vixml.retrieval.search`, but a label may be missed. Nobody knows beforehand how far an index must look, so that is no
setting: it looks twice as far until, for a sample of the queries, it finds the wanted share of what the exact search finds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.retrieval.search import check_rows, check_search, decide, no_labels, rows_of, search, steps

Kind = Literal["hnsw", "ivf"]
NEIGHBOURS, BUILD_EFFORT = 32, 200  # of a graph: links per label, labels looked at when one is linked
PER_LIST = 40  # average labels of a list, and the fewest to learn a list's centre from
SAMPLE = 512  # queries whose recall decides how far to look
SPARE = 32  # proposals beyond k and the filtered labels
MOST_BANNED = 256  # most proposals of a query for its filtered labels
ON_GPU = 2048  # most lists, and most proposals, of faiss on a GPU
# On a GPU each block of queries rounds all labels anew: larger blocks share it, and a GPU has the memory.
GPU_MB = 8192


class Index:
    """An index over label vectors.

    Attributes:
        kind: ``ivf``: lists of labels around learned centres, of which some are looked through. ``hnsw``: a graph of near
            labels that a query walks along.
        effort: how far it looks: lists, or labels of the walk.
        most: the farthest it can.
        widest: the most labels that it can propose.
        build_seconds: what building it took.
        size_bytes: its size, the vectors included.
    """

    def __init__(self, labels: np.ndarray, kind: Kind, seed: int, device: str | torch.device = "cpu") -> None:
        """Build it: the same for a seed.

        Args:
            labels: (m, dim) float32 or float16, may be memory-mapped.
            kind: of index.
            seed: of the centres.
            device: ``ivf`` moves to a GPU where faiss was built for one; the graph stays on the processor.
        """
        import faiss

        begun = time.perf_counter()
        self.kind, self.n, dim, self.device = kind, len(labels), labels.shape[1], device
        vectors = np.ascontiguousarray(labels, dtype=np.float32)
        # A graph is built by one thread: with more, which links it has depends on who comes first.
        faiss.omp_set_num_threads(1 if kind == "hnsw" else torch.get_num_threads())
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_EFFORT
        else:
            n_lists = max(1, min(self.n // PER_LIST, int(4 * self.n**0.5)))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.seed, index.cp.min_points_per_centroid = seed % 2**31, 1
            index.train(vectors)
        index.add(vectors)
        self.most, self.widest = (index.nlist if kind == "ivf" else self.n), self.n
        self.size_bytes = int(faiss.serialize_index(index).nbytes) if self.n < 1 << 20 else self._counted(dim)
        if kind == "ivf" and torch.device(device).type == "cuda" and hasattr(faiss, "StandardGpuResources"):
            self.resources = faiss.StandardGpuResources()  # kept: the index does not own it
            index = faiss.index_cpu_to_gpu(self.resources, torch.device(device).index or 0, index)
            self.most, self.widest = min(n_lists, ON_GPU), min(self.n, ON_GPU)
        faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = index
        self.effort = 1 if kind == "ivf" else 16
        self.build_seconds = time.perf_counter() - begun

    def _counted(self, dim: int) -> int:
        return self.n * (4 * dim + (8 if self.kind == "ivf" else 4 * (2 * NEIGHBOURS + 2)))

    def propose(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return up to k labels of each query: (n, k) int64, -1 for none."""
        if self.kind == "ivf":
            self.index.nprobe = self.effort
        else:
            self.index.hnsw.efSearch = max(self.effort, k)
        return self.index.search(np.ascontiguousarray(queries, dtype=np.float32), k)[1]

    def tune(self, queries: np.ndarray, labels: np.ndarray, k: int, recall: float, seed: int) -> list[dict[str, float]]:
        """Look twice as far, again and again, until the wanted share of the exact k best is found.

        Returns:
            The curve: ``effort``, ``recall`` and ``ms`` a query, of each step.
        """
        some = np.sort(np.random.default_rng(seed).permutation(len(queries))[:SAMPLE])
        asked = np.asarray(queries[some], dtype=np.float32)
        best = search(asked, labels, k, device=self.device)[1]
        curve = []
        while True:
            begun = time.perf_counter()
            near = self.propose(asked, min(k + SPARE, self.widest))
            seconds = time.perf_counter() - begun
            scores = decide(asked, labels, near, k)[1]
            # By score, so that labels which tie at position k stand for one another.
            found = (scores >= best[:, -1:]) & (scores > -np.inf)
            share = float(found.sum() / max((best > -np.inf).sum(), 1))
            curve.append({"effort": self.effort, "recall": share, "ms": 1000 * seconds / len(asked)})
            if share >= recall or self.effort >= self.most:
                return curve
            self.effort = min(2 * self.effort, self.most)


@dataclass(frozen=True)
class Searcher:
    """Search of a run: exact, or through an index.

    Called as ``searcher(queries, labels, k, filter)``, it returns what :func:`vixml.retrieval.search.search` returns. An index
    may miss a share of at most ``1 - recall`` of the exact k best. A query for which it proposes too few is searched exactly,
    so rankings are as long as those of an exact search.

    Attributes:
        kind: ``exact``, ``ivf`` or ``hnsw`` (``inference.index``).
        recall: share of the exact k best that an index must find, on the mean of a sample of the queries.
        seed: of an index's centres and sample.
        memory_mb: bound for temporary tables; a GPU takes :data:`GPU_MB` of its memory if it has as much. The result does not
            depend on it.
        facts: one entry per index that was built: kind, size, build time and curve.

    Raises:
        VixmlError: an unknown kind.
    """

    kind: str = "exact"
    recall: float = 1.0
    seed: int = 0
    device: str | torch.device = "cpu"
    memory_mb: float = 512
    facts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind not in ("exact", "hnsw", "ivf"):
            raise VixmlError("no such index", where="inference.index", found=self.kind, expected="exact, hnsw or ivf")

    def __call__(
        self, queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each query's k labels of largest inner product; see :func:`vixml.retrieval.search.search`."""
        check_search(queries, labels, k, filter)
        memory_mb = max(self.memory_mb, GPU_MB) if torch.device(self.device).type == "cuda" else self.memory_mb
        while True:
            try:
                if self.kind == "exact" or not len(queries) or not len(labels):
                    return search(queries, labels, k, filter=filter, memory_mb=memory_mb, device=self.device)
                return self._approximate(queries, labels, k, filter, memory_mb)
            except torch.OutOfMemoryError:
                if memory_mb <= self.memory_mb:
                    raise
            torch.cuda.empty_cache()
            memory_mb = max(self.memory_mb, memory_mb / 2)

    def _approximate(
        self, queries: np.ndarray, labels: np.ndarray, k: int, filter: Ragged | None, memory_mb: float
    ) -> tuple[np.ndarray, np.ndarray]:
        check_rows("queries", queries)
        check_rows("labels", labels)
        index = Index(labels, self.kind, self.seed, self.device)
        curve = index.tune(queries, labels, min(k, len(labels)), self.recall, self.seed)
        banned = np.zeros(len(queries), dtype=np.int64) if filter is None else filter.lengths
        # Of the few queries with more filtered labels than that, too few may be left: they are searched exactly below.
        wanted = min(k + SPARE + min(int(banned.max()), MOST_BANNED), index.widest)
        ids, scores = no_labels(len(queries), k)
        for rows in steps(len(queries), max(1, int(memory_mb * 2**20 / (16 * wanted)))):
            block = np.asarray(queries[rows], dtype=np.float32)
            ids[rows], scores[rows] = decide(block, labels, index.propose(block, wanted), k, rows_of(filter, rows))
        short = np.flatnonzero((ids >= 0).sum(axis=1) < np.minimum(k, len(labels) - banned))
        if len(short):
            ids[short], scores[short] = search(
                queries[short], labels, k, filter=rows_of(filter, short), memory_mb=memory_mb, device=self.device
            )
        about = {"kind": self.kind, "n": len(labels), "dim": labels.shape[1], "k": k, "effort": index.effort}
        self.facts.append(about | {"build_seconds": index.build_seconds, "bytes": index.size_bytes, "curve": curve})
        return ids, scores
