"""The stage ``make-report``: one HTML file with everything a reader needs, and nothing that has to be fetched.

:func:`gallery` chooses test queries with their images and the answers of each run; :func:`context` gathers everything that
the template prints.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vixml.config.tables import FigureSpec, load_any_tables, load_figures
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.images.store import ImageStore
from vixml.manifest import MANIFEST, holds
from vixml.provenance import stage
from vixml.report.charts import breakdowns, curves
from vixml.report.chosen import chosen_runs
from vixml.report.evidence import (
    DESCRIBED,
    PAPER,
    Commands,
    command,
    device,
    evidence,
    row_key,
    run_key,
    snakemake,
    training_of,
)
from vixml.report.fitted import best_labels
from vixml.report.pages import interval, number, origin_sentence, summarise
from vixml.report.results import GREEN, MEANING, STATES, Result, Results, load, mean_sd, stage_inputs
from vixml.report.tables import Measured, Row, Section, Sources, build_tables, missing_cost
from vixml.report.write_tables import states_summary, text
from vixml.text import duration, milliseconds

# -- the gallery: a sample drawn blind, then the extremes, labelled as such -------------------------------------------

N_QUERIES, N_LABELS, N_IMAGES, SEED = 12, 5, 3, 0
N_EXTREMES = 6
PIXELS = 128  # images are shown at 56: enough for a sharp screen, and the page stays small


@dataclass(frozen=True)
class GalleryAnswer:
    """One run's best labels for a query: (text, whether it is true)."""

    run: str
    labels: tuple[tuple[str, bool], ...]

    @property
    def hits(self) -> int:
        """Return how many of them are true."""
        return sum(hit for _, hit in self.labels)


@dataclass(frozen=True)
class GalleryQuery:
    """One query of the gallery; images are data URIs with their alternative text."""

    row: int
    text: str
    images: tuple[tuple[str, str], ...]
    truth: tuple[str, ...]
    answers: tuple[GalleryAnswer, ...]


@dataclass(frozen=True)
class Part:
    """Queries chosen by one rule, which the page states; ``by_outcome``: whether the rule looks at results."""

    key: str
    title: str
    rule: str
    by_outcome: bool
    queries: tuple[GalleryQuery, ...]


@dataclass(frozen=True)
class Gallery:
    """Runs that answered (with the seed, None if it was not run), their comparison on all queries, and the parts."""

    dataset: str
    runs: tuple[tuple[str, int | None], ...]
    balance: str
    parts: tuple[Part, ...]


def gallery_rows(n_test: int) -> np.ndarray:
    """Return the rows shown: (at most 12,) int64 ascending, drawn without looking at any result."""
    return np.sort(np.random.default_rng(SEED).permutation(n_test)[:N_QUERIES])


