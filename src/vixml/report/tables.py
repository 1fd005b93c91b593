"""Build a table: published cells in the paper's shape, ours beside them in columns of their own, a verdict for each.

The shape comes from ``config/tables``; every published cell of the paper's table must find its place exactly once, and
no cell can appear that was not published.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.published import Claim, TrainingRun, has_published, load_claims, load_training_runs, read_csv
from vixml.config.tables import ClaimRow, FactsSpec, MeasuredBlock, Row, TableSpec
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.plan.assumptions import HARDWARE
from vixml.plan.cost import load_train_sizes, predict, predict_run
from vixml.report.results import (
    STATES,
    Aggregate,
    Registry,
    Result,
    Results,
    Verdict,
    hours_over_seeds,
    judge,
    metric_over_seeds,
)


@dataclass(frozen=True)
class Cell:
    """One metric of one row: what was published, what was measured here, and what may be said of the two."""

    metric: str
    claim: Claim | None
    ours: Aggregate | None
    verdict: Verdict


@dataclass(frozen=True)
class Line:
    """One row of a section."""

    block: str
    label: str
    params: str
    run: str | None
    paper_run: str | None
    note: str
    seeds: tuple[int, ...]
    hours: Aggregate | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """The rows of one dataset; ``published`` says whether the paper has them."""

    dataset: str
    title: str
    published: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """One table, ready to print."""

    spec: TableSpec
    sections: tuple[Section, ...]

    def cells(self, published: bool) -> list[Cell]:
        """Return the published cells, or the rows measured here."""
        return [c for s in self.sections if s.published == published for line in s.lines for c in line.cells]

    def states(self, published: bool) -> dict[str, int]:
        """Count the verdicts; every state is there, also with 0."""
        counts = Counter(cell.verdict.state for cell in self.cells(published))
        return {state: counts[state] for state in STATES}


@dataclass(frozen=True)
class Sources:
    """Everything a table reads besides its own shape."""

    claims: list[Claim]
    runs: dict[str, TrainingRun]
    sizes: dict[str, int]
    registry: Registry
    results: Results
    costs: dict[tuple[str, str], str] = field(default_factory=dict)  # what runs would cost, each counted once

    @classmethod
    def load(cls, config_dir: Path | str, results: Results) -> Sources:
        """Read the published numbers, where the folder has any, and the registry."""
        registry = Registry.load(config_dir)
        if not has_published(config_dir):
            return cls([], {}, {}, registry, results)
        claims, runs = load_claims(config_dir), load_training_runs(config_dir)
        return cls(claims, runs, load_train_sizes(config_dir), registry, results)


def build_table(spec: TableSpec, sources: Sources) -> Table:
    """Build one table.

    Raises:
        VixmlError: a published cell that no row of the spec selects, or two rows select; a selector that finds nothing.
    """
    where = f"config/tables/{spec.id}.yaml"
    published = [c for c in sources.claims if c.source == spec.source and c.table == spec.paper_table]
    by_cell = _place(spec, published, where)
    sections = [
        Section(dataset, sources.registry.title(dataset), True, lines)
        for dataset in spec.datasets
        if (lines := _published_lines(spec, dataset, by_cell, sources))
    ]
    sections += [_measured_section(spec, block, sources) for block in spec.measured]
    return Table(spec, tuple(sections))


def build_tables(specs: Sequence[TableSpec], sources: Sources) -> list[Table]:
    """Build several tables."""
    return [build_table(spec, sources) for spec in specs]


def _rows(spec: TableSpec) -> list[tuple[str, int, Row]]:
    rows = [(block.title, row) for block in spec.blocks for row in block.rows]
    return [(title, index, row) for index, (title, row) in enumerate(rows)]


def _place(spec: TableSpec, published: list[Claim], where: str) -> dict[tuple[int, str, str], Claim]:
    """Return {(row, dataset, metric): claim}; each claim exactly once."""
    placed: dict[tuple[int, str, str], Claim] = {}
    used: Counter[int] = Counter()
    for _, index, row in _rows(spec):
        found = False
        for number, claim in enumerate(published):
            if not claim.selected_by(row.claim):
                continue
            key = (index, claim.dataset, claim.metric)
            if key in placed or used[number]:
                raise VixmlError(
                    "a row selects a published cell that already has a place, or two cells for one place",
                    where=f"{where}: row {row.label!r}",
                    found=f"{claim.dataset} {claim.metric} {claim.printed} {claim.row['method']}",
                    hint="name more columns under `claim`",
                )
            placed[key], found = claim, True
            used[number] += 1
        if not found:
            raise VixmlError(
                f"a row selects no published cell of {spec.paper_table}",
                where=f"{where}: row {row.label!r}",
                found=row.claim,
                hint="compare with reported/reported_results.csv of this configuration's folder",
            )
    for number, claim in enumerate(published):
        shown = used[number] and claim.dataset in spec.datasets and claim.metric in spec.metrics
        if not shown:
            raise VixmlError(
                "a published cell has no place in the table",
                where=where,
                found=f"{claim.dataset} {claim.metric} {claim.printed}: {claim.row['method']}, {claim.row['backbone']}",
                hint="add its row, dataset or metric",
            )
    return placed


def _published_lines(
    spec: TableSpec, dataset: str, by_cell: dict[tuple[int, str, str], Claim], sources: Sources
) -> tuple[Line, ...]:
    lines = []
    for block, index, row in _rows(spec):
        claims = [by_cell.get((index, dataset, metric)) for metric in spec.metrics]
        first = next((c for c in claims if c is not None), None)
        if first is None:
            continue
        results = sources.results.of(dataset, row.run, row.seed)
        cells = tuple(
            _published_cell(metric, claim, row, dataset, results, sources)
            for metric, claim in zip(spec.metrics, claims, strict=True)
            if claim is not None
        )
        params = first.row["params"]
        lines.append(_line(block, row.label, row.run, results, cells, params=params, paper_run=first.run))
    return tuple(lines)


def _published_cell(
    metric: str, claim: Claim, row: Row, dataset: str, results: Sequence[Result], sources: Sources
) -> Cell:
    registry = sources.registry
    ours = metric_over_seeds(results, metric)
    verdict = judge(
        ours,
        claim.value,
        claim.decimals,
        stand_in=registry.stand_in(dataset, row.run) if row.run else None,
        blocked=registry.blocked(dataset, row.run),
        not_comparable="the paper quotes this number from others" if claim.quoted else None,
        cost=_cost(claim, row, dataset, sources),
    )
    return Cell(metric, claim, ours, verdict)


def _cost(claim: Claim, row: Row, dataset: str, sources: Sources) -> str:
    """Return what a row would cost: of our run if there is one, else of the paper's as its table describes it."""
    registry = sources.registry
    entry = registry.world.datasets.get(dataset)
    config = registry.runs.get((dataset, row.run)) if row.run else None
    if entry is not None and entry.expect is not None and config is not None and config.needs_encoder:
        if (dataset, row.run) not in sources.costs:
            cost = predict_run(registry.world, dataset, config, HARDWARE["gpu"])
            sources.costs[dataset, row.run] = str(cost)
        return sources.costs[dataset, row.run]
    run = sources.runs.get(claim.run) if claim.run else None
    return str(predict(run, claim.row["params"], sources.sizes)) if run else ""


