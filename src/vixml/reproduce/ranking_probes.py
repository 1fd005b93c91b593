"""Look into predictions and scores: whole rankings, exact search again, every metric again. One function a question.

Exact search is repeated with NumPy in float64, without torch, so that it shares no code with what it checks.
"""

from __future__ import annotations

import numpy as np

from vixml.data.corpus import Corpus
from vixml.data.propensity import inverse_propensity
from vixml.evaluation.metrics import evaluate
from vixml.evaluation.predictions import load_predictions
from vixml.files import load_array, read_json
from vixml.ragged import Ragged
from vixml.reproduce.sampled import sample
from vixml.reproduce.sealed import Failed, NotThere, Ok, Outcome, Sealed, same

QUERIES = 128  # queries that are searched again
LABELS = 8192  # labels compared with them at a time
# Two ways of adding up one inner product of unit vectors.
CLOSE = 1e-5
SAMPLED = 0.01  # the recall of an index may be off by this much: two samples of queries differ


# -- predictions ------------------------------------------------------------------------------------------------------


def rankings(predictions: Sealed, corpus: Corpus) -> Outcome:
    """Check every ranking: labels that exist, each once, best first."""
    source = _source(predictions)
    found = load_predictions(predictions.path, corpus.n(source), corpus.n_labels)
    if (found.rows is not None) != (source == "train"):
        expected = "held-out rows of train for split validation, and for no other"
        return Failed("predictions of another split", predictions.config["split"], expected, predictions.path)
    return Ok()


def exact_recall(predictions: Sealed, corpus: Corpus) -> Outcome:
    """Check the rankings of a label search against all inner products, for a sample of queries.

    Of an exact search recall@k must be 1, for each query; through an index that looks at a part of the labels, the mean must
    be what the run asks for, less :data:`SAMPLED`. Labels that tie at place k stand for one another. Predictions by votes or by
    popularity have no such reference.
    """
    how = predictions.config["inference"]
    if how["method"] != "label-search":
        return Ok(f"{how['method']}: rankings whole")
    index = predictions.locate(predictions.manifest["inputs"]["index"]["path"])
    if index is None:
        return NotThere(f"the index of {predictions.path}")
    source = _source(predictions)
    found = load_predictions(predictions.path, corpus.n(source), corpus.n_labels)
    ranked, scores = found.labels, load_array(predictions.path / "scores.npy")
    some = sample(len(ranked), QUERIES)
    rows = some if found.rows is None else found.rows[some]
    queries = load_array(index / f"{source}.npy")[rows].astype(np.float64)
    labels = load_array(index / f"label_{how['labels_as']}.npy")
    pairs = corpus.filter(source)
    banned = Ragged.from_rows([[]] * len(rows), len(labels)) if pairs is None else pairs.take(rows)
    k, right, wanted = ranked.shape[1], 0, 0
    exactly = how.get("index", "exact") == "exact"
    best = _best_scores(queries, labels, banned, k)
    file = predictions.path / "labels.npy"
    for i, row in enumerate(some):
        reachable, own = best[i][best[i] > -np.inf], ranked[row][ranked[row] >= 0]
        if len(own) != len(reachable) or np.isin(own, banned.row(i)).any():
            return Failed(
                "a ranking has too few labels, or one that the filter excludes",
                f"{len(own)} labels, {np.isin(own, banned.row(i)).sum()} excluded",
                f"{len(reachable)} labels",
                f"{file}, row {row}",
            )
        exact = labels[own].astype(np.float64) @ queries[i]
        if (off := np.abs(exact - scores[row, : len(own)]).max(initial=0)) > CLOSE:
            return Failed(
                "scores are not the inner products of the index",
                f"off by {off:.3g}",
                f"within {CLOSE:g}",
                f"{predictions.path / 'scores.npy'}, row {row}",
            )
        hits = int((exact >= reachable.min(initial=np.inf) - CLOSE).sum())
        wanted += len(reachable)
        if hits < len(reachable) and exactly:
            return Failed(
                "a ranking is not that of an exact search",
                f"recall@{k} = {hits / len(reachable):.4f}",
                "1",
                f"{file}, row {row}",
            )
        right += hits
    if exactly:
        return Ok(f"recall@{k} = 1 against exact search")
    recall = right / max(wanted, 1)
    if recall < how["index_recall"] - SAMPLED:
        return Failed(
            "an index misses more than the run allows",
            f"recall@{k} = {recall:.4f}",
            f"{how['index_recall']:g}, on another sample of queries",
            file,
        )
    return Ok(f"recall@{k} of at least {how['index_recall']:g} through an index ({how['index']})")


def _best_scores(queries: np.ndarray, labels: np.ndarray, banned: Ragged, k: int) -> np.ndarray:
    """Return each query's k largest inner products with labels that are not banned: (n, k) float64, -inf for none."""
    best = np.full((len(queries), k), -np.inf)
    at, excluded = banned.row_ids(), banned.values
    for start in range(0, len(labels), LABELS):
        block = queries @ labels[start : start + LABELS].astype(np.float64).T
        here = (excluded >= start) & (excluded < start + LABELS)
        block[at[here], excluded[here] - start] = -np.inf
        both = np.concatenate([best, block], axis=1)
        best = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    return best


# -- scores -----------------------------------------------------------------------------------------------------------


def same_scores(score: Sealed, corpus: Corpus) -> Outcome:
    """Compute every metric again from the predictions, and compare it with what ``scores.json`` says."""
    file = score.path / "scores.json"
    said = read_json(file)
    config = score.config
    identity = {key: config[key] for key in ("dataset", "run", "seed", "split", "ks", "deep_ks")}
    outcome = same(said, identity, file, "a score of something else than its folder says")
    if isinstance(outcome, Failed):
        return outcome
    folder = score.locate(score.manifest["inputs"]["predictions"]["path"])
    if folder is None:
        return NotThere(f"the predictions of {score.path}")
    source = _source(score)
    predictions = load_predictions(folder, corpus.n(source), corpus.n_labels)
    truth, pairs = corpus.labels(source), corpus.filter(source)
    if predictions.rows is not None:
        truth, pairs = truth.take(predictions.rows), None if pairs is None else pairs.take(predictions.rows)
    how = config["propensity"]
    weights = inverse_propensity(corpus.labels("train").counts(), corpus.n("train"), how["a"], how["b"])
    again = evaluate(
        predictions.labels, truth, weights, filter=pairs, ks=config["ks"], deep_ks=config["deep_ks"]
    ).metrics
    if set(again) != set(said["metrics"]):
        return Failed("a score has other metrics", ", ".join(said["metrics"]), ", ".join(again), file)
    for name, value in again.items():
        if not abs(value - said["metrics"][name]) <= 1e-6:
            return Failed(f"{name} is not that of the predictions", said["metrics"][name], value, f"{file}: {name}")
    return Ok(f"{len(again)} metrics computed again")


def _source(folder: Sealed) -> str:
    return "test" if folder.config["split"] == "test" else "train"
