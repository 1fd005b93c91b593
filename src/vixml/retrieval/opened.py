"""Inputs of inference from one run: vectors of queries, labels and voters, of test or of the queries held out of train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vixml.config.run import Images, Inference
from vixml.data.corpus import Corpus, training_rows
from vixml.errors import VixmlError
from vixml.files import load_array
from vixml.images.embeddings import ImageEmbeddings
from vixml.manifest import holds
from vixml.ragged import Ragged
from vixml.retrieval.linear import LinearModel
from vixml.retrieval.ranking import LINEAR, Queries, adds_linear, searched_labels
from vixml.retrieval.search import rows_of
from vixml.retrieval.vote import with_images, with_lexical

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

HELD_OUT, TRAIN_AGAIN = "validation_rows.npy", "train the run again on this corpus"


@dataclass(frozen=True)
class OpenedRun:
    """The queries of one split, and what their labels are predicted from.

    Attributes:
        inputs: the folders ``index``, ``embeddings`` and ``lexical``, as far as inference needs them.
        seed: of the run; it draws the images of a control.
        rows: (n,) int64 rows of train: the queries are these, and the others vote; None: the test queries.
    """

    corpus: Corpus
    inputs: Mapping[str, Path]
    images: Images
    seed: int
    rows: np.ndarray | None = None
    memory_mb: float = 256

    @property
    def split(self) -> str:
        """Return the split of the corpus that the queries are of."""
        return "test" if self.rows is None else "train"

    @property
    def n(self) -> int:
        """Return the number of queries."""
        return self.corpus.n("test") if self.rows is None else len(self.rows)

    @cached_property
    def voter_rows(self) -> np.ndarray | None:
        """Return the rows of train that vote: held-out queries may not, or each would elect its own labels; None: all."""
        return None if self.rows is None else np.setdiff1d(np.arange(self.corpus.n("train")), self.rows)

    @property
    def filter(self) -> Ragged | None:
        """Return the pairs that are never predicted: n rows over labels."""
        pairs = self.corpus.filter(self.split)
        return pairs if self.rows is None else rows_of(pairs, self.rows)

    @property
    def truth(self) -> Ragged:
        """Return the true labels of the queries: n rows over labels."""
        labels = self.corpus.labels(self.split)
        return labels if self.rows is None else labels.take(self.rows)

    @property
    def voter_labels(self) -> Ragged:
        """Return the labels of the voters."""
        labels = self.corpus.labels("train")
        return labels if self.voter_rows is None else labels.take(self.voter_rows)

    def queries(self, how: Inference) -> Queries:
        """Return the queries' vectors."""
        own = slice(None) if self.rows is None else self.rows
        text = self._text(self.split)[own]
        votes = how.image_weight or how.lexical_weight
        voting = self._voting(self.split, how)[own] if votes else text
        return Queries(text, voting, self.features if adds_linear(how) else None)

    def texts(self, split: str, rows: np.ndarray | None) -> list[str]:
        """Return the texts of some rows of a split; None: all."""
        texts = self.corpus.texts(split)
        return texts if rows is None else [texts[row] for row in rows]

    @cached_property
    def linear(self) -> LinearModel:
        """Return a linear model, fitted to the voters."""
        return LinearModel.fit(self.texts("train", self.voter_rows), self.voter_labels)

    @cached_property
    def features(self) -> csr_matrix:
        """Return what the linear model reads of the queries."""
        return self.linear.features_of(self.texts(self.split, self.rows))

    def searched(self, how: Inference) -> dict[str, np.ndarray]:
        """Return what :func:`vixml.retrieval.ranking.rank_labels` ranks labels by; the same arrays at each call."""
        for name in searched_labels(how):
            if name not in self._searched:
                self._searched[name] = self.labels(name)
        return self._searched | ({LINEAR: self.linear.coefficients} if adds_linear(how) else {})

    @cached_property
    def _searched(self) -> dict[str, np.ndarray]:
        return {}

    def voters(self, how: Inference) -> np.ndarray:
        """Return the vectors of the training queries that vote: (v, d) float32."""
        vectors = self._voting("train", how)
        return vectors if self.voter_rows is None else vectors[self.voter_rows]

    def labels(self, name: str) -> np.ndarray:
        """Open the label vectors ``z`` or ``u``: (n_labels, dim) float32, memory-mapped.

        Raises:
            VixmlError: a method without prototypes has no ``z``.
        """
        path = self.inputs["index"] / f"label_{name}.npy"
        if name == "z" and not holds(path.parent, path.name):
            raise VixmlError(
                "this run has no prototypes to search",
                where=path,
                found="missing",
                expected="label_z.npy, which only a method with a prototype network leaves",
                hint="set inference.labels_as of the run to u",
            )
        return open_vectors(path, self.corpus.n_labels)

    def _text(self, split: str) -> np.ndarray:
        return open_vectors(self.inputs["index"] / f"{split}.npy", self.corpus.n(split))

    def _voting(self, split: str, how: Inference) -> np.ndarray:
        """Return the vectors of a split as training queries are compared: text, images and lexical vector."""
        vectors = self._text(split)
        if how.image_weight:
            embeddings = ImageEmbeddings.open(self.inputs["embeddings"])
            # As in training: a control is drawn by the run's seed.
            images = embeddings.images_of(self.corpus, split)
            lists = embeddings.lists(images, self.images.per_item, self.images.control, self.seed)
            vectors = with_images(vectors, embeddings, lists, how.image_weight, self.memory_mb)
        if how.lexical_weight:
            lexical = open_vectors(self.inputs["lexical"] / f"{split}.npy", self.corpus.n(split), np.float16)
            vectors = with_lexical(vectors, lexical, how.lexical_weight)
        return vectors


def open_vectors(path: Path, n: int, dtype: type = np.float32) -> np.ndarray:
    """Open vectors of a stage: (n, dim), memory-mapped.

    Raises:
        VixmlError: another number of vectors, or another type.
    """
    vectors = load_array(path)
    if vectors.ndim != 2 or len(vectors) != n or vectors.dtype != dtype:
        raise VixmlError(
            "an index does not belong to this corpus",
            where=path,
            found=f"shape {vectors.shape}, {vectors.dtype}",
            expected=f"({n}, dim) {np.dtype(dtype)}",
            hint="build it again from this corpus",
        )
    return vectors


def held_out_rows(trained: Path, n_train: int) -> np.ndarray:
    """Return the rows of train that a training held out: (n,) int64, one or more.

    Raises:
        VixmlError: rows of another corpus, or none.
    """
    path, hint = trained / HELD_OUT, "set training.validation of the run above 0, or predict split test"
    rows = training_rows(path, n_train, TRAIN_AGAIN)
    if not len(rows):
        raise VixmlError("this run held out no queries", where=path, found="0 rows", hint=hint)
    return rows
