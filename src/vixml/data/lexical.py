"""Lexical vectors of texts: TF-IDF of words and character n-grams, hashed to a fixed length.

A dense encoder finds texts that mean the same, a lexical one those that share words and spellings: names, codes, rare terms.
Inner products of hashed vectors are those of the TF-IDF vectors up to noise of about 1 / sqrt(DIM) (feature hashing: Weinberger et
al., ICML 2009, arXiv:0902.2206), so that they can stand beside dense vectors in one exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vixml.data.corpus import QUERY_SPLITS, Corpus
from vixml.errors import expect_equal
from vixml.files import save_array
from vixml.provenance import stage

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BITS = 9
DIM = 1 << BITS
BUCKETS = 1 << 18
NGRAMS = {"word": (1, 2), "char_wb": (2, 5)}  # as sklearn names them
AT_ONCE = 4096


def hash_texts(corpus_dir: Path | str, out: Path | str) -> None:
    """Write ``train.npy``, ``test.npy`` (:func:`lexical_vectors`) and ``weights.npy`` (:func:`inverse_frequencies`)."""
    with stage(out, "hash-texts", config={}, inputs={"corpus": corpus_dir}) as work:
        corpus = Corpus.load(corpus_dir)
        weights = inverse_frequencies(corpus.texts("train"))
        save_array(work / "weights.npy", weights)
        for split in QUERY_SPLITS:
            save_array(work / f"{split}.npy", lexical_vectors(corpus.texts(split), weights))


def term_counts(texts: Sequence[str], analyzer: str) -> csr_matrix:
    """Count the hashed terms of each text: (n, BUCKETS), damped to ``1 + log(count)``."""
    from sklearn.feature_extraction.text import HashingVectorizer  # slow to import

    pattern = {"token_pattern": r"(?u)\b\w+\b"} if analyzer == "word" else {}
    vectorizer = HashingVectorizer(
        analyzer=analyzer, ngram_range=NGRAMS[analyzer], n_features=BUCKETS, alternate_sign=False, norm=None, dtype=np.float32, **pattern
    )  # fmt: skip
    counts = vectorizer.transform(texts)
    np.log(counts.data, out=counts.data)
    counts.data += 1
    return counts


def inverse_frequencies(texts: Sequence[str]) -> np.ndarray:
    """Return the weight of each hashed term, ``1 + log((1 + n) / (1 + texts with it))``: (2, BUCKETS) float32."""
    found = np.zeros((len(NGRAMS), BUCKETS), np.int64)
    for start in range(0, len(texts), AT_ONCE):
        for kind, analyzer in enumerate(NGRAMS):
            found[kind] += np.bincount(term_counts(texts[start : start + AT_ONCE], analyzer).indices, minlength=BUCKETS)
    return (1 + np.log((1 + len(texts)) / (1 + found))).astype(np.float32)


def tf_idf(texts: Sequence[str], weights: np.ndarray) -> csr_matrix:
    """Return the TF-IDF vectors of texts: (n, 2 BUCKETS) float32 unit rows; words and n-grams count alike."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.preprocessing import normalize

    expect_equal(weights.shape, (len(NGRAMS), BUCKETS), "weights of terms do not fit", where="lexical vectors")
    if not len(texts):  # which scikit-learn does not expect
        return csr_matrix((0, len(NGRAMS) * BUCKETS), dtype=np.float32)
    parts = []
    for analyzer, weight in zip(NGRAMS, weights, strict=True):
        counts = term_counts(texts, analyzer)
        counts.data *= weight[counts.indices]
        parts.append(normalize(counts, copy=False))
    return normalize(hstack(parts, format="csr"), copy=False)


def lexical_vectors(texts: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Return the hashed TF-IDF vectors of texts: (n, DIM) float16 unit rows, zero for a text without a term.

    ``weights`` are the :func:`inverse_frequencies` of the training texts.

    Example:
        >>> texts = ["fishing rod", "fishing net", "tent"]
        >>> found = lexical_vectors(texts, inverse_frequencies(texts)).astype(np.float32)
        >>> (found @ found.T).astype(float).round(1).tolist()
        [[1.0, 0.4, 0.0], [0.4, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    out = np.zeros((len(texts), DIM), np.float16)
    for start in range(0, len(texts), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        out[some] = fold(tf_idf(texts[some], weights))
    return out


def fold(vectors: csr_matrix) -> np.ndarray:
    """Return the lexical vectors of texts with these TF-IDF vectors (:func:`tf_idf`): (n, DIM) float16."""
    from sklearn.preprocessing import normalize

    if not vectors.shape[0]:  # which scikit-learn does not expect
        return np.zeros((0, DIM), np.float16)
    return normalize(vectors @ _folding(), copy=False).toarray().astype(np.float16)


@cache
def _folding() -> csr_matrix:
    """Return which column each term falls into, with a sign: (2 BUCKETS, DIM) float32."""
    from scipy.sparse import csr_matrix

    # Fibonacci hashing: the first bits of the product choose the column, the next one the sign.
    mixed = np.arange(1, len(NGRAMS) * BUCKETS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    column = (mixed >> np.uint64(64 - BITS)).astype(np.int64)
    sign = np.where(mixed >> np.uint64(63 - BITS) & np.uint64(1), 1, -1).astype(np.float32)
    return csr_matrix((sign, (np.arange(len(column)), column)), shape=(len(column), DIM))
