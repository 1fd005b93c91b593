"""The stage ``score``: predictions and true labels in, ``scores.json`` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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
    corpus_dir: Path,
    predictions_dir: Path,
    entry: Dataset,
    dataset: str,
    run: str,
    seed: int,
    split: str,
    out: Path,
    *,
    ks: Sequence[int] = KS,
    deep_ks: Sequence[int] = DEEP_KS,
) -> None:
    """Write ``scores.json``: metrics in percent, what they were counted on, and where they come from.

    Propensities come from the counts of all training queries, for a validation split as well: they describe the data
    set, not the queries that a run happened to train on.

    Args:
        corpus_dir: the corpus.
        predictions_dir: predictions of this run, seed and split.
        entry: the data set in the registry: propensity constants, whether a filter must exist.
        dataset, run, seed, split: what is scored; checked against the predictions' manifest.
        out: folder to write.
        ks: where P, nDCG, PSP and PSnDCG are taken.
        deep_ks: where R, hit, MAP and MRR are taken.

    Raises:
        VixmlError: predictions of another run or split, damaged predictions, fewer columns than the largest k, a
            required filter that is missing.
    """
    identity = {"dataset": dataset, "run": run, "seed": seed, "split": split}
    origin = _check_origin(predictions_dir, identity)
    # Titles, sources and notes of the entry do not change a score; what does, stands here.
    config = {
        "dataset": dataset,
        "run": run,
        "seed": seed,
        "split": split,
        **entry.settings("score"),
        "ks": list(ks),
        "deep_ks": list(deep_ks),
    }
    with stage(out, "score", config=config, inputs={"corpus": corpus_dir, "predictions": predictions_dir}) as work:
        corpus = Corpus.load(corpus_dir, filter_required=entry.filter_required)
        source = "test" if split == "test" else "train"
        predictions = load_predictions(predictions_dir, corpus.n(source), corpus.n_labels)
        _check_depth(predictions, predictions_dir, max([*ks, *deep_ks]))
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
                "dataset": dataset,
                "run": run,
                "seed": seed,
                "split": split,
                # Predictions made before runs could reuse a model do not say; those runs used their own.
                "trained_as": origin.get("trained_as", run),
                **asdict(found),
                "ks": list(ks),
                "deep_ks": list(deep_ks),
                "n_labels": corpus.n_labels,
                "filtered": filter is not None,
                "breakdown": parts,
            },
        )


def _check_origin(predictions_dir: Path, expected: dict[str, object]) -> dict[str, object]:
    """Return the config that the predictions obeyed."""
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
            found=f"{predictions.labels.shape[1]} a query",
            expected=f"{depth} or more",
            hint=f"set inference.top_k of the run to {depth}, or score at smaller k",
        )
