"""Shared fixtures of the training room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import planted
import tiny_models


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a random BERT with dropout 0.1, published as a stage writes it."""
    return planted.publish(tmp_path_factory.mktemp("models") / "tiny", "prepare-model", tiny_models.write_bert)


@pytest.fixture(scope="session")
def decoder_task(tmp_path_factory):
    """The same data set for a random decoder."""
    folder = tmp_path_factory.mktemp("models") / "decoder"
    planted.publish(folder, "prepare-model", lambda out: tiny_models.write_decoder(out, "llama"))
    return planted.write_task(tmp_path_factory.mktemp("decoder-planted"), folder, causal=True)


@pytest.fixture(scope="session")
def task(tmp_path_factory, tiny_bert):
    """A data set whose labels only word and image together tell apart."""
    return planted.write_task(tmp_path_factory.mktemp("planted"), tiny_bert)
