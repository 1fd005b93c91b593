"""Tables of facts, not scores: data sets counted, backbones from the registry, latencies, sentences with a number in them.

Each cell holds a published value, ours as text, and a verdict. :func:`build_tables` builds tables of
either kind.
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

from vixml.config.published import read_csv, select_one
from vixml.config.tables import ClaimRow, FactsSpec, TableSpec
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.report.results import Verdict, hours_over_seeds, metric_over_seeds
from vixml.report.tables import Cell, Row, Section, Sources, Table, build_table

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


@dataclass(frozen=True)
class Measured:
    """Sources of facts besides scores.

    Attributes:
        corpora: dataset -> folder of ``build-corpus``.
        latencies: folders of ``measure-latency``.
    """

    corpora: Mapping[str, Path] = field(default_factory=dict)
    latencies: Sequence[Path] = ()

    @classmethod
    def of(cls, corpora: Sequence[Path], latencies: Sequence[Path]) -> Measured:
        """Name each corpus by its dataset, the name of its parent folder.

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
        return cls(found, tuple(latencies))

    def named(self) -> dict[str, Path]:
        """Return the folders, named for a manifest."""
        named = {f"corpus/{dataset}": folder for dataset, folder in self.corpora.items()}
        for folder in self.latencies:
            dataset, run, seed = Path(folder).absolute().parts[-4:-1]
            named[f"latency/{dataset}/{run}/{seed}"] = Path(folder)
        return named


def build_tables(
    specs: Sequence[TableSpec | FactsSpec], sources: Sources, measured: Measured | None = None
) -> list[Table]:
    """Build tables of either kind, in order.

    Raises:
        VixmlError: a malformed file of published facts, or of measured ones.
    """
    builders: dict[str, Callable[[FactsSpec, Sources, Measured], Table]] = {
        "datasets": _datasets,
        "backbones": _backbones,
        "latencies": _latencies,
        "claims": _claims,
    }
    measured = measured or Measured()
    return [
        build_table(spec, sources) if isinstance(spec, TableSpec) else builders[spec.facts](spec, sources, measured)
        for spec in specs
    ]


# -- comparing values without variance ------------------------------------------------------------------


def decimals_of(printed: str) -> int:
    """Return the decimals of a printed number.

    Example:
        >>> decimals_of("79.45"), decimals_of("1,305,265"), decimals_of("5e-4")
        (2, 0, 4)
    """
    exponent = Decimal(printed.replace(",", "")).as_tuple().exponent
    return max(0, -int(exponent))


def compare(printed: str, ours: float, why: str = "") -> Verdict:
    """Compare a value of ours without variance (a count, a setting) with a published one, to its last printed digit.

    Example:
        >>> compare("79.45", 79.4512).state, compare("294805", 294804).state, compare("5e-4", 5e-4).state
        ('matches', 'below', 'matches')
    """
    value, decimals = float(printed.replace(",", "")), decimals_of(printed)
    # A count must be equal. 1e-9: decimal values have no exact binary form.
    if abs(ours - value) <= (0.5 * 10**-decimals if decimals else 5e-7) + 1e-9:
        return Verdict("matches", why)
    return Verdict("above" if ours > value else "below", why)


# -- data sets (Table 8) ----------------------------------------------------------------------------------------------

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

    pairs = len(corpus.labels("train").values)
    return {
        "n_train": corpus.n("train"),
        "n_test": corpus.n("test"),
        "n_labels": corpus.n_labels,
        "avg_labels_per_query": pairs / max(1, corpus.n("train")),
        "avg_queries_per_label": pairs / max(1, corpus.n_labels),
        "pct_train_queries_with_images": with_images("train"),
        "pct_test_queries_with_images": with_images("test"),
        "pct_labels_with_images": with_images("label"),
    }


