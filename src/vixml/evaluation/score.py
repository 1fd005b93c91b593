"""The stage ``score``: predictions and true labels in, ``scores.json`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vixml.config.registry import Dataset
from vixml.data.corpus import Corpus
from vixml.data.propensity import inverse_propensity
from vixml.errors import VixmlError
from vixml.evaluation.breakdown import break_down
from vixml.evaluation.metrics import DEEP_KS, KS, evaluate
from vixml.evaluation.predictions import Predictions, load_predictions
from vixml.files import write_json
from vixml.provenance import read_manifest, stage

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
        out: folder to write.
        ks: where P, nDCG, PSP and PSnDCG are taken.
        deep_ks: where R, hit, MAP and MRR are taken.

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
        found = evaluate(predictions.labels, truth, weights, filter=filter, ks=ks, deep_ks=deep_ks)
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
                **cutoffs,
                "n_labels": corpus.n_labels,
                "filtered": filter is not None,
                "breakdown": parts,
            },
        )


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
    rows = Path(predictions_dir) / "rows.npy"
    if rows.exists() != (expected["split"] == "validation"):
        raise VixmlError(
            f"not the predictions of the {expected['split']} split",
            where=rows,
            found="present" if rows.exists() else "missing",
            expected="rows of train that were held out, for split validation and no other",
            hint="predict again for this split",
        )
    return config


def _check_depth(predictions: Predictions, folder: Path, depth: int) -> None:
    if predictions.labels.shape[1] < depth:
        # Counting what was never retrieved as wrong would print a recall that looks measured.
        raise VixmlError(
            f"too few labels were kept for metrics at {depth}",
            where=folder / "labels.npy",
            found=f"{predictions.labels.shape[1]} per query",
            expected=f"{depth} or more",
            hint=f"set inference.top_k of the run to {depth}, or score at smaller k",
        )
