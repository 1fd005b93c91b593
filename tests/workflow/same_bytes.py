"""Compare two folders of results byte for byte. What no two runs share, their times, is named here and nothing else is cut out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

# Machine and moment of a run; manifests are compared by what must agree in them.
OF_ONE_RUN = {"logs", "benchmarks", "raw", "reference"}
AGREED = ("schema_version", "stage", "config", "versions")
TIMES = {"seconds", "hours", "query_ms", "samples_per_second"}
# Drawn from training times, or showing them.
SHOW_TIMES = {"figure2.png", "figure2.svg", "report.html"}


def compared(theirs: Path, ours: Path) -> dict[str, bool]:
    """Return ``{file: whether both folders hold the same}`` for every file in either, but those of one run alone."""
    names = {
        path.relative_to(results).as_posix()
        for results in (theirs, ours)
        for path in results.rglob("*")
        if path.is_file()
    }
    names = {name for name in names if not OF_ONE_RUN & {*name.split("/")} and name.split("/")[-1] not in SHOW_TIMES}
    return {name: _timeless(theirs, name) == _timeless(ours, name) for name in sorted(names)}


def assert_same(theirs: Path, ours: Path) -> None:
    """Fail with the names of files that differ or that only one folder holds; and if there was little to compare."""
    found = compared(theirs, ours)
    different = [name for name, same in found.items() if not same]
    assert not different, different
    kinds = {Path(name).suffix for name in found}
    assert len(found) > 80 and {".safetensors", ".npy", ".parquet", ".json", ".csv", ".md", ".tex"} <= kinds
    assert {"tables/metrics.json", "tables/table1.csv", "tables/table3.md"} <= set(found)


def _timeless(results: Path, name: str) -> Any:
    path = results / name
    if not path.exists():
        return None
    content = path.read_bytes()
    if path.name == "manifest.json":
        # A catalogue's folder of images is an absolute path.
        manifest = json.loads(content.replace(bytes(results.parent.resolve()), b"."))
        return {key: manifest.get(key) for key in AGREED} | {"files": sorted(manifest["outputs"])}
    if path.name == "training.json":
        return _without_times(json.loads(content))
    if path.name == "log.jsonl":
        return [_without_times(json.loads(line)) for line in content.splitlines()]
    if path.suffix == ".csv":
        return [_without_times(row) for row in csv.DictReader(io.StringIO(content.decode()))]
    if path.suffix == ".md":
        return _without_columns(content.decode(), {"training", "query"})
    return content


def _without_columns(page: str, titles: set[str]) -> list[str]:
    """Return a page's lines; in tables that have a column of one of these titles, its cells are emptied."""
    lines, columns = [], []
    for line in page.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            columns = []
        elif found := [at for at, cell in enumerate(cells) if cell.strip() in titles]:
            columns = found
        else:
            line = "|".join("" if at in columns else cell for at, cell in enumerate(cells))
        lines.append(line)
    return lines


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return value
