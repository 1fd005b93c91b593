"""Raw archives of the Extreme Classification Repository: contents, counted rules, and errors with file and line."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import rows_of, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from vixml.config.registry import Dataset, Source
from vixml.data import xc_repository
from vixml.data.build import build_corpus
from vixml.data.corpus import Corpus
from vixml.data.xc_repository import ImageTable, read_jsonl, read_pairs, read_sparse
from vixml.errors import VixmlError
from vixml.files import read_json

# -- archives ---------------------------------------------------------------------------------------------------------

LABELS = [
    {"uid": "L0", "title": "Fish hooks", "content": "Sharp."},
    {"uid": "L1", "title": "Käse, 芝士, сыр", "content": "Alt."},
    {"uid": "L2", "title": "Net", "content": ""},
]
TRAIN = [
    {"uid": "A", "title": "Rod", "content": "For fish.", "target_ind": [2, 0], "target_rel": [1.0, 1.0]},
    {"uid": "B", "title": "Fondue\n\nset", "content": "Hot", "target_ind": [1], "target_rel": [1.0]},
    {"uid": "L0", "title": "Fish hooks", "content": "Sharp.", "target_ind": [], "target_rel": []},
]
TEST = [{"uid": "C", "title": "Line", "content": None, "target_ind": [0, 1, 2], "target_rel": [1.0, 1.0, 1.0]}]
FILTERS = {"filter_labels_train.txt": "2 0\n2 0\n", "filter_labels_test.txt": "0 1\n"}


def lines(records: Iterable[dict[str, Any] | str]) -> bytes:
    """Return records, or raw lines, as a gzip of JSON lines."""
    texts = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    return gzip.compress("".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass"), mtime=0)


def members(
    label: Any = LABELS, train: Any = TRAIN, test: Any = TEST, filters: dict[str, str] = FILTERS, folder: str = "D/"
) -> dict[str, bytes]:
    """Return the files of an archive; a split may be given as bytes."""
    packed = {"lbl": label, "trn": train, "tst": test}
    found = {f"{folder}{n}.json.gz": v if isinstance(v, bytes) else lines(v) for n, v in packed.items()}
    return found | {f"{folder}{name}": text.encode() for name, text in filters.items()}


def source(filename: str = "D.raw.zip") -> Source:
    """Return its entry in the registry: no hash is published."""
    fields = {"name": "D, raw text", "version": "-", "licence": "not stated", "used_for": "tests"}
    return Source(kind="google-drive", google_drive="1WuquxCAg8D4lKr", filename=filename, **fields)


EXPECT = {"n_train": 3, "n_test": 1, "n_labels": 3}


def dataset(**over):
    fields = {"title": "D", "builder": "xc-repository", "sources": ["texts"], "filter_required": True}
    return Dataset.model_validate(fields | over)


@pytest.fixture
def build(tmp_path):
    """Build the corpus of an archive's files; return it with its counts."""

    def run(files=None, **over):
        write_zip(tmp_path / "D.raw.zip", members() if files is None else files)
        out = tmp_path / "corpus"
        build_corpus("D", dataset(**over), {"texts": source()}, tmp_path, out)
        return Corpus.load(out, filter_required=True), read_json(out / "counts.json")

    return run


def test_an_archive_becomes_a_corpus(build, tmp_path):
    facts = {"avg_labels_per_query": 1.00, "avg_queries_per_label": 1.00}
    corpus, counts = build(expect=EXPECT, facts=facts)
    assert corpus.texts("train") == ["Rod", "Fondue set", "Fish hooks"]
    assert corpus.texts("label") == ["Fish hooks", "Käse, 芝士, сыр", "Net"]
    # The same product may be a query and a label.
    assert corpus.ids("train") == ["A", "B", "L0"] and corpus.ids("label") == ["L0", "L1", "L2"]
    assert rows_of(corpus.labels("train")) == [[0, 2], [1], []] and rows_of(corpus.labels("test")) == [[0, 1, 2]]
    assert rows_of(corpus.filter("train")) == [[], [], [0]] and rows_of(corpus.filter("test")) == [[1]]
    assert counts["n_filter_train_pairs"] == counts["n_filter_test_pairs"] == 1
    assert counts["rules"] == {
        "label": {}, "train": {"texts_with_line_breaks": 1, "without_labels": 1}, "test": {},
    }  # fmt: skip
    assert corpus.n_images == 0 and not (tmp_path / "corpus" / "image_urls.parquet").exists()
    manifest = read_json(tmp_path / "corpus" / "manifest.json")
    assert manifest["facts"] == counts and manifest["config"]["averages"] == facts
    settings = dataset(expect=EXPECT, facts=facts).settings("build-corpus")
    assert manifest["config"] == {"id": "D", **settings, "sha256": {"texts": None}}


