"""Models to serve: the shop's, which the tests of tagging share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from vixml.tagging.tagger import Tagger

_spec = importlib.util.spec_from_file_location("tagging_conftest", Path(__file__).parents[1] / "tagging/conftest.py")
tagging_conftest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tagging_conftest)
shop, packed, _quiet = (getattr(tagging_conftest, name) for name in ("shop", "packed", "_quiet"))


@pytest.fixture(scope="module")
def taggers(packed) -> Callable[[str], Tagger]:
    """Return a function that loads a run's model, once per file of tests."""
    loaded: dict[str, Tagger] = {}

    def of(run: str) -> Tagger:
        if run not in loaded:
            loaded[run] = Tagger.load(packed(run))
        return loaded[run]

    return of
