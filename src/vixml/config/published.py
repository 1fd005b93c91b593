"""Published values: every cell of the paper's tables, and the training run behind it.

Read from ``config/reported`` (its README says where they come from). A :class:`PublishedValue` is never a number of ours.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vixml.errors import VixmlError

PAPER = "arXiv:2511.13189v1"

# The columns that together say which cell of which table a row of reported_results.csv is.
IDENTITY = (
    "source", "paper_table", "dataset", "method", "backbone", "params", "modality", "base_method", "vision_encoder",
    "n_images", "inference", "trained_by_paper", "uses_inference_enh_E", "uses_metadata_M", "metric", "k",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingRun:
    """One of the paper's 71 training runs (`training_runs.csv`)."""

    run: str
    dataset: str
    modality: str
    backbone: str
    n_images: int
    epochs: int
    max_len: int
    used_in: tuple[str, ...]


@dataclass(frozen=True)
class PublishedValue:
    """One published cell."""

    source: str  # who published it, e.g. ``arXiv:2511.13189v1``
    table: str  # e.g. ``Table 1``
    dataset: str  # as printed
    # The columns of ``reported_results.csv`` that describe the table's row (method, backbone, params, ...)
    row: dict[str, str]
    metric: str  # with its cut-off, e.g. ``P@1``
    printed: str  # the value as printed, e.g. ``"70.30"``
    run: str | None  # the paper's training run behind it (an entry of ``training_runs.csv``), if any
    note: str  # what had to be inferred

    @property
    def value(self) -> float:
        """Return the printed value as a number."""
        return float(self.printed)

    @property
    def decimals(self) -> int:
        """Return how many decimals were printed; half of the last one is the tolerance of `matches`."""
        return len(self.printed.partition(".")[2])

    @property
    def quoted(self) -> bool:
        """Return whether the paper quotes this number from other authors."""
        return self.row["trained_by_paper"] == "cited"

    def selected_by(self, columns: Mapping[str, str]) -> bool:
        """Return whether every column named has that value here; ``metric`` includes its cut-off (``P@1``)."""
        known = {"source": self.source, "paper_table": self.table, "dataset": self.dataset, "metric": self.metric}
        known |= self.row
        return all(known[column] == value for column, value in columns.items())


def select_one(values: Iterable[PublishedValue], columns: Mapping[str, str], where: object) -> PublishedValue:
    """Return the one published value with these columns, of the paper by default; none or several are a VixmlError."""
    columns = {"source": PAPER, **columns}
    found = [value for value in values if value.selected_by(columns)]
    if len(found) != 1:
        raise VixmlError(
            "exactly one published value must be selected",
            where=where,
            found=f"{len(found)} values with {', '.join(f'{key}: {value}' for key, value in columns.items())}",
            hint="compare with config/reported/reported_results.csv, and name more of its columns or fewer",
        )
    return found[0]


def read_csv(path: Path | str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV file with a header.

    Raises:
        VixmlError: missing file, or a line with more or fewer fields than the header.
    """
    path = Path(path)
    if not path.exists():
        raise VixmlError("a file of published numbers is missing", where=path, hint="check --config-dir")
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            if None in row or None in row.values():
                what, hint = "a line does not have the header's number of fields", "quote a field that holds a comma"
                n = len(reader.fieldnames or [])
                raise VixmlError(what, where=f"{path}:{reader.line_num}", expected=f"{n} fields", hint=hint)
            yield reader.line_num, row


def load_training_runs(config_dir: Path | str) -> dict[str, TrainingRun]:
    """Return the paper's training runs by id.

    Raises:
        VixmlError: an id given twice, or a count that is no number.
    """
    path = Path(config_dir) / "reported" / "training_runs.csv"
    runs: dict[str, TrainingRun] = {}
    for line, row in read_csv(path):
        if row["run"] in runs:
            raise VixmlError("a training run is listed twice", where=f"{path}:{line}", found=row["run"])
        try:
            counts = [int(row[key] or 0) for key in ("n_images", "epochs", "max_len")]
        except ValueError as error:
            raise VixmlError("not a whole number", where=f"{path}:{line}", found=str(error)) from error
        texts = [row[key] for key in ("run", "dataset", "modality", "backbone")]
        runs[row["run"]] = TrainingRun(*texts, *counts, tuple(row["used_in"].split()))
    return runs


def load_published(config_dir: Path | str) -> list[PublishedValue]:
    """Return every published cell, in file order.

    Raises:
        VixmlError: the same cell twice, a metric outside 0 to 100, or a training run that nobody lists for that table.
    """
    path = Path(config_dir) / "reported" / "reported_results.csv"
    runs = load_training_runs(config_dir)
    values: list[PublishedValue] = []
    seen: dict[tuple[str, ...], int] = {}
    for line, row in read_csv(path):
        key, where = tuple(row[column] for column in IDENTITY), f"{path}:{line}"
        if seen.setdefault(key, line) != line:
            raise VixmlError(
                "a published cell is given twice", where=where, found=f"the same cell as line {seen[key]}",
                hint="delete one; a second source needs its own `source`",
            )  # fmt: skip
        printed, run, table = row["value"], runs.get(row["run"]), row["paper_table"]
        if not re.fullmatch(r"\d+(\.\d+)?", printed) or float(printed) > 100:
            raise VixmlError(
                "a published metric is not a percentage", where=f"{where}, column value", found=printed or "nothing",
                expected="a number from 0 to 100, as printed",
            )  # fmt: skip
        short = "T" + table.removeprefix("Table ")
        if row["run"] and not (run and short in run.used_in and run.dataset == row["dataset"]):
            raise VixmlError(
                "a published cell names a training run that does not belong to it", where=f"{where}, column run",
                found=row["run"],
                expected=f"a run of training_runs.csv with dataset {row['dataset']} and {short} in used_in",
            )  # fmt: skip
        described = {c: row[c] for c in IDENTITY if c not in {"source", "paper_table", "dataset", "metric", "k"}}
        metric = f"{row['metric']}@{row['k']}"
        values.append(
            PublishedValue(
                row["source"], table, row["dataset"], described, metric, printed, row["run"] or None, row["note"]
            )
        )
    return values
