"""``vixml new``: guesses about exports of shops; what it prints is what is built; what cannot be told is asked for."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vixml.cli import main
from vixml.config.defaults import training_defaults, validation_splits
from vixml.config.limits import FEWEST_TO_CHOOSE
from vixml.config.load import load_runs, load_workflow, load_world, merge, read_yaml
from vixml.data.build import build_corpus
from vixml.data.catalogue import images_by_id
from vixml.data.corpus import Corpus
from vixml.data.guess_form import Report, guess_encoding, guess_form
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.training.train import validation_rows

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["Angeln", "Outdoor", "Tools", "TOOLS", "Küche", "Haus, Garten"]


def shop(n=60, seed=0):
    """Return the records of a shop: HTML, leading zeros, an item twice, labels that differ in case."""
    draw = random.Random(seed)
    rows = [
        {
            "Artikelnr": f"{i:05d}", "Titel": f"Rute {draw.randrange(10**6)} für Angler", "Preis": f"{i},90",
            "Beschreibung": f"<p>Sch&ouml;ne; <b>Rute</b> {i} m</p>", "Bild": f"fotos/{i}.jpg",
            "Kategorien": "|".join(draw.sample(LABELS, draw.randint(1, 3))),
        }
        for i in range(n)
    ]  # fmt: skip
    return [*rows, rows[5]]


@pytest.fixture
def new(tmp_path, capsys, monkeypatch):
    """Run ``vixml new shop`` on some files; return what it prints and the file."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        given = ["new", "shop", *map(str, arguments), "--config-dir", str(ROOT / "config"), "--force"]
        assert main(given) == status
        printed = capsys.readouterr()
        return printed.out if status == 0 else printed.err

    return run


def write_csv(path, rows, encoding="utf-8-sig", sep=";"):
    pd.DataFrame(rows).to_csv(path, index=False, encoding=encoding, sep=sep, lineterminator="\r\n")
    return path


def test_an_export_of_excel(new, tmp_path):
    (tmp_path / "fotos").mkdir()
    for i in range(0, 60, 2):
        Image.new("RGB", (30, 30), "red").save(tmp_path / f"fotos/{i}.jpg")
    write_csv(tmp_path / "export.csv", shop())
    printed = new("export.csv")
    for found in (
        "delimiter            `;`", "text                 Titel + Beschreibung", "labels               Kategorien",
        "id                   Artikelnr", "leading zeros are kept, e.g. 00000", "separator            `|`",
        "decimal sign         ,", "HTML                 removed", "Bild (paths)", "--separator", "--keep-html",
        "`TOOLS` and `Tools` are two labels", "30 of 60 images are not in the folder", "Schöne; Rute 0 m",
    ):  # fmt: skip
        assert found in printed
    # The corpus is what was printed.
    name = load_world("shop.yaml").datasets["shop"]
    build_corpus("shop", name, {}, "raw", "corpus")
    corpus, counts = Corpus.load("corpus"), read_json("corpus/counts.json")
    assert f"items: 61 ({counts['n_train']} train, {counts['n_test']} test)" in printed
    assert f"labels: {counts['n_labels']}," in printed and "Haus, Garten" in corpus.texts("label")
    assert f"id {corpus.ids('train')[0]}\n    text:     {corpus.texts('train')[0]}" in printed
    assert counts["rules"]["train"].get("ids_repeated", 0) + counts["rules"]["test"].get("ids_repeated", 0) == 1
    # The file is a whole configuration.
    workflow = load_workflow(merge(read_yaml(ROOT / "config/config.yaml"), read_yaml("shop.yaml")), "shop.yaml")
    assert "tagger" in workflow.targets[0].runs
    text = Path("shop.yaml").read_text()
    Path("shop.yaml").write_text(text.replace("\nruns:", "\nrunz:"))
    with pytest.raises(VixmlError, match="unknown key 'runz'"):
        load_world("shop.yaml")
    assert "TOOLS" not in new("export.csv", "--fold-case").split("Counts")[1]


