"""Compare with other software on a corpus: PECOS XR-Linear on the TF-IDF that our linear model reads; scores and processor time.

PECOS needs versions of numpy and scipy that this project does not have, so it runs in an environment of its own:

    python3.11 -m venv pecos && pecos/bin/pip install libpecos==1.2.8 "numpy<2" "scipy<1.14" "scikit-learn<1.7"
    python benchmarks/peers.py --python pecos/bin/python --corpus results/data/picto/corpus
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
PECOS = """
import sys, time
from pathlib import Path
from scipy.sparse import load_npz, save_npz
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel
folder = Path(sys.argv[1])
train, test, labels = (load_npz(folder / f"{name}.npz") for name in ("train", "test", "labels"))
begun = time.process_time()
clusters = Indexer.gen(LabelEmbeddingFactory.create(labels, train, method="pifa"), indexer_type="hierarchicalkmeans")
model = XLinearModel.train(train, labels, C=clusters)
trained = time.process_time()
found = model.predict(test, only_topk=100, beam_size=50)
print(trained - begun, time.process_time() - trained)
save_npz(folder / "found.npz", found)
"""


def pecos(python: str, train: csr_matrix, test: csr_matrix, labels: csr_matrix) -> tuple[np.ndarray, float, float]:
    """Return the ranking of PECOS XR-Linear with its defaults, (n, TOP_K) int32, and seconds of training and prediction."""
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in (("train", train), ("test", test), ("labels", labels)):
            save_npz(Path(folder, f"{name}.npz"), matrix)
        # Not this project's packages.
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run([python, "-c", PECOS, folder], check=True, capture_output=True, text=True, env=env)
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
    parser.add_argument("--python", required=True, help="of an environment with libpecos")
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
        "PECOS XR-Linear": pecos(given.python, train, test, truth),
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
