"""Cells of labels: lists in text, and what separates several names."""

from __future__ import annotations

import pytest

from vixml.data.label_names import guess_separator, parse_list


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


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Books", "Clothing, Shoes & Jewelry", "Home, Garden & Tools", "Toys"] * 50, ""),
        (["Toys"] * 500 + ["Sports, Outdoors"] * 2, ""),
        (["Smith, John", "Lee, Kim", "Brown, Ann", "Lee, Bo"] * 50, ""),
        (["Ann Lee"] * 9 + ["Debian Qt/KDE Maintainers"] * 20, ""),
        (["a", "a, b", "b, c", "c"], ","),
        (["Home > Kitchen > Pans", "Home > Bath", "Toys"] * 20, " > "),
        (["Home > Kitchen", "Toys > Lego"] * 20, " > "),
    ],
)
def test_a_name_that_many_items_have_is_not_cut(cells, separator):
    assert guess_separator(cells)[0] == separator