def _measured_section(spec: TableSpec, block: MeasuredBlock, sources: Sources) -> Section:
    lines = []
    for row in block.rows:
        results = sources.results.of(block.dataset, row.run, row.seed)
        reason, blocked = (ask(block.dataset, row.run) for ask in (sources.registry.stand_in, sources.registry.blocked))
        cells = []
        for metric in spec.metrics:
            ours = metric_over_seeds(results, metric)
            cells.append(Cell(metric, None, ours, judge(ours, None, stand_in=reason, blocked=blocked)))
        lines.append(_line("measured here", row.label, row.run, results, tuple(cells), note=row.note))
    return Section(block.dataset, block.title, False, tuple(lines))


def _line(
    block: str,
    label: str,
    run: str | None,
    results: Sequence[Result],
    cells: tuple[Cell, ...],
    *,
    params: str = "",
    paper_run: str | None = None,
    note: str = "",
) -> Line:
    seeds = tuple(result.seed for result in results)
    return Line(block, label, params, run, paper_run, note, seeds, hours_over_seeds(results), cells)


# --- Tables of facts rather than scores: each cell a printed value, ours beside it in words or digits, and a
# verdict.


@dataclass(frozen=True)
class Fact:
    """One cell.

    Attributes:
        column: its heading.
        printed: as the paper prints it; empty where it prints nothing.
        ours: what stands here, or None where there is nothing of ours.
        verdict: of the two.
    """

    column: str
    printed: str
    ours: str | None
    verdict: Verdict


