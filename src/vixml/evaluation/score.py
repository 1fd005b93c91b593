"""The stage ``score``: predictions and true labels in, ``scores.json`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.registry import Dataset
from vixml.data.corpus import Corpus
from vixml.data.propensity import inverse_propensity
from vixml.errors import VixmlError, expect_equal
from vixml.evaluation.metrics import DEEP_KS, KS, evaluate, hits_in_chunks
from vixml.evaluation.predictions import Predictions, load_predictions
from vixml.files import read_json, write_json
from vixml.manifest import holds
from vixml.provenance import read_manifest, stage
from vixml.ragged import Ragged
from vixml.retrieval.calibration import RANKS, Calibration, reliability
from vixml.retrieval.predict import CHOICE

SCHEMA_VERSION = 1


def score(
    names: Mapping[str, Any],
    entry: Dataset,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    ks: Sequence[int] = KS,
    deep_ks: Sequence[int] = DEEP_KS,
) -> None:
    """Write ``scores.json``: metrics in percent, counts of queries and pairs, and a breakdown of P@k.

    Propensities come from the counts of all training queries, for a validation split as well: they describe the
    dataset, not the queries that a run happened to train on.

    Args:
        names: ``dataset``, ``run``, ``seed`` and ``split`` (``test`` or ``validation``) of the predictions; checked against
            their manifest.
        entry: the dataset in the registry: propensity constants, whether a filter must exist.
        inputs: folders ``corpus`` and ``predictions``.
        ks, deep_ks: as in :func:`vixml.evaluation.metrics.evaluate`.

    Raises:
        VixmlError: predictions of another run or split, damaged predictions, fewer columns than the largest k, a
            required filter that is missing.
    """
    cutoffs = {"ks": list(ks), "deep_ks": list(deep_ks)}
    origin = _check_origin(inputs["predictions"], names)
    # Only these settings of the entry change a score: not its titles, sources and notes.
    config = {**names, **entry.settings("score"), **cutoffs}
    inputs = {name: inputs[name] for name in ("corpus", "predictions")}
    with stage(out, "score", config=config, inputs=inputs) as work:
        corpus = Corpus.load(inputs["corpus"], filter_required=entry.filter_required)
        source = "test" if names["split"] == "test" else "train"
        predictions = load_predictions(inputs["predictions"], corpus.n(source), corpus.n_labels)
        _check_depth(predictions, inputs["predictions"], max([*ks, *deep_ks]))
        truth, filter, images = corpus.labels(source), corpus.filter(source), corpus.images(source).lengths > 0
        if predictions.rows is not None:
            truth, images = truth.take(predictions.rows), images[predictions.rows]
            filter = None if filter is None else filter.take(predictions.rows)
        counts = corpus.labels("train").counts()
        weights = inverse_propensity(counts, corpus.n("train"), entry.propensity.a, entry.propensity.b)
        found = evaluate(predictions.labels, truth, weights, filter=filter, ks=ks, deep_ks=deep_ks, checked=True)
        with_image = corpus.images("label").lengths > 0
        parts = break_down(predictions.labels, truth, counts, images, with_image, filter=filter)
        write_json(
            work / "scores.json",
            {
                "schema_version": SCHEMA_VERSION,
                **names,
                # Missing in older predictions, of runs that could not reuse a model.
                "trained_as": origin.get("trained_as", names["run"]),
                **asdict(found),
                "standard_errors": standard_errors(predictions.labels, truth, ks, filter),
                **cutoffs,
                "n_labels": corpus.n_labels,
                "filtered": filter is not None,
                "breakdown": parts,
                **_choice(inputs["predictions"], predictions, truth, filter),
            },
        )


def _choice(folder: Path, predictions: Predictions, truth: Ragged, filter: Ragged | None) -> dict[str, Any]:
    """Return, for inference that was chosen, the choice, and what its probabilities are worth on these queries."""
    if not holds(folder, CHOICE):
        return {}
    choice = read_json(folder / CHOICE)
    found = choice.pop("calibration", None)
    if found is None:
        return {"choice": choice}
    labels = np.asarray(predictions.labels[:, :RANKS])
    scores = np.where(labels >= 0, predictions.scores[:, :RANKS], -np.inf)
    hits = np.concatenate([chunk.hits for chunk in hits_in_chunks(labels, truth, filter, checked=True)])
    fitted = Calibration.model_validate(found)
    return {"choice": choice, "reliability": reliability(fitted, scores, hits, len(truth.values))}


def standard_errors(
    predictions: np.ndarray, truth: Ragged, ks: Sequence[int], filter: Ragged | None = None
) -> dict[str, float | None]:
    """Return the standard error over queries of each P@k, in percent: what another sample of queries would change.

    Arguments are as in :func:`vixml.evaluation.metrics.evaluate`; None for fewer than two queries.
    """
    hits = [chunk.hits[:, : max(ks)] for chunk in hits_in_chunks(predictions, truth, filter)]
    found = np.concatenate(hits) if hits else np.zeros((0, max(ks)))
    n = len(found)
    return {f"P@{k}": float(100 * found[:, :k].mean(axis=1).std(ddof=1) / n**0.5) if n > 1 else None for k in ks}


def _check_origin(predictions_dir: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in the predictions' manifest."""
    config = read_manifest(predictions_dir)["config"]
    found = {key: config.get(key) for key in expected}
    if found != expected:
        raise VixmlError(
            "these are the predictions of something else",
            where=predictions_dir,
            found=", ".join(f"{key} {value}" for key, value in found.items()),
            expected=", ".join(f"{key} {value}" for key, value in expected.items()),
            hint="pass the predictions of the run, seed and split that is scored",
        )
    # Rows of train that were held out, for split validation and no other.
    present, said = holds(predictions_dir, "rows.npy"), {True: "present", False: "missing"}
    what, where = f"not the predictions of the {expected['split']} split", Path(predictions_dir) / "rows.npy"
    wanted = said[expected["split"] == "validation"]
    expect_equal(said[present], wanted, what, where=where, hint="predict again for this split")
    return config


