"""Compare with other software on a corpus: PECOS XR-Linear and napkinXC's PLT on the TF-IDF that our linear model reads.

Scores and processor time. The two need versions of numpy and scipy that this project does not have, so they run in an environment
of their own:

    python3.11 -m venv peers
    peers/bin/pip install libpecos==1.2.8 napkinxc==0.7.2 "numpy<2" "scipy<1.14" "scikit-learn<1.7"
    python benchmarks/peers.py --python peers/bin/python --corpus results/data/picto/corpus
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from vixml.data.corpus import Corpus
from vixml.data.lexical import inverse_frequencies, tf_idf
from vixml.data.propensity import inverse_propensity
from vixml.evaluation.metrics import evaluate
from vixml.ragged import Ragged
from vixml.retrieval.linear import LinearModel, linear

OUT, TOP_K, SHOWN = measure.RESULTS / "peers.json", 100, ("P@1", "P@5", "PSP@1", "R@100")
# What runs there: `fit` and `predict` of each, with its defaults; the ranking is a matrix of scores.
COMMON = """
import sys, tempfile, time
from pathlib import Path
from scipy.sparse import csr_matrix, load_npz, save_npz
folder = Path(sys.argv[1])
train, test, labels = (load_npz(folder / f"{name}.npz") for name in ("train", "test", "labels"))
{peer}
begun = time.process_time()
model = fit(train, labels)
trained = time.process_time()
found = predict(model, test)
print(trained - begun, time.process_time() - trained)
save_npz(folder / "found.npz", as_matrix(found, test.shape[0]))
"""
PECOS = """
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel
def fit(train, labels):
    clusters = Indexer.gen(LabelEmbeddingFactory.create(labels, train, method="pifa"), indexer_type="hierarchicalkmeans")
    return XLinearModel.train(train, labels, C=clusters)
def predict(model, test):
    return model.predict(test, only_topk=100, beam_size=50)
as_matrix = lambda found, n: found
"""
NAPKINXC = """
from napkinxc.models import PLT
def fit(train, labels):
    model = PLT(tempfile.mkdtemp(dir=folder), seed=0, threads=1)
    model.fit(train, [row.indices.tolist() for row in labels])
    model.load()
    return model
def predict(model, test):
    return model.predict_proba(test, top_k=100)
def as_matrix(found, n):
    rows, labels, scores = zip(*((row, *one) for row, ranked in enumerate(found) for one in ranked))
    return csr_matrix((scores, (rows, labels)), shape=(n, max(labels) + 1))
"""


def peer(
    python: str, code: str, train: csr_matrix, test: csr_matrix, labels: csr_matrix
) -> tuple[np.ndarray, float, float]:
    """Return the ranking of other software with its defaults, (n, TOP_K) int32, and seconds of training and prediction."""
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in (("train", train), ("test", test), ("labels", labels)):
            save_npz(Path(folder, f"{name}.npz"), matrix)
        # Not this project's packages.
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [python, "-c", COMMON.replace("{peer}", code), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
        found = load_npz(Path(folder, "found.npz")).tocsr()
    ranked = np.full((found.shape[0], TOP_K), -1, np.int32)
    for row in range(len(ranked)):
        here = slice(found.indptr[row], found.indptr[row + 1])
        best = np.argsort(-found.data[here], kind="stable")[:TOP_K]
        ranked[row, : len(best)] = found.indices[here][best]
    return ranked, *map(float, done.stdout.split()[-2:])


def ours(texts: tuple[list[str], list[str]], labels: Ragged) -> tuple[np.ndarray, float, float]:
    """Return the ranking of the linear model likewise."""
    begun = time.process_time()
    model = LinearModel.fit(texts[0], labels)
    trained = time.process_time()
    ranked = linear(model.features(tf_idf(texts[1], model.weights)), model.coefficients, TOP_K)[0]
    return ranked, trained - begun, time.process_time() - trained


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with libpecos and napkinxc")
    parser.add_argument("--corpus", type=Path, default=Path("results/data/picto/corpus"))
    given = parser.parse_args()
    corpus = Corpus.load(given.corpus)
    texts, labels = (corpus.texts("train"), corpus.texts("test")), corpus.labels("train")
    weights = inverse_frequencies(texts[0])
    train, test = (tf_idf(some, weights).astype(np.float32) for some in texts)
    truth = csr_matrix(
        (np.ones(len(labels.values), np.float32), labels.values, labels.offsets), shape=(len(labels), labels.n_cols)
    )
    propensity = inverse_propensity(labels.counts(), len(labels), 0.6, 2.6)  # as config/datasets.yaml
    found = []
    for name, (ranked, training, query) in {
        "PECOS XR-Linear": peer(given.python, PECOS, train, test, truth),
        "napkinXC PLT": peer(given.python, NAPKINXC, train, test, truth),
        "linear model on TF-IDF": ours(texts, labels),
    }.items():
        scores = evaluate(ranked, corpus.labels("test"), propensity, filter=corpus.filter("test")).metrics
        found.append({"method": name, "training_s": training, "query_ms": 1e3 * query / len(ranked)})
        found[-1] |= {metric: scores[metric] for metric in SHOWN}
        print(f"{name}: " + ", ".join(f"{metric} {scores[metric]:.1f}" for metric in SHOWN), end="; ")
        print(f"{training:.1f} s of training, {1e3 * query / len(ranked):.2f} ms a query (processor time)")
    measure.record(OUT, {"benchmark": "peers", "corpus": given.corpus.parent.name, "rows": [], "methods": found})


if __name__ == "__main__":
    main()
