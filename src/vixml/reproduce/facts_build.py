"""Build the tables of facts: data sets counted in their corpora, backbones read from the registry, latencies, claims."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.reproduce.claims import read_csv
from vixml.reproduce.fact_claims import STATED, claims_table
from vixml.reproduce.facts import Fact, FactLine, FactSection, FactTable, compare, decimals_of, number
from vixml.reproduce.grid import Sources, Table, build_table
from vixml.reproduce.specs import FactsSpec, TableSpec
from vixml.reproduce.verdicts import Verdict

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
