"""The stage ``predict``: vectors in, the top labels of every query out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vixml.config.run import PEERS, Inference, RunConfig, SeededRun
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, save_array
from vixml.manifest import check_run
from vixml.memory import enough_memory
from vixml.provenance import stage
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.linear import linear
from vixml.retrieval.opened import OpenedRun, held_out_rows
from vixml.retrieval.peers import rank_by_peer
from vixml.retrieval.ranking import rank_labels
from vixml.retrieval.vote import popularity

Split = Literal["test", "validation"]
CHOICE = "choice.json"
FITTED_HERE = ("linear", *PEERS)  # methods that train nothing before


def predict(
    run: SeededRun,
    split: Split,
    inputs: Mapping[str, Path | None],
    out: Path,
    device: str | torch.device = "cpu",
    memory_mb: float = 512,
) -> None:
    """Write ``labels.npy`` and ``scores.npy`` (docs/formats.md), for validation ``rows.npy``, and a copy of the choice.

    Queries of split ``validation`` are the training queries that the run held out; then only the others vote. On test
    all training queries vote. Pairs of the corpus's filter are never predicted, so that ``top_k`` others remain.

    Args:
        run: the run; its seed also draws the images of a control, and is that of other software.
        inputs: folders; those that the run does not need may be missing or None. ``corpus``: results/data/{dataset}/corpus.
            ``index``: the run's index, or that of the run whose model it reuses; not for popularity. ``embeddings``:
            results/data/{dataset}/embeddings/{vision}, with ``inference.image_weight``. ``lexical``:
            results/data/{dataset}/lexical, with ``inference.lexical_weight``. ``choice``: the run's choice, for method
            ``chosen``. ``peers``: results/peers, for other software. ``trained``: the model folder beside that index, whose ``validation_rows.npy`` names the held-out
            queries, for split ``validation``.
        memory_mb: bound for temporary tables in main memory (:class:`vixml.retrieval.approximate.Searcher`).

    Raises:
        VixmlError: an input that is needed and missing, or that belongs to another corpus, run or seed; a run without
            held-out queries on split ``validation``.
    """
    trained_as = run.config.reuse or run.run
    resolved = {**run.names, "split": split, "trained_as": trained_as, **run.config.settings("predict")}
    inputs = _needed(inputs, run.config, split)
    for name in ("index", "trained"):
        if name in inputs:
            check_run(inputs[name], run.names | {"run": trained_as}, f"--{name}")
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
        rows = None if split == "test" else held_out_rows(inputs["trained"], corpus.n("train"))
        how = run.config.inference
        if "choice" in inputs:
            how = chosen(inputs["choice"], how)
            shutil.copyfile(inputs["choice"] / CHOICE, work / CHOICE)
        search = Searcher(how.index, how.index_recall, run.seed, device, memory_mb)
        opened = OpenedRun(corpus, inputs, run.config.images, run.seed, rows, search.memory_mb)
        labels, scores, seconds = _ranked(opened, how, search)
        if search.facts:
            facts["indexes"] = search.facts
        else:
            facts["milliseconds_per_query"] = 1000 * seconds["prediction"] / max(len(labels), 1)
        if how.method in FITTED_HERE:
            facts["training_seconds"] = seconds["training"]
        facts |= {"n_queries": len(labels), "n_empty": int((labels < 0).all(axis=1).sum())}
        save_array(work / "labels.npy", labels)
        save_array(work / "scores.npy", scores)
        if rows is not None:
            save_array(work / "rows.npy", rows)


def _needed(inputs: Mapping[str, Path | None], config: RunConfig, split: Split) -> dict[str, Path]:
    """Return the folders that this prediction reads."""
    how, encodes = config.inference, config.needs_encoder
    needed = {
        "corpus": True,
        "index": encodes,
        "embeddings": encodes and how.image_weight > 0,
        "lexical": encodes and how.lexical_weight > 0,
        "choice": how.method == "chosen",
        "peers": config.is_peer,
        "trained": split == "validation",
    }
    for name in needed:
        if needed[name] and inputs.get(name) is None:
            raise VixmlError(
                f"this prediction needs the folder {name}",
                where=f"--{name}",
                found="nothing",
                expected=f"a folder, for inference.method {how.method}, split {split}",
                hint="snakemake passes it by itself; by hand, see `vixml predict --help`",
            )
    return {name: inputs[name] for name in needed if needed[name]}


def chosen(choice: Path, asked: Inference) -> Inference:
    """Return the inference that ``vixml choose-inference`` chose for a run; how many labels and how they are searched stay."""
    kept = asked.model_dump(include={"top_k", "index", "index_recall"})
    return Inference.model_validate(read_json(choice / CHOICE)["inference"] | kept)


def _ranked(opened: OpenedRun, how: Inference, search: Searcher) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Return labels, scores, and the seconds of ``training`` (or of what is read and fitted once) and ``prediction``."""
    if how.method in PEERS:
        train = opened.texts("train", opened.voter_rows), opened.voter_labels
        texts = opened.texts(opened.split, opened.rows)
        return rank_by_peer(how.method, opened.inputs["peers"], train, texts, how.top_k, opened.seed, opened.filter)
    begun = time.perf_counter()
    rank = _ready(opened, how, search)
    ready = time.perf_counter()
    found = rank()
    return *found, {"training": ready - begun, "prediction": time.perf_counter() - ready}


def _ready(opened: OpenedRun, how: Inference, search: Searcher) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return a function that ranks labels of the queries: labels and scores; what is read and fitted once is ready before."""
    votes, filter = opened.voter_labels, opened.filter
    if how.method == "popularity":
        return lambda: popularity(votes, opened.n, how.top_k, filter=filter)
    if how.method == "linear":
        coefficients = opened.linear.coefficients
        return lambda: linear(opened.features, coefficients, how.top_k, filter=filter)
    searched = opened.searched(how)
    voters = None if how.method == "label-search" else opened.voters(how)
    return lambda: rank_labels(opened.queries(how), searched, voters, votes, how, filter=filter, search=search)
