"""Tables, ready to print: published values in the paper's shape, ours beside them, a verdict for each.

:func:`build_tables` fills in the layouts of ``config/tables``. Of a table of scores, every published cell must find its place
exactly once, and no cell can appear that was not published. The rows of the other tables (datasets counted, backbones of the
registry, latencies, sentences with a number in them) follow from ``config/reported``. :mod:`vixml.report.write_tables` prints
both kinds, and :func:`missing_cost` predicts the cost of the rows that nobody ran.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.published import PublishedValue, TrainingRun, load_published, load_training_runs, read_csv, select_one
from vixml.config.tables import ClaimRow, FactsSpec, MeasuredRow, TableSpec, load_any_tables, named_runs
from vixml.config.tables import PaperRow as PublishedRow
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import Cost, predicted, predicted_from_print
from vixml.plan.plan import RunKey, parts_of_run
from vixml.report.results import (
    STATES,
    Aggregate,
    Registry,
    Results,
    Verdict,
    add_once,
    judge,
    metric_over_seeds,
    over_seeds,
    read_versioned,
)

SEEDS_OF_SD = 5  # the paper's

# -- a table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One column of one row: the published value, ours, and the verdict."""

    column: str  # its heading; of a score, the metric
    published: str  # as printed; empty where nothing was published
    ours: Aggregate | str | None  # a score over seeds, or a text; None where there is nothing of ours
    verdict: Verdict  # of the two
    entry: PublishedValue | None = None  # of a published score, that of reported_results.csv


@dataclass(frozen=True)
class Row:
    """One row of a section; all but the first three attributes belong to scores."""

    label: str  # its heading
    cells: tuple[Cell, ...]  # in the order of the table's columns; some may be missing
    note: str = ""  # a remark
    block: str = ""  # the heading of its group of rows
    params: str = ""  # size of the language model, as printed
    run: str | None = None  # our run, or None where no run repeats the row
    paper_run: str | None = None  # the paper's training run
    seed: int | None = None  # the one seed that it shows, or None for all
    seeds: tuple[int, ...] = ()  # of the results
    hours: Aggregate | None = None  # of training, over seeds
    query_ms: Aggregate | None = None  # milliseconds per query, over seeds

    @property
    def verdict(self) -> str:
        """Return one state if all cells share it, else each with its column."""
        states = [cell.verdict.state for cell in self.cells]
        if len(set(states)) == 1:
            return states[0]
        return ", ".join(f"{cell.column} {cell.verdict.state}" for cell in self.cells)

    @property
    def reasons(self) -> list[str]:
        """Return the reasons of its verdicts, each once."""
        return list(dict.fromkeys(part for cell in self.cells for part in cell.verdict.why.split("; ") if part))

    def remarks(self, without: Sequence[str] = ()) -> str:
        """Return its note and reasons as one text, without the reasons printed elsewhere."""
        return "; ".join(filter(None, (self.note, *(why for why in self.reasons if why not in without))))

    def in_order(self, columns: Sequence[str]) -> list[Cell | None]:
        """Return its cells by the table's columns; None where the paper left a blank."""
        cells = {cell.column: cell for cell in self.cells}
        return [cells.get(column) for column in columns]


