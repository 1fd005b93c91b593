"""The stage ``make-report``: one HTML file with everything a reader needs, and nothing that has to be fetched."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.provenance import stage
from vixml.reproduce import facts as fact_words
from vixml.reproduce import render
from vixml.reproduce.breakdowns import breakdowns
from vixml.reproduce.commands import PAPER, Commands
from vixml.reproduce.curves import RunCurves, curves
from vixml.reproduce.evidence import evidence, run_key
from vixml.reproduce.facts import FactTable
from vixml.reproduce.facts_build import Measured, build_any_tables
from vixml.reproduce.gallery import gallery
from vixml.reproduce.grid import Line, Sources, Table
from vixml.reproduce.not_run import missing_cost
from vixml.reproduce.overview import load_drawings
from vixml.reproduce.printed import printed_rows, row_key
from vixml.reproduce.results import Result, Results, load
from vixml.reproduce.specs import FigureSpec, load_any_tables, spec_path
from vixml.reproduce.summary import interval, number, origin_sentence, summarise
from vixml.reproduce.tables import config_files, named_measured, named_scores
from vixml.reproduce.verdicts import GREEN, MEANING, STATES


@dataclass(frozen=True)
class ReportOptions:
    """What the report shows besides tables.

    Attributes:
        name: of the workflow's configuration.
        description: one sentence on it.
        command: what makes everything again.
        figures: folder of ``make-figures``, or None.
        corpus: corpus of the gallery, or None for no gallery.
        images: its image store.
        compare: runs of the gallery.
        side_by_side: runs of the breakdowns.
        configfile: file of the workflow's configuration, empty for the default one.
        measured: what tables of facts are measured from.
    """

    name: str = "demo"
    description: str = ""
    command: str = "make demo"
    figures: Path | None = None
    corpus: Path | None = None
    images: Path | None = None
    compare: tuple[str, ...] = ("text-minilm-l3", "vixml-minilm-l3")
    side_by_side: tuple[str, ...] = ("text-minilm-l3", "vixml-minilm-l3", "vixml-minilm-l3--shuffled")
    configfile: str = ""
    measured: Measured = field(default_factory=Measured)


MAIN = ("table1", "table3")  # text alone, and with images: what `vixml summary` prints
HOURS = "Published values have no place on the hour axis, because the paper tabulated no hours."
LAID_OUT = "Laid out from the configuration of the runs that it names."


@dataclass(frozen=True)
class Drawing:
    """A figure, with its points (of the overview: its tokens) as a table for those who cannot see it."""

    name: str
    title: str
    parts: str
    note: str
    uri: str
    header: list[str]
    rows: list[list[str]]


def make_report(
    scores: Sequence[Path], config_dir: Path, tables: Sequence[str], options: ReportOptions, out: Path
) -> None:
    """Write ``report.html``.

    Args:
        scores: score folders, exactly those that belong in the report.
        config_dir: folder of tables/, reported/ and the registry.
        tables: names of files of config/tables.
        options: what else it shows.
        out: folder to publish.

    Raises:
        VixmlError: a corpus without its image store or the other way round.
    """
    if (options.corpus is None) != (options.images is None):
        raise VixmlError(
            "the gallery needs both a corpus and an image store", hint="pass --corpus and --images, or neither"
        )
    inputs = named_scores(scores) | config_files(config_dir) | _folders(scores, config_dir, options)
    inputs |= {f"table/{name}": spec_path(config_dir, "tables", name) for name in tables}
    config = {
        "name": options.name,
        "description": options.description,
        "command": options.command,
        "tables": list(tables),
        "compare": list(options.compare),
        "side_by_side": list(options.side_by_side),
        "configfile": options.configfile,
    }
    inputs |= named_measured(options.measured)
    with stage(out, "make-report", config=config, inputs=inputs) as work:
        write_text(work / "report.html", page(context(scores, config_dir, tables, options)))


def _folders(scores: Sequence[Path], config_dir: Path, options: ReportOptions) -> dict[str, Path]:
    named = {"figures": options.figures, "corpus": options.corpus, "images": options.images}
    found = {name: path for name, path in named.items() if path is not None}
    found |= {f"config/{path.name}": path for path in [config_dir / PAPER] if path.exists()}
    for result in load(scores).all():
        dataset, seed = result.dataset, f"seed{result.seed}"
        log, predictions = result.trained_folder / "model" / "log.jsonl", result.folder.parent / "predictions"
        if log.exists():
            found[f"log/{dataset}/{result.trained_as}/{seed}"] = log
        if options.corpus is not None and result.run in options.compare and predictions.exists():
            found[f"predictions/{dataset}/{result.run}/{seed}"] = predictions
    return found


def context(scores: Sequence[Path], config_dir: Path, tables: Sequence[str], options: ReportOptions) -> dict[str, Any]:
    """Return everything the template prints."""
    results = load(scores)
    sources = Sources.load(config_dir, results)
    specs = load_any_tables(config_dir, tables)
    every = build_any_tables(specs, sources, config_dir, options.measured)
    built = [table for table in every if isinstance(table, Table)]
    facts = [table for table in every if isinstance(table, FactTable)]
    found = summarise(built, results)
    main = summarise([table for table in built if table.spec.id in MAIN] or built, results)
    shown = None
    if options.corpus is not None and options.images is not None:
        shown = gallery(options.corpus, options.images, options.compare, results)
    states = render.states_summary(every, missing_cost(specs, sources, config_dir))
    # A setting equal to a printed one is no number that was reproduced: only scores count as confirmed.
    scores_states = render.states_summary(built)["states"]
    commands = Commands.load(config_dir, options.configfile)
    return {
        "options": options,
        "tables": built,
        "facts": facts,
        "states": states,
        "n_published": sum(len(table.cells(True)) for table in built),
        "n_green": sum(scores_states[state] for state in GREEN),
        "state_names": STATES,
        "meaning": MEANING,
        "metrics": main["metrics"],
        "blocks": [(block, list(rows)) for block, rows in groupby(main["rows"], key=lambda row: row["block"])],
        "origin": origin_sentence(found),
        "stand_ins": sorted(
            {sources.registry.title(r["dataset"]) for r in found["rows"] if r["verdict"] == "stand-in"}
        ),
        "figures": _figures(options.figures, config_dir),
        "curves": _curves(results),
        "gallery": shown,
        "breakdowns": breakdowns(results, options.side_by_side),
        "evidence": evidence(results, commands, found["metrics"]),
        "printed": printed_rows(built, sources, commands),
    }


def _curves(results: Results) -> list[RunCurves]:
    """Return the curves of each model once, however many runs use it: from the run's own seeds, if it was scored."""
    models: dict[tuple[str, str], Sequence[Result]] = {}
    for (dataset, run), found in results.by_run.items():
        key = (dataset, found[0].trained_as)
        if run == key[1] or key not in models:
            models[key] = found
    drawn = [curves(models[key]) for key in sorted(models)]
    return [one for one in drawn if one is not None]


