"""The stage ``predict``: vectors in, the top labels of every query out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vixml.config.run import RunConfig
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import load_array, save_array
from vixml.images.embeddings import ImageEmbeddings
from vixml.memory import enough_memory
from vixml.provenance import read_manifest, stage
from vixml.ragged import Ragged
from vixml.retrieval.approximate import chosen_search
from vixml.retrieval.vote import knn_vote, popularity, retrieval_augmented, with_images

Split = Literal["test", "validation"]
# On a GPU each block of queries rounds all labels anew: larger blocks share it, and a GPU has the memory.
GPU_MB = 8192


@dataclass(frozen=True)
class PredictInputs:
    """Where the inputs of a prediction lie.

    Attributes:
        corpus: results/data/{dataset}/corpus.
        index: the run's index, or that of the run whose model it reuses; None for popularity.
        embeddings: results/data/{dataset}/embeddings/{vision}; needed with ``inference.image_weight`` only.
        trained: the model folder beside that index, whose ``validation_rows.npy`` names the held-out queries; needed
            for split ``validation`` only.
    """

    corpus: Path
    index: Path | None = None
    embeddings: Path | None = None
    trained: Path | None = None

    def named(self, config: RunConfig, split: Split) -> dict[str, Path]:
        """Return the inputs that this prediction reads, by name.

        Raises:
            VixmlError: one that it needs was not given.
        """
        inference = config.inference
        wanted = {
            "corpus": ("--corpus", True),
            "index": ("--index", inference.method != "popularity"),
            "embeddings": ("--embeddings", inference.image_weight > 0),
            "trained": ("--trained", split == "validation"),
        }
        for name, (option, needed) in wanted.items():
            if needed and getattr(self, name) is None:
                raise VixmlError(
                    f"this prediction needs the folder {name}",
                    where=option,
                    found="nothing",
                    expected=f"a folder, for inference.method {inference.method}, split {split}",
                    hint="snakemake passes it by itself; by hand, see `vixml predict --help`",
                )
        return {name: getattr(self, name) for name, (_, needed) in wanted.items() if needed}


def predict(
    dataset: str,
    run: str,
    seed: int,
    config: RunConfig,
    split: Split,
    inputs: PredictInputs,
    out: Path,
    device: str | torch.device = "cpu",
    memory_mb: float = 512,
) -> None:
    """Write ``labels.npy`` and ``scores.npy`` (docs/formats.md) and, for validation, ``rows.npy``.

    Queries of split ``validation`` are the training queries that the run held out; then the others alone vote. On test
    all training queries vote. Pairs of the corpus's filter are never predicted, so that ``top_k`` others remain.

    Args:
        dataset, run, seed: for the record; the seed also draws the images of a control.
        config: the resolved run.
        split: which queries.
        inputs: where the inputs lie.
        out: folder to write.
        device: where to search.
        memory_mb: bound for temporary tables in main memory; of a GPU's own, ``GPU_MB`` are taken.

    Raises:
        VixmlError: an input that is needed and missing, or that belongs to another corpus, run or seed; a run without
            held-out queries on split ``validation``.
    """
    facts: dict[str, Any] = {"device": str(device)}
    trained_as = config.reuse or run
    resolved = {
        "dataset": dataset,
        "run": run,
        "seed": seed,
        "split": split,
        "trained_as": trained_as,
        **config.settings("predict"),
    }
    named = inputs.named(config, split)
    for name in ("index", "trained"):
        if name in named:
            _check_run(named[name], {"dataset": dataset, "run": trained_as, "seed": seed}, f"--{name}")
    room = enough_memory(
        lambda: f"predict {run} seed {seed}, {split}",
        lambda: (
            "free memory of the GPU, or search on the processor with `--device cpu`: same ranking"
            if torch.device(device).type == "cuda"
            else f"pass `--memory-mb {max(16, int(memory_mb) // 2)}` (now {memory_mb:g}; same ranking)"
        ),
    )
    with stage(out, "predict", config=resolved, inputs=named, facts=facts) as work, room:
        corpus = Corpus.load(inputs.corpus)
        rows = None if split == "test" else _held_out(inputs.trained, corpus.n("train"))
        found: list[dict[str, Any]] = []
        labels, scores = _rank(config, seed, corpus, inputs, rows, device, memory_mb, found)
        if found:
            facts["indexes"] = found
        facts |= {"n_queries": len(labels), "n_empty": int((labels < 0).all(axis=1).sum())}
        save_array(work / "labels.npy", labels)
        save_array(work / "scores.npy", scores)
        if rows is not None:
            save_array(work / "rows.npy", rows)


def _rank(
    config: RunConfig,
    seed: int,
    corpus: Corpus,
    inputs: PredictInputs,
    rows: np.ndarray | None,
    device: str | torch.device,
    memory_mb: float,
    facts: list[dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores of the test queries, or of the held-out ``rows`` of train; indexes add to ``facts``."""
    search = roomy(chosen_search(config.inference.index, config.inference.index_recall, seed, facts), device)
    how, train_labels = config.inference, corpus.labels("train")
    source = "test" if rows is None else "train"
    filter = corpus.filter(source)
    # Held-out queries may not vote, or each would elect its own labels.
    voters = None if rows is None else np.setdiff1d(np.arange(corpus.n("train")), rows)
    if rows is not None and filter is not None:
        filter = filter.take(rows)
    votes = train_labels if voters is None else train_labels.take(voters)
    if how.method == "popularity":
        return popularity(votes, corpus.n("test") if rows is None else len(rows), how.top_k, filter=filter)

    queries = _vectors(inputs.index / f"{source}.npy", corpus.n(source))
    if how.method == "label-search":
        labels = _label_vectors(inputs.index, how.labels_as, corpus.n_labels)
        queries = queries if rows is None else queries[rows]
        return search(queries, labels, how.top_k, filter=filter, memory_mb=memory_mb, device=device)

    train = queries if source == "train" else _vectors(inputs.index / "train.npy", corpus.n("train"))
    if how.image_weight > 0:
        embeddings, images = ImageEmbeddings.open(inputs.embeddings), config.images

        def append(text: np.ndarray, split: str) -> np.ndarray:
            # As in training: a control is drawn by the run's seed.
            own: Ragged = embeddings.lists(embeddings.images_of(corpus, split), images.per_item, images.control, seed)
            return with_images(text, embeddings, own, how.image_weight, memory_mb)

        train = append(train, "train")
        queries = train if source == "train" else append(queries, "test")
    queries = queries if rows is None else queries[rows]
    train = train if voters is None else train[voters]
    if how.method == "retrieval-augmented":
        return retrieval_augmented(
            queries,
            _label_vectors(inputs.index, how.labels_as, corpus.n_labels),
            train,
            votes,
            how.top_k,
            label_weight=how.label_weight,
            retrieved_labels=how.retrieved_labels,
            retrieved_queries=how.retrieved_queries,
            joint=how.search == "joint",
            temperature=how.temperature,
            filter=filter,
            memory_mb=memory_mb,
            device=device,
            search=search,
        )
    return knn_vote(
        queries,
        train,
        votes,
        how.neighbours,
        how.temperature,
        how.top_k,
        filter=filter,
        memory_mb=memory_mb,
        device=device,
        search=search,
    )