def test_one_archive_two_datasets(build):
    corpus, counts = build(text="title + content")
    assert corpus.texts("label") == ["Fish hooks Sharp.", "Käse, 芝士, сыр Alt.", "Net"]
    assert corpus.texts("test") == ["Line"] and counts["rules"]["test"] == {"without_content": 1}
    assert build(text="title")[0].texts("test") == ["Line"]


def test_the_same_archive_gives_the_same_bytes(build, tmp_path):
    build()
    first = read_json(tmp_path / "corpus" / "manifest.json")["outputs_sha256"]
    build()
    assert read_json(tmp_path / "corpus" / "manifest.json")["outputs_sha256"] == first


def test_odd_records_are_kept_by_counted_rules(build):
    odd = [
        {"uid": "A", "title": " a\r\nb  c ", "target_ind": [1, 1, 0]},
        {"uid": "A", "title": "again", "target_ind": [0]},
        {"title": None, "target_ind": [2]},
        {"uid": 7, "title": "", "target_ind": []},
        '{"uid": "E", "title": "half \\ud83d emoji", "target_ind": [0]}',
        {"uid": "F", "title": "a\u2028b", "target_ind": [0], "more": {"keys": "are ignored"}},
    ]
    corpus, counts = build(members(train=odd, filters=FILTERS | {"filter_labels_train.txt": "5 0\n"}))
    assert corpus.ids("train") == ["A", "A#1", "#2", "7", "E", "F"]
    assert corpus.texts("train") == ["a b  c", "again", "", "", "half \ufffd emoji", "a b"]
    assert rows_of(corpus.labels("train")) == [[0, 1], [0], [2], [], [0], [0]]
    assert counts["rules"]["train"] == {
        "ids_missing": 1, "ids_repeated": 1, "labels_repeated": 1, "texts_empty": 2, "texts_with_broken_characters": 1,
        "texts_with_line_breaks": 2, "without_labels": 1, "without_title": 1,
    }  # fmt: skip


def test_labels_may_be_in_sparse_files(build):
    def bare(records):
        return [{k: v for k, v in record.items() if not k.startswith("target")} for record in records]

    def run(train="3 3\n2:1 0:1\n1:1\n\n"):
        files = members(train=bare(TRAIN), test=bare(TEST))
        return build(files | {"D/trn_X_Y.txt": train.encode(), "D/tst_X_Y.txt": b"1 3\n0:1 1:1 2:1\n"})

    assert rows_of(run()[0].labels("train")) == [[0, 2], [1], []]
    for bad, where, says in (
        ("3 4\n\n\n\n", "trn_X_Y.txt:1", "another number of columns"),
        ("1 3\n\n", "trn.json.gz:2", "different"),  # at the first record without a row
        ("4 3\n\n\n\n\n", "trn_X_Y.txt", "different"),
    ):
        with pytest.raises(VixmlError, match=says) as caught:
            run(bad)
        assert str(caught.value.where).endswith(where)
    with pytest.raises(VixmlError, match="malformed") as caught:
        build(members(train=bare(TRAIN)))
    assert "trn_X_Y.txt" in caught.value.expected


def test_image_urls_of_records_are_listed_for_fetching(build, tmp_path):
    train = [{**TRAIN[0], "img": ["https://x/1", "https://x/2"]}, {**TRAIN[1], "img": "https://x/0"}, TRAIN[2]]
    label = [{**LABELS[0], "img": ["https://x/0", "https://x/0"]}, *LABELS[1:]]
    corpus, counts = build(members(train=train, label=label), image_urls="img")
    assert rows_of(corpus.images("train")) == [[1, 2], [0], []] and rows_of(corpus.images("label"))[0] == [0]
    assert corpus.image_keys() == corpus.image_sources() == ["https://x/0", "https://x/1", "https://x/2"]
    table = pq.read_table(tmp_path / "corpus" / "image_urls.parquet").to_pylist()
    assert [tuple(row.values()) for row in table] == [
        ("label", 0, 0, "https://x/0", 0), ("train", 0, 0, "https://x/1", 1), ("train", 0, 1, "https://x/2", 2),
        ("train", 1, 0, "https://x/0", 0),
    ]  # fmt: skip
    assert counts["rules"]["train"]["without_images"] == 1 and counts["n_images"] == 3
    with pytest.raises(VixmlError, match="no record has an image"):
        build(members(train=train, label=label), image_urls="image")


