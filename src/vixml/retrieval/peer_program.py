"""Fit other software to TF-IDF and rank labels: :mod:`vixml.retrieval.peers` runs this file, with that software's packages and none of ours.

    python -I -S peer_program.py PACKAGES PEER FOLDER SEED TOP_K

FOLDER holds ``train.npz``, ``test.npz`` (TF-IDF) and ``labels.npz`` (of train). Writes ``ranked.npz``, (n_test, n_labels) scores, and
``seconds.json``, of training and of all predictions. Everything is left at the software's defaults.
"""

import json
import sys
import tempfile
import time
from pathlib import Path


def pecos(train, labels, seed):
    """Return a function that ranks the labels of queries by XR-Linear, a tree of linear classifiers."""
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

    means = LabelEmbeddingFactory.create(labels, train, method="pifa")
    clusters = Indexer.gen(means, indexer_type="hierarchicalkmeans", seed=seed, threads=1)
    model = XLinearModel.train(train, labels, C=clusters, threads=1)
    return lambda test, top_k: model.predict(test, only_topk=top_k, beam_size=50, threads=1)


def napkinxc(train, labels, seed):
    """Return a function that ranks the labels of queries by a probabilistic label tree."""
    from napkinxc.models import PLT
    from scipy.sparse import csr_matrix

    model = PLT(tempfile.mkdtemp(dir="."), seed=seed, threads=1)
    model.fit(train, [row.indices.tolist() for row in labels])
    model.load()

    def rank(test, top_k):
        found = model.predict_proba(test, top_k=top_k)
        rows, columns, scores = zip(*((row, *one) for row, ranked in enumerate(found) for one in ranked), strict=True)
        return csr_matrix((scores, (rows, columns)), shape=(test.shape[0], labels.shape[1]))

    return rank


def main(packages, peer, folder, seed, top_k):
    """Fit, rank and write."""
    sys.path.insert(0, packages)
    from scipy.sparse import load_npz, save_npz

    train, test, labels = (load_npz(Path(folder, f"{name}.npz")) for name in ("train", "test", "labels"))
    begun = time.perf_counter()
    rank = {"pecos": pecos, "napkinxc": napkinxc}[peer](train, labels, int(seed))
    fitted = time.perf_counter()
    ranked = rank(test, int(top_k))
    done = time.perf_counter()
    save_npz(Path(folder, "ranked.npz"), ranked)
    Path(folder, "seconds.json").write_text(json.dumps({"training": fitted - begun, "prediction": done - fitted}))


if __name__ == "__main__":
    main(*sys.argv[1:])
