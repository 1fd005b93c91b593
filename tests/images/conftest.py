"""Shared fixtures of the tests of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from images_helpers import EFFICIENTNET_WHEEL, random_network

from vixml.images.vision import VisionEncoder, efficientnet_lite0


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")
    # Cores are shared.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def encoder() -> VisionEncoder:
    """An encoder over seeded random weights, for images of 32 pixels."""
    return efficientnet_lite0("random", random_network(), 32)


@pytest.fixture(scope="session")
def weights() -> Path:
    """The published weights, where they were downloaded (or VIXML_RAW points to them)."""
    for folder in (os.environ.get("VIXML_RAW"), Path(__file__).parents[2] / "results" / "raw"):
        if folder and (Path(folder) / EFFICIENTNET_WHEEL).exists():
            return Path(folder) / EFFICIENTNET_WHEEL
    pytest.skip(f"{EFFICIENTNET_WHEEL} is not here: run `vixml download`, or set VIXML_RAW to its folder")
