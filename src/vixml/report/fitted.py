"""The table that ``vixml fit`` ends with: baselines and trained runs on the test items, with intervals over items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vixml.config.project import Project
from vixml.data.corpus import Corpus
from vixml.evaluation.metrics import hits_in_chunks
from vixml.evaluation.predictions import load_predictions
from vixml.report.chosen import choice_sentence
from vixml.report.results import Result, load, t_quantile
from vixml.stages import place
from vixml.text import duration, markdown, milliseconds

BASELINES = ("popularity", "knn", "linear")
STARTED = " The earlier model that this training started from may have been trained on some of them, which scores it too high."


def fitted_table(project: Project, dataset: str, runs: Sequence[str], seed: int, tagger: str) -> str:
    """Return the table as Markdown, a sentence on the best baseline, and one on how inference was chosen.

    ``runs`` are in the order of the table; ``tagger`` is the one that tags new items.

    Raises:
        VixmlError: a run without a score.
    """
    folders = [place("score", project.results, dataset=dataset, run=run, seed=seed, split="test") for run in runs]
    found = {result.run: result for result in load(folders).all()}
    rows = []
    for run in runs:
        result, label = found[run], project.run(dataset, run).row.label or run
        hours = result.hours
        if hours is not None and (reused := found.get(project.run(dataset, run).reuse)) is not None:
            hours = hours - (reused.hours or 0.0) or None  # what came on top of a row of the table
        cells = [_with_error(result, metric) for metric in ("P@1", "P@5")]
        cells += [f"{result.metrics[metric]:.1f}" for metric in ("PSP@1", "R@10")]
        rows.append([label, *cells, duration(hours), milliseconds(result.query_ms)])
    n = found[tagger].n_queries
    lines = [markdown(["on the test items", "P@1", "P@5", "PSP@1", "R@10", "training", "query"], rows).rstrip()]
    lines += [
        f"Percent on {n:,} test items; ± half the 95 % interval over items."
        + STARTED * (project.run(dataset, tagger).start is not None),
        _against_baseline(project, found, tagger),
    ]
    return "\n".join([*lines, choice_sentence(found[tagger].scores["choice"])])


def _with_error(result: Result, metric: str) -> str:
    value, half = result.metrics[metric], result.half_interval(metric)
    return f"{value:.1f}" if half is None else f"{value:.1f} ± {half:.1f}"


def _against_baseline(project: Project, found: dict[str, Result], tagger: str) -> str:
    """Return the difference in P@1 from the best baseline, paired by item."""
    best = max((run for run in found if run in BASELINES), key=lambda run: found[run].metrics["P@1"], default=None)
    if best is None:
        return ""
    dataset = found[tagger].dataset
    corpus = Corpus.load(place("build-corpus", project.results, dataset=dataset))
    first, other = (best_labels(corpus, found[run], 1)[1][:, 0].astype(np.float64) for run in (tagger, best))
    gains = 100 * (first - other)
    gain, half = float(gains.mean()), 100.0
    if len(gains) > 1:
        half = t_quantile(len(gains) - 1) * float(gains.std(ddof=1)) / len(gains) ** 0.5
    label, own = (project.run(dataset, run).row.label or run for run in (best, tagger))
    word = "ahead of" if gain > half else "behind" if gain < -half else "not told apart from"
    return f"{own}: {word} the best baseline, {label} ({gain:+.1f} ± {half:.1f} points of P@1)."


def best_labels(corpus: Corpus, result: Result, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a run's best labels, (n_test, at most k) ids, -1 for none, and which of them are true."""
    # As in scoring, filtered labels are left out.
    labels = load_predictions(result.place("predict"), corpus.n("test"), corpus.n_labels).labels
    chunks = list(hits_in_chunks(labels, corpus.labels("test"), corpus.filter("test")))
    labels, hits = ([getattr(chunk, of)[:, :k] for chunk in chunks] for of in ("labels", "hits"))
    return np.concatenate(labels), np.concatenate(hits)
