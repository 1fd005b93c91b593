"""A stated sample of test queries with their pictures and what each run answered: not picked by how they went."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import load_array
from vixml.images.store import ImageStore
from vixml.reproduce.results import Result, Results

N_QUERIES, N_LABELS, N_PICTURES, SEED = 12, 5, 3, 0


@dataclass(frozen=True)
class Answer:
    """One run's best labels for a query: (text, whether it is true)."""

    run: str
    labels: tuple[tuple[str, bool], ...]

    @property
    def hits(self) -> int:
        """Return how many of them are true."""
        return sum(hit for _, hit in self.labels)


@dataclass(frozen=True)
class Query:
    """One query of the gallery; pictures are data URIs with what to say of them."""

    row: int
    text: str
    pictures: tuple[tuple[str, str], ...]
    truth: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """The sample, how it was drawn, and which runs answered."""

    rule: str
    runs: tuple[tuple[str, int | None], ...]
    queries: tuple[Query, ...]


def sample(n_test: int) -> np.ndarray:
    """Return the rows shown: (at most 12,) int64 ascending, drawn without looking at any result."""
    return np.sort(np.random.default_rng(SEED).permutation(n_test)[:N_QUERIES])


def gallery(corpus_dir: Path, images_dir: Path, compare: Sequence[str], results: Results) -> Gallery:
    """Build the gallery.

    Args:
        corpus_dir: ``results/data/{dataset}/corpus``; names the dataset.
        images_dir: its image store.
        compare: runs side by side; one without results says "not run".
        results: what was measured; of each run the lowest seed answers.

    Raises:
        VixmlError: predictions that do not fit the corpus.
    """
    corpus, store = Corpus.load(corpus_dir), ImageStore.open(images_dir)
    dataset = Path(corpus_dir).absolute().parent.name
    texts, names = corpus.texts("test"), corpus.texts("label")
    truth, images = corpus.labels("test"), corpus.images("test")
    found = {run: next(iter(results.of(dataset, run)), None) for run in compare}
    best = {run: _predictions(result, corpus) for run, result in found.items() if result is not None}
    queries = []
    for row in sample(corpus.n("test")).tolist():
        true = set(truth.row(row).tolist())
        shown = [image for image in images.row(row).tolist() if image not in store.missing][:N_PICTURES]
        pictures = [
            (_data_uri(store.read(image)), f"{texts[row]}, picture {number} of {len(shown)}")
            for number, image in enumerate(shown, start=1)
        ]
        answers = [
            Answer(run, tuple((names[label], label in true) for label in labels[row].tolist() if label >= 0))
            for run, labels in best.items()
        ]
        named = tuple(names[label] for label in sorted(true))
        queries.append(Query(row, texts[row], tuple(pictures), named, tuple(answers)))
    rule = (
        f"{len(queries)} of {corpus.n('test'):,} test queries of {dataset}, drawn at random with seed {SEED} before any "
        "result was looked at; all of them are shown, in the order of the file."
    )
    runs = tuple((run, None if result is None else result.seed) for run, result in found.items())
    return Gallery(rule, runs, tuple(queries))


def _predictions(result: Result, corpus: Corpus) -> np.ndarray:
    path = result.folder.parent / "predictions" / "labels.npy"
    labels = load_array(path)
    if labels.ndim != 2 or len(labels) != corpus.n("test") or (labels.size and labels.max() >= corpus.n_labels):
        raise VixmlError(
            "predictions do not belong to the gallery's corpus",
            where=path,
            found=f"shape {labels.shape}, highest label {labels.max() if labels.size else 'none'}",
            expected=f"{corpus.n('test')} rows, labels below {corpus.n_labels}",
            hint="predict again; snakemake does so by itself",
        )
    return labels[:, :N_LABELS]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
