"""Shared by the tests of the configuration: the planted data and small models of other rooms."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "training"), str(TESTS / "models")]