@dataclass(frozen=True)
class FactLine:
    """One row: its label, its cells in the table's order, a remark."""

    label: str
    facts: tuple[Fact, ...]
    note: str = ""


@dataclass(frozen=True)
class FactSection:
    """Rows under one heading; ``published`` says whether the paper has them."""

    title: str
    published: bool
    lines: tuple[FactLine, ...]


@dataclass(frozen=True)
class FactTable:
    """One table, ready to print."""

    spec: FactsSpec
    columns: tuple[str, ...]
    sections: tuple[FactSection, ...]

    def cells(self, published: bool) -> list[Fact]:
        """Return the published cells, or those of rows of ours."""
        return [
            fact
            for section in self.sections
            if section.published == published
            for line in section.lines
            for fact in line.facts
        ]

    def states(self, published: bool) -> dict[str, int]:
        """Count the verdicts; every state is there, also with 0."""
        counts = Counter(fact.verdict.state for fact in self.cells(published))
        return {state: counts[state] for state in STATES}


def decimals_of(printed: str) -> int:
    """Return the decimals of a printed number.

    Example:
        >>> decimals_of("79.45"), decimals_of("1,305,265"), decimals_of("5e-4")
        (2, 0, 4)
    """
    exponent = Decimal(printed.replace(",", "")).as_tuple().exponent
    return max(0, -int(exponent))


def compare(printed: str, ours: float, why: str = "") -> Verdict:
    """Say how a value of ours that is no draw (a count, a setting) stands to a printed one: to its last printed digit.

    Example:
        >>> compare("79.45", 79.4512).state, compare("294805", 294804).state, compare("5e-4", 5e-4).state
        ('matches', 'below', 'matches')
    """
    value = float(printed.replace(",", ""))
    # 1e-9: decimal values have no exact binary form.
    if abs(ours - value) <= 0.5 * 10 ** -decimals_of(printed) * (1 if decimals_of(printed) else 1e-6) + 1e-9:
        return Verdict("matches", why)
    return Verdict("above" if ours > value else "below", why)


def number(value: float | None, decimals: int) -> str | None:
    """Print one of our numbers like the paper's beside it, thousands parted.

    Example:
        >>> number(1305265, 0), number(79.4512, 2), number(None, 2)
        ('1,305,265', '79.45', None)
    """
    return None if value is None else f"{value:,.{decimals}f}"


def shared_whys(section: FactSection) -> list[str]:
    """Return the reasons that every row gives: printed once above a section."""
    each = [list(dict.fromkeys(f.verdict.why for f in line.facts if f.verdict.why)) for line in section.lines]
    return [why for why in (each[0] if each else []) if all(why in other for other in each)]


def note(line: FactLine, without: Sequence[str] = ()) -> str:
    """Print a row's remark and its reasons, less those printed elsewhere."""
    whys = dict.fromkeys(fact.verdict.why for fact in line.facts if fact.verdict.why)
    return "; ".join(filter(None, (line.note, *(why for why in whys if why not in without))))


def verdict(line: FactLine) -> str:
    """Print a row's verdicts: one state if all cells share it, else each with its column."""
    states = [fact.verdict.state for fact in line.facts]
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(f"{fact.column} {fact.verdict.state}" for fact in line.facts)


def by_column(line: FactLine, columns: Sequence[str]) -> list[Fact | None]:
    """Return a row's cells in the table's column order; None where there is none."""
    facts = {fact.column: fact for fact in line.facts}
    return [facts.get(column) for column in columns]


