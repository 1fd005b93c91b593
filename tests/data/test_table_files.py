"""Tables of every kind give the same records; what is damaged, hostile or ambiguous is one error."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import excel, zipped

from vixml.config.registry import TableForm
from vixml.data import table_files
from vixml.data.table_files import expand, read_parts
from vixml.errors import VixmlError

RECORDS = [{"id": "007", "title": 'Rod, "long"', "tags": "a|b"}, {"id": "8", "title": "Zwei\nZeilen ü", "tags": ""}]
CSV = 'id,title,tags\r\n007,"Rod, ""long""",a|b\r\n8,"Zwei\nZeilen ü",\r\n'
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def records(path, **form):
    return [record for _, record in read_parts([path], TableForm(**form))]


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("t.csv", CSV.encode("utf-8-sig"), {}),
        ("t.csv", CSV.replace("\r\n", "\r").encode(), {}),
        ("t.tsv", CSV.replace(",", "\t").replace("Rod\t", "Rod,").encode("utf-16"), {"encoding": "utf-16", "delimiter": "\t"}),
        ("t.txt", CSV.replace('""', '\\"').encode("cp1252"), {"encoding": "cp1252", "escape": "\\"}),
        ("t.jsonl", LINES.encode(), {}),
        ("t.json", LINES.encode(), {}),
        ("t.json", json.dumps(RECORDS, indent=1).encode(), {}),
        ("t.json", json.dumps({"n": [1, {"a": 2}], "items": RECORDS}).encode(), {"records": "items"}),
        ("t.csv.gz", gzip.compress(CSV.encode()), {}),
        ("t.jsonl.bz2", bz2.compress(LINES.encode()), {}),
        ("t.json.xz", lzma.compress(json.dumps(RECORDS).encode()), {}),
        ("t.csv.zip", zipped({"whatever.csv": CSV}), {}),
        ("export.zip", zipped({"whatever.csv": CSV}), {}),
        ("t.csv.zst", pa.Codec("zstd").compress(CSV.encode(), asbytes=True), {}),
    ],
    ids=itertools.count(),  # bytes of a gzip file hold the time
)  # fmt: skip
def test_every_kind_gives_the_same_records(tmp_path, name, data, form):
    (tmp_path / name).write_bytes(data)
    assert records(tmp_path / name, **form) == RECORDS


def test_a_row_that_is_broken_by_itself_is_its_error(tmp_path):
    rows = b'id,title\n1,a\n2,b,c\n3,"d"e\n4,\xff\n5,f\n'
    lines = b'{"id": "1"}\n{"id"\n[]\n{"id": "\xff"}\n{"id": "5"}\n'
    array = b'[{"id": "1"}, 7, {"id": "\xff"}, {"id": "5"}]'
    for name, data, says in (
        ("t.csv", rows, ["another number of cells", "not CSV", "not UTF-8"]),
        ("t.jsonl", lines, ["malformed", "malformed", "not UTF-8"]),
        ("t.json", array, ["malformed", "not UTF-8"]),
    ):
        (tmp_path / name).write_bytes(data)
        found = [record for _, record in table_files.read_rows([tmp_path / name], TableForm())]
        assert [record["id"] for record in found if isinstance(record, dict)] == ["1", "5"]
        faults = [record for record in found if isinstance(record, VixmlError)]
        assert len(faults) == len(says) and all(part in fault.what for part, fault in zip(says, faults, strict=True))
        with pytest.raises(VixmlError, match=says[0]):
            records(tmp_path / name)


def test_names_of_columns_are_without_blanks_and_different(tmp_path):
    (tmp_path / "t.jsonl").write_text('{" id": 1, "title ": "a"}\n{"id": 2, "id ": 3}\n')
    (good, bad) = (record for _, record in table_files.read_rows([tmp_path / "t.jsonl"], TableForm()))
    assert good == {"id": 1, "title": "a"} and "names a column twice" in str(bad)
    pq.write_table(pa.table({" id": [1], "title ": ["a"]}), tmp_path / "t.parquet")
    assert records(tmp_path / "t.parquet") == [good]
    for names in (["id", "id "], ["id", "id"]):
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=names), tmp_path / "t.parquet")
        with pytest.raises(VixmlError, match="names a column twice"):
            records(tmp_path / "t.parquet")


