"""Shared by the tests of the report."""

from types import SimpleNamespace

import pytest
from report_page import make_everything


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> SimpleNamespace:
    """Make a report of all that it can show, once per file: score folders, config, options, its folder and its text."""
    made = SimpleNamespace(**make_everything(tmp_path_factory.mktemp("everything")))
    made.text = (made.report / "report.html").read_text(encoding="utf-8")
    return made
