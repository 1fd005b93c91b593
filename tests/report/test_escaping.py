"""Titles and notes of a configuration are text in every format: no formula, no LaTeX command, no HTML or link."""

import pytest

from vixml.report.write_tables import escape
from vixml.text import cell_text, csv_cell, markdown, plain

HOSTILE = [
    '=HYPERLINK("http://a")',
    "+cmd|' /C calc'!A0",
    "@SUM(1)",
    "-x",
    "\t=1",
    "a\n\\input{b}",
    "<script>x</script>",
    "[a](javascript:x)",
    "\\[a](javascript:x)",
    "\\\\[a](javascript:x)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_in_each_format(text):
    assert str(csv_cell(text)).lstrip()[0] not in "=+-@"
    assert cell_text(csv_cell(text)) == text == cell_text(cell_text(csv_cell(csv_cell(text))))
    assert "\n" not in escape(text) and "\\input" not in escape(text)
    shown = plain(text)
    assert "\n" not in shown and "<" not in shown
    before = shown.split("[a]")[0] if "[a]" in shown else "\\"
    assert (len(before) - len(before.rstrip("\\"))) % 2, "an even number of backslashes would leave a link"
    assert len(markdown(["a"], [[text]]).splitlines()) == 3


@pytest.mark.parametrize("number", ["-0.50", "+1.25", "3", 4.5, "", "–", "1e-05"])
def test_numbers_stay_numbers(number):
    assert csv_cell(number) == number
