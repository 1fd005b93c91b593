"""A user's tables: every format gives the same corpus; errors name file and line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import picto_wheels
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import rows_of
from PIL import Image
from pydantic import ValidationError

from vixml.config.registry import Dataset
from vixml.data.archive import SourceReader
from vixml.data.build import build_corpus
from vixml.data.catalogue import required_tables
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.images.render import render_images
from vixml.images.store import ImageStore

LABEL = [
    {"id": "fish", "title": "Things for fishing", "images": ["p/hook.png"]},
    {"id": "sea", "title": "Море", "images": []},
    {"id": "7", "title": "Rare", "images": []},
]
TRAIN = [
    {"id": "rod", "title": "Rod, long", "labels": ["fish"], "images": ["p/rod.png", "p/hook.png"]},
    {"id": "net", "title": "A\nnet", "labels": ["sea", "fish"], "images": []},
]
TEST = [{"id": "boat", "title": "Boat", "labels": ["sea"], "images": ["p/boat.png"]}]
QUERIES = {"train": TRAIN, "test": TEST}
TABLES = {"label": LABEL} | QUERIES


def write(folder, name, records, kind="jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    elif kind == "csv":
        cells = [{k: ";".join(v) if isinstance(v, list) else v for k, v in record.items()} for record in records]
        pd.DataFrame(cells).to_csv(path, index=False, encoding="utf-8-sig")
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


def dataset(folder="shop", split=False, **over):
    catalogue = {"folder": str(folder)} | over
    settings = {"split_seed": 0, "test_fraction": 0.25} if split else {}
    return Dataset(title="Shop", builder="catalogue", catalogue=catalogue, image_size=16, **settings)


@pytest.fixture
def build(tmp_path):
    """Build the corpus of some tables; return it with its counts."""

    def run(tables, kind="jsonl", entry=None):
        for path in (tmp_path / "shop").glob("*.*"):
            path.unlink()
        for name, records in tables.items():
            write(tmp_path / "shop", name, records, kind)
        build_corpus("shop", entry or dataset(images="images"), {}, tmp_path, tmp_path / "corpus")
        return Corpus.load(tmp_path / "corpus"), read_json(tmp_path / "corpus" / "counts.json")

    return run


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_corpus(build, kind):
    corpus, counts = build(TABLES, kind)
    assert corpus.texts("train") == ["Rod, long", "A net"] and corpus.ids("label") == ["fish", "sea", "7"]
    assert corpus.texts("label")[1] == "Море"
    assert rows_of(corpus.labels("train")) == [[0], [0, 1]] and rows_of(corpus.labels("test")) == [[1]]
    assert corpus.image_keys() == ["p/hook.png", "p/rod.png", "p/boat.png"]
    assert rows_of(corpus.images("train")) == [[1, 0], []] and rows_of(corpus.images("label")) == [[0], [], []]
    assert corpus.image_sources()[0] == "catalogue:p/hook.png"
    assert counts["rules"]["train"] == {"texts_with_line_breaks": 1}


def test_labels_by_name_with_texts(build):
    train = [{**TRAIN[0], "labels": ["Things for fishing"]}, {**TRAIN[1], "labels": ["Море"]}]
    tables = {"label": LABEL, "train": train, "test": [{**TEST[0], "labels": []}, train[0]]}
    corpus, counts = build(tables, entry=dataset(labels_by="name"))
    assert rows_of(corpus.labels("train")) == [[0], [1]]
    assert counts["rules"]["test"] == {"ids_in_train": 1, "without_labels": 1}


@pytest.mark.parametrize("by", ["id", "name"])
def test_without_a_table_the_labels_are_those_of_train(build, by):
    test = [{**TEST[0], "labels": ["sea", "sea", "unseen"]}]
    corpus, counts = build({"train": TRAIN, "test": test}, entry=dataset(labels_by=by))
    assert corpus.texts("label") == corpus.ids("label") == ["fish", "sea"]
    assert rows_of(corpus.labels("test")) == [[1]]
    assert counts["rules"]["test"] == {"labels_not_in_train": 1, "labels_repeated": 1}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_one_table_is_split_by_the_seed(build, kind):
    items = [{"id": f"i{n}", "title": f"t{n}", "labels": [str(n % 3)]} for n in range(100)]
    corpus, counts = build({"items": items}, kind, dataset(split=True))
    assert (counts["n_train"], counts["n_test"], counts["n_labels"]) == (75, 25, 3)
    train, test = corpus.ids("train"), corpus.ids("test")
    assert sorted(train + test) == sorted(f"i{n}" for n in range(100)) and corpus.texts("test")[0] == f"t{test[0][1:]}"
    # The split follows from the ids, not from their order.
    assert set(build({"items": items[::-1]}, kind, dataset(split=True))[0].ids("test")) == set(test)


def test_numbers_are_ids_too(build):
    train = [{"id": 5, "title": "a", "labels": [7]}, {"id": 5, "title": "b", "labels": 7}]
    corpus, counts = build({"label": LABEL, "train": train, "test": TEST}, entry=dataset())
    assert corpus.ids("train") == ["5", "5#1"] and rows_of(corpus.labels("train")) == [[2], [2]]
    assert counts["rules"]["train"] == {"ids_repeated": 1}


def test_local_images_reach_the_store(build, tmp_path):
    build(TABLES)
    folder = tmp_path / "shop" / "p"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "hook.png")
    (folder / "rod.png").write_text(picto_wheels.SVG, encoding="utf-8")

    def render(out, processes=1):
        render_images(tmp_path / "corpus", SourceReader(tmp_path, {}), 16, 1, out, processes, tmp_path / "shop")

    for processes in (1, 2):
        out = tmp_path / f"images{processes}"
        render(out, processes)
        store = ImageStore.open(out)
        assert store.missing == {2} and [image for image, _, _ in store] == [0, 1]
        facts = read_json(out / "manifest.json")["facts"]
        assert facts["missing_reasons"] == {"no such file": 1} and len(facts["sha256_of_images"]) == 64
    with open(folder / "boat.png", "wb") as large:
        large.truncate(65 << 20)
    render(tmp_path / "large")
    reasons = read_json(tmp_path / "large" / "manifest.json")["facts"]["missing_reasons"]
    assert reasons == {"larger than 67108864 bytes": 1}
    (folder / "boat.png").unlink()
    (folder / "boat.png").symlink_to("/etc/hostname")
    with pytest.raises(VixmlError, match="outside the folder"):
        render(tmp_path / "x")
    (tmp_path / "shop" / "p").rename(tmp_path / "elsewhere")
    with pytest.raises(VixmlError, match="no image could be drawn") as caught:
        render(tmp_path / "x")
    assert "catalogue.folder" in caught.value.hint


def test_urls_are_listed_for_fetching(build, tmp_path):
    train = [{**TRAIN[0], "images": ["https://x/b", "http://x/a"]}, {**TRAIN[1], "images": ["https://x/b"]}]
    build({"train": train, "test": [{**TEST[0], "images": []}]}, entry=dataset(images="images", images_are="urls"))
    table = pq.read_table(tmp_path / "corpus" / "image_urls.parquet").to_pylist()
    assert [(row["split"], row["item"], row["place"], row["url"], row["image"]) for row in table] == [
        ("train", 0, 0, "https://x/b", 0), ("train", 0, 1, "http://x/a", 1), ("train", 1, 0, "https://x/b", 0),
    ]  # fmt: skip
    with pytest.raises(VixmlError, match="names its images by URL"):
        render_images(tmp_path / "corpus", SourceReader(tmp_path, {}), 16, 1, tmp_path / "x", 1, tmp_path / "shop")


def test_one_bad_address_does_not_stop_the_build(build, tmp_path):
    odd = ["//x/a.png", "data:image/png;base64,AA", "https://x/a b.png", "http://x:99999/a", "/etc/passwd", "x\\y"]
    train = [{**TRAIN[0], "images": [*odd, "https://x/b"]}, TRAIN[1]]
    entry = dataset(images="images", images_are="urls")
    build({"train": train, "test": [{**TEST[0], "images": []}]}, entry=entry)
    assert Corpus.load(tmp_path / "corpus").image_keys() == [*odd, "https://x/b"]
    assert read_json(tmp_path / "corpus" / "counts.json")["rules"]["train"]["images_without_web_address"] == 4
    with pytest.raises(VixmlError, match="in another way than the registry says"):
        build({"train": TRAIN, "test": TEST}, entry=entry)  # paths: that is no single bad address


def bad(**over):
    return TABLES | {"train": [TRAIN[0], TRAIN[1] | over]}


@pytest.mark.parametrize(
    ("tables", "where", "says"),
    [
        (bad(labels=["fsih"]), "train.jsonl:2", "'fsih'"),
        (bad(labels=[{"id": "fish"}]), "train.jsonl:2: labels", "texts or whole numbers"),
        (bad(labels=[True]), "train.jsonl:2: labels", "True"),
        (bad(title=3), "train.jsonl:2: title", "a string"),
        (bad(images=["../p.png"]), "train.jsonl:2: images", "neither inside"),
        (bad(images=["/etc/passwd"]), "train.jsonl:2: images", "neither inside"),
        (bad(images=["file:///etc/passwd"]), "train.jsonl:2: images", "neither inside"),
        (bad(images=["https://x/a"]), "train.jsonl:2: images", "in another way than the registry says"),
        (TABLES | {"train": [{"id": "a", "title": "t"}]}, "train.jsonl:1", "no column of labels"),
        (TABLES | {"train": [{"id": "a", "labels": []}]}, "train.jsonl", "1 records without 'title'"),
        (QUERIES | {"label": [*LABEL, LABEL[0]]}, "label.jsonl:4", "as in row 0"),
        (QUERIES | {"label": [{"title": "no id"}]}, "label.jsonl:1", "no id"),
        (QUERIES | {"label": []}, "label.jsonl", "empty"),
        ({"train": TRAIN, "test": []}, "test.jsonl", "no item"),
        ({"train": [{**TRAIN[0], "labels": []}], "test": TEST}, "train.jsonl", "no query of train has a label"),
        ({"train": TRAIN}, "shop", "either the tables train and test"),
        (QUERIES | {"items": TRAIN}, "shop", "either the tables train and test"),
        ({"items": TRAIN}, "datasets.yaml", "split_seed"),
    ],
)
def test_bad_tables_are_named_with_file_and_line(build, tmp_path, tables, where, says):
    with pytest.raises(VixmlError) as caught:
        build(tables)
    assert where in str(caught.value.where) and says in str(caught.value)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        (b"", ":1", "header"),
        (b"id,title,title\n", ":1", "header"),
        (b"id,title,labels\na,b\n", ":2", "2 cells"),
        (b'id,title,labels\na,"b\nc",fish\nd,e,f,g\n', ":4", "4 cells"),
        (b'id,title,labels\na,"b,fish\n', ":2", "unexpected end"),
        ("id,title,labels\na,café,fish\n".encode("latin-1"), "train.csv", "0xe9"),
    ],
)
def test_bad_csv(tmp_path, build, text, where, says):
    write(tmp_path / "shop", "test", TEST)
    (tmp_path / "shop" / "train.csv").write_bytes(text)
    with pytest.raises(VixmlError) as caught:
        build_corpus("shop", dataset(), {}, tmp_path, tmp_path / "corpus")
    assert where in str(caught.value.where) and says in str(caught.value)


def test_a_misspelt_column_of_images_is_an_error(build):
    with pytest.raises(VixmlError, match="no table has the column of images") as caught:
        build(QUERIES, entry=dataset(images="image"))
    assert "'image'" in caught.value.expected


def test_other_faults_of_a_folder(tmp_path):
    with pytest.raises(VixmlError, match="folder of a catalogue is missing") as caught:
        build_corpus("shop", dataset(), {}, tmp_path, tmp_path / "corpus")
    assert "docs/dataset.md" in caught.value.hint
    for kind in ("jsonl", "csv"):
        write(tmp_path / "shop", "train", TRAIN, kind)
    with pytest.raises(VixmlError, match="two formats"):
        required_tables(dataset(), tmp_path)
    (tmp_path / "shop" / "train.csv").unlink()
    (tmp_path / "shop" / "test.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(VixmlError, match="not a readable parquet"):
        build_corpus("shop", dataset(), {}, tmp_path, tmp_path / "corpus")


def test_an_absolute_folder_is_taken_as_it_is(tmp_path):
    for name, records in TABLES.items():
        write(tmp_path / "mine", name, records)
    build_corpus("shop", dataset(tmp_path / "mine"), {}, tmp_path / "raw", tmp_path / "corpus")
    manifest = read_json(tmp_path / "corpus" / "manifest.json")
    assert set(manifest["inputs"]) == {"label", "train", "test"}
    assert np.array_equal(Corpus.load(tmp_path / "corpus").labels("train").values, [0, 0, 1])


@pytest.mark.parametrize(
    "over",
    [
        {"builder": "catalogue"},
        {"builder": "picto", "catalogue": {"folder": "x"}},
        {"builder": "catalogue", "catalogue": {"folder": "x"}, "filter_required": True},
        {"builder": "catalogue", "catalogue": {"folder": "x"}, "text": "title +"},
        {"builder": "xc-repository", "sources": []},
    ],
)
def test_an_entry_fits_its_builder(over):
    with pytest.raises(ValidationError):
        Dataset.model_validate({"title": "S"} | over)


def queries(*labels):
    return [{"id": f"i{n}", "title": f"thing {n}", "labels": value} for n, value in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["['x', 'y']", "['y']", "['x']"], "written as lists in text"),
        (['["x", "y"]', '["y"]', "[]"], "written as lists in text"),
        (["{'x', 'y'}", "{'y'}", "{'x'}"], "written as lists in text"),
        (["['x' 'y']", "['y' 'z']", "['x' 'z']"], "written as lists in text"),
        (["{x,y}", "{y,z}", "{x}"], "written as lists in text"),
        (['{"x": 1, "y": 0}', '{"x": 0, "y": 1}', '{"x": 1}'], "written as lists in text"),
        (["0 1 0", "1 1 0", "0 0 1"], "written as lists in text"),
        ([["['x', 'y']"], ["['y']"], ["x"]], "written as lists in text"),
        ([[0, 1, 0], [1, 1, 0], [0, 0, 1]], "labels are 0 and 1"),
        (["x, y", "y, z", "z, x"], "several labels are written in one cell"),
        (["x|y", "y|z", "z"], "several labels are written in one cell"),
        (["x\ty", "y\tz", "z"], "several labels are written in one cell"),
    ],
)
def test_several_labels_written_as_one_are_refused(build, labels, says):
    with pytest.raises(VixmlError, match=says) as caught:
        build({"train": queries(*labels), "test": queries(*labels)}, entry=dataset())
    assert "train.jsonl: labels" in caught.value.where and caught.value.hint


def test_a_few_labels_that_look_like_several_are_counted(build, capsys):
    labels = [["x", "y"], ["Haus, Garten"], ["[1]"], ["y"], ["Y "], ["x"], ["z, x"]]
    _, counts = build({"train": queries(*labels), "test": queries(["x"])}, entry=dataset())
    assert counts["rules"]["label"] == {"labels_like_lists": 1, "labels_alike": 1}
    assert "[1]" in capsys.readouterr().err
    whole = queries("x, y", "y, z", "z, x")
    assert build({"train": whole, "test": whole}, entry=dataset(separator=""))[1]["n_labels"] == 3


def test_labels_in_columns(build):
    train = [{"id": "a", "title": "t", "war": 1, "love": "no"}, {"id": "b", "title": "u", "war": False, "love": "x"}]
    entry = dataset(labels="war + love", labels_are="columns")
    corpus, _ = build({"train": train, "test": train}, entry=entry)
    assert corpus.texts("label") == ["love", "war"] and rows_of(corpus.labels("train")) == [[1], [0]]
    with pytest.raises(VixmlError, match="something else than 0 and 1"):
        build({"train": [train[0] | {"war": 0.7}, train[1]], "test": train}, entry=entry)
    flags = [row | {"war": 0, "love": 1} for row in train]
    with pytest.raises(VixmlError, match="labels are 0 and 1") as caught:
        build({"train": flags, "test": train}, entry=dataset(labels="war + love"))
    assert "labels_are: columns" in caught.value.hint


@pytest.mark.parametrize("by", ["id", "name"])
def test_names_pass_the_same_rules_in_the_table_of_labels_and_in_queries(build, by):
    odd = {
        "half\ud800": "half\ufffd",
        "two\nlines": "two lines",
        " blanks\u00a0": "blanks",
        "A &amp; <b>B</b>": "A & B",
    }
    label = [{"id": name, "title": name} for name in odd]
    tables = {"label": label, "train": queries(list(odd), ["half\ufffd"]), "test": queries([*odd.values()])}
    corpus, _ = build(tables, entry=dataset(labels_by=by, strip_html=True))
    assert corpus.texts("label") == list(odd.values())
    assert rows_of(corpus.labels("train")) == [[0, 1, 2, 3], [0]] and rows_of(corpus.labels("test")) == [[0, 1, 2, 3]]
    del tables["label"]
    corpus, counts = build(tables, entry=dataset(strip_html=True))
    assert set(corpus.texts("label")) == set(odd.values()) and counts["n_test_pairs"] == 4
    assert "ids_repaired" not in counts["rules"]["train"]


def test_ids_are_repaired_and_the_same_item_in_both_splits_is_counted(build):
    test = [{**TRAIN[0], "id": " rod\ud800\n"}, {**TRAIN[1], "title": "Another"}, TEST[0]]
    corpus, counts = build({"train": TRAIN, "test": test}, entry=dataset())
    assert corpus.ids("test") == ["rod\ufffd", "net", "boat"]
    assert (counts["rules"]["test"]["ids_in_train"], counts["test_texts_in_train"]) == (1, 1)
    assert (counts["n_test_with_labels"], counts["most_images_per_item"]) == (3, 0)


def test_a_null_or_an_odd_entry_among_images_stops_nothing(build):
    odd = [{**TRAIN[0], "images": [None, "p/rod.png", 3.5, {"url": "x"}]}, {**TRAIN[1], "images": None}]
    corpus, counts = build({"train": odd, "test": TEST})
    assert corpus.image_keys() == ["p/rod.png", "p/boat.png"]
    rules = counts["rules"]["train"]
    assert (rules["nulls_in_lists"], rules["images_not_text"]) == (1, 2)
    with pytest.raises(VixmlError, match="neither texts nor lists"):
        build({"train": [{**TRAIN[0], "images": [{"url": "x"}]}, TRAIN[1]], "test": TEST})


@pytest.mark.parametrize(
    ("text", "entry", "says"),
    [
        (b"id;title;labels\na;b;fish\n", {}, "delimiter: \";\""),
        (b"id\ttitle\tlabels\na\tb\tfish\n", {}, 'delimiter: "\\t"'),
        (b"id,Title,Labels\na,b,fish\n", {}, "did you mean the column 'Labels'"),
        (b"id,TITLE,labels\na,b,fish\n", {}, "did you mean the column 'TITLE'"),
        (b"sku,title,labels\na,b,fish\n", {"id": "SKU"}, "did you mean the column 'sku'"),
        (b"id,title,labels,Pictures\na,b,fish,\n", {"images": "pictures"}, "did you mean the column 'Pictures'"),
        (b"\xef\xbb\xbftitle,id,labels\na,b,fish\n", {"form": {"encoding": "cp1252"}}, "byte order mark"),
        ("id,title,labels\na,b,fish\n".encode("utf-16"), {}, "byte order mark"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_as_expected_is_named(tmp_path, text, entry, says):
    for name in ("train", "test"):
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / f"{name}.csv").write_bytes(text)
    with pytest.raises(VixmlError) as caught:
        build_corpus("shop", dataset(**entry), {}, tmp_path, tmp_path / "corpus")
    assert says in caught.value.hint


@pytest.mark.parametrize("labels", [["unseen"], []])
def test_a_test_split_without_a_known_label_is_refused(build, labels):
    with pytest.raises(VixmlError, match="no query of test has a label"):
        build({"train": TRAIN, "test": [{**TEST[0], "labels": labels}]}, entry=dataset())