@dataclass(frozen=True)
class Section:
    """Rows under one heading; ``published`` says whether the paper has them, ``dataset`` whose scores they are."""

    title: str
    published: bool
    rows: tuple[Row, ...]
    dataset: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of each cell that are printed, each in a separate column."""
        if not self.published:
            return ("ours",)
        scored = any(cell.entry for row in self.rows for cell in row.cells)
        return ("paper", "ours", "Δ") if scored else ("paper", "ours")

    @property
    def of_runs(self) -> bool:
        """Return whether its rows are runs of ours, which have a training time."""
        return not self.published and any(row.run for row in self.rows)

    @property
    def has_params(self) -> bool:
        """Return whether a row has a size of its language model."""
        return any(row.params for row in self.rows)

    @property
    def shared_reasons(self) -> list[str]:
        """Return the reasons that every row gives: printed once above the section."""
        first, *others = [row.reasons for row in self.rows]
        return [why for why in first if all(why in other for other in others)]

    @property
    def ran(self) -> bool:
        """Return whether a cell holds something of ours."""
        return any(cell.ours is not None for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class Table:
    """One table, ready to print.

    ``columns`` are the headings of its cells, for scores the metrics.
    """

    spec: TableSpec | FactsSpec
    columns: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def compared(self) -> bool:
        """Return whether it has published values; without them there are no verdicts to print."""
        return any(section.published for section in self.sections)

    @property
    def scored(self) -> bool:
        """Return whether its cells are scores."""
        return isinstance(self.spec, TableSpec)

    def rows(self, published: bool) -> list[tuple[Section, Row]]:
        """Return the published rows, or those measured here, each with its section."""
        return [(section, row) for section in self.sections if section.published == published for row in section.rows]

    def cells(self, published: bool) -> list[Cell]:
        """Return the published cells, or those of rows measured here."""
        return [cell for _, row in self.rows(published) for cell in row.cells]

    def states(self, published: bool) -> dict[str, int]:
        """Count the verdicts; every state is listed, also with 0."""
        counts = Counter(cell.verdict.state for cell in self.cells(published))
        return {state: counts[state] for state in STATES}


# -- sources of a table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Results besides scores: the corpus of each dataset, and folders of ``measure-latency``."""

    corpora: Mapping[str, Path] = field(default_factory=dict)
    latencies: Sequence[Path] = ()

    @classmethod
    def of(cls, corpora: Sequence[Path], latencies: Sequence[Path]) -> Measured:
        """Name each corpus by its dataset, the name of its parent folder; two of one dataset are an error."""
        found: dict[str, Path] = {}
        for folder in map(Path, corpora):
            dataset = folder.absolute().parent.name
            add_once(found, dataset, folder, f"two corpora of {dataset}", "name each dataset's once")
        return cls(found, tuple(latencies))

    def named(self) -> dict[str, Path]:
        """Return the folders, named for a manifest."""
        named = {f"corpus/{dataset}": folder for dataset, folder in self.corpora.items()}
        for folder in self.latencies:
            dataset, run, seed = Path(folder).absolute().parts[-4:-1]
            named[f"latency/{dataset}/{run}/{seed}"] = Path(folder)
        return named