TABLE = {"id": ["B", "L0", "A", "B", "nobody", "B"], "url": ["u/2", "u/0", "u/1", "u/0", "u/9", "u/2"]}


def build_with_table(tmp_path, table):
    write_zip(tmp_path / "D.raw.zip", members())
    pq.write_table(pa.table(table), tmp_path / "urls.parquet")
    entry = dataset(sources=["texts", "urls"], image_table="urls")
    sources = {"texts": source(), "urls": source("urls.parquet")}
    build_corpus("D", entry, sources, tmp_path, tmp_path / "corpus")
    return Corpus.load(tmp_path / "corpus", filter_required=True), read_json(tmp_path / "corpus" / "counts.json")


def test_image_urls_may_be_in_a_table(tmp_path):
    """By id, in the order of the table's rows; a repeated one counts once; other ids are ignored."""
    corpus, counts = build_with_table(tmp_path, TABLE)
    assert corpus.ids("train") == ["A", "B", "L0"] and corpus.image_keys() == ["u/0", "u/1", "u/2"]
    assert rows_of(corpus.images("train")) == [[1], [2, 0], [0]] and rows_of(corpus.images("label")) == [[0], [], []]
    assert counts["image_addresses_repeated"] == 1 and counts["rules"]["label"]["without_images"] == 2
    assert (tmp_path / "corpus" / "image_urls.parquet").exists()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"asin": ["A"], "url": ["u"]}, "lacks a column"),
        ({"id": ["A"]}, "lacks a column"),
        ({"id": [1], "url": ["u"]}, "wrong type"),
        ({"id": ["A", None], "url": ["u", "v"]}, "a value is missing"),
        ({"id": ["nobody"], "url": ["u"]}, "no record has an image"),
        ({"id": pa.array([], pa.string()), "url": pa.array([], pa.string())}, "no record has an image"),
    ],
)
def test_a_malformed_table_of_image_urls(tmp_path, table, says):
    with pytest.raises(VixmlError, match=says) as caught:
        build_with_table(tmp_path, table)
    assert "urls.parquet" in str(caught.value)
    (tmp_path / "urls.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(VixmlError, match="not a readable parquet file"):
        ImageTable(tmp_path / "urls.parquet")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdé"), st.sampled_from(["x", "y", "z", " x"])), max_size=30))
def test_a_table_of_image_urls_equals_a_dictionary(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    names, urls = ([row[i] for row in rows] for i in (0, 1))
    pq.write_table(
        pa.table({"id": pa.array(names, pa.string()), "url": pa.array(urls, pa.string())}), path, row_group_size=3
    )
    expected = {}
    for name, url in rows:
        expected.setdefault(name, {})[url.strip()] = None
    table = ImageTable(path)
    assert {name: table.of(name) for name in "abcdé"} == {name: list(expected.get(name, {})) for name in "abcdé"}


@pytest.mark.parametrize(
    ("files", "where", "says"),
    [
        (members(train=[TRAIN[0], {**TRAIN[1], "target_ind": [3]}]), "trn.json.gz:2", "0 to 2"),
        (members(train=[TRAIN[0], {**TRAIN[1], "target_ind": [-1]}]), "trn.json.gz:2", "0 to 2"),
        (members(test=[{**TEST[0], "target_ind": [True]}]), "tst.json.gz:1", "a list of label ids"),
        (members(test=[{**TEST[0], "target_ind": "0"}]), "tst.json.gz:1", "a list of label ids"),
        (members(test=[{**TEST[0], "target_rel": [1.0]}]), "tst.json.gz:1", "3 positive numbers"),
        (members(test=[{**TEST[0], "target_rel": [1.0, 0.0, 1.0]}]), "tst.json.gz:1", "3 positive numbers"),
        (members(train=[TRAIN[0], {"uid": "B", "title": "t"}]), "trn.json.gz:2", "'target_ind'"),
        (members(train=[{**TRAIN[0], "title": ["Rod"]}]), "trn.json.gz:1: title", "a string"),
        (members(train=[{**TRAIN[0], "uid": 0.5}]), "trn.json.gz:1", "0.5"),
        (members(train=['{"uid": "A",']), "trn.json.gz:1", "one JSON object per line"),
        (members(train=b"plain text"), "trn.json.gz:1", "not a whole gzip"),
        (members(train=lines(TRAIN * 5000)[:-4000]), "trn.json.gz:", "not a whole gzip"),
        (members(label=[]), "lbl.json.gz", "no record"),
        (members(label=[{"uid": "L", "name": "n"}]), "lbl.json.gz", "1 records without 'title'"),
        (members(filters=FILTERS | {"filter_labels_test.txt": "0 3\n"}), "filter_labels_test.txt:1", "0 to 2"),
        (members(filters=FILTERS | {"filter_labels_test.txt": "1 0\n"}), "filter_labels_test.txt:1", "0 to 0"),
        (members(filters=FILTERS | {"filter_labels_test.txt": ""}), "filter_labels_test.txt", "empty"),
        (members(filters={"filter_labels_train.txt": "2 0\n"}), "D.raw.zip", "filter_labels_test.txt"),
        (members(filters=FILTERS | {"filter_labels_test.txt": "x", "filter_labels_text.txt": ""}),
         "filter_labels_test.txt:1", "row column"),
        ({"D/readme.txt": b""}, "D.raw.zip", "no lbl.json.gz"),
        ({**members(), "E/trn.json.gz": lines(TRAIN)}, "D.raw.zip", "twice"),
        ({**members(), "../../evil.txt": b""}, "D.raw.zip", "outside its folder"),
        ({**members(), "/etc/evil.txt": b""}, "D.raw.zip", "outside its folder"),
        ({**members(), "..\\evil.txt": b""}, "D.raw.zip", "outside its folder"),
        ({**members(), "C:\\evil.txt": b""}, "D.raw.zip", "outside its folder"),
    ],
)  # fmt: skip
def test_bad_archives_are_named_with_file_and_line_and_leave_nothing(build, tmp_path, files, where, says):
    with pytest.raises(VixmlError) as caught:
        build(files)
    assert where in str(caught.value.where) and says in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D.raw.zip"]


def test_a_cut_gzip_names_the_line_it_was_cut_in(build):
    whole = 20_000
    packed = lines({**TRAIN[0], "uid": str(i)} for i in range(whole))
    with pytest.raises(VixmlError, match="not a whole gzip") as caught:
        build(members(train=packed[: len(packed) // 2]))
    assert 0.3 * whole < int(caught.value.where.rsplit(":", 1)[1]) < 0.7 * whole


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_byte_is_noticed(tmp_path, compression):
    files = members(train=[{**TRAIN[0], "uid": str(i)} for i in range(5000)])
    path = write_zip(tmp_path / "D.raw.zip", files, compression)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(VixmlError) as caught:
        build_corpus("D", dataset(), {"texts": source()}, tmp_path, tmp_path / "corpus")
    assert "trn.json.gz" in caught.value.where


@pytest.mark.parametrize(
    ("over", "found", "expected"),
    [
        ({"expect": EXPECT | {"n_train": 4}}, "n_train = 3", "n_train = 4"),
        ({"expect": EXPECT | {"n_labels": 2}}, "n_labels = 3", "n_labels = 2"),
        ({"facts": {"avg_labels_per_query": 1.01}}, "avg_labels_per_query = 1.0000", "= 1.01"),
        ({"facts": {"avg_queries_per_label": 2.29}}, "avg_queries_per_label = 1.0000", "= 2.29"),
    ],
)
def test_counts_and_averages_other_than_published_stop_the_build(build, tmp_path, over, found, expected):
    with pytest.raises(VixmlError) as caught:
        build(**over)
    assert found in caught.value.found and expected in caught.value.expected
    assert not (tmp_path / "corpus").exists()


def test_a_dataset_may_have_no_filter(tmp_path):
    write_zip(tmp_path / "D.raw.zip", members(filters={}))
    entry = dataset(filter_required=False)
    build_corpus("D", entry, {"texts": source()}, tmp_path, tmp_path / "corpus")
    assert Corpus.load(tmp_path / "corpus").filter("test") is None
    assert "n_filter_test_pairs" not in read_json(tmp_path / "corpus" / "counts.json")


def test_row_groups_join_to_one_table(build):
    n = 70_000
    train = [{"uid": str(i), "title": f"t{i}", "target_ind": [i % 3, (i + 1) % 3]} for i in range(n)]
    corpus, _ = build(members(train=train))
    assert corpus.texts("train") == [f"t{i}" for i in range(n)]
    expected = np.sort(np.stack([np.arange(n) % 3, (np.arange(n) + 1) % 3], 1), 1).ravel()
    assert np.array_equal(corpus.labels("train").values, expected)


# -- text files -------------------------------------------------------------------------------------------------------


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
    assert rows_of(pairs) == [[], [0, 2], []]
    for bad in ("1", "1 2 3", "a b", "3 0", "0 3", "-1 0"):
        path.write_text(f"0 0\n{bad}\n", encoding="utf-8")
        with pytest.raises(VixmlError) as caught:
            read_pairs(path, 3, 3)
        assert caught.value.where == f"{path}:2"
