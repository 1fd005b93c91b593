"""Test queries with their pictures and what each run answered: a sample drawn blind, then the extremes, said to be so."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.evaluation.hits import hits_in_chunks
from vixml.files import load_array
from vixml.images.store import ImageStore
from vixml.reproduce.results import Result, Results

N_QUERIES, N_LABELS, N_PICTURES, SEED = 12, 5, 3, 0
N_EXTREMES = 6
PIXELS = 128  # pictures are shown at 56: enough for a sharp screen, and the page stays small


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
class Part:
    """Queries chosen by one rule, which the page states; ``by_outcome`` says whether the rule looks at results."""

    key: str
    title: str
    rule: str
    by_outcome: bool
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Gallery:
    """Which runs answered (with the seed, None if it was not run), how they compare on all queries, and the parts."""

    dataset: str
    runs: tuple[tuple[str, int | None], ...]
    balance: str
    parts: tuple[Part, ...]

    @property
    def queries(self) -> tuple[Query, ...]:
        """Return the queries of the sample that was drawn before any result was looked at."""
        return self.parts[0].queries


@dataclass(frozen=True)
class _Top:
    """The best labels of one run: (n_test, at most 5) ids, -1 for none, and which of them are true."""

    labels: np.ndarray
    hits: np.ndarray


def sample(n_test: int) -> np.ndarray:
    """Return the rows shown: (at most 12,) int64 ascending, drawn without looking at any result."""
    return np.sort(np.random.default_rng(SEED).permutation(n_test)[:N_QUERIES])


def extremes(gain: np.ndarray, count: int = N_EXTREMES) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with the largest gains and those with the largest losses, the largest first, ties by row.

    Args:
        gain: (n_test,) hits of one run less those of the other.
        count: at most so many of each; a row without a gain (or loss) is in neither.

    Example:
        >>> [rows.tolist() for rows in extremes(np.array([0, 2, -1, 3, 2]), 2)]
        [[3, 1], [2]]
    """
    order, back = np.argsort(-gain, kind="stable"), np.argsort(gain, kind="stable")
    return order[gain[order] > 0][:count], back[gain[back] < 0][:count]


def gallery(corpus_dir: Path, images_dir: Path, compare: Sequence[str], results: Results) -> Gallery:
    """Build the gallery.

    Args:
        corpus_dir: ``results/data/{dataset}/corpus``; names the dataset.
        images_dir: its image store.
        compare: runs side by side; one without results says "not run". Gains and losses are of the second over the first.
        results: what was measured; of each run the lowest seed answers.

    Raises:
        VixmlError: predictions that do not fit the corpus.
    """
    corpus, store = Corpus.load(corpus_dir), ImageStore.open(images_dir)
    dataset = Path(corpus_dir).absolute().parent.name
    found = {run: next(iter(results.of(dataset, run)), None) for run in compare}
    tops = {run: _top(result, corpus) for run, result in found.items() if result is not None}
    texts, names = corpus.texts("test"), corpus.texts("label")
    truth, images = corpus.labels("test"), corpus.images("test")

    def query(row: int) -> Query:
        shown = [image for image in images.row(row).tolist() if image not in store.missing][:N_PICTURES]
        pictures = [
            (_data_uri(store.read(image)), f"{texts[row]}, picture {number} of {len(shown)}")
            for number, image in enumerate(shown, start=1)
        ]
        answers = [
            Answer(run, tuple((names[label], bool(hit)) for label, hit in _answered(top, row)))
            for run, top in tops.items()
        ]
        named = tuple(names[label] for label in sorted(truth.row(row).tolist()))
        return Query(row, texts[row], tuple(pictures), named, tuple(answers))

    n_test, blind = corpus.n("test"), sample(corpus.n("test")).tolist()
    rule = (
        f"{len(blind)} of {n_test:,} test queries of {dataset}, drawn at random with seed {SEED} before any "
        "result was looked at; all of them are shown, in the order of the file."
    )
    parts, balance = [Part("sample", "A sample drawn blind", rule, False, tuple(map(query, blind)))], ""
    if len(compare) > 1 and all(run in tops for run in compare[:2]):
        first, second = compare[:2]
        gain = tops[second].hits.sum(1).astype(np.int64) - tops[first].hits.sum(1)
        more, fewer = int((gain > 0).sum()), int((gain < 0).sum())
        balance = (
            f"Of all {n_test:,} test queries, {second} has more hits among its {N_LABELS} best labels than {first} in "
            f"{more:,}, fewer in {fewer:,}, and as many in {n_test - more - fewer:,}."
        )
        kinds = (("gains", "The largest gains", "most"), ("losses", "The largest losses", "fewest"))
        for (key, title, word), rows in zip(kinds, extremes(gain), strict=True):
            rule = (
                f"Picked by outcome, so it says what can happen and not how often: the {len(rows)} queries where {second} "
                f"has the {word} hits among its {N_LABELS} best labels relative to {first}, ties in the order of the file."
            )
            parts.append(Part(key, title, rule, True, tuple(map(query, rows.tolist()))))
    runs = tuple((run, None if result is None else result.seed) for run, result in found.items())
    return Gallery(dataset, runs, balance, tuple(parts))


def _answered(top: _Top, row: int) -> list[tuple[int, bool]]:
    pairs = zip(top.labels[row].tolist(), top.hits[row].tolist(), strict=True)
    return [(label, hit) for label, hit in pairs if label >= 0]


def _top(result: Result, corpus: Corpus) -> _Top:
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
    # As it is scored: what the filter takes out is not shown either.
    chunks = list(hits_in_chunks(labels, corpus.labels("test"), corpus.filter("test")))
    return _Top(
        np.concatenate([chunk.labels[:, :N_LABELS] for chunk in chunks]),
        np.concatenate([chunk.hits[:, :N_LABELS] for chunk in chunks]),
    )


def _data_uri(png: bytes) -> str:
    """Return a picture as part of the page, made smaller where it is larger than shown."""
    with Image.open(io.BytesIO(png)) as picture:
        if max(picture.size) > PIXELS:
            smaller = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
            smaller.thumbnail((PIXELS, PIXELS))
            stream = io.BytesIO()
            smaller.save(stream, format="PNG", optimize=True)
            png = stream.getvalue()
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
