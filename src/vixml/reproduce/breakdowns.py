"""Where scores come from, runs side by side: by how frequent a label is, by who has a picture. Read from score files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.reproduce.charts import Bars, bar_chart
from vixml.reproduce.results import Result, Results
from vixml.reproduce.verdicts import Aggregate, aggregate

SIDES = ("with", "without")
CONTRIBUTIONS = ("P@1", "P@5")


@dataclass(frozen=True)
class Group:
    """A tenth of the training pairs: labels of like frequency."""

    frequency: str
    n_labels: int
    n_true_pairs: int


@dataclass(frozen=True)
class RunParts:
    """One run's parts over its seeds, in percent; None where there is no such query.

    Attributes:
        by_frequency: metric -> contribution of each group, rarest labels first; they add up to the metric.
        by_label_image: metric -> contribution of labels with and without a picture; they add up to the metric.
        by_query_image: P@1 of the queries with and without a picture.
    """

    run: str
    seeds: tuple[int, ...]
    by_frequency: dict[str, tuple[Aggregate, ...]]
    by_label_image: dict[str, tuple[Aggregate, ...]]
    by_query_image: tuple[Aggregate | None, ...]


@dataclass(frozen=True)
class Breakdown:
    """One dataset's runs; charts show those compared, as SVG text."""

    dataset: str
    groups: tuple[Group, ...]
    n_labels: tuple[int, int]
    n_queries: tuple[int, int]
    charts: tuple[str, ...]
    compared: tuple[str, ...]
    runs: tuple[RunParts, ...]
    without: tuple[str, ...]


def breakdowns(results: Results, compare: Sequence[str]) -> list[Breakdown]:
    """Return the parts of every dataset that has some.

    Args:
        results: what was measured.
        compare: runs drawn side by side; all runs stand in the table.

    Raises:
        VixmlError: a breakdown that lacks a part, or two of one dataset over different groups of labels.
    """
    datasets = dict.fromkeys(dataset for dataset, _ in sorted(results.by_run))
    found = [_dataset(dataset, results, compare) for dataset in datasets]
    return [one for one in found if one is not None]


def _dataset(dataset: str, results: Results, compare: Sequence[str]) -> Breakdown | None:
    # Of runs compared, in the order asked for; then the others.
    names = [run for name, run in sorted(results.by_run) if name == dataset]
    names = [run for run in compare if run in names] + [run for run in names if run not in compare]
    runs, without, first = [], [], None
    for run in names:
        read = [(result, parts) for result, parts in _read(results.by_run[dataset, run])]
        if len(read) < len(results.by_run[dataset, run]):
            without.append(run)
            continue
        first = first or read[0]
        for result, parts in read:
            _same_groups(result, parts, *first)
        runs.append(_parts(run, read))
    if first is None:
        return None
    parts = first[1]
    drawn = [one for one in runs if one.run in compare]
    groups = tuple(
        Group(_frequency(group["train_count"]), group["n_labels"], group["n_true_pairs"])
        for group in parts["by_frequency"]
    )
    labels, queries = parts["by_label_image"], parts["by_query_image"]
    return Breakdown(
        dataset,
        groups,
        (labels["with"]["n_labels"], labels["without"]["n_labels"]),
        (queries["with"]["n_queries"], queries["without"]["n_queries"]),
        tuple(_charts(drawn)),
        tuple(one.run for one in drawn),
        tuple(runs),
        tuple(without),
    )


def _read(results: Sequence[Result]) -> Iterator[tuple[Result, dict[str, Any]]]:
    for result in results:
        path = result.folder / "scores.json"
        parts = read_json(path).get("breakdown")
        if parts is None:
            continue
        missing = {"by_frequency", "by_label_image", "by_query_image"} - set(parts)
        if missing:
            raise VixmlError(
                "a breakdown lacks a part",
                where=f"{path}: breakdown",
                found=f"no {', '.join(sorted(missing))}",
                hint="score the run again",
            )
        yield result, parts


def _same_groups(result: Result, parts: dict[str, Any], other: Result, others: dict[str, Any]) -> None:
    def shape(value: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(group["train_count"], group["n_labels"]) for group in value["by_frequency"]]

    if shape(parts) != shape(others):
        raise VixmlError(
            "two results of one dataset are broken down over different groups of labels",
            where=result.folder / "scores.json",
            expected=f"the groups of {other.folder / 'scores.json'}",
            hint="one of them belongs to an older corpus; snakemake runs it again",
        )


def _parts(run: str, read: Sequence[tuple[Result, dict[str, Any]]]) -> RunParts:
    found = [parts for _, parts in read]

    def over_seeds(values: Sequence[float | None]) -> Aggregate | None:
        # Seeds share their queries, so a side is there for all of them or for none.
        there = [value for value in values if value is not None]
        return aggregate(there) if len(there) == len(values) else None

    return RunParts(
        run,
        tuple(result.seed for result, _ in read),
        {
            metric: tuple(
                aggregate([parts["by_frequency"][group]["contribution"][metric] for parts in found])
                for group in range(len(found[0]["by_frequency"]))
            )
            for metric in CONTRIBUTIONS
        },
        {
            metric: tuple(
                aggregate([parts["by_label_image"][side]["contribution"][metric] for parts in found]) for side in SIDES
            )
            for metric in CONTRIBUTIONS
        },
        tuple(over_seeds([parts["by_query_image"][side]["P@1"] for parts in found]) for side in SIDES),
    )


def _frequency(count: Sequence[int] | None) -> str:
    """Print the range of a group's training frequencies.

    Example:
        >>> _frequency([2, 2]), _frequency([70, 211]), _frequency(None)
        ('2', '70–211', '–')
    """
    if count is None:
        return "–"
    low, high = count
    return str(low) if low == high else f"{low}–{high}"


def _charts(runs: Sequence[RunParts]) -> Iterator[str]:
    if not runs:
        return
    for metric in CONTRIBUTIONS:
        bars = [Bars(one.run, one.by_frequency[metric]) for one in runs]
        tenths = [str(number) for number in range(1, len(bars[0].values) + 1)]
        yield bar_chart(
            tenths, bars, f"{metric} from each group of labels, rarest first", "group of labels, rarest first"
        )
    for metric in CONTRIBUTIONS:
        bars = [Bars(one.run, one.by_label_image[metric]) for one in runs]
        sides = ["with a picture", "without"]
        yield bar_chart(sides, bars, f"{metric} from labels with and without a picture", "labels")
    # A side without queries has no precision: there is nothing to set side by side.
    if all(value is not None for one in runs for value in one.by_query_image):
        bars = [Bars(one.run, tuple(v for v in one.by_query_image if v is not None)) for one in runs]
        yield bar_chart(["with a picture", "without"], bars, "P@1 of queries with and without a picture", "queries")