def _datasets(spec: FactsSpec, sources: Sources, measured: Measured) -> Table:
    registry = sources.registry
    found = {name: statistics(Corpus.load(folder)) for name, folder in measured.corpora.items()}
    published = {row["dataset"]: row for _, row in read_csv(sources.config_dir / "reported" / "datasets.csv")}

    def row(name: str) -> Row:
        printed, counted = published.get(name, {}), found.get(name)
        entry = registry.world.datasets.get(name)
        own = Verdict("not-comparable") if entry and not entry.stand_in else Verdict("stand-in", "not the paper's data")
        cells = []
        for column, (key, decimals) in STATISTICS.items():
            text = f"{int(printed[key]):,}" if printed and decimals == 0 else printed.get(key, "")
            ours = None if counted is None else f"{counted[key]:,.{decimals}f}"
            if counted is None:
                verdict = Verdict("not-run", "its corpus was not built")
            else:
                verdict = compare(printed[key], round(counted[key], 6)) if printed else own
            cells.append(Cell(column, text, ours, verdict))
        return Row(registry.title(name), tuple(cells))

    sections = [Section("The paper's data", True, tuple(map(row, published)))]
    if own := [name for name in found if name not in published]:
        sections.append(Section("Measured here", False, tuple(map(row, own))))
    return Table(spec, tuple(STATISTICS), tuple(sections))


# -- backbones (Table 9) ----------------------------------------------------------------------------------------------

BACKBONES = ("parameters", "checkpoint", "learning rate")


def _backbones(spec: FactsSpec, sources: Sources, measured: Measured) -> Table:
    printed: dict[str, dict[str, str]] = {}
    endings = {" params": "parameters", " HF checkpoint": "checkpoint", " learning rate": "learning rate"}
    for _, row in read_csv(sources.config_dir / "reported" / "hyperparameters.csv"):
        if row["group"] == "backbone (Table 9)":
            ending = next(e for e in endings if row["name"].endswith(e))
            printed.setdefault(row["name"].removesuffix(ending), {})[endings[ending]] = row["value"]
    world = sources.registry.world
    texts = {entry.title: (name, entry) for name, entry in world.text_models.items()}
    visions = {entry.title: entry for entry in world.vision_models.values()}
    groups: dict[str, list[Row]] = {"Language models": [], "Vision models": []}
    for label, values in printed.items():
        title = label.removesuffix(" (vision)")
        if title in texts:
            name, entry = texts[title]
            cells = [_of_backbone(column, value, name, entry, sources) for column, value in values.items()]
        else:
            entry = visions.get(title)
            cells = [
                _checkpoint(c, v, entry.checkpoint if entry and c == "checkpoint" else None) for c, v in values.items()
            ]
        groups["Vision models" if "(vision)" in label else "Language models"].append(Row(label, tuple(cells)))
    sections = tuple(Section(title, True, tuple(rows)) for title, rows in groups.items() if rows)
    return Table(spec, BACKBONES, sections)


def _checkpoint(column: str, printed: str, ours: str | None) -> Cell:
    if ours is None:
        return Cell(column, printed, None, Verdict("not-run", "no entry in config/models.yaml"))
    verdict = Verdict("matches") if ours == printed else Verdict("not-comparable", f"another one: {ours}")
    return Cell(column, printed, ours, verdict)


def _of_backbone(column: str, printed: str, name: str, entry: Any, sources: Sources) -> Cell:
    if column == "checkpoint":
        return _checkpoint(column, printed, entry.checkpoint)
    if column == "learning rate":
        return _rate(printed, name, sources)
    if entry.n_parameters is None:
        return Cell(column, printed, None, Verdict("not-run", "not counted"))
    digits, unit = printed[:-1], printed[-1]
    ours, decimals = entry.n_parameters / {"M": 1e6, "B": 1e9}[unit], decimals_of(digits)
    state = compare(digits, ours if decimals else round(ours)).state
    why = "" if state == "matches" else "the text part alone: what its vision part holds is not read here"
    return Cell(column, printed, f"{ours:.{decimals}f}{unit}", Verdict(state, why))


def _rate(printed: str, model: str, sources: Sources) -> Cell:
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
        return Cell("learning rate", printed, None, Verdict("not-run", "no run of config/runs uses it"))

    def text(rate: float) -> str:
        return f"{rate:.0e}".replace("e-0", "e-")

    usual, *others = [rate for rate, _ in rates.most_common()]
    named = ", ".join(map(text, sorted(others)))
    why = f"some runs take {named} (config/reported/hyperparameters.csv)" if others else ""
    return Cell("learning rate", printed, text(usual), compare(printed, usual, why))


