"""``vixml tag``: tables in and out, the same bytes after a kill, bad rows put aside with their reason."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import excel, zipped

from vixml import Tagger, cli
from vixml.config.registry import TableForm
from vixml.data.table_files import read_rows
from vixml.errors import VixmlError
from vixml.tagging import stream
from vixml.tagging import tagger as tagger_module
from vixml.tagging.stream import Columns, aside_of, tag_table

NAMES = ["box river", "toy, red", "gem\ncoal", "kite plum", 'bar "ember"', "post", "flag moss"]


@pytest.fixture
def tagger(packed) -> Tagger:
    return Tagger.load(packed("text"))


def write(path: Path, rows: list[dict]) -> Path:
    """Write a table in the kind that its name says."""
    plain = path.name.removesuffix(".gz")
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif plain.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as written:
            table = csv.DictWriter(written, list(rows[0]), delimiter="\t" if plain.endswith(".tsv") else ",")
            table.writeheader()
            table.writerows(rows)
    return path


def tags_in(path: Path) -> list[tuple[str, int, str, float]]:
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert all(list(row) == ["id", "rank", "label", "score"] for row in rows)
    return [(row["id"], int(row["rank"]), row["label"], round(float(row["score"]), 5)) for row in rows]


def aside(out: Path) -> list[dict]:
    return list(csv.DictReader(open(aside_of(out), encoding="utf-8", newline="")))


@pytest.mark.parametrize("table", ["new.csv", "new.tsv", "new.jsonl", "new.jsonl.gz", "new.parquet"])
@pytest.mark.parametrize("out", ["tags.csv", "tags.jsonl", "tags.parquet"])
def test_every_kind_of_table_has_the_tags_of_the_tagger(tagger, tmp_path, table, out):
    rows = [{"id": f"0{number}", "name": name, "more": "box"} for number, name in enumerate(NAMES)]
    counts = tag_table(tagger, write(tmp_path / table, rows), tmp_path / out, k=3)
    assert counts == {"items": 7, "tagged": 7, "aside": 0, "faulty_images": 0}
    expected = [
        (f"0{number}", rank, tag.label, round(tag.score, 5))
        for number, tags in enumerate(tagger.tag([f"{name} box" for name in NAMES], k=3))
        for rank, tag in enumerate(tags, start=1)
    ]
    found = tags_in(tmp_path / out)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], abs=2e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([table, out])


def test_ids_that_a_spreadsheet_would_compute_are_text_and_survive(tagger, tmp_path):
    ids = ["=1+1", "@SUM(A1)", "+a", "-b", "-5", "+1.5", "'=c", "''-d", "'tis", " =e", "\t=f", "007", 'say "=x"']
    rows = [{"id": key, "text": "plum"} for key in ids]
    for table in ("new.jsonl", "new.csv"):
        tag_table(tagger, write(tmp_path / table, rows), tmp_path / "tags.csv", k=1)
        # The cells as a spreadsheet sees them: numbers, or text that starts as no formula.
        for row in csv.DictReader(io.StringIO((tmp_path / "tags.csv").read_text(encoding="utf-8"), newline="")):
            assert row["id"].lstrip()[0] not in "=+-@" or float(row["id"]), row
        # And as our own reader does; one apostrophe in front of a formula is the mark of a text.
        found = [record["id"] for _, record in read_rows([tmp_path / "tags.csv"], TableForm())]
        unmarked = {"'=c": "=c", "''-d": "'-d"} if table == "new.csv" else {}
        assert found == [unmarked.get(key, key) for key in ids]
        tag_table(tagger, tmp_path / table, tmp_path / "tags.jsonl", k=1)
        assert [json.loads(line)["id"] for line in (tmp_path / "tags.jsonl").read_text().splitlines()] == found


@pytest.mark.parametrize("ending", stream.ENDINGS)
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tagger, tmp_path, monkeypatch, ending):
    rows = [{"id": n, "text": NAMES[n % 7] if n % 5 else ""} for n in range(23)]
    table, out = write(tmp_path / "new.csv", rows), tmp_path / f"tags{ending}"
    monkeypatch.setattr(tagger_module, "ITEMS_AT_ONCE", 4)
    tag_table(tagger, table, tmp_path / f"whole{ending}")
    child = os.fork()
    if not child:  # killed while it writes its third chunk
        written = stream.write_json
        monkeypatch.setattr(
            stream, "write_json", lambda path, value: written(path, value) if "2" not in path.stem else os.kill(os.getpid(), signal.SIGKILL)
        )  # fmt: skip
        tag_table(tagger, table, out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not out.exists() and len(list((tmp_path / f"{out.name}-tagging").glob("0*.json"))) == 2
    done: list[int] = []
    write_chunk = stream._write_chunk
    monkeypatch.setattr(
        stream, "_write_chunk", lambda path, *given: done.append(int(path.stem)) or write_chunk(path, *given)
    )
    counts = tag_table(tagger, table, out)
    assert done == [2, 3, 4, 5] and counts == {"items": 23, "tagged": 18, "aside": 5, "faulty_images": 0}
    assert out.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert aside_of(out).read_bytes() == aside_of(tmp_path / f"whole{ending}").read_bytes()
    assert not list(tmp_path.glob("*-tagging"))


def test_a_chunk_that_lacks_a_file_is_tagged_again(tagger, tmp_path, monkeypatch):
    table, out = write(tmp_path / "new.csv", [{"id": n, "text": NAMES[n % 7]} for n in range(9)]), tmp_path / "tags.csv"
    monkeypatch.setattr(tagger_module, "ITEMS_AT_ONCE", 4)
    tag_table(tagger, table, tmp_path / "whole.csv")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    for lost in ("00000001.csv", "00000000.aside", "00000002.json"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stream, "_join", fail)
            tag_table(tagger, table, out)
        (tmp_path / "tags.csv-tagging" / lost).unlink()
        assert tag_table(tagger, table, out)["tagged"] == 9
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_a_kill_leaves_of_finished_work_is_not_resumed(tagger, tmp_path, monkeypatch):
    table, out = write(tmp_path / "new.csv", [{"id": n, "text": NAMES[n % 7]} for n in range(9)]), tmp_path / "tags.csv"
    monkeypatch.setattr(tagger_module, "ITEMS_AT_ONCE", 4)

    def killed(folder: Path, **_: object) -> None:
        (folder / "00000001.csv").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stream.shutil, "rmtree", killed)
        tag_table(tagger, table, out)
    before = out.read_bytes()
    assert tag_table(tagger, table, out)["tagged"] == 9 and out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "tags.csv"]


def test_two_processes_do_not_write_the_same_tags(tagger, tmp_path, monkeypatch):
    table, out = write(tmp_path / "new.csv", [{"id": n, "text": NAMES[n % 7]} for n in range(9)]), tmp_path / "tags.csv"
    monkeypatch.setattr(tagger_module, "ITEMS_AT_ONCE", 4)
    tag_chunk = stream._tag_chunk

    def meanwhile(*given: object) -> object:
        with monkeypatch.context() as patch, pytest.raises(VixmlError, match="another process writes these tags"):
            patch.setattr(stream, "_tag_chunk", tag_chunk)
            tag_table(tagger, table, out)
        return tag_chunk(*given)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_tag_chunk", meanwhile)
        assert tag_table(tagger, table, out)["tagged"] == 9
    assert len({row[0] for row in tags_in(out)}) == 9

    # On a disk without locks, the first one removes the chunks of the second.
    def removed(*given: object) -> object:
        if (tmp_path / "tags.csv-tagging/00000001.json").exists():
            stream.shutil.rmtree(tmp_path / "tags.csv-tagging")
        return tag_chunk(*given)

    before = out.read_bytes()
    monkeypatch.setattr(stream, "_tag_chunk", removed)
    with pytest.raises(VixmlError, match="removed meanwhile"):
        tag_table(tagger, table, out)
    assert out.read_bytes() == before
    monkeypatch.setattr(stream, "_tag_chunk", tag_chunk)
    assert tag_table(tagger, table, out)["tagged"] == 9 and out.read_bytes() == before


def test_the_tags_replace_neither_the_table_nor_rows_that_were_put_aside_and_are_the_table(tagger, tmp_path):
    table = write(tmp_path / "tags.csv.aside.csv", [{"id": 1, "text": "box"}])
    with pytest.raises(VixmlError, match="replace the table"):
        tag_table(tagger, table, tmp_path / "tags.csv")
    assert table.exists()


def test_other_options_or_labels_start_over(tagger, tmp_path, monkeypatch):
    table, out = write(tmp_path / "new.csv", [{"id": 1, "text": "box"}]), tmp_path / "tags.csv"

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stream, "_join", fail)
        tag_table(tagger, table, out, k=1)
    tag_table(tagger, table, out, k=2)
    assert len(tags_in(out)) == 2


def test_bad_rows_of_a_csv_are_put_aside(packed, shop, tmp_path):
    (tmp_path / "plum-40.png").write_bytes((shop.folder / "plum-40.png").read_bytes())
    lines = [b"id,name,photos", b"007,box,plum-40.png;gone.png", b"2,\xff\xfe,", b"3,box,a,b", b"4, ,", b"5,,plum-40.png", b",kite,",
             b"7,box,https://example.com/x.png", b"8,,gone.png", b'9,"b"ox,', b"10,/dev/zero,/dev/zero"]  # fmt: skip
    (tmp_path / "new.csv").write_bytes(b"\r\n".join(lines))
    out = tmp_path / "tags.csv"
    counts = tag_table(Tagger.load(packed("images")), tmp_path / "new.csv", out, k=1)
    assert counts == {"items": 10, "tagged": 5, "aside": 5, "faulty_images": 3}
    assert [row[0] for row in tags_in(out)] == ["007", "5", "#5", "7", "10"]
    found = [(row["row"], row["id"], row["tagged"], row["reason"]) for row in aside(out)]
    expected = [
        (2, "007", "yes", "gone.png"), (3, "#1", "no", "UTF-8"), (4, "#2", "no", "4 cells"), (5, "4", "no", "empty text"),
        (8, "7", "yes", "not fetched"), (9, "8", "no", "gone.png"), (10, "#8", "no", "expected after"),
        (11, "10", "yes", "no such file"),
    ]  # fmt: skip
    assert [row[:3] for row in found] == [(f"new.csv:{line}", *row) for line, *row, _ in expected]
    assert all(reason in row[3] for row, (*_, reason) in zip(found, expected, strict=True))


ROWS = [("007", "box river"), ("8", "kite, plum"), ("9", "gem\ncoal")]
SHOWN = [{"id": key, "text": text} for key, text in ROWS]
CSV = 'id,text\r\n007,box river\r\n8,"kite, plum"\r\n9,"gem\ncoal"\r\n'


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("t.csv", CSV.replace(",", ";").replace('"kite; plum"', "kite, plum").encode("utf-8-sig"), "`;`"),
        ("t.tsv", CSV.replace(",", "\t").replace('"kite\t plum"', "kite, plum").encode("utf-16"), "utf-16"),
        ("t.json", json.dumps(SHOWN, indent=1).encode(), "utf-8"),
        ("t.json", json.dumps({"n": 3, "items": SHOWN}).encode(), "records items"),
        ("t.ndjson.bz2", bz2.compress("".join(json.dumps(row) + "\n" for row in SHOWN).encode()), "utf-8"),
        ("t.xlsx", excel([["id", "text"], *map(list, ROWS)]), "Sheet"),
        ("t.csv.zip", zipped({"t.csv": CSV}), "`,`"),
        ("t.csv.xz", lzma.compress(CSV.replace('"', "'").encode()), "quotes '"),
    ],
    ids=itertools.count(),
)
def test_every_kind_and_form_that_new_reads_is_tagged_and_the_guess_is_printed(
    tagger, tmp_path, capsys, name, data, told
):
    (tmp_path / name).write_bytes(data)
    out = tmp_path / "tags.csv"
    counts = tag_table(tagger, tmp_path / name, out, k=1)
    assert counts == {"items": 3, "tagged": 3, "aside": 0, "faulty_images": 0} and told in capsys.readouterr().err
    expected = [tags[0].label for tags in tagger.tag([text for _, text in ROWS], k=1)]
    keys = [key for key, _ in ROWS]
    assert [(row[0], row[2]) for row in tags_in(out)] == list(zip(keys, expected, strict=True))


def test_a_table_in_parts_is_one_table(tagger, tmp_path):
    for number in (2, 1):
        (tmp_path / f"part-{number}.csv").write_text(f"id,text\n{number},box\n{number}b\n", encoding="utf-8")
    out = tmp_path / "tags.csv"
    counts = tag_table(tagger, str(tmp_path / "part-*.csv"), out, k=1)
    assert counts == {"items": 4, "tagged": 2, "aside": 2, "faulty_images": 0}
    assert [row[0] for row in tags_in(out)] == ["1", "2"]
    assert [row["row"] for row in aside(out)] == ["part-1.csv:3", "part-2.csv:3"]


def trained_as(tagger: Tagger, monkeypatch, **changes: object) -> None:
    """Let the model be of a training table that was written in another way."""
    dataset = tagger.folder.dataset
    entry = dataset.catalogue.model_copy(update=changes)
    folder = replace(tagger.folder, dataset=dataset.model_copy(update={"catalogue": entry}))
    monkeypatch.setattr(tagger, "folder", folder)


def test_the_form_of_the_training_table_is_used_where_it_fits(tagger, tmp_path, monkeypatch, capsys):
    # By itself, this table could not be told apart from one with the delimiter `,`, or its encoding be guessed.
    trained_as(tagger, monkeypatch, form=TableForm(encoding="cp1251", delimiter="|"), id="key")
    (tmp_path / "t.csv").write_bytes("key|text\n0|a|b\n1|box, красный\n2|kite, синий\n".encode("cp1251"))
    counts = tag_table(tagger, tmp_path / "t.csv", tmp_path / "tags.csv", k=1)
    assert (counts["tagged"], counts["aside"]) == (2, 1)
    assert "form that of the training table" in capsys.readouterr().err
    assert [row[0] for row in tags_in(tmp_path / "tags.csv")] == ["1", "2"]
    # Another form is guessed; UTF-8 is not read in an encoding in which every byte means something.
    (tmp_path / "t.csv").write_text("key|text\n1|box, красный\n", encoding="utf-8")
    assert tag_table(tagger, tmp_path / "t.csv", tmp_path / "tags.csv", k=1)["tagged"] == 1
    assert "encoding utf-8" in capsys.readouterr().err


def test_html_and_empty_values_are_those_of_the_training_table(tagger, tmp_path, monkeypatch):
    trained_as(tagger, monkeypatch, strip_html=True, empty=["NULL"])
    (tmp_path / "t.csv").write_text("id,text\n1,<b>box</b> river\n2,null\n3,&amp;lt;b&amp;gt;\n", encoding="utf-8")
    counts = tag_table(tagger, tmp_path / "t.csv", tmp_path / "tags.jsonl", k=2)
    assert (counts["tagged"], counts["aside"]) == (2, 1)
    tags = tagger.tag(["box river", "&amp;lt;b&amp;gt;"], k=2)  # cleaned once, not twice
    found, tags = tags_in(tmp_path / "tags.jsonl"), [tag for found in tags for tag in found]
    assert [row[2] for row in found] == [tag.label for tag in tags]
    assert [row[3] for row in found] == pytest.approx([tag.score for tag in tags], abs=2e-5)
    with_tags, without = (
        [tag.score for tag in tagger.tag([text], k=2)[0]] for text in ("<p>box<br>river", "box river")
    )
    assert with_tags == without


def test_images_are_named_as_in_the_training_table(packed, shop, tmp_path, monkeypatch):
    tagger, out = Tagger.load(packed("images")), tmp_path / "tags.csv"
    for name in ("plum-40.png", "coal-20.png"):
        (tmp_path / name).write_bytes((shop.folder / name).read_bytes())
    shown = [[tmp_path / "plum-40.png", tmp_path / "coal-20.png"], [tmp_path / "plum-40.png"]]
    expected = [tags[0].score for tags in tagger.tag([{"text": "box", "images": paths} for paths in shown], k=1)]
    trained_as(tagger, monkeypatch, images="main + extra", images_are="names", image_separator="|", lists=True)
    lines = ["id;text;main;extra", "1;box;C:\\shop\\plum-40.png;x/coal-20.png|", "2;box;['/srv/plum-40.png'];"]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    assert tag_table(tagger, tmp_path / "t.csv", out, k=1)["faulty_images"] == 0
    assert [row[3] for row in tags_in(out)] == pytest.approx(expected, abs=2e-5)
    trained_as(tagger, monkeypatch, images="id", images_are="ids")
    (tmp_path / "t.csv").write_text("id,text\nplum-40,box\n", encoding="utf-8")
    tag_table(tagger, tmp_path / "t.csv", out, k=1)
    assert [row[3] for row in tags_in(out)] == pytest.approx(expected[1:], abs=2e-5)


@pytest.mark.parametrize("lines", [
    [b"id,text", b"1,box", "2,grün".encode(), "3,blåbær".encode(), b"4,gr\xfcn", b"5,box"],  # most are UTF-8
    [b"id,text", b"1,box", b"2,\xff\xfe", *(b"%d,box" % n for n in range(3, 9))],  # what else it is cannot be told
])  # fmt: skip
def test_a_row_in_another_encoding_is_put_aside(tagger, tmp_path, lines):
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    counts = tag_table(tagger, tmp_path / "t.csv", tmp_path / "tags.csv", k=1)
    (row,) = aside(tmp_path / "tags.csv")
    assert counts["tagged"] == len(lines) - 2 and "not UTF-8" in row["reason"]


def test_a_table_in_another_encoding_is_read_in_it(tagger, tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes("id,text\n1,grün box\n2,box\n3,weiß\n".encode("cp1252"))
    assert tag_table(tagger, tmp_path / "t.csv", tmp_path / "tags.csv", k=1)["aside"] == 0
    assert "encoding cp1252" in capsys.readouterr().err


def test_broken_rows_of_json_and_excel_are_put_aside(tagger, tmp_path):
    rows = b'[{"id": 1, "text": "box"}, 5, {"id": 3, "text": "\xff"}, {"id": 4.0, "text": "box"}]'
    (tmp_path / "t.json").write_bytes(rows)
    (tmp_path / "t.xlsx").write_bytes(excel([["id", "text"], [1, "box"], [2, "box", "more"], [3, None], [4, "box"]]))
    for name, reasons in (
        ("t.json", ["malformed", "not UTF-8"]),
        ("t.xlsx", ["cell that the header lacks", "empty text"]),
    ):
        columns = Columns(form={"encoding": "utf-8"})
        assert tag_table(tagger, tmp_path / name, tmp_path / "tags.csv", k=1, columns=columns)["tagged"] == 2
        assert [row[0] for row in tags_in(tmp_path / "tags.csv")] == ["1", "4"]
        found = aside(tmp_path / "tags.csv")
        assert len(found) == 2 and all(part in row["reason"] for part, row in zip(reasons, found, strict=True))


def test_bad_lines_of_json_are_put_aside(tagger, tmp_path):
    lines = [
        '{"id": 1, "text": "box"}',
        '{"id": 2, "text"',
        "[1]",
        "",
        '{"id": 3, "text": 5}',
        '{"id": 4, "text": null}',
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(lines), encoding="utf-8")
    counts = tag_table(tagger, tmp_path / "new.jsonl", tmp_path / "tags.csv", k=1)
    assert counts == {"items": 5, "tagged": 1, "aside": 4, "faulty_images": 0}
    assert [(row["row"], row["id"]) for row in aside(tmp_path / "tags.csv")] == [
        ("new.jsonl:2", "#1"), ("new.jsonl:3", "#2"), ("new.jsonl:5", "3"), ("new.jsonl:6", "4"),
    ]  # fmt: skip


def test_images_may_be_bytes_in_a_parquet_table(packed, shop, tmp_path):
    data = (shop.folder / "plum-40.png").read_bytes()
    rows = [{"id": n, "name": "box", "photos": [{"bytes": data, "path": None}] if n else []} for n in range(2)]
    tagger, out = Tagger.load(packed("images")), tmp_path / "tags.csv"
    assert tag_table(tagger, write(tmp_path / "new.parquet", rows), out, k=1)["faulty_images"] == 0
    expected = tagger.tag([{"name": "box"}, {"name": "box", "photos": data}], k=1, voters=0)
    assert [row[3] for row in tags_in(out)] == pytest.approx([tags[0].score for tags in expected], abs=2e-5)
    assert expected[0] != expected[1]


@pytest.mark.parametrize(("name", "content", "columns", "what"), [
    ("new.jsonl", '{"text": "box"}\n', {"images": "img"}, "img"), ("new.jsonl", '{"text": "box"}\n', {"id": "sku"}, "sku"),
    ("new.csv", "id,headline\n1,box\n", {}, "headline"), ("new.csv", "id,text\n1,box\n", {"text": "titel"}, "titel"),
    ("new.csv", "id,text\n1,box\n", {"images": "img"}, "img"), ("new.csv", "", {}, "empty"), ("new.csv", "id,text\n", {}, "0 rows"),
    ("new.csv", "id,id\n1,2\n", {}, "names a column twice"), ("new.csv", "id,text\n1,box\n2,\"never closed\n3,post\n", {}, "unexpected end"), ("new.jsonl", '{"text": ""}\n', {}, "empty text"), ("new.ods", "box\n", {}, ".ods"),
    ("new.txt", "box\n", {}, "no column of the table is known"), ("new.csv", "id,text\n1,box\n", {"form": {"encoding": "klingon"}}, "klingon"),
    ("new.json", '[{"text": "box"}, {"text"', {}, "malformed"), ("new.csv.gz", "no gzip", {}, "cannot be read"),
    ("new.parquet", "PAR1", {}, ""), ("new.csv", None, {}, ""),
])  # fmt: skip
def test_a_table_that_cannot_be_tagged_is_one_clear_error(tagger, tmp_path, name, content, columns, what):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        tag_table(tagger, tmp_path / name, tmp_path / "tags.csv", columns=Columns(**columns))
    assert what in str(caught.value) and not (tmp_path / "tags.csv").exists()


def test_the_command_line_packs_and_tags(shop, packed, tmp_path, monkeypatch, capsys):
    packed("text")
    monkeypatch.chdir(tmp_path)
    where = ["--results", str(shop.project.results), "--config-dir", str(shop.project.config_dir)]
    assert cli.main(["pack", "shop", "text", "--no-neighbours", *where]) == 0
    write(tmp_path / "new.csv", [{"sku": "0012", "title": name, "kind": "box"} for name in NAMES])
    options = ["--text", "title+kind", "--id", "sku", "--k", "2", "--labels-by", "id", "--delimiter", ","]
    assert cli.main(["tag", "new.csv", "--model", "shop.model", "--out", "tags.csv", *options]) == 0
    assert "tags of 7 items" in capsys.readouterr().out
    assert tags_in(tmp_path / "tags.csv")[0][:2] == ("0012", 1)
    assert cli.main(["tag", "new.csv", "--model", "shop.model", "--out", "new.csv"]) == 2
    assert "replace the table" in capsys.readouterr().err
    assert cli.main(["pack", "no-shop", *where]) == 2
    assert "unknown dataset" in capsys.readouterr().err
    assert cli.main(["tag", "new.csv", "--model", "config", "--out", "tags.csv"]) == 2
    assert "not a model folder" in capsys.readouterr().err


def test_one_column_of_an_unknown_name_is_named(packed, tmp_path):
    (tmp_path / "new.csv").write_text("label\nbox river\n", encoding="utf-8")
    tagger = Tagger.load(packed("text"))
    with pytest.raises(VixmlError, match="no column of the table is known") as caught:
        tag_table(tagger, [tmp_path / "new.csv"], tmp_path / "tags.csv", 2)
    assert "name" in caught.value.expected and "--text" in caught.value.hint and "label" in caught.value.found
    (tmp_path / "new.csv").write_text("name\nbox river\n", encoding="utf-8")
    assert tag_table(tagger, [tmp_path / "new.csv"], tmp_path / "tags.csv", 2)["tagged"] == 1