def test_the_file_plans_in_snakemake(new, tmp_path, programs, monkeypatch):
    monkeypatch.setenv("PATH", programs, prepend=os.pathsep)
    write_csv(tmp_path / "export.csv", [{key: row[key] for key in row if key != "Bild"} for row in shop()])
    new("export.csv")
    command = ["snakemake", "-n", "--quiet", "all", "-s", ROOT / "Snakefile", "--directory", ROOT, "--configfile"]
    config, file = read_yaml("shop.yaml"), tmp_path / "shop.yaml"
    file.write_text(file.read_text().replace(f"config_dir: {config['config_dir']}", f"config_dir: {file}"))
    command += [file, "--config", f"results={tmp_path}/results", "--", "all", "data"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0 and "build_corpus" in done.stdout, done.stdout + done.stderr


def test_a_copied_or_renamed_file_does_not_take_its_parts_from_another(new, tmp_path):
    new(write_csv(tmp_path / "export.csv", [{key: row[key] for key in row if key != "Bild"} for row in shop()]))
    text = Path("shop.yaml").read_text(encoding="utf-8")
    base = read_yaml(ROOT / "config/config.yaml")

    def workflow(*files):
        given = base
        for file in files:
            given = merge(given, read_yaml(file))
        return load_workflow(given, "the configuration", [*reversed(files), ROOT / "config/config.yaml"])

    overlay = Path("more.yaml")
    overlay.write_text("threads: {train: 1}\n", encoding="utf-8")
    assert workflow("shop.yaml", overlay).threads.train == 1
    Path("shop2.yaml").write_text(text, encoding="utf-8")
    assert workflow("shop2.yaml").config_dir == "shop.yaml", "the same parts"
    Path("shop2.yaml").write_text(text.replace("batch_size: ", "batch_size: 1"), encoding="utf-8")
    message = "config_dir names another file than the one with these parts"
    with pytest.raises(VixmlError, match=message) as caught:
        workflow("shop2.yaml")
    assert str(caught.value.where).startswith("shop2.yaml:") and caught.value.found.startswith("shop.yaml")
    for config_dir in ("none.yaml", str(ROOT / "config")):
        other = text.replace("config_dir: shop.yaml", f"config_dir: {config_dir}")
        Path("shop2.yaml").write_text(other, encoding="utf-8")
        with pytest.raises(VixmlError, match=message):
            load_workflow(merge(base, read_yaml("shop2.yaml")), Path("shop2.yaml"))
    Path("shop2.yaml").write_text(text.replace("config_dir: shop.yaml", "config_dir: shop2.yaml"), encoding="utf-8")
    assert workflow("shop2.yaml").config_dir == "shop2.yaml"
    overlay.write_text("base: {encoder: {max_len: 8}}\n", encoding="utf-8")  # it would be left out
    with pytest.raises(VixmlError, match=message):
        workflow("shop.yaml", overlay)
    overlay.write_text(f"config_dir: {ROOT / 'config'}\ntable: [table1]\n", encoding="utf-8")
    with pytest.raises(VixmlError, match="unknown key 'table'"):
        workflow(overlay)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", lambda path, rows: write_csv(path, rows, "cp1252", ",")),
        ("t.tsv.gz", lambda path, rows: write_csv(path, rows, "utf-16", "\t")),
        ("t.json", lambda path, rows: path.write_text(json.dumps({"shop": "x", "items": rows}))),
        ("t.jsonl", lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)))),
        ("t.parquet", lambda path, rows: pd.DataFrame(rows).to_parquet(path)),
        ("t.xlsx", lambda path, rows: pd.DataFrame(rows).to_excel(path, index=False)),
    ],
)
def test_every_kind_is_understood_alike(new, tmp_path, name, write):
    rows = [{key: row[key] for key in row if key != "Bild"} for row in shop()]
    write_csv(tmp_path / "plain.csv", rows)
    expected = new("plain.csv").split("Three items")[1]
    write(tmp_path / name, rows)
    assert new(name).split("Three items")[1] == expected


@pytest.mark.parametrize(
    ("cell", "separator"),
    [("; ", ";"), (", ", ","), ("|", "|"), ("\n", "line break"), (" > ", " > "), (None, "lists"), ("python", "lists")],
)
def test_separators_of_labels(new, tmp_path, cell, separator):
    rows = [{"id": i, "title": f"thing number {i}", "tags": [f"t{i % 5}", f"s{i % 3}"]} for i in range(40)]
    written = {None: json.dumps, "python": str}.get(cell, lambda tags: cell.join(tags))
    write_csv(tmp_path / "t.csv", [row | {"tags": written(row["tags"])} for row in rows])
    printed = new("t.csv")
    shown = separator if separator in ("lists", "line break") else f"`{separator}`"
    assert re.search(rf"separator +{re.escape(shown)} ", printed)
    assert "labels: 8, 2.00 per item" in printed


