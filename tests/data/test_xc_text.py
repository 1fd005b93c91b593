"""Text files of the Extreme Classification Repository: read back what is written; name file and line of what is wrong."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vixml.data import xc_repository
from vixml.data.xc_repository import read_jsonl, read_pairs, read_sparse
from vixml.errors import VixmlError


@given(st.lists(st.sets(st.integers(0, 9)), max_size=12))
def test_sparse_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("xc") / "m.txt"
    lines = [" ".join(f"{column}:1" for column in row) for row in rows]
    path.write_text("\n".join([f"{len(rows)} 10", *lines]) + "\n")
    n_rows, n_cols, again = read_sparse(path)
    assert (n_rows, n_cols) == (len(rows), 10) and list(again) == [sorted(row) for row in rows]


def test_sparse_sorts_and_accepts_windows_ends_and_gzip(tmp_path):
    text = b"2 5\r\n3:1 1:1.0\r\n\r\n"
    (tmp_path / "m.txt").write_bytes(text)
    (tmp_path / "m.txt.gz").write_bytes(gzip.compress(text))
    for name in ("m.txt", "m.txt.gz"):
        assert list(read_sparse(tmp_path / name)[2]) == [[1, 3], []]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "rows cols"),
        ("3\n", 1, "rows cols"),
        ("-1 3\n", 1, "rows cols"),
        ("1 2147483648\n", 1, "rows cols"),
        ("2 3\n0:1\nx:1\n", 3, "column:value"),
        ("2 3\n0:1\n1\n", 3, "column:value"),
        ("2 3\n0:1\n1:one\n", 3, "column:value"),
        ("2 3\n0:1\n1:nan\n", 3, "column:value"),
        ("2 3\n0:1\n-1:1\n", 3, "column:value"),
        ("2 3\n0:1\n²:1\n", 3, "column:value"),
        ("2 3\n0:1\n99999999999999999999:1\n", 3, "column:value"),
        ("2 3\n0:1\n3:1\n", 3, "0 to 2"),
        ("1 3\n1:1 1:1\n", 2, "once in a row"),
        ("2 3\n0:1\n", 3, "2 rows"),
        ("1 3\n0:1\n1:1\n", 3, "1 rows"),
    ],
)
def test_sparse_errors(tmp_path, text, line, says):
    path = tmp_path / "m.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        list(read_sparse(path)[2])
    assert caught.value.where == f"{path}:{line}" and says in str(caught.value)


def test_latin1_is_named_not_guessed(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes('{"title": "ok"}\n{"title": "café"}\n'.encode("latin-1"))
    with pytest.raises(VixmlError, match="not UTF-8") as caught:
        list(read_jsonl(path))
    assert f"{path}:2" in str(caught.value) and "0xe9" in caught.value.found


def test_a_line_without_end_is_not_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(xc_repository, "LINE_LIMIT", 1000)
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + b"x" * 100_000))
    with pytest.raises(VixmlError, match="malformed") as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:2" and "more than 1000 bytes" in caught.value.found


def test_a_cut_gzip_and_a_false_one(tmp_path):
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-12])
    with pytest.raises(VixmlError, match="not a whole gzip file"):
        list(read_jsonl(path))
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(VixmlError, match="not a whole gzip file") as caught:
        list(read_jsonl(path))
    assert f"{path}:1" in str(caught.value)
    with pytest.raises(VixmlError, match="missing"):
        list(read_jsonl(tmp_path / "none"))


@pytest.mark.parametrize(
    ("bad", "says"), [("{", "JSON"), ("[1]", "JSON object"), ("null", "JSON object"), ("[" * 9999, "JSON")]
)
def test_jsonl_errors(tmp_path, bad, says):
    path = tmp_path / "t.json"
    path.write_text('{"title": "a"}\n\n' + bad + "\n", encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:3" and says in str(caught.value)


def test_pairs(tmp_path):
    path = tmp_path / "filter.txt"
    path.write_text("1 2\n1 0\n\n1 2\n", encoding="utf-8")
    pairs = read_pairs(path, 3, 3)
    assert [pairs.row(i).tolist() for i in range(len(pairs))] == [[], [0, 2], []]
    for bad in ("1", "1 2 3", "a b", "3 0", "0 3", "-1 0"):
        path.write_text(f"0 0\n{bad}\n", encoding="utf-8")
        with pytest.raises(VixmlError) as caught:
            read_pairs(path, 3, 3)
        assert caught.value.where == f"{path}:2"
