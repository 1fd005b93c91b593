"""The stage ``make-tables``: each table as CSV, Markdown and LaTeX, and the count of verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vixml.files import write_json, write_text
from vixml.provenance import stage
from vixml.reproduce.grid import Sources, Table, build_tables
from vixml.reproduce.latex import to_latex
from vixml.reproduce.render import states_summary, to_csv, to_markdown
from vixml.reproduce.results import Results, load
from vixml.reproduce.specs import load_tables, spec_path


def make_tables(scores: Sequence[Path], config_dir: Path, tables: Sequence[str], out: Path) -> None:
    """Write ``{table}.csv``, ``{table}.md`` and ``{table}.tex`` for each table, ``summary.json`` and ``metrics.json``.

    Args:
        scores: score folders, exactly those that belong in the tables; rows without one say "not run".
        config_dir: folder of tables/, reported/ and the registry.
        tables: names of files of config/tables.
        out: folder to publish.
    """
    inputs = named_scores(scores) | config_files(config_dir)
    inputs |= {f"table/{name}": spec_path(config_dir, "tables", name) for name in tables}
    specs = load_tables(config_dir, tables)
    with stage(out, "make-tables", config={"tables": list(tables)}, inputs=inputs) as work:
        results = load(scores)
        built = build_tables(specs, Sources.load(config_dir, results))
        for table in built:
            write_text(work / f"{table.spec.id}.csv", to_csv(table))
            write_text(work / f"{table.spec.id}.md", to_markdown(table))
            write_text(work / f"{table.spec.id}.tex", to_latex(table))
        write_json(work / "summary.json", states_summary(built))
        write_json(work / "metrics.json", metrics(results, built))


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
    files = [*sorted((config_dir / "reported").glob("*.csv")), config_dir / "datasets.yaml", config_dir / "models.yaml"]
    files += sorted((config_dir / "runs").glob("*.yaml"))
    return {f"config/{path.relative_to(config_dir).as_posix()}": path for path in files}