def test_entities_are_resolved_before_labels_are_separated(new, tmp_path):
    rows = [{"id": i, "title": f"thing {i}", "tags": f"Tools &amp; Home;s{i % 3}"} for i in range(40)]
    write_csv(tmp_path / "t.csv", rows, sep=",")
    assert "Tools & Home" in (printed := new("t.csv")) and "labels: 4, 2.00 per item" in printed


def test_warnings(new, tmp_path):
    base = [{"id": i, "title": f"thing {i}", "labels": f"a{i % 4}"} for i in range(40)]
    test = [{"id": i, "title": f"thing {i + 38}", "labels": "new" if i < 2 else "a1"} for i in range(8)]
    several = [row | {"labels": "A|B" if i < 3 else row["labels"]} for i, row in enumerate(base)]
    write_csv(tmp_path / "train.csv", several)
    write_csv(tmp_path / "test.csv", test)
    printed = new("train.csv", "--test", "test.csv", "--separator", ";")
    assert "1 labels like 'A|B': is the separator '|'?" in printed
    assert "2 of 8 test items have no label seen in training: at most 75.0 % P@1" in printed
    assert "the same item is in train and test: 2 of 8" in printed
    assert "no item has more than one label" in printed
    write_csv(tmp_path / "price.csv", [row | {"labels": f"{i % 9},90"} for i, row in enumerate(base)])
    assert "labels are numbers, e.g. 0,90" in new("price.csv")
    write_csv(tmp_path / "told.csv", [row | {"title": f"{row['labels']} {i}"} for i, row in enumerate(base)])
    assert "contains the labels of 100% of the items" in new("told.csv")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "a table is empty"),
        (b"id;title;tags\n", "a header and no row"),
        (b"just one column\nrow\n", "one column only"),
        (b"id,title,tags,category\n1,a b,x,y\n2,c d,x,y\n", "--labels NAME"),
        (b"id,title,price\n1,a b,2\n2,c d,3\n", "columns id, title, price"),
        (b"id,x,tags\n1,a,x\n2,b,x\n", "--text"),
        (b"1,2,3\n4,5,6\n", "looks like data"),
        (
            b"id,title,tags\n" + "1,Привет мир,a\n2,Море и небо,b\n".encode("cp1251"),
            "the encoding cannot be told",
        ),
        ("id,title,tags\n1,zażółć gęślą,a\n".encode("cp1250"), "the encoding cannot be told"),
    ],
)
def test_what_cannot_be_told_is_asked_for(new, tmp_path, data, says):
    (tmp_path / "t.csv").write_bytes(data)
    assert says in new("t.csv", status=2) and not (tmp_path / "shop.yaml").exists()


def test_a_column_of_labels_is_known_by_its_name_and_because_its_values_recur(new, tmp_path):
    def rows(**columns):
        return [{"key": f"k{i}", **{name: value(i) for name, value in columns.items()}} for i in range(40)]

    write_csv(
        tmp_path / "t.csv", rows(label=lambda i: f"face {i}", tags=lambda i: f"t{i % 3}|smile", version=lambda i: i)
    )
    printed = " ".join(new("t.csv").split())
    assert (
        "labels tags" in printed
        and "id key" in printed
        and "text label" in printed
        and "not used version (1 of 4 columns" in printed
    )
    write_csv(
        tmp_path / "t.csv", rows(title=lambda i: f"a {i}", shoptags=lambda i: f"t{i % 3}|s", poster=lambda i: "x")
    )
    assert "labels shoptags" in " ".join(new("t.csv").split())
    hexed = [{"hexcode": f"1F{i:03X}", "title": f"a {i}", "tags": f"t{i % 3}|s"} for i in range(40)]
    write_csv(tmp_path / "t.csv", hexed)
    assert "id hexcode (unique" in " ".join(new("t.csv").split())
    write_csv(tmp_path / "t.csv", rows(title=lambda i: f"a {i}", kinds=lambda i: f"t{i % 3}|s", price=lambda i: 9))
    assert "--labels NAME; values recur in kinds" in new("t.csv", status=2)