def test_a_row_of_excel_that_the_library_cannot_read_is_one_error(tmp_path):
    book = io.BytesIO(excel([["id", "title"], ["1", "Rod"]]))
    with zipfile.ZipFile(book) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text, beyond = b't="inlineStr"><is><t>Rod</t></is>', b't="s"><v>99</v>'  # of a list of no strings
    assert text in members["xl/worksheets/sheet1.xml"]
    members["xl/worksheets/sheet1.xml"] = members["xl/worksheets/sheet1.xml"].replace(text, beyond)
    (tmp_path / "t.xlsx").write_bytes(zipped(members))
    with pytest.raises(VixmlError, match="a row of an Excel file cannot be read"):
        records(tmp_path / "t.xlsx")


def test_excel_keeps_the_zeros_of_its_format(tmp_path):
    rows = [[], ["id", "title", "tags"], [7, 'Rod, "long"', "a|b"], [8.0, "Zwei\nZeilen ü", None]]
    (tmp_path / "t.xlsx").write_bytes(excel(rows, A3="000"))
    assert records(tmp_path / "t.xlsx") == [RECORDS[0], RECORDS[1] | {"tags": None}]
    with pytest.raises(VixmlError, match="no such sheet") as caught:
        records(tmp_path / "t.xlsx", sheet="Sheet9")
    assert "Sheet, other" in caught.value.hint


def test_a_long_array_is_read_in_flat_memory(tmp_path):
    many = [{"id": n, "title": "t" * 50 + '"[{'} for n in range(20_000)]
    (tmp_path / "t.json").write_text(json.dumps(many))
    assert records(tmp_path / "t.json") == many
    with (tmp_path / "t.json").open() as stream:
        buffer = table_files._Buffer(stream, str)
        buffer.next()
        buffer.skip()
        for _ in many:
            buffer.value()
            buffer.next()
            buffer.skip()
            assert len(buffer.text) < 4 * table_files.CHUNK


def test_parts_and_patterns(tmp_path):
    for n in (2, 1):
        (tmp_path / f"part-{n}.csv").write_text(f"id\n{n}\n")
    paths = expand(tmp_path / "part-*.csv")
    assert [record["id"] for _, record in read_parts(paths, TableForm())] == ["1", "2"]
    for missing in ("part-9.csv", "other-*.csv"):
        with pytest.raises(VixmlError, match="a table is missing"):
            expand(tmp_path / missing)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.ods", b"x", "unknown kind"),
        ("t.csv", ",".join(map(str, range(10_001))).encode(), "too many columns"),
        ("t.json", b'[{"a": 1}, {"a": ', "malformed"),
        ("t.json", b'[{"a": 1} {"a": 2}]', "malformed"),
        ("t.json", b"[1, 2]", "malformed"),
        ("t.json", b"[" * 100_000, "malformed"),
        ("t.jsonl", b"\xff", "not UTF-8"),
        ("t.csv.gz", gzip.compress(CSV.encode())[:-9], "cannot be read"),
        ("t.csv.gz", b"no gzip", "cannot be read"),
        ("t.csv.zip", zipped({"a.csv": CSV, "b.csv": CSV}), "one table"),
        ("t.xlsx", b"PK", "not a readable Excel file"),
        ("t.xlsx", zipped({"xl.xml": "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>"}), "document type"),
    ],
    ids=itertools.count(),
)
def test_bad_files(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VixmlError, match=says) as caught:
        records(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value.where)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped({"t.csv": data})])
def test_bombs_are_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(table_files, "UNPACKED_LIMIT", 1 << 16)
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}.get(pack, ".zip")
    (tmp_path / f"t.csv{ending}").write_bytes(pack(b"id,title\n" + b"1,aaaaaaaaa\n" * 60_000))
    with pytest.raises(VixmlError, match="implausibly much"):
        records(tmp_path / f"t.csv{ending}")


def test_long_cells_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "CELL_LIMIT", 1000)
    monkeypatch.setattr(table_files, "LINE_LIMIT", 5000)
    (tmp_path / "cell.csv").write_text(f"id,title\n1,{'x' * 2000}\n")
    (tmp_path / "line.jsonl").write_text(json.dumps({"id": "x" * 9000}))
    pq.write_table(pa.table({"id": ["x" * 9000] * 100}), tmp_path / "cell.parquet")
    for name, says in (("cell.csv", "not a CSV"), ("line.jsonl", "too long"), ("cell.parquet", "too long")):
        with pytest.raises(VixmlError, match=says):
            records(tmp_path / name)
