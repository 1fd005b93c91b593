"""Other software as baselines: PECOS XR-Linear and napkinXC's PLT, on the TF-IDF that our linear model reads.

Both need versions of numpy and scipy that this project does not have. The stage ``install-peers`` therefore puts them into a folder of
their own, and each ranks labels in a process that sees this folder alone (``peer_program.py``).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from vixml.data.download import pip_cause
from vixml.data.lexical import inverse_frequencies, tf_idf
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.provenance import stage
from vixml.ragged import Ragged
from vixml.retrieval import peer_program  # run by its path; imported so that digests cover it
from vixml.retrieval.search import no_labels

# Of what libpecos asks for, only what XR-Linear imports.
PACKAGES = (
    "libpecos==1.2.8",
    "napkinxc==0.7.2",
    "numpy==1.26.4",
    "scipy==1.13.1",
    "scikit-learn==1.6.1",
    "cloudpickle==3.1.3",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
)
PROGRAM = Path(peer_program.__file__)


def install_peers(out: Path) -> None:
    """Write a folder with :data:`PACKAGES` from the Python package index, as wheels: nothing of them is run.

    Raises:
        VixmlError: no network, or no wheels for this Python and platform.
    """
    with stage(out, "install-peers", config={"packages": PACKAGES}, inputs={}) as work:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--target", str(work), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise VixmlError(
                "cannot install PECOS and napkinXC",
                where=out,
                found=pip_cause(done.stderr),
                expected=f"wheels for Python {sys.version_info.major}.{sys.version_info.minor}",
                hint="check the network (pip's settings apply); both have wheels for Python 3.11 and 3.12 on Linux. Or take their runs out of "
                "the configuration",
            )


def rank_by_peer(
    peer: str,
    packages: Path,
    train: tuple[Sequence[str], Ragged],
    texts: Sequence[str],
    top_k: int,
    seed: int,
    filter: Ragged | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Fit other software to training texts, and rank labels.

    Args:
        peer: ``pecos`` or ``napkinxc``.
        packages: folder of the stage ``install-peers``.
        train: texts and their labels.
        texts: n queries.
        top_k, filter: as in :func:`vixml.retrieval.search.search`.
        seed: of its clusters or its tree.

    Returns:
        ``(labels, scores, seconds)``: (n, top_k) int32, best first, ties by smaller id, -1 where it ranked no more; (n, top_k) float32,
        -inf there; seconds of ``training`` and ``prediction``, without reading and writing.

    Raises:
        VixmlError: the software failed.
    """
    known, labels = train
    weights = inverse_frequencies(known)
    values = np.ones(len(labels.values), np.float32)
    matrices = {
        "train": tf_idf(known, weights),
        "test": tf_idf(texts, weights),
        "labels": csr_matrix((values, labels.values, labels.offsets), shape=(len(labels), labels.n_cols)),
    }
    more = 0 if filter is None else int(filter.lengths.max(initial=0))
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in matrices.items():
            save_npz(Path(folder, f"{name}.npz"), matrix.astype(np.float32), compressed=False)
        # Without this project's packages, and without writing into theirs.
        arguments = [str(packages.resolve()), peer, folder, str(seed), str(min(top_k + more, labels.n_cols))]
        command = [sys.executable, "-B", "-I", "-S", str(PROGRAM), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise VixmlError(
                f"{peer} failed",
                where=packages,
                found=(done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1],
                hint=f"if its packages are damaged, remove {packages}; or take the run out of the configuration",
            )
        ranked, seconds = load_npz(Path(folder, "ranked.npz")).tocsr(), read_json(Path(folder, "seconds.json"))
    return *_best(ranked, top_k, filter), seconds


def _best(ranked: csr_matrix, top_k: int, filter: Ragged | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``top_k`` of each row of scores, without the pairs of ``filter``."""
    ranked.sort_indices()  # so that ties are in the order of ids
    labels, scores = no_labels(ranked.shape[0], top_k)
    for row in range(len(labels)):
        here = slice(ranked.indptr[row], ranked.indptr[row + 1])
        ids, values = ranked.indices[here], ranked.data[here]
        if filter is not None:
            kept = ~np.isin(ids, filter.row(row))
            ids, values = ids[kept], values[kept]
        best = np.argsort(-values, kind="stable")[:top_k]
        labels[row, : len(best)], scores[row, : len(best)] = ids[best], values[best]
    return labels, scores
