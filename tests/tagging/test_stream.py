"""``vixml tag``: tables in and out, the same bytes after a kill, bad rows put aside with their reason."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vixml import Tagger, cli
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
    assert counts == {"items": 7, "tagged": 7, "aside": 0, "faulty_pictures": 0}
    expected = [
        (f"0{number}", rank, tag.label, round(tag.score, 5))
        for number, tags in enumerate(tagger.tag([f"{name} box" for name in NAMES], k=3))
        for rank, tag in enumerate(tags, start=1)
    ]
    found = tags_in(tmp_path / out)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], abs=2e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([table, out])


@pytest.mark.parametrize("ending", stream.ENDINGS)
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tagger, tmp_path, monkeypatch, ending):
    rows = [{"id": n, "text": NAMES[n % 7] if n % 5 else ""} for n in range(23)]
    table, out = write(tmp_path / "new.csv", rows), tmp_path / f"tags{ending}"
    monkeypatch.setattr(tagger_module, "TEXTS_AT_ONCE", 4)
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
    tag_chunk = stream._tag_chunk
    monkeypatch.setattr(stream, "_tag_chunk", lambda *given: done.append(int(given[2].name)) or tag_chunk(*given))
    counts = tag_table(tagger, table, out)
    assert done == [2, 3, 4, 5] and counts == {"items": 23, "tagged": 18, "aside": 5, "faulty_pictures": 0}
    assert out.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert aside_of(out).read_bytes() == aside_of(tmp_path / f"whole{ending}").read_bytes()
    assert not list(tmp_path.glob("*-tagging"))


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
    assert counts == {"items": 10, "tagged": 5, "aside": 5, "faulty_pictures": 3}
    assert [row[0] for row in tags_in(out)] == ["007", "5", "#5", "7", "10"]
    found = [(row["row"], row["id"], row["tagged"], row["reason"]) for row in aside(out)]
    expected = [
        ("line 2", "007", "yes", "gone.png"), ("line 3", "#1", "no", "UTF-8"), ("line 4", "#2", "no", "4 cells"),
        ("line 5", "4", "no", "empty text"), ("line 8", "7", "yes", "not fetched"), ("line 9", "8", "no", "gone.png"),
        ("line 10", "#8", "no", "expected after"), ("line 11", "10", "yes", "no such file"),
    ]  # fmt: skip
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert all(reason in row[3] for row, (*_, reason) in zip(found, expected, strict=True))


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
    assert counts == {"items": 5, "tagged": 1, "aside": 4, "faulty_pictures": 0}
    assert [(row["row"], row["id"]) for row in aside(tmp_path / "tags.csv")] == [
        ("line 2", "#1"), ("line 3", "#2"), ("line 5", "3"), ("line 6", "4"),
    ]  # fmt: skip


def test_pictures_may_be_bytes_in_a_parquet_table(packed, shop, tmp_path):
    data = (shop.folder / "plum-40.png").read_bytes()
    rows = [{"id": n, "name": "box", "photos": [{"bytes": data, "path": None}] if n else []} for n in range(2)]
    tagger, out = Tagger.load(packed("images")), tmp_path / "tags.csv"
    assert tag_table(tagger, write(tmp_path / "new.parquet", rows), out, k=1)["faulty_pictures"] == 0
    expected = tagger.tag([{"name": "box"}, {"name": "box", "photos": data}], k=1, voters=0)
    assert [row[3] for row in tags_in(out)] == pytest.approx([tags[0].score for tags in expected], abs=2e-5)
    assert expected[0] != expected[1]


@pytest.mark.parametrize(("name", "content", "columns", "what"), [
    ("new.jsonl", '{"text": "box"}\n', {"pictures": "img"}, "img"), ("new.jsonl", '{"text": "box"}\n', {"id": "sku"}, "sku"),
    ("new.csv", "id,headline\n1,box\n", {}, "headline"), ("new.csv", "id,text\n1,box\n", {"text": "titel"}, "titel"),
    ("new.csv", "id,text\n1,box\n", {"pictures": "img"}, "img"), ("new.csv", "", {}, "nothing"), ("new.csv", "id,text\n", {}, "0 rows"),
    ("new.csv", "id,id\n1,2\n", {}, "id, id"), ("new.csv", "id,text\n1,box\n2,\"never closed\n3,post\n", {}, "unexpected end"), ("new.jsonl", '{"text": ""}\n', {}, "empty text"), ("new.txt", "box\n", {}, ".txt"),
    ("new.parquet", "PAR1", {}, ""), ("new.csv", None, {}, ""),
])  # fmt: skip
def test_a_table_that_cannot_be_tagged_is_one_clear_error(tagger, tmp_path, name, content, columns, what):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        tag_table(tagger, tmp_path / name, tmp_path / "tags.csv", columns=Columns(**columns))
    assert what in f"{caught.value.found} {caught.value.expected}" and not (tmp_path / "tags.csv").exists()


def test_the_command_line_packs_and_tags(shop, packed, tmp_path, monkeypatch, capsys):
    packed("text")
    monkeypatch.chdir(tmp_path)
    where = ["--results", str(shop.project.results), "--config-dir", str(shop.project.config_dir)]
    assert cli.main(["pack", "shop", "text", "--no-neighbours", *where]) == 0
    write(tmp_path / "new.csv", [{"sku": "0012", "title": name, "kind": "box"} for name in NAMES])
    options = ["--text", "title+kind", "--id", "sku", "--k", "2", "--labels-by", "id"]
    assert cli.main(["tag", "new.csv", "--model", "shop.model", "--out", "tags.csv", *options]) == 0
    assert "tags of 7 items" in capsys.readouterr().out
    assert tags_in(tmp_path / "tags.csv")[0][:2] == ("0012", 1)
    assert cli.main(["tag", "new.csv", "--model", "shop.model", "--out", "new.csv"]) == 2
    assert "replace the table" in capsys.readouterr().err
    assert cli.main(["pack", "no-shop", *where]) == 2
    assert "no run of this dataset" in capsys.readouterr().err
    assert cli.main(["tag", "new.csv", "--model", "config", "--out", "tags.csv"]) == 2
    assert "not a model folder" in capsys.readouterr().err
