"""Fixtures of the tests that compare a GPU with the processor; without a GPU the same tests compare the processor with itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import planted
import tiny_models


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """The planted data set, for a random BERT and for a random decoder."""
    folder, found = tmp_path_factory.mktemp("gpu"), {}
    for name, write in (
        ("encoder", tiny_models.write_bert),
        ("decoder", lambda out: tiny_models.write_decoder(out, "qwen2")),
    ):
        model_dir = planted.publish(folder / f"{name}-model", "prepare-model", write)
        found[name] = planted.write_task(folder / name, model_dir, causal=name == "decoder")
    return found
