"""Tables and a report of everything, made from small result files, and a reader of its HTML."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from helpers import update_manifest
from result_files import REPO, copy_config, write_corpus, write_picto, write_predictions

from vixml.config.tables import load_any_tables, load_tables
from vixml.files import read_json, write_json
from vixml.report.figures import make_figures
from vixml.report.report import ReportOptions, make_report
from vixml.report.results import Results, load
from vixml.report.tables import Measured, Sources, Table, build_tables
from vixml.report.write_tables import to_csv

CONFIG = REPO / "config"
TABLES_OF_SCORES = [spec.id for spec in load_tables(CONFIG)]
EVERY_TABLE = [spec.id for spec in load_any_tables(CONFIG)]
COMPARE = ("text-minilm-l3", "vixml-minilm-l3")
TABLES = ["table1", "table3"]
VOID = {"meta", "img", "link", "br", "input", "line", "circle", "polyline", "rect"}


@cache
def sources() -> Sources:
    """Return what the project's tables are made of where nothing was run."""
    return Sources.load(CONFIG, Results())


def build(
    name: str = "table1", config_dir: Path = CONFIG, folders: Sequence[Path] = (), measured: Measured | None = None
) -> Table:
    """Build one table; of the project's configuration where nothing was run, if nothing else is given."""
    known = config_dir == CONFIG and not folders and measured is None
    found = sources() if known else Sources.load(config_dir, load(folders), measured)
    return build_tables(load_any_tables(config_dir, [name]), found)[0]


def rows(table: Table) -> list[dict[str, str]]:
    """Return the lines of a table's CSV."""
    return list(csv.DictReader(to_csv(table).splitlines()))


class Page(HTMLParser):
    """Collect elements, and check that every one that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of every element of one kind."""
        return [attrs for name, attrs in self.found if name == tag]


def without_code(page: str) -> str:
    """Return a report without its styles and scripts."""
    return re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)


def parts(shift: float = 0.0, without: float | None = None) -> dict[str, Any]:
    """Return a breakdown as `vixml score` writes it: ten groups, the first with 1 + shift percent of P@1, then 2, ..."""
    groups = [
        {
            "n_labels": 20 - group,
            "train_count": [group + 1, group + 1],
            "n_true_pairs": 5 * group,
            "contribution": {"P@1": group + 1 + shift, "P@5": group + 0.5},
        }
        for group in range(10)
    ]
    side = {"n_labels": 4, "n_true_pairs": 9, "contribution": {"P@1": 20.0 + shift, "P@5": 10.0}}
    return {
        "by_frequency": groups,
        "by_label_image": {"with": side, "without": side},
        "by_query_image": {
            "with": {"n_queries": 30 if without is None else 20, "P@1": 50.0},
            "without": {"n_queries": 0 if without is None else 10, "P@1": without},
        },
    }


def without_images(breakdown: dict[str, Any]) -> dict[str, Any]:
    """Return a breakdown as `vixml score` writes it where no item has an image."""
    labels, queries = breakdown["by_label_image"]["without"], breakdown["by_query_image"]["with"]
    return breakdown | {
        "by_label_image": {
            "with": {"n_labels": 0, "n_true_pairs": 0, "contribution": {"P@1": 0.0, "P@5": 0.0}},
            "without": labels,
        },
        "by_query_image": {"with": {"n_queries": 0, "P@1": None}, "without": queries},
    }


def add_parts(score: Path, breakdown: dict[str, Any]) -> None:
    """Put a breakdown into a score that has none."""
    write_json(score / "scores.json", read_json(score / "scores.json") | {"breakdown": breakdown})
    update_manifest(score)


def make_everything(root: Path) -> dict[str, Any]:
    """Make a report of all that it can show; return score folders, config, options and its folder by name."""
    results, config = root / "results", root / "config"
    folders = write_picto(results)
    for folder in folders:
        add_parts(folder, parts(0.5 * ("vixml" in folder.parts[-4])))
    corpus, images = write_corpus(results)
    for folder in folders:
        if folder.parts[-4] in COMPARE:
            write_predictions(folder, shift=int("text" in folder.parts[-4]))
    copy_config(config)
    make_figures(folders, config, ["figure2"], results / "figures")
    options = ReportOptions("demo", "A test.", results / "figures", corpus, images)
    make_report(folders, config, TABLES, options, results / "report")
    return {"folders": folders, "config": config, "options": options, "report": results / "report"}
