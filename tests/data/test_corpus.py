"""A corpus on disk is read as it was written; damaged parts are named."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_data import CorpusData, Items
from helpers import rows_of

from vixml.config.registry import Counts
from vixml.data.corpus import Corpus, verify_counts
from vixml.errors import VixmlError
from vixml.ragged import Ragged


def small() -> CorpusData:
    """Three train queries (one without label, one without image), one test query, three labels, two images."""
    train = Items(["a", "b", "c"], ["first", "", "dritte ü"])
    items = {"train": train, "test": Items.of(["d"]), "label": Items.of(["x", "y", "z"])}
    labels = {"train": Ragged.from_rows([[0, 2], [], [1]], 3), "test": Ragged.from_rows([[2]], 3)}
    images = {"train": [[1, 0], [], [0]], "test": [[0]], "label": [[], [1], []]}
    images = {split: Ragged.from_rows(rows, 2) for split, rows in images.items()}
    return CorpusData(items, labels, ["p", "q"], ["s:p", "s:q"], images)


@pytest.fixture
def folder(tmp_path):
    small().write(tmp_path / "corpus")
    return tmp_path / "corpus"


def rewrite(path, columns):
    pq.write_table(pa.table(columns), path)


def test_round_trip(folder):
    corpus = Corpus.load(folder)
    assert (corpus.n("train"), corpus.n("test"), corpus.n_labels, corpus.n_images) == (3, 1, 3, 2)
    assert corpus.ids("train") == ["a", "b", "c"] and corpus.texts("train") == ["first", "", "dritte ü"]
    assert rows_of(corpus.labels("train")) == [[0, 2], [], [1]]
    assert corpus.images("train").row(0).tolist() == [1, 0]  # preference, not order of ids
    assert corpus.image_keys() == ["p", "q"] and corpus.image_sources() == ["s:p", "s:q"]
    assert corpus.filter("train") is None


def test_a_corpus_without_images_or_test_queries(tmp_path):
    data = small()
    data.items["test"] = Items.of([])
    data.labels["test"] = Ragged.from_rows([], 3)
    data.image_keys = data.image_sources = []
    data.images = {split: Ragged.from_rows([[]] * len(items.ids), 0) for split, items in data.items.items()}
    counts = data.write(tmp_path / "corpus")
    corpus = Corpus.load(tmp_path / "corpus")
    assert corpus.n("test") == 0 and corpus.n_images == 0 and corpus.texts("test") == []
    assert counts["labels_with_image"] == 0.0


def test_more_columns_are_allowed(folder):
    rewrite(folder / "test.parquet", {"content": ["more"], "text": ["d"], "id": ["d"]})
    assert Corpus.load(folder).texts("test") == ["d"]


def test_filters(folder):
    with pytest.raises(VixmlError, match="filter that this dataset requires is missing") as caught:
        Corpus.load(folder, filter_required=True)
    assert "filter_train" in str(caught.value)
    data = small()
    data.filters = {"train": Ragged.from_rows([[0], [], []], 3), "test": Ragged.from_rows([[]], 3)}
    data.write(folder)
    corpus = Corpus.load(folder, filter_required=True)
    assert corpus.filter("train").row(0).tolist() == [0]
    shutil.rmtree(folder / "filter_test")
    with pytest.raises(VixmlError, match="filter_test"):
        Corpus.load(folder, filter_required=True)


def test_a_missing_column_a_wrong_type_and_a_missing_file(folder):
    rewrite(folder / "test.parquet", {"id": ["d"], "title": ["d"]})
    with pytest.raises(VixmlError, match="lacks a column") as caught:
        Corpus.load(folder)
    assert "test.parquet: text" in str(caught.value) and "id, title" in str(caught.value)
    rewrite(folder / "test.parquet", {"id": [4], "text": ["d"]})
    with pytest.raises(VixmlError, match="wrong type"):
        Corpus.load(folder)
    (folder / "test.parquet").unlink()
    with pytest.raises(VixmlError, match="table of the corpus is missing"):
        Corpus.load(folder)


def test_a_null_is_named_by_row(folder):
    rewrite(folder / "train.parquet", {"id": ["a", "b", "c"], "text": ["x", "y", None]})
    with pytest.raises(VixmlError, match="a value is missing") as caught:
        Corpus.load(folder).texts("train")
    assert "train.parquet: text, row 2" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, -8])
def test_a_cut_parquet_file(folder, keep):
    path = folder / "label.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VixmlError, match="not a readable parquet file") as caught:
        Corpus.load(folder)
    assert "label.parquet" in str(caught.value)


def test_damaged_pages_are_found_when_read(folder):
    path = folder / "train.parquet"
    data = bytearray(path.read_bytes())
    data[4:40] = b"\xff" * 36
    path.write_bytes(data)
    with pytest.raises(VixmlError, match="not a readable parquet file"):
        Corpus.load(folder).ids("train")


def test_tables_and_lists_must_belong_together(folder):
    rewrite(folder / "train.parquet", {"id": ["a"], "text": ["x"]})
    with pytest.raises(VixmlError, match="does not belong") as caught:
        Corpus.load(folder)
    assert "train_images" in str(caught.value) and "3 rows over 2" in caught.value.found


@pytest.mark.parametrize(
    ("what", "rows", "says"),
    [
        ("labels", [[0, 1], [], [2, 0]], "do not ascend"),
        ("labels", [[0, 1], [], [1, 1]], "do not ascend"),
        ("images", [[1, 0], [0], [1, 0, 1]], "has an image twice"),
    ],
)
def test_labels_ascend_and_an_item_has_an_image_once(folder, what, rows, says):
    Ragged.from_rows([[1, 2], [], [0]], 3).save(folder / "train_labels")
    Corpus.load(folder)  # a descent between rows is none
    Ragged.from_rows(rows, 3 if what == "labels" else 2).save(folder / f"train_{what}")
    with pytest.raises(VixmlError, match=says) as caught:
        Corpus.load(folder)
    assert f"train_{what}, row 2" in str(caught.value.where)


def test_an_unknown_split(folder):
    corpus = Corpus.load(folder)
    with pytest.raises(VixmlError, match="no such split"):
        corpus.texts("validation")
    with pytest.raises(VixmlError, match="no such split"):
        corpus.labels("label")


def test_counts(tmp_path):
    counts = small().write(tmp_path)
    assert counts["n_train_pairs"] == 3 and counts["labels_per_train_query"] == 1.0
    assert counts["labels_with_image"] == 0.3333 and counts["images_per_label_with_image"] == 1.0
    verify_counts(counts, Counts(n_train=3, n_test=1, n_labels=3), "x")
    verify_counts(counts, None, "x")
    with pytest.raises(VixmlError, match="does not have the counts"):
        verify_counts(counts, Counts(n_train=3, n_test=1, n_labels=3, n_images=3), "x")
