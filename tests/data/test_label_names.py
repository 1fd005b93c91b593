"""Cells of labels: lists in text, and what separates several names."""

from __future__ import annotations

import pytest

from vixml.data.label_names import parse_list


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("<java><c#><sql-server>", ["java", "c#", "sql-server"]),
        ("<c++>", ["c++"]),
        ("Map<String>", None),
        ("<b>Tools</b>", None),
        ("<p></p>", None),
        ("<br/>", None),
        ("<https://example.org/x>", None),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("Index(['a'],  dtype='object', name='tags')", ["a"]),
        ("set(['a'])", ["a"]),
        ("list(['a', dtype=(b)])", None),
    ],
)
def test_notations_of_lists(cell, found):
    assert parse_list(cell) == found


def test_a_long_cell_is_looked_at_once():
    for cell in ("list(" + ", dtype=a" * 300_000, "<a" * 300_000, "<" + "a" * 600_000):
        assert parse_list(cell) is None