# -- latencies (section G) --------------------------------------------------------------------------------------------

LATENCIES = {
    "encode, a batch": "encode_batched", "encode, one alone": "encode_alone", "tokenise": "tokenise", "search": "search",
}  # fmt: skip


def _latencies(spec: FactsSpec, sources: Sources, measured: Measured) -> Table:
    found_of = _latencies_of_runs(measured.latencies)
    batched = next(iter(LATENCIES))
    registry = sources.registry

    def cells(found: dict[str, Any], verdict: Verdict, printed: str = "") -> tuple[Cell, ...]:
        return tuple(
            Cell(column, printed if column == batched else "", _quartiles(found["milliseconds"][step]), verdict)
            for column, step in LATENCIES.items()
        )

    rows, beside = [], set()
    for _, row in read_csv(sources.config_dir / "reported" / "other_facts.csv"):
        if not row["topic"].startswith("latency"):
            continue
        run = STATED.get(row["item"])
        found = found_of.get(run) if run else None
        if found is None:
            verdict = Verdict("not-run", f"latencies: [{run[1]}] of {run[0]} measures it" if run else "")
            shown = (Cell(batched, row["value"], None, verdict),)
        else:
            beside.add(run)
            shown = cells(found, Verdict("not-comparable", f"another machine: {found['device']}"), row["value"])
        rows.append(Row(f"{row['item']}, {row['topic'].removeprefix('latency ')}", shown))
    own = []
    for key, found in found_of.items():
        if key in beside:
            continue
        config = registry.runs.get(key)
        label = config.row.label if config is not None and config.row is not None else key[1]
        verdict = Verdict("stand-in", registry.stand_in(*key) or "another machine")
        remark = f"{found['device']}, {found['threads']} threads, batches of {found['batch_size']}"
        own.append(Row(label, cells(found, verdict), remark))
    sections = [Section("The paper's", True, tuple(rows))]
    sections += [Section("Measured here", False, tuple(own))] if own else []
    return Table(spec, tuple(LATENCIES), tuple(sections))


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


# -- sentences of the paper with a number in them ---------------------------------------------------------------------


def _claims(spec: FactsSpec, sources: Sources, measured: Measured) -> Table:
    """Build the table: every sentence of other_facts.csv that is no latency has exactly one row.

    Raises:
        VixmlError: a sentence without a row, or a row without a sentence.
    """
    path = sources.config_dir / "reported" / "other_facts.csv"
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
    rows = []
    for (topic, item), row in published.items():
        ours, verdict = _answer(asked[topic, item], sources)
        cell = Cell("value", f"{row['value']} {row['unit']}".strip(), ours, verdict)
        rows.append(Row(f"{topic}: {item}", (cell,), row["where"]))
    return Table(spec, ("value",), (Section("Printed in the text", True, tuple(rows)),))


def _answer(row: ClaimRow, sources: Sources) -> tuple[str | None, Verdict]:
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
        return None, Verdict("not-run", "; ".join(filter(None, (f"needs {missing} of {row.dataset}", row.why))))
    comparable = Verdict("not-comparable", row.why or "computed from runs of ours; the paper gives no interval")
    score = metric_over_seeds(results[0], row.metric) if row.how in ("sd", "gain") else None
    if row.how == "sd":
        if score.sd is None or score.n < SEEDS_OF_SD:
            return None, Verdict("not-run", f"{len(results[0])} of {SEEDS_OF_SD} seeds")
        return f"{score.sd:.3f} points ({score.n} seeds)", comparable
    if previous is not None:
        return f"{score.mean - previous.value:+.2f} points over {previous.printed}", comparable
    hours = [hours_over_seeds(found) for found in results]
    if None in hours:
        return None, Verdict("not-run", "nothing was trained")
    if row.how == "hours":
        return f"{hours[0].mean:.2f} h", comparable
    return f"{100 * (hours[0].mean / hours[1].mean - 1):+.0f} %", comparable