def _figures(folder: Path | None, config_dir: Path) -> list[Drawing]:
    if folder is None:
        return []
    names = sorted(path.stem for path in Path(folder).glob("*.svg"))
    if not names:
        raise VixmlError("a folder of figures holds none", where=folder, hint="run `vixml make-figures` first")
    drawings = []
    for spec in load_drawings(config_dir, names):
        svg = base64.b64encode((folder / f"{spec.id}.svg").read_bytes()).decode("ascii")
        rows = list(csv.reader((folder / f"{spec.id}.csv").read_text(encoding="utf-8").splitlines()))
        title = f"{spec.paper_figure}: {spec.title}"
        parts, note = ("point", HOURS) if isinstance(spec, FigureSpec) else ("token", LAID_OUT)
        drawings.append(Drawing(spec.id, title, parts, note, f"data:image/svg+xml;base64,{svg}", rows[0], rows[1:]))
    return drawings


def in_blocks(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return a section's lines under the headings that they stand under, in order."""
    return [(title, list(found)) for title, found in groupby(lines, key=lambda line: line.block)]


def page(values: dict[str, Any]) -> str:
    """Fill the template; a name it uses and nobody gives is an error."""
    environment = Environment(
        loader=PackageLoader("vixml", "reproduce/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": render.duration,
        "mean_sd": render.mean_sd,
        "paper": render.paper,
        "verdict": render.verdict,
        "note": render.note,
        "shared_whys": render.shared_whys,
        "by_metric": render.by_metric,
        "in_blocks": in_blocks,
        "fact_verdict": fact_words.verdict,
        "fact_note": fact_words.note,
        "fact_shared_whys": fact_words.shared_whys,
        "fact_cells": fact_words.by_column,
    }
    environment.globals |= {"number": number, "interval": interval, "run_key": run_key, "row_key": row_key}
    return environment.get_template("report.html.j2").render(values)