def extremes(gain: np.ndarray, count: int = N_EXTREMES) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with the largest gains, and with the largest losses: ``count`` at most, the largest first, ties by row.

    ``gain`` (n_test,) is the hits of one run less those of the other; a row without any is in neither.

    Example:
        >>> [rows.tolist() for rows in extremes(np.array([0, 2, -1, 3, 2]), 2)]
        [[3, 1], [2]]
    """
    order, back = np.argsort(-gain, kind="stable"), np.argsort(gain, kind="stable")
    return order[gain[order] > 0][:count], back[gain[back] < 0][:count]


def gallery(corpus_dir: Path, images_dir: Path, compare: Sequence[str], results: Results) -> Gallery:
    """Build the gallery; the lowest seed of each run answers.

    Of ``compare``, a run without results is marked "not run"; gains and losses are of the second over the first.

    Raises:
        VixmlError: predictions that do not fit the corpus.
    """
    corpus, store = Corpus.load(corpus_dir), ImageStore.open(images_dir)
    dataset = Path(corpus_dir).absolute().parent.name
    found = {run: next(iter(results.of(dataset, run)), None) for run in compare}
    tops = {run: best_labels(corpus, result, N_LABELS) for run, result in found.items() if result is not None}
    texts, names = corpus.texts("test"), corpus.texts("label")
    truth, images = corpus.labels("test"), corpus.images("test")

    def answer(run: str, row: int) -> GalleryAnswer:
        labels, hits = (table[row].tolist() for table in tops[run])
        return GalleryAnswer(
            run, tuple((names[label], hit) for label, hit in zip(labels, hits, strict=True) if label >= 0)
        )

    def query(row: int) -> GalleryQuery:
        shown = [image for image in images.row(row).tolist() if image not in store.missing][:N_IMAGES]
        uris = [
            (_data_uri(store.read(image)), f"{texts[row]}, image {number} of {len(shown)}")
            for number, image in enumerate(shown, start=1)
        ]
        named = tuple(names[label] for label in sorted(truth.row(row).tolist()))
        return GalleryQuery(row, texts[row], tuple(uris), named, tuple(answer(run, row) for run in tops))

    n_test, blind = corpus.n("test"), gallery_rows(corpus.n("test")).tolist()
    rule = (
        f"{len(blind)} of {n_test:,} test queries of {dataset}, drawn at random with seed {SEED} before any "
        "result was looked at; all of them are shown, in the order of the file."
    )
    parts, balance = [Part("sample", "A sample drawn blind", rule, False, tuple(map(query, blind)))], ""
    if len(compare) > 1 and all(run in tops for run in compare[:2]):
        first, second = compare[:2]
        gain = tops[second][1].sum(1).astype(np.int64) - tops[first][1].sum(1)
        more, fewer = int((gain > 0).sum()), int((gain < 0).sum())
        balance = (
            f"Of all {n_test:,} test queries, {second} has more hits among its {N_LABELS} best labels than {first} in "
            f"{more:,}, fewer in {fewer:,}, and as many in {n_test - more - fewer:,}."
        )
        kinds = (("gains", "The largest gains", "most"), ("losses", "The largest losses", "fewest"))
        for (key, title, word), rows in zip(kinds, extremes(gain), strict=True):
            rule = (
                f"Picked by outcome, so it says what can happen and not how often: the {len(rows)} queries where {second} "
                f"has the {word} hits among its {N_LABELS} best labels relative to {first}, ties in the order of the file."
            )
            parts.append(Part(key, title, rule, True, tuple(map(query, rows.tolist()))))
    runs = tuple((run, None if result is None else result.seed) for run, result in found.items())
    return Gallery(dataset, runs, balance, tuple(parts))


def _data_uri(png: bytes) -> str:
    """Return an image as part of the page, made smaller where it is larger than shown."""
    with Image.open(io.BytesIO(png)) as image:
        if max(image.size) > PIXELS:
            smaller = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
            smaller.thumbnail((PIXELS, PIXELS))
            stream = io.BytesIO()
            smaller.save(stream, format="PNG", optimize=True)
            png = stream.getvalue()
    return _embedded("png", png)


def _embedded(kind: str, image: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


@dataclass(frozen=True)
class ReportOptions:
    """Contents of the report besides tables: options of ``vixml make-report``, which its help describes."""

    name: str = "demo"
    description: str = ""
    figures: Path | None = None
    corpus: Path | None = None
    images: Path | None = None
    compare: tuple[str, ...] = ("text-minilm-l3", "vixml-minilm-l3")
    side_by_side: tuple[str, ...] = ("text-minilm-l3", "vixml-minilm-l3", "vixml-minilm-l3--shuffled")
    configfile: str = ""
    measured: Measured = field(default_factory=Measured)


MAIN = ("table1", "table3")  # text alone, and with images: the tables of `vixml summary`
HOURS = "Published values have no place on the hour axis, because the paper tabulated no hours."
FOLLOWS = "Its parts follow the configuration of the runs named in it."


def make_report(
    scores: Sequence[Path], config_dir: Path, tables: Sequence[str], options: ReportOptions, out: Path
) -> None:
    """Write ``report.html``.

    Raises:
        VixmlError: a corpus without its image store or the other way round.
    """
    if (options.corpus is None) != (options.images is None):
        hint = "pass --corpus and --images, or neither"
        raise VixmlError("the gallery needs both a corpus and an image store", hint=hint)
    results = load(scores)
    inputs = stage_inputs(results, config_dir, "table", tables) | _folders(results, config_dir, options)
    inputs |= options.measured.named()
    config = {name: getattr(options, name) for name in ("name", "description", "configfile")}
    config |= {"compare": list(options.compare), "side_by_side": list(options.side_by_side), "tables": list(tables)}
    with stage(out, "make-report", config=config, inputs=inputs, as_read=["images"]) as work:
        write_text(work / "report.html", page(context(results, config_dir, tables, options)))


def _folders(results: Results, config_dir: Path, options: ReportOptions) -> dict[str, Path]:
    named = {"figures": options.figures, "corpus": options.corpus, "images": options.images}
    found = {name: path for name, path in named.items() if path is not None}
    found |= {f"config/{path.name}": path for path in [config_dir / PAPER] if path.exists()}
    for result in results.all():
        dataset, seed = result.dataset, f"seed{result.seed}"
        trained, predictions = result.place("train"), result.place("predict")
        if holds(trained, "log.jsonl"):
            found[f"log/{dataset}/{result.trained_as}/{seed}"] = trained / "log.jsonl"
        if options.corpus is not None and result.run in options.compare and (predictions / MANIFEST).exists():
            found[f"predictions/{dataset}/{result.run}/{seed}"] = predictions
    return found


def context(results: Results, config_dir: Path, tables: Sequence[str], options: ReportOptions) -> dict[str, Any]:
    """Return everything the template prints."""
    sources = Sources.load(config_dir, results, options.measured)
    specs = load_any_tables(config_dir, tables)
    built = build_tables(specs, sources)
    scored = [table for table in built if table.scored]
    found = summarise(scored, results)
    main = summarise([table for table in scored if table.spec.id in MAIN] or scored, results)
    ran = [row for row in main["rows"] if row["n"]]
    shown = None
    if options.corpus is not None and options.images is not None:
        shown = gallery(options.corpus, options.images, options.compare, results)
    commands = Commands.load(config_dir, options.configfile)
    compared = any(table.compared for table in built)
    demo = options.name == "demo" and not options.configfile
    stand_ins = {sources.registry.title(row["dataset"]) for row in found["rows"] if row["verdict"] == "stand-in"}

    def interval_of(row: dict[str, Any], metric: str) -> str:
        """Print the 95 % interval over seeds, or of a single one that over queries."""
        one = results.of(row["dataset"], row["run"], row["seeds"][0])[0]
        half = one.half_interval(metric) if row["n"] == 1 else None
        mean = one.metrics.get(metric)
        return interval(row, metric) if half is None else f"{mean - half:.1f} to {mean + half:.1f} *"

    def command_for(section: Section, row: Row) -> str | None:
        """Return the command that runs a published row, or None where no run repeats it."""
        blocked = sources.registry.blocked(section.dataset, row.run)
        return None if blocked or row.run is None else commands.planned(section.dataset, row.run, row.seed)

    return {
        "title": f"{'ViXML, reproduced' if compared else 'ViXML'}: {options.name}",
        "options": options,
        "compared": compared,
        "tables": built,
        "states": states_summary(built, missing_cost(specs, sources)),
        "n_published": sum(len(table.cells(True)) for table in scored),
        # Only scores count as confirmed: a setting that equals the paper's reproduces nothing.
        "n_green": sum(table.states(kind)[state] for table in scored for kind in (True, False) for state in GREEN),
        "state_names": STATES,
        "meaning": MEANING,
        "metrics": main["metrics"],
        "blocks": [(block, list(rows)) for block, rows in groupby(ran, key=lambda row: row["block"])],
        "n_left": len(main["rows"]) - len(ran),
        "interval": interval_of,
        "of_one_seed": any(row["n"] == 1 for row in ran),
        "origin": origin_sentence(found, intervals=True),
        "stand_ins": sorted(stand_ins),
        "figures": _figures(options.figures, config_dir),
        "curves": _curves(results),
        "chosen": chosen_runs(results),
        "gallery": shown,
        "breakdowns": breakdowns(results, options.side_by_side),
        "evidence": evidence(results, commands, found["metrics"]),
        "described": DESCRIBED,
        "training_of": lambda value: training_of(value, sources.runs),
        "command_for": command_for,
        "again": "make demo" if demo else snakemake([], options.configfile),
    }


def _curves(results: Results) -> list[tuple[str, tuple[str, ...]]]:
    """Return the curves of each model once, however many runs use it: from the seeds of that run, if it was scored."""
    models: dict[tuple[str, str], Sequence[Result]] = {}
    for (dataset, run), found in results.by_run.items():
        key = (dataset, found[0].trained_as)
        if run == key[1] or key not in models:
            models[key] = found
    drawn = [curves(models[key]) for key in sorted(models)]
    return [one for one in drawn if one is not None]


def _figures(folder: Path | None, config_dir: Path) -> list[dict[str, Any]]:
    """Return each figure, with its points (or the parts drawn) as a table for those who cannot see it."""
    if folder is None:
        return []
    names = sorted(path.stem for path in Path(folder).glob("*.svg") if holds(folder, path.name))
    if not names:
        raise VixmlError("a folder of figures holds none", where=folder, hint="run `vixml make-figures` first")
    drawings = []
    for spec in load_figures(config_dir, names):
        uri = _embedded("svg+xml", (folder / f"{spec.id}.svg").read_bytes())
        header, *rows = csv.reader((folder / f"{spec.id}.csv").read_text(encoding="utf-8").splitlines())
        parts, note = ("point", HOURS) if isinstance(spec, FigureSpec) else ("part", FOLLOWS)
        shown = {"header": header, "rows": rows, "parts": parts, "note": note}
        drawings.append({"name": spec.id, "title": f"{spec.paper_figure}: {spec.title}", "uri": uri} | shown)
    return drawings


def in_blocks(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return a section's rows by their heading, in order."""
    return [(title, list(found)) for title, found in groupby(rows, key=lambda row: row.block)]


def page(values: dict[str, Any]) -> str:
    """Fill the template; a name it uses and nobody gives is an error."""
    environment = Environment(
        loader=PackageLoader("vixml", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {f.__name__: f for f in (command, device, duration, in_blocks, mean_sd, milliseconds, text)}
    environment.globals |= {f.__name__: f for f in (number, row_key, run_key)}
    return environment.get_template("report.html.j2").render(values)
