"""Shared fixtures of the models room."""

from __future__ import annotations

import pytest
import tiny_models
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a random BERT with dropout 0.1."""
    return tiny_models.write_bert(tmp_path_factory.mktemp("bert"))