@dataclass(frozen=True)
class Sources:
    """Everything a table reads besides its layout: the configuration and the results."""

    published: list[PublishedValue]
    runs: dict[str, TrainingRun]
    registry: Registry
    results: Results
    measured: Measured

    @classmethod
    def load(cls, config_dir: Path | str, results: Results, measured: Measured = Measured()) -> Sources:
        """Read the published numbers, where the folder has any, and the registry."""
        published = load_published(config_dir) if (Path(config_dir) / "reported").exists() else []
        runs = load_training_runs(config_dir) if published else {}
        return cls(published, runs, Registry(config_dir), results, measured)

    def reported(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file of ``config/reported``."""
        return [row for _, row in read_csv(self.registry.config_dir / "reported" / f"{name}.csv")]

    def facts(self, latency: bool) -> list[dict[str, str]]:
        """Return the latencies that the paper states, or its other sentences with a number."""
        return [row for row in self.reported("other_facts") if row["topic"].startswith("latency") == latency]


def build_tables(specs: Sequence[TableSpec | FactsSpec], sources: Sources) -> list[Table]:
    """Build tables, in order.

    Raises:
        VixmlError: a published score that no row of its layout selects, or two rows select; a selector that finds nothing;
            a malformed file of published facts, or of measured ones.
    """
    return [_build(spec, sources) for spec in specs]


def _build(spec: TableSpec | FactsSpec, sources: Sources) -> Table:
    if isinstance(spec, TableSpec):
        columns, sections = tuple(spec.metrics), _scores(spec, sources)
    else:
        columns, build = FACTS[spec.facts]
        sections = build(spec, sources)
    return Table(spec, columns, tuple(section for section in sections if section.rows))


# -- scores -------------------------------------------------------------------------------------------------------------


def _scores(spec: TableSpec, sources: Sources) -> Iterator[Section]:
    table = (spec.source, spec.paper_table)
    placed = _place(spec, [one for one in sources.published if (one.source, one.table) == table])
    for dataset in spec.datasets:
        rows = []
        for block, row, values in placed:
            if wanted := {metric: values[dataset, metric] for metric in spec.metrics if (dataset, metric) in values}:
                first = next(iter(wanted.values()))
                about = {"block": block, "params": first.row["params"], "paper_run": first.run}
                rows.append(_score_row(row, dataset, wanted, sources, about))
        yield Section(sources.registry.title(dataset), True, tuple(rows), dataset)
    for block in spec.measured:
        wanted, about = dict.fromkeys(spec.metrics), {"block": "measured here"}
        rows = [_score_row(row, block.dataset, wanted, sources, about | {"note": row.note}) for row in block.rows]
        yield Section(block.title, False, tuple(rows), block.dataset)


# Heading, row, and its published values by dataset and metric.
Placed = tuple[str, PublishedRow, dict[tuple[str, str], PublishedValue]]


def _place(spec: TableSpec, published: Sequence[PublishedValue]) -> list[Placed]:
    """Return the rows of a table with the published values that each selects; each value exactly once."""
    where, placed, taken = f"config/tables/{spec.id}.yaml", [], set()
    for block in spec.blocks:
        for row in block.rows:
            values: dict[tuple[str, str], PublishedValue] = {}
            for value in (value for value in published if value.selected_by(row.published)):
                if id(value) in taken or values.setdefault((value.dataset, value.metric), value) is not value:
                    raise VixmlError(
                        "a row selects a published cell that already has a place, or two cells for one place",
                        where=f"{where}: row {row.label!r}",
                        found=f"{value.dataset} {value.metric} {value.printed} {value.row['method']}",
                        hint="name more columns under `published`",
                    )
                taken.add(id(value))
            if not values:
                what = f"a row selects no published cell of {spec.paper_table}"
                hint = "compare with reported/reported_results.csv of this configuration's folder"
                raise VixmlError(what, where=f"{where}: row {row.label!r}", found=row.published, hint=hint)
            placed.append((block.title, row, values))
    for one in published:
        if id(one) not in taken or one.dataset not in spec.datasets or one.metric not in spec.metrics:
            what, hint = "a published cell has no place in the table", "add its row, dataset or metric"
            found = f"{one.dataset} {one.metric} {one.printed}: {one.row['method']}, {one.row['backbone']}"
            raise VixmlError(what, where=where, found=found, hint=hint)
    return placed


def _score_row(
    row: PublishedRow | MeasuredRow,
    dataset: str,
    wanted: Mapping[str, PublishedValue | None],
    sources: Sources,
    about: Mapping[str, Any],
) -> Row:
    """Return a row with a cell per metric: each beside its published value, where the paper has the row."""
    results, registry = sources.results.of(dataset, row.run, row.seed), sources.registry
    own = registry.own_data(dataset)
    stand_in = registry.stand_in(dataset, row.run) if row.run and not own else None
    blocked, cost = registry.blocked(dataset, row.run), _cost(row, dataset, next(iter(wanted.values())), sources)
    cells = []
    for metric, value in wanted.items():
        ours = metric_over_seeds(results, metric)
        if value is not None:
            quoted = "the paper quotes this number from others" if value.quoted else None
            how = {"stand_in": stand_in, "blocked": blocked, "not_comparable": own or quoted, "cost": cost}
            cells.append(Cell(metric, value.printed, ours, judge(ours, value.value, value.decimals, **how), value))
        elif ours is not None and not sources.published:
            # Nothing was published at all, so there is nothing to stand in for.
            cells.append(Cell(metric, "", ours, Verdict("not-comparable")))
        else:
            cells.append(
                Cell(metric, "", ours, judge(ours, None, stand_in=stand_in, blocked=blocked, not_comparable=own))
            )
    seeds = tuple(result.seed for result in results)
    about |= {name: over_seeds(results, name) for name in ("hours", "query_ms")}
    return Row(row.label, tuple(cells), run=row.run, seed=row.seed, seeds=seeds, **about)


def _cost(row: PublishedRow | MeasuredRow, dataset: str, value: PublishedValue | None, sources: Sources) -> str:
    """Return the predicted cost of a published row: of our run if there is one, else of the paper's as its table describes it."""
    if value is None:
        return ""
    world, key = sources.registry.world, (dataset, row.run)
    entry, config = world.datasets.get(dataset), sources.registry.runs.get(key)
    if entry is not None and entry.expect is not None and config is not None and config.needs_encoder:
        return predicted(world, dataset, config, HARDWARE["gpu"])
    if (run := sources.runs.get(value.run or "")) is None:
        return ""
    sizes = {line["dataset"]: int(line["n_train"]) for line in sources.reported("datasets")}
    return predicted_from_print(run, value.row["params"], sizes[run.dataset])


# -- values without variance --------------------------------------------------------------------------------------------

Answer = tuple[str | None, Verdict]  # ours as text, and its verdict


def decimals_of(number: str) -> int:
    """Return the decimals of a number as text.

    Example:
        >>> decimals_of("79.45"), decimals_of("1,305,265"), decimals_of("5e-4")
        (2, 0, 4)
    """
    exponent = Decimal(number.replace(",", "")).as_tuple().exponent
    return max(0, -int(exponent))


def compare(published: str, ours: float, why: str = "") -> Verdict:
    """Compare a value of ours without variance (a count, a setting) with a published one, to its last printed digit.

    Example:
        >>> compare("79.45", 79.4512).state, compare("294805", 294804).state, compare("5e-4", 5e-4).state
        ('matches', 'below', 'matches')
    """
    value, decimals = float(published.replace(",", "")), decimals_of(published)
    # A count must be equal. 1e-9: decimal values have no exact binary form.
    if abs(ours - value) <= (0.5 * 10**-decimals if decimals else 5e-7) + 1e-9:
        return Verdict("matches", why)
    return Verdict("above" if ours > value else "below", why)


def _not_run(why: str) -> Answer:
    return None, Verdict("not-run", why)


# -- datasets (Table 8) -------------------------------------------------------------------------------------------------

# Heading -> column of datasets.csv, decimals.
STATISTICS = {
    "train queries": ("n_train", 0),
    "test queries": ("n_test", 0),
    "labels": ("n_labels", 0),
    "labels per query": ("avg_labels_per_query", 2),
    "queries per label": ("avg_queries_per_label", 2),
    "% train with images": ("pct_train_queries_with_images", 2),
    "% test with images": ("pct_test_queries_with_images", 2),
    "% labels with images": ("pct_labels_with_images", 2),
}


def statistics(corpus: Corpus) -> dict[str, float]:
    """Count a corpus as Table 8 does: averages over training queries and over labels, percent of items with an image."""

    def with_images(split: str) -> float:
        lengths = corpus.images(split).lengths
        return float(100 * np.count_nonzero(lengths) / max(1, len(lengths)))

    pairs, n_train, n_labels = len(corpus.labels("train").values), corpus.n("train"), corpus.n_labels
    counts = (n_train, corpus.n("test"), n_labels, pairs / max(1, n_train), pairs / max(1, n_labels))
    columns = [column for column, _ in STATISTICS.values()]
    return dict(zip(columns, (*counts, *map(with_images, ("train", "test", "label"))), strict=True))


def _datasets(spec: FactsSpec, sources: Sources) -> Iterator[Section]:
    registry = sources.registry
    counted = {name: statistics(Corpus.load(folder)) for name, folder in sources.measured.corpora.items()}
    published = {row["dataset"]: row for row in sources.reported("datasets")}

    def row(name: str) -> Row:
        printed, found, entry = published.get(name, {}), counted.get(name), registry.world.datasets.get(name)
        own = Verdict("not-comparable") if entry and not entry.stand_in else Verdict("stand-in", "not the paper's data")
        cells = []
        for column, (key, decimals) in STATISTICS.items():
            text = f"{int(printed[key]):,}" if printed and decimals == 0 else printed.get(key, "")
            if found is None:
                answer = _not_run("its corpus was not built")
            else:
                verdict = compare(printed[key], round(found[key], 6)) if printed else own
                answer = f"{found[key]:,.{decimals}f}", verdict
            cells.append(Cell(column, text, *answer))
        return Row(registry.title(name), tuple(cells))

    yield Section("The paper's data", True, tuple(map(row, published)))
    yield Section("Measured here", False, tuple(row(name) for name in counted if name not in published))


# -- backbones (Table 9) ------------------------------------------------------------------------------------------------

# Heading -> how its entries in hyperparameters.csv end.
BACKBONES = {"parameters": "params", "checkpoint": "HF checkpoint", "learning rate": "learning rate"}


def _backbones(spec: FactsSpec, sources: Sources) -> Iterator[Section]:
    heads = {ending: head for head, ending in BACKBONES.items()}
    rows: dict[str, list[Cell]] = {}
    for row in sources.reported("hyperparameters"):
        if row["group"] == "backbone (Table 9)":
            label, ending = re.fullmatch(rf"(.+) ({'|'.join(heads)})", row["name"]).groups()
            answer = _backbone(label.removesuffix(" (vision)"), heads[ending], row["value"], sources)
            rows.setdefault(label, []).append(Cell(heads[ending], row["value"], *answer))
    for title, vision in (("Language models", False), ("Vision models", True)):
        found = (Row(label, tuple(cells)) for label, cells in rows.items() if ("(vision)" in label) == vision)
        yield Section(title, True, tuple(found))


def _backbone(title: str, column: str, published: str, sources: Sources) -> Answer:
    world = sources.registry.world
    name, text = next(((name, one) for name, one in world.text_models.items() if one.title == title), ("", None))
    entry = text or next((one for one in world.vision_models.values() if one.title == title), None)
    if column == "checkpoint" and entry is not None and entry.checkpoint is not None:
        ours = entry.checkpoint
        return ours, Verdict("matches") if ours == published else Verdict("not-comparable", f"another one: {ours}")
    if column == "checkpoint" or text is None:
        return _not_run("no entry in config/models.yaml")
    if column == "learning rate":
        return _rate(published, name, sources)
    if text.n_parameters is None:
        return _not_run("not counted")
    digits, unit = published[:-1], published[-1]
    ours, decimals = text.n_parameters / {"M": 1e6, "B": 1e9}[unit], decimals_of(digits)
    state = compare(digits, ours if decimals else round(ours)).state
    why = "" if state == "matches" else "the text part alone: what its vision part holds is not read here"
    return f"{ours:.{decimals}f}{unit}", Verdict(state, why)


def _rate(published: str, model: str, sources: Sources) -> Answer:
    """Return the peak rate of most of the paper's runs with this language model; the others are named."""
    registry = sources.registry
    rates = Counter(
        run.optimizer.lr
        for (dataset, _), run in registry.runs.items()
        if not (registry.world.datasets[dataset].stand_in or registry.own_data(dataset))
        and run.encoder.model == model
        and run.training.epochs
        and run.reuse is None
    )
    if not rates:
        return _not_run("no run of config/runs uses it")

    def text(rate: float) -> str:
        return f"{rate:.0e}".replace("e-0", "e-")

    usual, *others = [rate for rate, _ in rates.most_common()]
    named = ", ".join(map(text, sorted(others)))
    why = f"some runs take {named} (config/reported/hyperparameters.csv)" if others else ""
    return text(usual), compare(published, usual, why)


# -- latencies (section G) ----------------------------------------------------------------------------------------------

LATENCIES = {
    "encode, a batch": "encode_batched", "encode, one alone": "encode_alone", "tokenise": "tokenise", "search": "search",
}  # fmt: skip
BATCHED = "encode, a batch"


def _latencies(spec: FactsSpec, sources: Sources) -> Iterator[Section]:
    timed, registry = _timed_runs(sources.measured.latencies), sources.registry

    def cells(found: dict[str, Any], verdict: Verdict, published: str = "") -> tuple[Cell, ...]:
        return tuple(
            Cell(column, published if column == BATCHED else "", _quartiles(found["milliseconds"][step]), verdict)
            for column, step in LATENCIES.items()
        )

    rows, beside = [], set()
    for row in sources.facts(latency=True):
        key, value = (row["dataset"], row["run"]), row["value"]
        if key in timed:
            beside.add(key)
            shown = cells(timed[key], Verdict("not-comparable", f"another machine: {timed[key]['device']}"), value)
        else:
            why = f"latencies: [{row['run']}] of {row['dataset']} measures it" if row["run"] else ""
            shown = (Cell(BATCHED, value, *_not_run(why)),)
        rows.append(Row(f"{row['item']}, {row['topic'].removeprefix('latency ')}", shown))
    yield Section("The paper's", True, tuple(rows))
    own = []
    for key, found in timed.items():
        if key not in beside:
            config = registry.runs.get(key)
            label = config.row.label if config is not None and config.row is not None else key[1]
            verdict = Verdict("stand-in", registry.stand_in(*key) or "another machine")
            note = f"{found['device']}, {found['threads']} threads, batches of {found['batch_size']}"
            own.append(Row(label, cells(found, verdict), note))
    yield Section("Measured here", False, tuple(own))


def _timed_runs(folders: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the results of ``measure-latency`` by dataset and run."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    paths: dict[tuple[str, str], Path] = {}
    for path in (Path(folder) / "latency.json" for folder in folders):
        timed = read_versioned(path, "measure it again")
        for step, times in timed["milliseconds"].items():
            if not 0 < times["low"] <= times["median"] <= times["high"] < math.inf:
                what, where = "a latency is no time", f"{path}: milliseconds.{step}"
                expected = "0 < low <= median <= high"
                raise VixmlError(what, where=where, found=times, expected=expected, hint="measure it again")
        key = (timed["dataset"], timed["run"])
        add_once(paths, key, path, "two latencies of one run", "name each run's once")
        found[key] = timed
    return found


def _quartiles(found: dict[str, float]) -> str:
    return f"{found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


# -- sentences of the paper with a number in them -----------------------------------------------------------------------


def _claims(spec: FactsSpec, sources: Sources) -> Iterator[Section]:
    """Yield the section: every sentence of other_facts.csv that is no latency has exactly one row."""
    published = {(row["topic"], row["item"]): row for row in sources.facts(latency=False)}
    asked = {(row.topic, row.item): row for row in spec.claims}
    if published.keys() != asked.keys():
        odd = sorted(published.keys() ^ asked.keys())[0]
        holder = "the table" if odd in asked else sources.registry.config_dir / "reported" / "other_facts.csv"
        what, hint = "the table of claims and other_facts.csv have different sentences", "give each sentence one row"
        where = f"config/tables/{spec.id}.yaml: claims"
        raise VixmlError(what, where=where, found=f"{odd} in {holder} only", hint=hint)
    rows = []
    for (topic, item), row in published.items():
        cell = Cell("value", f"{row['value']} {row['unit']}".strip(), *_answer(asked[topic, item], sources))
        rows.append(Row(f"{topic}: {item}", (cell,), row["where"]))
    yield Section("Printed in the text", True, tuple(rows))


def _answer(row: ClaimRow, sources: Sources) -> Answer:
    """Return our value, computed as the row says, and its verdict."""
    if row.how == "none":
        return None, Verdict("not-comparable", row.why)
    previous = None
    if row.how == "gain":  # first, so that a wrong selector is seen at once
        columns = {"paper_table": "Table 7", "dataset": row.dataset or "", "metric": row.metric, **row.published}
        previous = select_one(sources.published, columns, f"config/tables/claims.yaml: {row.topic}, {row.item}")
    results = [sources.results.of(row.dataset or "", run) for run in row.runs]
    if not all(results):
        missing = ", ".join(run for run, found in zip(row.runs, results, strict=True) if not found)
        return _not_run("; ".join(filter(None, (f"needs {missing} of {row.dataset}", row.why))))
    comparable = Verdict("not-comparable", row.why or "computed from runs of ours; the paper gives no interval")
    score = metric_over_seeds(results[0], row.metric) if row.how in ("sd", "gain") else None
    if row.how == "sd":
        if score.sd is None or score.n < SEEDS_OF_SD:
            return _not_run(f"{len(results[0])} of {SEEDS_OF_SD} seeds")
        return f"{score.sd:.3f} points ({score.n} seeds)", comparable
    if previous is not None:
        return f"{score.mean - previous.value:+.2f} points over {previous.printed}", comparable
    hours = [over_seeds(found, "hours") for found in results]
    if None in hours:
        return _not_run("nothing was trained")
    if row.how == "hours":
        return f"{hours[0].mean:.2f} h", comparable
    return f"{100 * (hours[0].mean / hours[1].mean - 1):+.0f} %", comparable


# `facts` of a layout -> columns of the table, and the function that yields its sections.
FACTS = {
    "datasets": (tuple(STATISTICS), _datasets),
    "backbones": (tuple(BACKBONES), _backbones),
    "latencies": (tuple(LATENCIES), _latencies),
    "claims": (("value",), _claims),
}


# -- predicted cost of the rows that nobody ran -------------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """Cost of rows without a result: by table, and of all tables together, where shared parts count once."""

    by_table: dict[str, Cost]
    total: Cost


def missing_cost(specs: Sequence[TableSpec | FactsSpec], sources: Sources) -> Missing:
    """Predict the cost of the published rows without a result, as `vixml plan` predicts a table.

    A row counts its seed, else every seed that a table names of its run, else seed 0. Parts of finished runs (the model
    that another run searches with, a dataset's images) cost nothing. A row that no run repeats has no predicted cost,
    nor has a dataset of unknown size.
    """
    registry = sources.registry
    # A configuration that makes every table trains these seeds.
    seeds: dict[tuple[str, str], set[int]] = {}
    for dataset, run, seed in (
        one for spec in load_any_tables(sources.registry.config_dir) for one in _runs(spec, sources)
    ):
        if seed is not None:
            seeds.setdefault((dataset, run), set()).add(seed)

    def parts(key: RunKey) -> dict[str, Cost]:
        entry = registry.world.datasets.get(key[0])
        if entry is None or entry.expect is None or key[:2] not in registry.runs:
            return {}
        return dict(parts_of_run(registry.world, registry.runs, key, HARDWARE["gpu"]))

    present = {part for result in sources.results.all() for part in parts((result.dataset, result.run, result.seed))}
    cost: dict[str, Cost] = {}
    by_table: dict[str, set[str]] = {}
    for spec in specs:
        names = by_table.setdefault(spec.id, set())
        for dataset, run, seed in dict.fromkeys(_runs(spec, sources)):
            if not sources.results.of(dataset, run, seed):
                for one in sorted(seeds.get((dataset, run), {0})) if seed is None else [seed]:
                    found = {n: part for n, part in parts((dataset, run, one)).items() if n not in present}
                    cost |= found
                    names.update(found)

    def add(names: Iterable[str]) -> Cost:
        return sum((cost[name] for name in sorted(names)), Cost())

    return Missing({table: add(names) for table, names in by_table.items()}, add(cost))


def _runs(spec: TableSpec | FactsSpec, sources: Sources) -> Iterator[tuple[str, str, int | None]]:
    """Yield (dataset, run, seed or None for any) behind a table's published rows; of facts, those they are computed from."""
    if isinstance(spec, TableSpec):
        yield from named_runs({"datasets": spec.datasets, "blocks": [block.model_dump() for block in spec.blocks]})
    elif spec.facts == "claims":
        for row in spec.claims:
            seeds = range(SEEDS_OF_SD) if row.how == "sd" else (None,)
            yield from ((row.dataset or "", run, seed) for run in row.runs for seed in seeds)
    elif spec.facts == "latencies":
        yield from ((row["dataset"], row["run"], None) for row in sources.facts(latency=True) if row["run"])