def test_items_without_a_label_are_left_out_and_counted(new, tmp_path):
    rows = [{"id": i, "title": f"thing {i}", "tags": f"a{i % 4}|b" if i % 3 else ""} for i in range(60)]
    write_csv(tmp_path / "t.csv", rows)
    printed = new("t.csv")
    assert "items: 40 (" in printed and "items without a label: 0 (0.0%); 20 more are left out" in printed
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    counts = read_json("corpus/counts.json")
    assert counts["n_train"] + counts["n_test"] == 40
    assert sum(counts["rules"][split]["unlabelled_left_out"] for split in ("train", "test")) == 20
    assert "items without a label: 20 (33.3%)" in (kept := new("t.csv", "--keep-unlabelled")) and "left out" not in kept
    write_csv(tmp_path / "test.csv", [row | {"tags": ""} for row in rows])
    assert "no query of test has a label" in new("t.csv", "--test", "test.csv", status=2)


def test_300_columns(new, tmp_path):
    rows = [
        {f"attr{n}": n * i for n in range(300)} | {"id": i, "name": f"a {i}", "tags": f"t{i % 3}"} for i in range(30)
    ]
    write_csv(tmp_path / "t.csv", rows)
    assert "303 columns" in new("t.csv")
    assert "found:    columns attr0, attr1" in new("t.csv", "--text", "titel", status=2)


def test_images_named_by_id(new, tmp_path):
    (tmp_path / "p" / "a2").mkdir(parents=True)
    for name in ("a1.jpg", "a1_2.png", "a2/1.jpg", "a2/2.jpg", "zz.jpg"):
        (tmp_path / "p" / name).write_bytes(b"")
    write_csv(tmp_path / "t.csv", [{"id": f"a{i}", "title": f"t {i}", "tags": f"t{i % 3}|s"} for i in range(20)])
    assert "items with an image: 2 (10.0%)" in new("t.csv", "--image-folder", "p")
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    assert sorted(Corpus.load("corpus").image_keys()) == ["a1.jpg", "a1_2.png", "a2/1.jpg", "a2/2.jpg"]
    write_csv(tmp_path / "t.csv", [{"id": i, "title": f"t {i}", "tags": "a|b"} for i in ["a1", "a1_2", *range(10, 20)]])
    assert "1 images are named by two ids and belong to both, e.g. a1_2.png" in new("t.csv", "--image-folder", "p")
    assert "no file in the folder is named by an id" in new(
        "t.csv", "--image-folder", ".", "--id", "title", "--text", "title", status=2
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        # A position in an item's folder is no id; also one that a single folder has (2/3.jpg).
        ("1/1 1/2 2/1 2/2 2/3 3/1", {"1": "1/1 1/2", "2": "2/1 2/2 2/3", "3": "3/1"}),
        ("A-7/1 A-8/1 1", {"A-7": "A-7/1", "A-8": "A-8/1", "1": "1"}),
        # Folders that are not of items: by year, by view, all in one.
        ("2023/1001 2024/1002 2024/1002_2", {"1001": "2023/1001", "1002": "2024/1002 2024/1002_2"}),
        ("front/7 back/7 front/8", {"7": "back/7 front/7", "8": "front/8"}),
        ("2024/1 2024/2", {"1": "2024/1", "2": "2024/2"}),
    ],
)
def test_a_number_in_a_folder_of_an_item_is_a_position(tmp_path, files, found):
    for name in files.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    by_id = images_by_id(tmp_path)
    assert {key: " ".join(by_id.get(key, [])).replace(".jpg", "") for key in found} == found
    assert "3" not in by_id or "3" in found


