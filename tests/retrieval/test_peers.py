"""Other software as baselines: its ranking with pairs left out, and PECOS and napkinXC themselves, from the package index."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.ragged import Ragged
from vixml.retrieval import peers
from vixml.retrieval.peers import install_peers, rank_by_peer

WORDS = ("anchor", "bridge", "candle", "donkey", "engine", "forest", "garden", "hammer")
TEXTS = [f"{one} {other}" for one in WORDS for other in WORDS if one != other]
TRUE = [sorted({WORDS.index(word) for word in text.split()}) for text in TEXTS]


def test_the_best_of_each_row_by_score_then_id_without_filtered_pairs():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((40, 12)) < 0.6, rng.integers(1, 5, (40, 12)), 0).astype(np.float32)  # with ties
    filter = Ragged.from_rows([np.flatnonzero(rng.random(12) < 0.2) for _ in range(40)], 12)
    labels, scores = peers._best(csr_matrix(dense), 5, filter)
    for row, values in enumerate(dense):
        allowed = [label for label in np.flatnonzero(values) if label not in filter.row(row)]
        best = sorted(allowed, key=lambda label: (-values[label], label))[:5]
        assert labels[row].tolist() == best + [-1] * (5 - len(best))
        assert scores[row].tolist() == [values[label] for label in best] + [-np.inf] * (5 - len(best))


@pytest.mark.parametrize("found", ["raise SystemExit('no tree of 3 labels')", "import sys; sys.exit(7)"])
def test_software_that_fails_is_one_error(tmp_path, monkeypatch, found):
    program = tmp_path / "program.py"
    program.write_text(found)
    monkeypatch.setattr(peers, "PROGRAM", program)
    with pytest.raises(VixmlError, match="pecos failed") as error:
        rank_by_peer("pecos", tmp_path / "peers", (TEXTS, Ragged.from_rows(TRUE, 8)), TEXTS[:2], 3, 0)
    assert ("no tree of 3 labels" in str(error.value)) or "status 7" in str(error.value)


def test_what_pip_refuses_is_one_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PACKAGES", ("not a requirement",))
    with pytest.raises(VixmlError, match="cannot install PECOS and napkinXC"):
        install_peers(tmp_path / "peers")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "peers"
    install_peers(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["pecos", "napkinxc"])
def test_the_software_ranks_what_texts_name_and_the_same_seed_gives_the_same(installed, peer):
    assert len(read_json(installed / "manifest.json")["config"]["packages"]) == 8
    train, filter = (TEXTS, Ragged.from_rows(TRUE, 8)), Ragged.from_rows([[true[0]] for true in TRUE], 8)
    labels, scores, seconds = rank_by_peer(peer, installed, train, TEXTS, 6, 3)
    assert [sorted(row[:2].tolist()) for row in labels] == TRUE and min(seconds.values()) > 0
    assert labels.dtype == np.int32 and (np.diff(scores, axis=1) <= 0).all()
    again = rank_by_peer(peer, installed, train, TEXTS, 6, 3)
    assert np.array_equal(labels, again[0]) and np.array_equal(scores, again[1])
    left = rank_by_peer(peer, installed, train, TEXTS, 6, 3, filter)[0]
    assert [row[0] for row in left.tolist()] == [true[1] for true in TRUE]
    assert "pecos" not in sys.modules and "napkinxc" not in sys.modules
