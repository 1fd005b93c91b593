"""The points of a figure: published values, which have no hours, and measured ones, which have."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vixml.errors import VixmlError
from vixml.reproduce.claims import Claim
from vixml.reproduce.results import Results, metric_over_seeds
from vixml.reproduce.specs import FigureSpec, MeasuredMark
from vixml.reproduce.verdicts import aggregate

Kind = Literal["published", "line", "measured", "untrained"]


@dataclass(frozen=True)
class Point:
    """One mark of the figure.

    Attributes:
        kind: `published` value of the paper, published level `line`, `measured` run, `untrained` run (a level line).
        value: the metric in percent; the mean over seeds.
        sd: sample standard deviation over seeds, or None.
        hours: measured training hours, mean over seeds; None where nobody tabulated or spent any.
        seeds: (seed, hours, value) of each seed.
    """

    kind: Kind
    dataset: str
    label: str
    run: str
    modality: str
    architecture: str
    value: float
    sd: float | None = None
    hours: float | None = None
    seeds: tuple[tuple[int, float | None, float], ...] = ()


def points(spec: FigureSpec, claims: Sequence[Claim], results: Results) -> list[Point]:
    """Return every point: the paper's first, then those measured here; runs without results are left out.

    Raises:
        VixmlError: a published value that is missing or not unique, or a run drawn as trained that was not.
    """
    found = [_published(spec, claims, mark, modality) for modality in ("text", "text+image") for mark in spec.marks]
    for line in spec.lines:
        claim = _one(spec, claims, line.claim, line.label)
        found.append(Point("line", spec.dataset, line.label, "", "", "", claim.value))
    for mark in spec.measured:
        found += _measured(spec, mark, results, trained=True)
    for mark in spec.untrained:
        found += _measured(spec, mark, results, trained=False)
    return found


def _published(spec: FigureSpec, claims: Sequence[Claim], mark: object, modality: str) -> Point:
    table = spec.text_table if modality == "text" else spec.image_table
    selector = {"paper_table": table, "backbone": mark.backbone, "modality": modality}
    claim = _one(spec, claims, selector, mark.label)
    return Point("published", spec.dataset, mark.label, claim.run or "", modality, mark.architecture, claim.value)


def _one(spec: FigureSpec, claims: Sequence[Claim], selector: dict[str, str], label: str) -> Claim:
    columns = {key: value for key, value in selector.items() if key != "paper_table"}
    found = [
        claim
        for claim in claims
        if (claim.source, claim.dataset, claim.metric) == (spec.source, spec.dataset, spec.metric)
        and claim.table == selector.get("paper_table", claim.table)
        and claim.selected_by(columns)
    ]
    if len(found) != 1:
        raise VixmlError(
            "a mark of a figure does not single out one published value",
            where=f"config/figures/{spec.id}.yaml: {label}",
            found=f"{len(found)} cells for {selector}",
            expected="1",
            hint="compare with config/reported/reported_results.csv",
        )
    return found[0]


def _measured(spec: FigureSpec, mark: MeasuredMark, results: Results, *, trained: bool) -> list[Point]:
    runs = results.of(spec.measured_dataset, mark.run)
    value = metric_over_seeds(runs, spec.metric)
    if value is None:
        return []
    hours = [run.hours for run in runs]
    if trained and None in hours:
        raise VixmlError(
            "a run is to be drawn at its training time, but it has none",
            where=runs[hours.index(None)].trained_folder / "model" / "training.json",
            expected="steps and seconds above 0",
            hint=f"train it, or list it under `untrained` in config/figures/{spec.id}.yaml",
        )
    return [
        Point(
            kind="measured" if trained else "untrained",
            dataset=spec.measured_dataset,
            label=mark.label,
            run=mark.run,
            modality=mark.modality,
            architecture=mark.architecture,
            value=value.mean,
            sd=value.sd,
            hours=aggregate(hours).mean if trained else None,
            seeds=tuple((run.seed, run.hours, run.metrics[spec.metric]) for run in runs),
        )
    ]


def to_csv(spec: FigureSpec, found: Sequence[Point]) -> str:
    """Return the points as CSV: a line a published value, a line a seed of ours; unknown hours are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["kind", "dataset", "label", "run", "modality", "architecture", "seed", spec.metric, "hours", "hours_are"]
    )
    for point in found:
        head = [point.kind, point.dataset, point.label, point.run, point.modality, point.architecture]
        if point.kind in ("published", "line"):
            writer.writerow([*head, "", f"{point.value:.2f}", "", "not tabulated by the paper"])
        for seed, hours, value in point.seeds:
            spent = "no training" if hours is None or point.kind == "untrained" else "measured"
            writer.writerow([*head, seed, f"{value:.4f}", "" if spent != "measured" else f"{hours:.6f}", spent])
    return stream.getvalue()