def roomy(search: Callable[..., Any], device: str | torch.device) -> Callable[..., Any]:
    """Return a search that takes ``GPU_MB`` where it computes on a GPU, or ``memory_mb`` if that is more; less where the
    GPU has less to give, since the result does not depend on it."""
    if torch.device(device).type != "cuda":
        return search

    def find(*given: Any, memory_mb: float, **how: Any) -> Any:
        taken = max(memory_mb, GPU_MB)
        while True:
            try:
                return search(*given, memory_mb=taken, **how)
            except torch.OutOfMemoryError:
                if taken <= memory_mb:
                    raise
            torch.cuda.empty_cache()
            taken = max(memory_mb, taken / 2)

    return find


def _check_run(folder: Path, expected: dict[str, Any], option: str) -> None:
    config = read_manifest(folder)["config"]
    found = {key: config.get(key) for key in expected}
    if found != expected:
        raise VixmlError(
            "this folder belongs to another run",
            where=f"{option} {folder}",
            found=" ".join(f"{key} {value}" for key, value in found.items()),
            expected=" ".join(f"{key} {value}" for key, value in expected.items()),
            hint="a run with `reuse` reads the index and the model of the run that it names; every other run its own",
        )


def _held_out(trained: Path, n_train: int) -> np.ndarray:
    path = trained / "validation_rows.npy"
    rows = load_array(path, mmap=False)
    if rows.ndim != 1 or rows.dtype != np.int64 or (len(rows) and (rows.min() < 0 or rows.max() >= n_train)):
        raise VixmlError(
            "held-out rows do not fit the corpus",
            where=path,
            found=f"shape {rows.shape}, {rows.dtype}, largest {rows.max(initial=-1)}",
            expected=f"(n,) int64 from 0 to {n_train - 1}",
            hint="train the run again on this corpus",
        )
    if not len(rows):
        raise VixmlError(
            "this run held out no queries",
            where=path,
            found="0 rows",
            expected="a validation split",
            hint="set training.validation of the run above 0, or predict split test",
        )
    return rows


def _label_vectors(index: Path, labels_as: str, n_labels: int) -> np.ndarray:
    """Open the label vectors that inference asks for: (n_labels, dim) float32, memory-mapped."""
    path = index / f"label_{labels_as}.npy"
    if labels_as == "z" and not path.exists():
        raise VixmlError(
            "this run has no prototypes to search",
            where=path,
            found="missing",
            expected="label_z.npy, which only a method with a prototype network leaves",
            hint="set inference.labels_as of the run to u",
        )
    return _vectors(path, n_labels)


def _vectors(path: Path, n: int) -> np.ndarray:
    """Open vectors of an index: (n, dim) float32, memory-mapped."""
    vectors = load_array(path)
    if vectors.ndim != 2 or len(vectors) != n or vectors.dtype != np.float32:
        raise VixmlError(
            "an index does not belong to this corpus",
            where=path,
            found=f"shape {vectors.shape}, {vectors.dtype}",
            expected=f"({n}, dim) float32",
            hint="build the index again from this corpus",
        )
    return vectors
