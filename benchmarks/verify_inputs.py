"""Measure what verifying the inputs of each finished stage costs, beside the time that the stage took.

    python benchmarks/verify_inputs.py --results results

Reads every manifest, hashes the inputs as a stage does (:mod:`vixml.manifest`), and prints per stage: megabytes read, processor seconds of
hashing, seconds of the stage without starting its process, and the share of both together with 3 s for that start.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from vixml import manifest as manifests
from vixml.files import read_json

START = 3.0  # seconds: Python, torch, transformers


def main(results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results")) -> None:
    """Print one line per stage: medians over its folders."""
    found = defaultdict(list)
    for path in sorted(results.rglob(manifests.MANIFEST)):
        manifest = read_json(path)
        inputs = [results / Path(*Path(entry["path"]).parts[1:]) for entry in manifest["inputs"].values()]
        inputs = [one for one in inputs if one.exists()]
        manifests._HASHES.clear()
        started, reading = time.process_time(), manifests.Reading()
        for one in inputs:
            reading.describe(one)
        spent = time.process_time() - started
        size = sum(file.stat().st_size for file in reading._seen) / 1e6
        found[manifest["stage"]].append((size, spent, manifest["wall_seconds"]))
    print(f"{'stage':<16} {'MB':>8} {'hashing':>9} {'stage':>9} {'share':>7}")
    for stage, rows in found.items():
        size, spent, wall = (sorted(column)[len(rows) // 2] for column in zip(*rows, strict=True))
        print(f"{stage:<16} {size:8.1f} {spent:8.3f}s {wall:8.2f}s {100 * spent / (wall + START):6.2f} %")


if __name__ == "__main__":
    typer.run(main)
