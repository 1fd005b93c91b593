"""The stage ``make-tables``: each table as CSV, Markdown and LaTeX, and the count of verdicts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vixml.config.load import registry_files
from vixml.config.tables import load_any_tables, spec_path
from vixml.errors import VixmlError
from vixml.files import write_json, write_text
from vixml.provenance import stage
from vixml.report import facts_print, write_tables
from vixml.report.not_run import missing_cost
from vixml.report.results import Results, load
from vixml.report.tables import FactTable, Measured, Sources, Table, build_any_tables
from vixml.report.write_tables import states_summary

SCORES = {"csv": write_tables.to_csv, "md": write_tables.to_markdown, "tex": write_tables.to_latex}
FACTS = {"csv": facts_print.to_csv, "md": facts_print.to_markdown, "tex": facts_print.to_latex}


def make_tables(
    scores: Sequence[Path],
    config_dir: Path,
    tables: Sequence[str],
    out: Path,
    corpora: Sequence[Path] = (),
    latencies: Sequence[Path] = (),
) -> None:
    """Write ``{table}.csv``, ``{table}.md`` and ``{table}.tex`` for each table, ``summary.json`` and ``metrics.json``.

    Args:
        scores: score folders, exactly those that belong in the tables; rows without one say "not run".
        config_dir: folder of tables/, reported/ and the registry.
        tables: names of files of config/tables.
        out: folder to publish.
        corpora: folders ``.../{dataset}/corpus``, counted for the table of data sets.
        latencies: folders of ``measure-latency``.
    """
    found = measured(corpora, latencies)
    inputs = named_scores(scores) | config_files(config_dir) | named_measured(found)
    inputs |= {f"table/{name}": spec_path(config_dir, "tables", name) for name in tables}
    specs = load_any_tables(config_dir, tables)
    with stage(out, "make-tables", config={"tables": list(tables)}, inputs=inputs) as work:
        results = load(scores)
        sources = Sources.load(config_dir, results)
        built = build_any_tables(specs, sources, config_dir, found)
        for table in built:
            printers = FACTS if isinstance(table, FactTable) else SCORES
            for ending, printer in printers.items():
                write_text(work / f"{table.spec.id}.{ending}", printer(table))
        write_json(work / "summary.json", states_summary(built, missing_cost(specs, sources, config_dir)))
        scored = [table for table in built if isinstance(table, Table)]
        write_json(work / "metrics.json", metrics(results, scored))


def measured(corpora: Sequence[Path], latencies: Sequence[Path]) -> Measured:
    """Return what facts are measured from; a corpus folder names its dataset.

    Raises:
        VixmlError: two corpora of one dataset.
    """
    found: dict[str, Path] = {}
    for folder in map(Path, corpora):
        dataset = folder.absolute().parent.name
        if dataset in found:
            raise VixmlError(
                f"two corpora of {dataset}",
                where=folder,
                found=f"also {found[dataset]}",
                hint="name each dataset's once",
            )
        found[dataset] = folder
    return Measured(found, tuple(latencies))


def named_measured(found: Measured) -> dict[str, Path]:
    """Return the folders that facts are measured from, named for a manifest."""
    named = {f"corpus/{dataset}": folder for dataset, folder in found.corpora.items()}
    for folder in found.latencies:
        dataset, run, seed = Path(folder).absolute().parts[-4:-1]
        named[f"latency/{dataset}/{run}/{seed}"] = Path(folder)
    return named


def metrics(results: Results, tables: Sequence[Table]) -> dict[str, Any]:
    """Return ``{dataset: {run: {metric: mean over seeds, seeds: n}}}`` of every run read: what `dvc metrics diff` compares.

    In percent; of the metrics that any of the tables shows.
    """
    shown = dict.fromkeys(metric for table in tables for metric in table.spec.metrics)
    found: dict[str, Any] = {}
    for (dataset, run), seeds in results.by_run.items():
        means = {
            name: round(math.fsum(result.metrics[name] for result in seeds) / len(seeds), 4)
            for name in shown
            if all(name in result.metrics for result in seeds)
        }
        found.setdefault(dataset, {})[run] = means | {"seeds": len(seeds)}
    return found


def named_scores(scores: Sequence[Path]) -> dict[str, Path]:
    """Return score folders and the training record behind each, named for a manifest."""
    named: dict[str, Path] = {}
    for result in load(scores).all():
        key = f"{result.dataset}/{result.run}/seed{result.seed}/{result.split}"
        named[f"score/{key}"] = result.folder
        training = result.trained_folder / "model" / "training.json"
        if training.exists():
            named[f"training/{key}"] = training
    return named


def config_files(config_dir: Path) -> Mapping[str, Path]:
    """Return the files of published numbers and of the registry, named for a manifest."""
    config_dir = Path(config_dir)
    files = [*sorted((config_dir / "reported").glob("*.csv")), *registry_files(config_dir)]
    files += sorted((config_dir / "runs").glob("*.yaml"))
    return {f"config/{os.path.relpath(path, config_dir)}": path for path in files}
