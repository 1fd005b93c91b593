"""Folders for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest
from result_files import copy_config


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """Return a copy of the project's config."""
    copy_config(tmp_path / "config")
    return tmp_path / "config"
