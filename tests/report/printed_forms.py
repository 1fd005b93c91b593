"""Read a table back from each form in which it is printed: CSV, Markdown, LaTeX and the report's HTML."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

# (form, table, section, place in the section, label) -> {column: text}
Cells = dict[tuple[str, str, str, int, str], dict[str, str]]


def read_tables(folder: Path, names: Sequence[str]) -> Cells:
    """Read every row of `vixml make-tables`, in its three forms."""
    found: Cells = {}
    for name in names:
        for form, reader in (("csv", _csv), ("md", _markdown), ("tex", _latex)):
            text = (folder / f"{name}.{form}").read_text(encoding="utf-8")
            places: dict[str, int] = {}
            for section, label, columns in reader(text):
                place = places[section] = places.get(section, 0) + 1
                found[form, name, section, place, label] = columns
    return found


def _csv(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    for row in csv.DictReader(text.splitlines()):
        yield row["dataset"] + (": own" if row["block"] == "measured here" else ""), row["row"], row


def _markdown(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    section, heads = "", []
    for line in text.splitlines():
        if line.startswith("## "):
            section, heads = line[3:], []
        elif line.startswith("| "):
            fields = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            if heads:
                yield section, fields[0], dict(zip(heads, fields, strict=True))
            heads = heads or fields


def _latex(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    for body in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        rows = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r"\\")]
        section = re.fullmatch(r"\\multicolumn\{\d+\}\{l\}\{(.*)\}", rows[0])[1]
        metrics = re.findall(r"\\multicolumn\{(\d+)\}\{c\}\{(.*?)\}", rows[1])
        parts = rows[2].split(" & ")
        groups = [metric for span, metric in metrics for _ in range(int(span))]
        heads = [
            parts[0],
            *(f"{part} {metric}" for part, metric in zip(parts[1:-1], groups, strict=True)),
            parts[-1],
        ]
        for row in rows[3:]:
            fields = row.split(" & ")
            if len(fields) == len(heads):
                yield section, fields[0], dict(zip(heads, fields, strict=True))


class _Tables(HTMLParser):
    """Collect the rows of every table under its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.part: str | None = None

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "caption":
            self.part = "caption"
        elif tag == "tr" and self.tables:
            self.tables[-1][1].append([])
        elif tag in {"td", "th"} and self.tables:
            self.part = tag
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag):
        if tag in {"caption", "td", "th"}:
            self.part = None

    def handle_data(self, data):
        if self.part == "caption":
            caption, rows = self.tables[-1]
            self.tables[-1] = (caption + data, rows)
        elif self.part:
            self.tables[-1][1][-1][-1] += data


def read_report(page: str) -> dict[tuple[str, int, str, int], str]:
    """Return {(caption, place of its table, row's label, column): text} of every table of a report."""
    reader = _Tables()
    reader.feed(page)
    found: dict[tuple[str, int, str, int], str] = {}
    for place, (caption, rows) in enumerate(reader.tables):
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                found[caption, place, f"{number} {row[0]}", column] = text
    return found
