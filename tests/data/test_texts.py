"""The rules for texts: what a hostile or careless cell holds costs no more than its length."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vixml.data import texts
from vixml.data.texts import TextRules, repaired, without_html

LONG = 1 << 19  # patterns whose time grows with the square would take minutes to hours
BLANKS = "ab \t\n\r\x0b\x1c\x1f\x85\u00a0\u2028\u3000\ufeff"
MARKUP = ["<script", ">", "</script>", "<style", "</STYLE >", "<Script>", "<!--", "-->", "--", "<!-->"]
MARKUP += ["a", " ", "<", "é"]


@pytest.mark.parametrize("text", ["\u00a0" * LONG, " " * LONG + "b\tc", " \n" * LONG, " \x1f" * LONG + "b\nc"])
def test_a_run_of_blanks_is_cleaned_in_linear_time(text):
    rules = TextRules(["text"])
    assert len(rules.text({"text": f"a{text}b"}, "row 1")) <= len(text) + 2
    assert rules.identify(f"a{text}b", "row 1")


@pytest.mark.parametrize(
    "part",
    ["<!--", "<script ", "<style>", "<script></script ", "&lt;script ", "<a ", "<a x", "<![", "&#", "<"],
)
def test_markup_that_is_never_closed_is_cleaned_in_linear_time(part):
    assert without_html(part * (LONG // len(part))) is not None


@given(st.text(BLANKS, max_size=14))
def test_a_line_break_and_the_blanks_around_it_are_one_blank(text):
    plain = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
    assert repaired(text) == plain.sub(" ", text.strip()).strip()


@given(st.lists(st.sampled_from(MARKUP), max_size=14).map("".join))
def test_scripts_styles_and_comments_are_hidden_if_they_are_closed(text):
    plain = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
    assert texts._without_hidden(text) == plain.sub(" ", text)


def test_a_character_of_an_absurd_number_is_one_that_cannot_be_shown():
    assert without_html(f"a &#{'9' * 5000}; b") == "a \ufffd b"
