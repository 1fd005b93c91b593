"""Shared fixtures of the tests of data."""

from __future__ import annotations

import picto_wheels
import pytest

from vixml.data.build import build_corpus


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")


@pytest.fixture(scope="session")
def picto(tmp_path_factory):
    """A small PICTO, built by the stage from small wheels: (folder, raw folder, sources)."""
    root = tmp_path_factory.mktemp("picto")
    sources = picto_wheels.make_raw(root / "raw")
    build_corpus("picto", picto_wheels.dataset(), sources, root / "raw", root / "corpus")
    return root / "corpus", root / "raw", sources