def _check_depth(predictions: Predictions, folder: Path, depth: int) -> None:
    if predictions.labels.shape[1] < depth:
        # Counting what was never retrieved as wrong would print a recall that looks measured.
        what, found = f"too few labels were kept for metrics at {depth}", f"{predictions.labels.shape[1]} per query"
        hint = f"set inference.top_k of the run to {depth}, or score at smaller k"
        raise VixmlError(what, where=folder / "labels.npy", found=found, expected=f"{depth} or more", hint=hint)


# --- Breakdown of a score: by frequency of labels, and by queries and labels with and without an image.

N_GROUPS = 10
BROKEN_DOWN = (1, 5)  # k of the P@k that are broken down


def frequency_deciles(train_counts: np.ndarray) -> np.ndarray:
    """Sort labels into ten groups, (n_labels,) int64, rarest 0, that each hold about a tenth of the training *pairs*.

    Groups have equal volume, not equal numbers of labels: half of all labels may have a few per cent of the pairs. Labels
    of one frequency stay together, so a group may be empty where one frequency has more than a tenth of all pairs.

    Args:
        train_counts: (n_labels,) number of training queries with each label.

    Example:
        >>> frequency_deciles(np.array([1, 18, 1, 0])).tolist()
        [0, 5, 0, 0]
    """
    volume = np.bincount(train_counts, weights=train_counts)
    # A frequency belongs where the middle of its pairs lies.
    middle = np.cumsum(volume) - volume / 2
    group = np.minimum(N_GROUPS * middle / max(volume.sum(), 1), N_GROUPS - 1).astype(np.int64)
    return group[train_counts]


def break_down(
    predictions: np.ndarray,
    truth: Ragged,
    train_counts: np.ndarray,
    query_has_image: np.ndarray,
    label_has_image: np.ndarray,
    *,
    filter: Ragged | None = None,
) -> dict[str, Any]:
    """Split P@k by label frequency and by images.

    Contributions are in percent and add up to P@k: a contribution is the share of all ``n_queries * k`` positions that a
    true label *of that group* fills. For queries with and without an image P@1 is a mean within each side.

    Args:
        predictions, truth, filter: as in :func:`vixml.evaluation.metrics.evaluate`.
        train_counts: (n_labels,) training frequency of each label.
        query_has_image: (n_queries,) bool.
        label_has_image: (n_labels,) bool.

    Returns:
        ``by_frequency`` (a list of ten groups, rarest labels first), ``by_label_image`` and ``by_query_image``
        (``with``, ``without``).
    """
    decile = frequency_deciles(train_counts)
    with_image = label_has_image.astype(np.int64)
    by_decile = {k: np.zeros(N_GROUPS) for k in BROKEN_DOWN}
    by_image = {k: np.zeros(2) for k in BROKEN_DOWN}
    right = np.zeros(2)
    for chunk in hits_in_chunks(predictions, truth, filter, checked=True):
        for k in BROKEN_DOWN:
            found = chunk.labels[:, :k][chunk.hits[:, :k]]
            by_decile[k] += np.bincount(decile[found], minlength=N_GROUPS)
            by_image[k] += np.bincount(with_image[found], minlength=2)
        right += np.bincount(query_has_image[chunk.rows].astype(np.int64), weights=chunk.hits[:, 0], minlength=2)
    queries = np.bincount(query_has_image.astype(np.int64), minlength=2)
    pairs = np.bincount(decile[truth.values], minlength=N_GROUPS)

    def contributions(of: dict[int, np.ndarray], group: int) -> dict[str, float]:
        return {f"P@{k}": float(100 * of[k][group] / (len(truth) * k)) for k in BROKEN_DOWN}

    by_frequency = []
    for group in range(N_GROUPS):
        inside = train_counts[decile == group]
        counts = [int(inside.min()), int(inside.max())] if len(inside) else None
        about = {"n_labels": len(inside), "train_count": counts, "n_true_pairs": int(pairs[group])}
        by_frequency.append(about | {"contribution": contributions(by_decile, group)})
    true_pairs = np.bincount(with_image[truth.values], minlength=2)
    by_label_image, by_query_image = {}, {}
    for name, side in (("with", 1), ("without", 0)):
        about = {"n_labels": int((with_image == side).sum()), "n_true_pairs": int(true_pairs[side])}
        by_label_image[name] = about | {"contribution": contributions(by_image, side)}
        # A side without queries has no precision, which is not the same as a precision of 0.
        precision = float(100 * right[side] / queries[side]) if queries[side] else None
        by_query_image[name] = {"n_queries": int(queries[side]), "P@1": precision}
    return {"by_frequency": by_frequency, "by_label_image": by_label_image, "by_query_image": by_query_image}
