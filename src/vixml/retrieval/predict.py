"""The stage ``predict``: vectors in, the top labels of every query out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vixml.config.run import RunConfig, SeededRun
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import load_array, save_array
from vixml.images.embeddings import ImageEmbeddings
from vixml.manifest import holds
from vixml.memory import enough_memory
from vixml.provenance import read_manifest, stage
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.ranking import Queries, rank_labels, searched_labels
from vixml.retrieval.search import rows_of
from vixml.retrieval.vote import popularity, with_images

Split = Literal["test", "validation"]


def predict(
    run: SeededRun,
    split: Split,
    inputs: Mapping[str, Path | None],
    out: Path,
    device: str | torch.device = "cpu",
    memory_mb: float = 512,
) -> None:
    """Write ``labels.npy`` and ``scores.npy`` (docs/formats.md) and, for validation, ``rows.npy``.

    Queries of split ``validation`` are the training queries that the run held out; then only the others vote. On test
    all training queries vote. Pairs of the corpus's filter are never predicted, so that ``top_k`` others remain.

    Args:
        run: the run; its seed also draws the images of a control.
        split: the queries.
        inputs: folders; those that the run does not need may be missing or None. ``corpus``: results/data/{dataset}/corpus.
            ``index``: the run's index, or that of the run whose model it reuses; not for popularity. ``embeddings``:
            results/data/{dataset}/embeddings/{vision}, with ``inference.image_weight``. ``trained``: the model folder beside
            that index, whose ``validation_rows.npy`` names the held-out queries, for split ``validation``.
        out: folder to write.
        device: where to search.
        memory_mb: bound for temporary tables in main memory (:class:`vixml.retrieval.approximate.Searcher`).

    Raises:
        VixmlError: an input that is needed and missing, or that belongs to another corpus, run or seed; a run without
            held-out queries on split ``validation``.
    """
    trained_as, inference = run.config.reuse or run.run, run.config.inference
    resolved = {**run.names, "split": split, "trained_as": trained_as, **run.config.settings("predict")}
    inputs = _needed(inputs, run.config, split)
    for name in ("index", "trained"):
        if name in inputs:
            _check_run(inputs[name], run.names | {"run": trained_as}, f"--{name}")
    room = enough_memory(
        lambda: f"predict {run}, {split}",
        lambda: (
            "free memory of the GPU, or search on the processor with `--device cpu`: same ranking"
            if torch.device(device).type == "cuda"
            else f"pass `--memory-mb {max(16, int(memory_mb) // 2)}` (now {memory_mb:g}; same ranking)"
        ),
    )
    facts: dict[str, Any] = {"device": str(device)}
    with stage(out, "predict", config=resolved, inputs=inputs, facts=facts) as work, room:
        corpus = Corpus.load(inputs["corpus"])
        rows = None if split == "test" else _held_out(inputs["trained"], corpus.n("train"))
        search = Searcher(inference.index, inference.index_recall, run.seed, device, memory_mb)
        labels, scores = _rank(run, corpus, inputs, rows, search)
        if search.facts:
            facts["indexes"] = search.facts
        facts |= {"n_queries": len(labels), "n_empty": int((labels < 0).all(axis=1).sum())}
        save_array(work / "labels.npy", labels)
        save_array(work / "scores.npy", scores)
        if rows is not None:
            save_array(work / "rows.npy", rows)


def _needed(inputs: Mapping[str, Path | None], config: RunConfig, split: Split) -> dict[str, Path]:
    """Return the folders that this prediction reads."""
    inference = config.inference
    needed = {
        "corpus": True,
        "index": inference.method != "popularity",
        "embeddings": inference.image_weight > 0,
        "trained": split == "validation",
    }
    for name in needed:
        if needed[name] and inputs.get(name) is None:
            raise VixmlError(
                f"this prediction needs the folder {name}",
                where=f"--{name}",
                found="nothing",
                expected=f"a folder, for inference.method {inference.method}, split {split}",
                hint="snakemake passes it by itself; by hand, see `vixml predict --help`",
            )
    return {name: inputs[name] for name in needed if needed[name]}


def _rank(
    run: SeededRun, corpus: Corpus, inputs: Mapping[str, Path], rows: np.ndarray | None, search: Searcher
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores of the test queries, or of the held-out ``rows`` of train."""
    how, images = run.config.inference, run.config.images
    source = "test" if rows is None else "train"
    filter, votes, voters = corpus.filter(source), corpus.labels("train"), None
    if rows is not None:
        # Held-out queries may not vote, or each would elect its own labels.
        voters = np.setdiff1d(np.arange(corpus.n("train")), rows)
        filter, votes = rows_of(filter, rows), votes.take(voters)
    if how.method == "popularity":
        return popularity(votes, corpus.n("test") if rows is None else len(rows), how.top_k, filter=filter)

    def text_vectors(split: str) -> np.ndarray:
        return _vectors(inputs["index"] / f"{split}.npy", corpus.n(split))

    def vectors(split: str) -> np.ndarray:
        if how.image_weight == 0:
            return text_vectors(split)
        embeddings = ImageEmbeddings.open(inputs["embeddings"])
        # As in training: a control is drawn by the run's seed.
        lists = embeddings.lists(embeddings.images_of(corpus, split), images.per_item, images.control, run.seed)
        return with_images(text_vectors(split), embeddings, lists, how.image_weight, search.memory_mb)

    text = text_vectors(source)
    labels = {name: _label_vectors(inputs["index"], name, corpus.n_labels) for name in searched_labels(how)}
    train = None if how.method == "label-search" else vectors("train")
    voting = text if train is None else train if source == "train" else vectors(source)
    if rows is not None:
        text, voting, train = text[rows], voting[rows], None if train is None else train[voters]
    return rank_labels(Queries(text, voting), labels, train, votes, how, filter=filter, search=search)


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
    if labels_as == "z" and not holds(index, path.name):
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