# --- Sentences of the paper with a number in them: what of ours each would be computed from, and what it is.


SEEDS_OF_SD = 5  # the paper's
# Times that the paper states (config/reported/other_facts.csv) -> our run.
STATED = {
    "ViXML DistilBERT (PRIME), LF-AmazonTitles-1.3M, without image embedding": ("LF-AmazonTitles-1.3M", "vixml-distilbert"),
    "ViXML Qwen2.5-3B-Instruct, LF-AmazonTitles-1.3M": ("LF-AmazonTitles-1.3M", "vixml-qwen2.5-3b"),
    "x axis TT (hours)": ("LF-AmazonTitles-131K", "vixml-qwen2.5-7b"),  # the longest run that it draws
    "BERT text-only, length 32": ("LF-AmazonTitles-131K", "text-bert"),
    "BERT ViXML": ("LF-AmazonTitles-131K", "vixml-bert"),
    "Qwen2.5-3B-I text-only": ("LF-AmazonTitles-131K", "text-qwen2.5-3b"),
    "Qwen2.5-3B-I ViXML": ("LF-AmazonTitles-131K", "vixml-qwen2.5-3b"),
}  # fmt: skip


def claims_table(spec: FactsSpec, sources: Sources, config_dir: Path | str) -> FactTable:
    """Build the table: every sentence of other_facts.csv that is no latency has exactly one row.

    Raises:
        VixmlError: a sentence without a row, or a row without a sentence.
    """
    path = Path(config_dir) / "reported" / "other_facts.csv"
    published = {
        (row["topic"], row["item"]): row for _, row in read_csv(path) if not row["topic"].startswith("latency")
    }
    asked = {(row.topic, row.item): row for row in spec.claims}
    if published.keys() != asked.keys():
        odd = sorted(published.keys() ^ asked.keys())[0]
        raise VixmlError(
            "the table of claims and the published facts are not in step",
            where=f"config/tables/{spec.id}.yaml: claims",
            found=f"{odd} in {'the table' if odd in asked else path} only",
            hint="give each sentence one row",
        )
    lines = []
    for key, row in published.items():
        ours, verdict = _ours(asked[key], sources)
        printed = f"{row['value']} {row['unit']}".strip()
        lines.append(FactLine(f"{row['topic']}: {row['item']}", (Fact("value", printed, ours, verdict),), row["where"]))
    return FactTable(spec, ("value",), (FactSection("Printed in the text", True, tuple(lines)),))


def best_previous(row: ClaimRow, sources: Sources) -> Claim:
    """Return the published value that a gain is counted from: one of Table 7.

    Raises:
        VixmlError: none, or more than one.
    """
    selected = [
        claim
        for claim in sources.claims
        if (claim.table, claim.dataset, claim.metric) == ("Table 7", row.dataset, row.metric)
        and claim.selected_by(row.claim)
    ]
    if len(selected) != 1:
        raise VixmlError(
            "a gain is counted from one published value",
            where=f"config/tables/claims.yaml: {row.topic}, {row.item}",
            found=f"{len(selected)} cells of Table 7 with {row.claim}",
            hint="name more columns of reported_results.csv under `claim`",
        )
    return selected[0]


def _ours(row: ClaimRow, sources: Sources) -> tuple[str | None, Verdict]:
    if row.how == "none":
        return None, Verdict("not-comparable", row.why)
    if row.how == "gain":
        best_previous(row, sources)  # also where nothing was run: a wrong selector is seen at once
    results = [sources.results.of(row.dataset or "", run) for run in row.runs]
    if not all(results):
        missing = ", ".join(run for run, found in zip(row.runs, results, strict=True) if not found)
        return None, Verdict("not-run", "; ".join(filter(None, (f"needs {missing} of {row.dataset}", row.why))))
    comparable = Verdict("not-comparable", row.why or "computed from runs of ours; the paper gives no interval")
    if row.how == "sd":
        found = metric_over_seeds(results[0], row.metric)
        if found is None or found.sd is None or found.n < SEEDS_OF_SD:
            return None, Verdict("not-run", f"{len(results[0])} of {SEEDS_OF_SD} seeds")
        return f"{found.sd:.3f} points ({found.n} seeds)", comparable
    if row.how == "gain":
        found = metric_over_seeds(results[0], row.metric)
        printed = best_previous(row, sources)
        if found is None:
            return None, Verdict("not-run")
        return f"{found.mean - printed.value:+.2f} points over {printed.printed}", comparable
    hours = [hours_over_seeds(found) for found in results]
    if any(found is None for found in hours):
        return None, Verdict("not-run", "nothing was trained")
    if row.how == "hours":
        return f"{hours[0].mean:.2f} h", comparable
    return f"{100 * (hours[0].mean / hours[1].mean - 1):+.0f} %", comparable