def test_names_of_images_that_are_not_utf_8(new, tmp_path):
    rows = [{"id": f"a{i}", "title": f"t {i}", "tags": f"t{i % 3}|s"} for i in range(20)]
    write_csv(tmp_path / "t.csv", rows)
    for folder in (b"p", b"p/a1", b"\xfc"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + folder)
    for name in (b"p/a1/\xfc.jpg", b"p/a2.jpg", b"\xfc/a3.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    # Such an image is missing, because a corpus cannot name it.
    printed = new("t.csv", "--image-folder", "p")
    assert "1 of 2 images are not in the folder" in printed and "items with an image: 1 (5.0%)" in printed
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    assert sorted(Corpus.load("corpus").image_keys()) == ["a1/?.jpg", "a2.jpg"]
    before = Path("shop.yaml").read_bytes()
    assert "not UTF-8" in new("t.csv", "--image-folder", os.fsdecode(b"\xfc"), status=2)
    assert Path("shop.yaml").read_bytes() == before


def test_an_image_in_its_cell_is_a_missing_file(new, tmp_path):
    data = "data:image/png;base64," + "A" * 5000
    rows = [{"id": i, "title": f"t {i}", "tags": f"t{i % 3}|s", "image": f"{i}.jpg" if i else data} for i in range(20)]
    (tmp_path / "1.jpg").touch()
    printed = new(write_csv(tmp_path / "t.csv", rows), "--image-separator", "none")
    assert "19 of 20 images are not in the folder" in printed and "AAAA" * 100 not in printed
    rows = [row | {"image": data} for row in rows]
    refused = new(write_csv(tmp_path / "t.csv", rows), "--images", "image", "--image-separator", "none", status=2)
    assert "no image of the table is in the folder" in refused and len(refused) < 1000


def test_a_file_is_not_overwritten(new, tmp_path, capsys):
    write_csv(tmp_path / "t.csv", [{"id": i, "title": f"a {i}", "tags": "x|y"} for i in range(20)])
    new("t.csv")
    assert main(["new", "shop", "t.csv", "--config-dir", str(ROOT / "config")]) == 2
    assert "--force overwrites it" in capsys.readouterr().err
    for name in ("picto", "a b", "demo", "paper", "picto-methods"):  # two configurations of one name share their pages
        assert main(["new", name, "t.csv", "--config-dir", str(ROOT / "config")]) == 2
    Path("config").mkdir()
    for name in ("datasets.yaml", "models.yaml"):
        Path("config", name).symlink_to(ROOT / "config" / name)
    for more in ([], ["--force"]):  # written beside them, it is no other configuration
        assert main(["new", "shop", "t.csv", "--out", "config/shop.yaml", *more]) == 0


@pytest.mark.parametrize("n", [20, 300, 3000, 12_800, 100_000, 2_000_000])
def test_defaults_give_400_to_1500_steps(n):
    found = training_defaults(n, n // 3)
    training, rest = found["training"], n - int(found["training"]["validation"] * n)
    steps = training["epochs"] * -(-rest // training["batch_size"])
    assert 400 <= steps <= 1500 and found["optimizer"]["warmup_steps"] == steps // 10
    assert training["batch_size"] <= max(rest, 2)


def test_a_small_catalogue_holds_nothing_out_and_its_file_says_so(new, tmp_path):
    write_csv(tmp_path / "t.csv", shop(60))
    new("t.csv", "--images", "none")
    text = (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    assert "validation: 0" in text and "too few items to choose how it predicts" in text and "local ridge votes" in text
    assert "stand_in" not in text and "chosen inference" not in text and "split0" not in text
    shares = {n: training_defaults(n, n // 3)["training"]["validation"] for n in (3999, 4000, 5200, 8000, 20_000)}
    assert shares[3999] == 0
    assert [round(n * share) for n, share in shares.items() if share] == pytest.approx([520, 520, 800, 1000], abs=1)


def test_a_catalogue_of_hundreds_chooses_on_several_trainings(new, tmp_path):
    write_csv(tmp_path / "t.csv", shop(700))
    new("t.csv", "--images", "none")
    runs = load_runs(tmp_path / "shop.yaml")
    tagger, splits = runs["shop", "tagger"], validation_splits(560)
    assert tagger.reuse == "text" and len(tagger.inference.chosen_on) == splits[0] == 5
    chosen_on = [runs["shop", run] for run in tagger.inference.chosen_on]
    held = [validation_rows(560, splits[1], run.training.validation_split) for run in chosen_on]
    assert len(np.unique(np.concatenate(held))) == 560
    alike = [run.model_dump(exclude={"training", "start"}) for run in (runs["shop", "text"], *chosen_on)]
    assert alike.count(alike[0]) == len(alike)


@pytest.mark.parametrize("n", [500, 503, 799, 1000, 1499, 2500, 3999])
def test_splits_hold_out_enough_to_choose(n):
    splits, share = validation_splits(n)
    held = np.concatenate([validation_rows(n, share, split) for split in range(splits)])
    assert 2 <= splits <= 5 and len(np.unique(held)) >= FEWEST_TO_CHOOSE and len(held) - len(np.unique(held)) <= 2
    assert validation_splits(499) == validation_splits(4000) == (0, 0.0)


def test_the_encoding_of_a_table_with_long_words_in_ascii_is_guessed_in_linear_time(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id,photo\nr\xe9sum\xe9," + b"x" * (1 << 19) + b"\nna\xefve,x\n")
    assert guess_encoding(tmp_path / "t.csv") == "cp1252"


def test_an_unknown_encoding_is_refused(new, tmp_path):
    write_csv(tmp_path / "t.csv", shop(10))
    assert "no such encoding" in new("t.csv", "--encoding", "latin-99", status=2)
    (tmp_path / "t.csv").write_bytes("id,title,tags\n1,Küche neu,a\n".encode("cp1252"))
    assert "not UTF-8" in new("t.csv", "--encoding", "utf-8", status=2)


def test_one_broken_row_does_not_change_the_quotes(tmp_path):
    rows = [f'{n},"rod, {n} m",fishing' for n in range(40)]
    rows[20] = '20,"rod"s,fishing'
    (tmp_path / "t.csv").write_text("\n".join(["id,title,tags", *rows]), encoding="utf-8")
    form = guess_form([tmp_path / "t.csv"], {}, Report())
    assert (form.quote, form.escape) == ('"', None)


def test_columns_of_0_and_1_are_labels(new, tmp_path):
    genres = [{"genre_war": i % 2, "genre_love": int(i % 3 == 0), "genre_Ärzte": 1 - i % 2} for i in range(40)]
    rows = [{"sku": i, "title": f"thing number {i}"} | genre for i, genre in enumerate(genres)]
    for kind in (rows, [{k: bool(v) if "genre" in k else v for k, v in row.items()} for row in rows]):
        write_csv(tmp_path / "t.csv", kind)
        printed = new("t.csv")
        assert re.search(r"labels are +columns .*--labels-are values", printed)
        assert "labels: 3, 1.35 per item" in printed
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    assert Corpus.load("corpus").texts("label") == ["genre_love", "genre_war", "genre_Ärzte"]
    with pytest.raises(AssertionError):
        new("t.csv", "--labels-are", "values")


@pytest.mark.parametrize(
    "written", [str, json.dumps, lambda t: str(tuple(t)), lambda t: " ".join(map(repr, t)).join("[]"), lambda t: "{" + ",".join(t) + "}"]
)  # fmt: skip
def test_lists_in_every_notation(new, tmp_path, written):
    rows = [{"id": i, "title": f"thing number {i}", "tags": written([f"t{i % 5}", f"s {i % 3}"])} for i in range(40)]
    write_csv(tmp_path / "t.csv", rows)
    printed = new("t.csv")
    assert re.search(r"separator +lists ", printed) and "labels: 8, 2.00 per item" in printed


@pytest.mark.parametrize(("n", "said"), [(3, "too few training items"), (1, "a split holds no item")])
def test_a_catalogue_too_small_to_train_on_is_refused(new, tmp_path, n, said):
    rows = [{"id": i, "title": f"item {i}", "labels": "a"} for i in range(n)]
    error = new(write_csv(tmp_path / "t.csv", rows), status=2)
    assert said in error and "t.csv" in error and not (tmp_path / "shop.yaml").exists()


def test_a_catalogue_too_large_for_a_linear_model_has_none(new, tmp_path, monkeypatch):
    rows = [{"id": i, "title": f"item {i}", "labels": "a|b" if i % 2 else "b|c"} for i in range(20)]
    table = write_csv(tmp_path / "t.csv", rows)
    new(table, "--out", tmp_path / "shop.yaml")
    assert "linear:" in (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    monkeypatch.setattr("vixml.config.limits.LINEAR_LABELS", 2)
    new(table, "--out", tmp_path / "shop.yaml")
    text = (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    assert "linear:" not in text and "linear_weight: 0" in text


def items(n=40, start=0, **columns):
    """Return items with an id, a title and labels, and further columns, each of a function of the number."""
    plain = {"id": lambda i: f"k{i}", "title": lambda i: f"thing number {i}", "tags": lambda i: f"t{i % 4}"} | columns
    return [{name: value(i) for name, value in plain.items()} for i in range(start, start + n)]


def test_tags_of_stack_overflow_are_a_list_and_no_html(new, tmp_path):
    names = ["java", "c#", ".net", "html"]
    rows = items(Body=lambda i: f"<p>How to {i}</p>", tags=lambda i: f"<{names[i % 4]}><{names[(i + 1) % 4]}>")
    write_csv(tmp_path / "t.csv", rows, sep=",")
    printed = new("t.csv", "--text", "Body")
    assert re.search(r"separator +lists ", printed) and "labels: 4, 2.00 per item" in printed
    assert re.search(r"HTML +removed  \(40 of 120 ", printed) and "which are removed" not in printed
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    assert Corpus.load("corpus").texts("label") == sorted(names)


def test_html_that_is_removed_from_labels_is_said(new, tmp_path):
    write_csv(tmp_path / "t.csv", items(tags=lambda i: ["Map<String>", "List<int>", "x", "&lt;java&gt;"][i % 4]))
    printed = new("t.csv")
    assert "20 of 40 sampled labels have tags, which are removed: 'Map<String>' becomes 'Map' (--keep-html)" in printed
    assert "10 labels are nothing but HTML tags, which are removed: left out (--keep-html)" in printed
    build_corpus("shop", load_world("shop.yaml").datasets["shop"], {}, "raw", "corpus")
    rules = read_json("corpus/counts.json")["rules"]
    assert sum(rules[split].get("labels_of_tags_only", 0) for split in ("train", "test")) == 10
    assert "which are removed" not in new("t.csv", "--keep-html")


def test_the_warning_about_a_separator_shows_a_cell_that_has_it(new, tmp_path):
    write_csv(tmp_path / "t.csv", items(tags=lambda i: ["a longer name without one", "a > b", "a > c"][i % 3]))
    assert "each level of a path like 'a > b' is a label" in new("t.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_word_none_is_an_empty_value(new, tmp_path, kind):
    rows = items(text=lambda i: "None" if i % 3 else f"good {i}", tags=lambda i: ["a", "b", "None", "c"][i % 4])
    if kind == "csv":
        write_csv(tmp_path / "t.csv", rows)
    else:  # a value that is missing is no word
        rows = [row | {"text": None} for row in rows]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    printed = new(f"t.{kind}", "--text", "title + text")
    assert re.search(r"empty values +None ", printed) and "labels: 3," in printed and "10 more are left out" in printed
    assert " None\n" not in printed
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row | {"tags": "a", "text": None}) for row in rows))
    assert "empty values" not in new("m.jsonl", "--text", "title + text")


@pytest.mark.parametrize("name", ["2024", "1.5", "007", "1e3", "0x1F", "2024-01-01", "no", "null", "y"])
def test_a_name_may_look_like_another_value(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", items())
    assert main(["new", name, "t.csv", "--config-dir", str(ROOT / "config")]) == 0
    assert load_world(f"{name}.yaml").datasets[name].title == name and (name, "tagger") in load_runs(f"{name}.yaml")
    workflow = load_workflow(merge(read_yaml(ROOT / "config/config.yaml"), read_yaml(f"{name}.yaml")), f"{name}.yaml")
    assert workflow.name == name and workflow.targets[0].dataset == name and list(workflow.tables) == [name]


def test_train_and_test_have_one_encoding(new, tmp_path):
    rows, test = items(title=lambda i: f"vélo café {i}"), items(9, 50, title=lambda i: f"vélo {i}")
    write_csv(tmp_path / "train.csv", rows, "cp1252")
    write_csv(tmp_path / "test.csv", test, "utf-8")
    error = new("train.csv", "--test", "test.csv", status=2)
    assert "different encodings" in error and "train.csv: cp1252, test.csv: utf-8" in error
    assert "different encodings" in new("train.csv", "test.csv", status=2)  # parts
    # ASCII is any of them, in the train table as well.
    for other, accents in (("test.csv", "train.csv"), ("train.csv", "test.csv")):
        write_csv(tmp_path / other, items(20, 70 if other == "test.csv" else 0), "ascii")
        write_csv(tmp_path / accents, rows, "cp1252")
        new("train.csv", "--test", "test.csv")
        assert load_world("shop.yaml").datasets["shop"].catalogue.form.encoding == "cp1252"


def write_escaped(path, rows):
    """Write CSV in which a backslash stands before a quote inside a cell, and before another backslash."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\")
        writer.writerows([list(rows[0]), *(row.values() for row in rows)])


@pytest.mark.parametrize("order", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_a_table_without_quotes_in_its_cells_is_written_like_the_other(new, tmp_path, order):
    write_escaped(tmp_path / "a.csv", items(title=lambda i: f'a 5" disk {i}'))
    write_escaped(tmp_path / "b.csv", items(20, 50, title=lambda i: f"in C:\\dir {i}"))
    new(order[0], "--test", order[1])
    assert load_world("shop.yaml").datasets["shop"].catalogue.form.escape == "\\"
    for title in ('a "new" disk', "in C:\\dir"):  # quotes are doubled, a backslash is one: really another form
        write_csv(tmp_path / "b.csv", items(20, 50, title=lambda i, title=title: f"{title} {i}"), "utf-8", ",")
        assert "another escape" in new(order[0], "--test", order[1], status=2)


def test_the_first_sheet_may_have_another_name_in_each_file(new, tmp_path):
    for n, name in enumerate(("train", "test", "more")):
        pd.DataFrame(items(20, 30 * n)).to_excel(tmp_path / f"{name}.xlsx", sheet_name=name, index=False)
    printed = new("train.xlsx", "more.xlsx", "--test", "test.xlsx")
    assert "items: 60 (40 train, 20 test)" in printed and "train, more, test  (the first of each; --sheet)" in printed
    new("train.xlsx")
    assert load_world("shop.yaml").datasets["shop"].catalogue.form.sheet == "train"


@pytest.mark.parametrize("value", [lambda i: i + 0.5, lambda i: date(2020, 1, 1) + timedelta(i)])
@pytest.mark.parametrize("name", ["price", "id"])
def test_ids_are_texts_or_whole_numbers(new, tmp_path, value, name):
    rows = [{name: value(i)} | {key: row[key] for key in ("title", "tags")} for i, row in enumerate(items())]
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    for options in ((), ("--id", "#row")):
        assert re.search(r"id +number of the row", new("t.parquet", *options))
        assert load_world("shop.yaml").datasets["shop"].catalogue.id == "#row"
    assert "--id '#row'" in new("t.parquet", "--id", "nr", status=2)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_blanks_around_names_of_columns_do_not_count(new, tmp_path, kind):
    rows = [{f"{name} ": value for name, value in row.items()} for row in items()]
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    else:
        lines = list(map(json.dumps, rows))
        (tmp_path / f"t.{kind}").write_text("\n".join(lines) if kind == "jsonl" else f"[{', '.join(lines)}]")
    for options in ((), ("--text", "title ", "--id", "id ", "--labels", "tags ")):
        printed = " ".join(new(f"t.{kind}", *options).split())
        assert "text title (" in printed and "labels tags (" in printed and "id id (unique" in printed


def test_a_column_with_a_plus_in_its_name_is_an_error_not_left_out(new, tmp_path):
    flags = {name: lambda i, n=n: int(i % (n + 2) == 0) for n, name in enumerate(["Python", "Java", "C++", "Go"])}
    rows = [{key: row[key] for key in row if key != "tags"} for row in items(**flags)]
    write_csv(tmp_path / "t.csv", rows)
    for options in ((), ("--labels", "Python + C++")):
        error = new("t.csv", *options, status=2)
        assert "a `+`, which joins columns" in error and "C++" in error
    assert "labels: 3," in new("t.csv", "--labels", "Python + Java + Go")
    write_csv(tmp_path / "t.csv", items(**{"Q+A": lambda i: f"a question {i}"}))
    assert "a `+`, which joins columns" in new("t.csv", "--text", "Q+A", status=2)


def test_a_test_table_without_images_is_a_warning(new, tmp_path):
    Image.new("RGB", (30, 30), "red").save(tmp_path / "a.jpg")
    write_csv(tmp_path / "train.csv", items(image=lambda i: "a.jpg"))
    write_csv(tmp_path / "test.csv", items(9, 50, other=lambda i: "a.jpg"))
    printed = new("train.csv", "--test", "test.csv")
    assert "no item of test has an image, but 40 of train have (--images, --image-folder)" in printed
