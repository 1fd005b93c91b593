"""Lexical vectors: those of scikit-learn's own TF-IDF, up to the noise of hashing."""

from __future__ import annotations

import numpy as np
import pytest
from corpus_data import CorpusData, Items
from helpers import run_stage
from sklearn.feature_extraction.text import TfidfVectorizer

from vixml.data.lexical import DIM, fold, inverse_frequencies, lexical_vectors, tf_idf
from vixml.errors import VixmlError
from vixml.files import load_array
from vixml.provenance import stage
from vixml.ragged import Ragged

TEXTS = [
    "Fishing rod, 2 m",
    "fishing net",
    "Tent for three",
    "",
    "a",
    "rod rod rod holder",
    "Zelt für drei",
    "東京 タワー",
]


def naive(texts: list[str]) -> np.ndarray:
    """Return TF-IDF with a dictionary of terms instead of hashes: words and n-grams, each part of length 1."""
    parts = []
    for options in (
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"analyzer": "char_wb", "ngram_range": (2, 5)},
    ):
        parts.append(TfidfVectorizer(sublinear_tf=True, **options).fit_transform(texts).toarray())
    both = np.concatenate(parts, axis=1)
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)


def test_inner_products_are_those_of_tf_idf():
    weights, expected = inverse_frequencies(TEXTS), naive(TEXTS)
    exact = tf_idf(TEXTS, weights)
    np.testing.assert_allclose((exact @ exact.T).toarray(), expected @ expected.T, atol=1e-5)
    hashed = lexical_vectors(TEXTS, weights).astype(np.float32)
    assert hashed.shape == (len(TEXTS), DIM)
    assert np.abs(hashed @ hashed.T - expected @ expected.T).max() < 5 / DIM**0.5
    lengths = np.linalg.norm(hashed, axis=1)
    np.testing.assert_allclose(lengths[[0, 1, 2, 5, 7]], 1, atol=2e-3)
    assert lengths[3] == 0


def test_a_vector_does_not_depend_on_the_texts_beside_it(monkeypatch):
    weights = inverse_frequencies(TEXTS)
    alone = np.concatenate([lexical_vectors([text], weights) for text in TEXTS])
    monkeypatch.setattr("vixml.data.lexical.AT_ONCE", 3)
    assert np.array_equal(lexical_vectors(TEXTS, weights), alone)
    assert fold(tf_idf([], weights)).shape == (0, DIM)
    assert np.array_equal(inverse_frequencies(TEXTS), weights)
    with pytest.raises(VixmlError, match="do not fit"):
        lexical_vectors(TEXTS, weights[:, :9])


def test_the_stage_weighs_by_train_alone(tmp_path):
    sizes = {"train": TEXTS, "test": ["fishing boat", "Tent"], "label": ["x"]}
    data = CorpusData(
        items={split: Items.of(texts) for split, texts in sizes.items()},
        labels={split: Ragged.from_rows([[0]] * len(sizes[split]), 1) for split in ("train", "test")},
        image_keys=[],
        image_sources=[],
        images={split: Ragged.from_rows([[]] * len(texts), 0) for split, texts in sizes.items()},
        filters={},
    )
    corpus = tmp_path / "data/shop/corpus"
    with stage(corpus, "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    run_stage("hash-texts", "picto", "--corpus", corpus, "--out", tmp_path / "lexical")
    weights = load_array(tmp_path / "lexical/weights.npy")
    assert np.array_equal(weights, inverse_frequencies(TEXTS))
    for split in ("train", "test"):
        assert np.array_equal(load_array(tmp_path / f"lexical/{split}.npy"), lexical_vectors(sizes[split], weights))