# --- Build the tables of facts: data sets counted in their corpora, backbones read from the registry, latencies,
# claims.


# Heading -> column of datasets.csv, decimals.
STATISTICS = {
    "train queries": ("n_train", 0),
    "test queries": ("n_test", 0),
    "labels": ("n_labels", 0),
    "labels a query": ("avg_labels_per_query", 2),
    "queries a label": ("avg_queries_per_label", 2),
    "% train with images": ("pct_train_queries_with_images", 2),
    "% test with images": ("pct_test_queries_with_images", 2),
    "% labels with images": ("pct_labels_with_images", 2),
}
BACKBONES = ("parameters", "checkpoint", "learning rate")
LATENCIES = {
    "encode, a batch": "encode_batched", "encode, one alone": "encode_alone", "tokenise": "tokenise", "search": "search",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What facts are measured from, besides scores.

    Attributes:
        corpora: dataset -> folder of ``build-corpus``.
        latencies: folders of ``measure-latency``.
    """

    corpora: Mapping[str, Path] = field(default_factory=dict)
    latencies: Sequence[Path] = ()


def build_any_tables(
    specs: Sequence[TableSpec | FactsSpec], sources: Sources, config_dir: Path | str, measured: Measured | None = None
) -> list[Table | FactTable]:
    """Build tables of either kind, in order."""
    measured = measured or Measured()
    return [
        build_table(spec, sources) if isinstance(spec, TableSpec) else build_facts(spec, sources, config_dir, measured)
        for spec in specs
    ]


def build_facts(spec: FactsSpec, sources: Sources, config_dir: Path | str, measured: Measured) -> FactTable:
    """Build one table of facts.

    Raises:
        VixmlError: a malformed file of published facts, or of measured ones.
    """
    builders: dict[str, Callable[[FactsSpec, Sources, Path, Measured], FactTable]] = {
        "datasets": _datasets,
        "backbones": _backbones,
        "latencies": _latencies,
        "claims": lambda spec, sources, config_dir, _: claims_table(spec, sources, config_dir),
    }
    return builders[spec.facts](spec, sources, Path(config_dir), measured)


# -- data sets (Table 8) ----------------------------------------------------------------------------------------------


def statistics(corpus: Corpus) -> dict[str, float]:
    """Count a corpus as Table 8 does: averages over training queries and over labels, percent of items with a picture."""
    train = corpus.labels("train")
    found: dict[str, float] = {name: corpus.n(split) for name, split in _SIZES.items()}
    pairs = len(train.values)
    found["avg_labels_per_query"] = pairs / max(1, corpus.n("train"))
    found["avg_queries_per_label"] = pairs / max(1, corpus.n_labels)
    for split, name in _PICTURED.items():
        lengths = corpus.images(split).lengths
        found[name] = float(100 * np.count_nonzero(lengths) / max(1, len(lengths)))
    return found


_SIZES = {"n_train": "train", "n_test": "test", "n_labels": "label"}
_PICTURED = {
    "train": "pct_train_queries_with_images",
    "test": "pct_test_queries_with_images",
    "label": "pct_labels_with_images",
}


def _datasets(spec: FactsSpec, sources: Sources, config_dir: Path, measured: Measured) -> FactTable:
    found = {name: statistics(Corpus.load(folder)) for name, folder in measured.corpora.items()}
    published = [row for _, row in read_csv(config_dir / "reported" / "datasets.csv")]
    lines = [_dataset_line(row, found.get(row["dataset"]), sources) for row in published]
    sections = [FactSection("The paper's data", True, tuple(lines))]
    own = [name for name in found if name not in {row["dataset"] for row in published}]
    if own:
        sections.append(
            FactSection("Measured here", False, tuple(_own_line(name, found[name], sources) for name in own))
        )
    return FactTable(spec, tuple(STATISTICS), tuple(sections))


def _dataset_line(row: dict[str, str], found: dict[str, float] | None, sources: Sources) -> FactLine:
    facts = []
    for column, (key, decimals) in STATISTICS.items():
        printed = f"{int(row[key]):,}" if decimals == 0 else row[key]
        if found is None:
            facts.append(Fact(column, printed, None, Verdict("not-run", "its corpus was not built")))
        else:
            facts.append(Fact(column, printed, number(found[key], decimals), compare(row[key], round(found[key], 6))))
    return FactLine(sources.registry.title(row["dataset"]), tuple(facts))


def _own_line(name: str, found: dict[str, float], sources: Sources) -> FactLine:
    entry = sources.registry.world.datasets.get(name)
    state = (
        Verdict("stand-in", "not the paper's data") if entry is None or entry.stand_in else Verdict("not-comparable")
    )
    facts = tuple(
        Fact(column, "", number(found[key], decimals), state) for column, (key, decimals) in STATISTICS.items()
    )
    return FactLine(sources.registry.title(name), facts)


# -- backbones (Table 9) ----------------------------------------------------------------------------------------------


def _backbones(spec: FactsSpec, sources: Sources, config_dir: Path, measured: Measured) -> FactTable:
    printed: dict[str, dict[str, str]] = {}
    endings = {" params": "parameters", " HF checkpoint": "checkpoint", " learning rate": "learning rate"}
    for _, row in read_csv(config_dir / "reported" / "hyperparameters.csv"):
        if row["group"] == "backbone (Table 9)":
            ending = next(e for e in endings if row["name"].endswith(e))
            printed.setdefault(row["name"].removesuffix(ending), {})[endings[ending]] = row["value"]
    world = sources.registry.world
    texts = {entry.title: (name, entry) for name, entry in world.text_models.items()}
    visions = {entry.title: entry for entry in world.vision_models.values()}
    groups: dict[str, list[FactLine]] = {"Language models": [], "Vision models": []}
    for label, values in printed.items():
        title = label.removesuffix(" (vision)")
        if title in texts:
            groups["Language models"].append(_text_line(label, values, *texts[title], sources))
            continue
        entry = visions.get(title)
        facts = []
        for column in values:
            ours = entry.checkpoint if entry is not None and column == "checkpoint" else None
            facts.append(
                Fact(column, values[column], ours, _same(values[column], ours, "no entry in config/models.yaml"))
            )
        groups["Vision models" if "(vision)" in label else "Language models"].append(FactLine(label, tuple(facts)))
    sections = tuple(FactSection(title, True, tuple(lines)) for title, lines in groups.items() if lines)
    return FactTable(spec, BACKBONES, sections)


def _text_line(label: str, values: dict[str, str], name: str, entry: Any, sources: Sources) -> FactLine:
    facts = []
    for column, printed in values.items():
        if column == "parameters":
            facts.append(_parameters(printed, entry))
        elif column == "checkpoint":
            facts.append(Fact(column, printed, entry.checkpoint, _same(printed, entry.checkpoint)))
        else:
            facts.append(_rate(printed, name, sources))
    return FactLine(label, tuple(facts))


def _parameters(printed: str, entry: Any) -> Fact:
    if entry.n_parameters is None:
        return Fact("parameters", printed, None, Verdict("not-run", "not counted"))
    digits, unit = printed[:-1], printed[-1]
    ours = entry.n_parameters / {"M": 1e6, "B": 1e9}[unit]
    found = compare(digits, ours) if decimals_of(digits) else compare(digits, round(ours))
    why = "" if found.state == "matches" else "the text part alone: what its vision part holds is not read here"
    return Fact("parameters", printed, f"{ours:.{decimals_of(digits)}f}{unit}", Verdict(found.state, why))


def _rate(printed: str, model: str, sources: Sources) -> Fact:
    """Return the peak rate of most of the paper's runs with this language model; the others are named."""
    rates = Counter(
        run.optimizer.lr
        for (dataset, _), run in sources.registry.runs.items()
        if not sources.registry.world.datasets[dataset].stand_in
        and run.encoder.model == model
        and run.training.epochs
        and run.reuse is None
    )
    if not rates:
        return Fact("learning rate", printed, None, Verdict("not-run", "no run of config/runs uses it"))
    usual, *others = [rate for rate, _ in rates.most_common()]
    named = ", ".join(f"{rate:.0e}" for rate in sorted(others))
    why = f"some runs take {named} (config/reported/hyperparameters.csv)" if others else ""
    text = f"{usual:.0e}".replace("e-0", "e-")
    return Fact("learning rate", printed, text, compare(printed, usual, why.replace("e-0", "e-")))


def _same(printed: str, ours: str | None, missing: str = "") -> Verdict:
    if ours is None:
        return Verdict("not-run", missing)
    return Verdict("matches") if ours == printed else Verdict("not-comparable", f"another one: {ours}")


# -- latencies (section G) --------------------------------------------------------------------------------------------


def _latencies(spec: FactsSpec, sources: Sources, config_dir: Path, measured: Measured) -> FactTable:
    found_of = _latencies_of_runs(measured.latencies)
    batched = next(iter(LATENCIES))
    registry = sources.registry
    lines, beside = [], set()
    for _, row in read_csv(config_dir / "reported" / "other_facts.csv"):
        if not row["topic"].startswith("latency"):
            continue
        run = STATED.get(row["item"])
        found = found_of.get(run) if run else None
        if found is None:
            verdict = Verdict("not-run", f"latencies: [{run[1]}] of {run[0]} measures it" if run else "")
            facts = (Fact(batched, row["value"], None, verdict),)
        else:
            beside.add(run)
            state = Verdict("not-comparable", f"another machine: {found['device']}")
            facts = tuple(
                Fact(column, row["value"] if column == batched else "", _quartiles(found["milliseconds"][key]), state)
                for column, key in LATENCIES.items()
            )
        lines.append(FactLine(f"{row['item']}, {row['topic'].removeprefix('latency ')}", facts))
    own = []
    for key, found in found_of.items():
        if key in beside:
            continue
        state = Verdict("stand-in", registry.stand_in(found["dataset"], found["run"]) or "another machine")
        facts = tuple(
            Fact(column, "", _quartiles(found["milliseconds"][step]), state) for column, step in LATENCIES.items()
        )
        config = registry.runs.get(key)
        label = config.row.label if config is not None and config.row is not None else found["run"]
        remark = f"{found['device']}, {found['threads']} threads, batches of {found['batch_size']}"
        own.append(FactLine(label, facts, remark))
    sections = [FactSection("The paper's", True, tuple(lines))]
    if own:
        sections.append(FactSection("Measured here", False, tuple(own)))
    return FactTable(spec, tuple(LATENCIES), tuple(sections))


def _latencies_of_runs(folders: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    read: dict[tuple[str, str], Path] = {}
    for folder in folders:
        path = Path(folder) / "latency.json"
        timed = _read_latency(path)
        key = (timed["dataset"], timed["run"])
        if key in found:
            raise VixmlError(
                "two latencies of one run", where=path, found=f"also {read[key]}", hint="name each run's once"
            )
        found[key], read[key] = timed, path
    return found


def _read_latency(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        raise VixmlError(
            "not a latency of this version", where=path, expected="schema_version 1", hint="measure it again"
        )
    for step, times in found["milliseconds"].items():
        if not 0 < times["low"] <= times["median"] <= times["high"] < math.inf:
            raise VixmlError(
                "a latency is no time",
                where=f"{path}: milliseconds.{step}",
                found=times,
                expected="0 < low <= median <= high",
                hint="measure it again",
            )
    return found


def _quartiles(found: dict[str, float]) -> str:
    return f"{found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
