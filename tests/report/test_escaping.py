"""Titles and notes of a configuration are text in every format: no formula, no LaTeX command, no HTML or link."""

import pytest

from vixml.errors import VixmlError
from vixml.progress import warn
from vixml.report.figures import STYLE
from vixml.report.pages import print_summary, readme_table
from vixml.report.write_tables import escape
from vixml.text import cell_text, csv_cell, markdown, plain, shown

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
    "\ufeff=1", "\u200b=1", "\x00=1", "\uff1d1", "\u202e=1", "\x1b]0;x\x07",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_in_each_format(text):
    seen = [sign for sign in str(csv_cell(text)) if sign.isprintable() and not sign.isspace()]
    assert seen[0] not in "=+-@\uff1d"
    assert not set("\x00\x1b\x07\u202e") & set(escape(text) + plain(text))
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


@pytest.mark.parametrize(
    "text", ["# x", "> x", "- x", "1. x", "---", "~~~", "```", "* x", "&copy;", "http://a", "www.a.b"]
)
def test_a_title_begins_no_block_and_is_no_link_or_entity(text):
    shown = plain(text)
    assert shown != text and not shown.startswith(
        ("# ", "> ", "- ", "1. ", "---", "~~~", "```", "* ", "&copy", "http://")
    )
    assert "www." not in shown
    assert plain("R&D, C# and -5 in 3.5 mm") == "R&D, C# and -5 in 3.5 mm"


@pytest.mark.parametrize("text", ["ask a.b@c.org", "ftp://a.b", "FTP://a.b"])
def test_an_address_is_no_link(text):
    assert "&#8203;" in plain(text) and plain("P@1, me@home") == "P@1, me@home"


TERMINAL = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e[/x] [bold] :smile: $x^{"


def test_a_terminal_obeys_no_text(capsys):
    row = {"block": TERMINAL, "label": TERMINAL, "n": 1, "hours": None, "verdict": "new"}
    origin = {"n_queries": {}, "commits": []}
    print_summary(
        {"rows": [row], "metrics": [], "origin": origin},
        published=TERMINAL.removeprefix("\x1b]0;x\x07\x1b[2J\x9b31m\u202e"),
    )
    warn(TERMINAL)
    print(VixmlError("a", where=TERMINAL, found=TERMINAL), shown(f"a\n{TERMINAL}\rb"))
    said = "".join(capsys.readouterr())
    assert not set("\x1b\x07\x9b\u202e\r") & set(said) and said.count("[/x]") > 4 and "\U0001f604" not in said


def test_a_table_of_a_page_is_text():
    row = {"block": "<b>", "label": "[a](javascript:x)", "n": 1, "hours": None, "verdict": "new", "metrics": {}}
    page = readme_table({"rows": [row], "metrics": ["P@1"], "origin": {"n_queries": {}, "commits": []}})
    assert "&lt;b>" in page and "\\[a]" in page


def test_a_dollar_in_a_figure_begins_no_formula(tmp_path):
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure = plt.figure()
        figure.text(0, 0, TERMINAL[-4:])
        figure.savefig(tmp_path / "a.svg")
        plt.close(figure)
