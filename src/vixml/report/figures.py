"""The stage ``make-figures``: each figure as PNG, SVG and CSV with the same bytes every time.

A metric against training time is drawn from its points: published values, which have no hours, and measured ones, which
have. A drawing that never changes is committed in ``config/figures`` and copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vixml.config.published import PublishedValue, load_published, select_one
from vixml.config.tables import DrawingSpec, FigureSpec, load_figures
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.provenance import stage
from vixml.report.results import Results, aggregate, load, metric_over_seeds, stage_inputs
from vixml.text import csv_cell

Kind = Literal["published", "line", "measured", "untrained"]


@dataclass(frozen=True)
class Point:
    """One mark of the figure."""

    kind: Kind  # `published` value of the paper, published level `line`, `measured` run, `untrained` run (a level line)
    dataset: str
    label: str
    run: str
    modality: str
    architecture: str
    value: float  # the metric in percent; the mean over seeds
    sd: float | None = None  # sample standard deviation over seeds, or None
    hours: float | None = None  # measured training hours, mean over seeds; None where nobody tabulated or spent any
    seeds: tuple[tuple[int, float | None, float], ...] = ()  # (seed, hours, value) of each seed


def points(spec: FigureSpec, published: Sequence[PublishedValue], results: Results) -> list[Point]:
    """Return every point: the paper's first, then those measured here; runs without results are left out.

    Raises:
        VixmlError: a published value that is missing or not unique, or a run drawn as trained that was not.
    """

    def value_of(label: str, **columns: str) -> PublishedValue:
        columns = {"source": spec.source, "dataset": spec.dataset, "metric": spec.metric} | columns
        return select_one(published, columns, f"config/figures/{spec.id}.yaml: {label}")

    found = []
    for modality, table in (("text", spec.text_table), ("text+image", spec.image_table)):
        for mark in spec.marks:
            one = value_of(mark.label, paper_table=table, backbone=mark.backbone, modality=modality)
            kind = (mark.label, one.run or "", modality, mark.architecture)
            found.append(Point("published", spec.dataset, *kind, one.value))
    for line in spec.lines:
        level = value_of(line.label, **line.published).value
        found.append(Point("line", spec.dataset, line.label, "", "", "", level))
    for kind, marks in (("measured", spec.measured), ("untrained", spec.untrained)):
        for mark in marks:
            runs = results.of(spec.measured_dataset, mark.run)
            value = metric_over_seeds(runs, spec.metric)
            if value is None:
                continue
            hours = [run.hours for run in runs]
            if kind == "measured" and None in hours:
                raise VixmlError(
                    "a run is to be drawn at its training time, but it has none",
                    where=runs[hours.index(None)].place("train") / "training.json",
                    expected="steps and seconds above 0",
                    hint=f"train it, or list it under `untrained` in config/figures/{spec.id}.yaml",
                )
            names = (spec.measured_dataset, mark.label, mark.run, mark.modality, mark.architecture)
            mean_hours = aggregate(hours).mean if kind == "measured" else None
            seeds = tuple((run.seed, run.hours, run.metrics[spec.metric]) for run in runs)
            found.append(Point(kind, *names, value.mean, value.sd, mean_hours, seeds))
    return found


def to_csv(spec: FigureSpec, found: Sequence[Point]) -> str:
    """Return the points as CSV: one line per published value, one per seed of ours; unknown hours are empty."""
    head = ["kind", "dataset", "label", "run", "modality", "architecture"]
    lines = []
    for point in found:
        same = [getattr(point, name) for name in head]
        if point.kind in ("published", "line"):
            lines.append([*same, "", f"{point.value:.2f}", "", "not tabulated by the paper"])
        for seed, hours, value in point.seeds:
            spent = "no training" if hours is None or point.kind == "untrained" else "measured"
            lines.append([*same, str(seed), f"{value:.4f}", f"{hours:.6f}" if spent == "measured" else "", spent])
    columns = [*head, "seed", spec.metric, "hours", "hours_are"]
    return pd.DataFrame(lines, columns=columns).map(csv_cell).to_csv(index=False, lineterminator="\n")


# The paper's red, blue and orange in shades that colour-blind readers tell apart. In grey print red and blue are alike,
# so text-only marks are hollow and those with images are filled.
COLOURS = {"text": "#c03030", "text+image": "#0868ac"}
ORANGE = "#c96a00"
GREY = "#5c5c5c"
NAMES = {"text": "text only", "text+image": "text + images (ViXML)"}
MARKERS = {"encoder": "o", "decoder": "*"}
SIZES = {"encoder": 7, "decoder": 11}
PLATE = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}

STYLE = {
    "text.parse_math": False,  # names and titles are text: a dollar begins no formula
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "vixml",
    "svg.fonttype": "path",
    "savefig.facecolor": "white",
}
TICKS = [c * 10.0**e for e in range(-4, 4) for c in (1, 2, 5)]


def make_figures(scores: Sequence[Path], config_dir: Path, figures: Sequence[str], out: Path) -> None:
    """Write ``{figure}.png``, ``{figure}.svg`` and ``{figure}.csv`` (its points, or the parts drawn) for each figure.

    Raises:
        VixmlError: a drawing whose files are missing.
    """
    specs = load_figures(config_dir, figures)
    results = load(scores)
    inputs = stage_inputs(results, config_dir, "figure", figures)
    inputs |= {f"drawing/{path.name}": path for spec in specs for path in _drawing(spec, config_dir)}
    with stage(out, "make-figures", config={"figures": list(figures)}, inputs=inputs) as work:
        published = load_published(config_dir)
        for spec in specs:
            if isinstance(spec, DrawingSpec):
                svg, _ = (shutil.copyfile(path, work / path.name) for path in _drawing(spec, config_dir))
                (work / f"{spec.id}.png").write_bytes(_png(svg.read_text(encoding="utf-8")))
                continue
            found = points(spec, published, results)
            write_text(work / f"{spec.id}.csv", to_csv(spec, found))
            save(draw_panels(spec, found), work / spec.id)


def _drawing(spec: FigureSpec | DrawingSpec, config_dir: Path) -> list[Path]:
    """Return the committed files of a drawing: SVG and CSV; none of another figure."""
    if not isinstance(spec, DrawingSpec):
        return []
    files = [Path(config_dir) / "figures" / f"{spec.id}.{form}" for form in ("svg", "csv")]
    for path in files:
        if not path.exists():
            raise VixmlError("a drawing lacks a file", where=path, hint="commit it beside the figure's YAML file")
    return files


def _png(svg: str) -> bytes:
    import resvg_py

    return resvg_py.svg_to_bytes(svg_string=svg, width=1664, dpi=96, background="#ffffff", skip_system_fonts=True)


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem.png`` and ``stem.svg`` without dates or versions, so that the same points give the same bytes."""
    with plt.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    plt.close(figure)


# -- drawing a metric against training time -----------------------------------------------------------------------------


def draw_panels(spec: FigureSpec, found: Sequence[Point]) -> Figure:
    """Draw both panels: the paper's values without an hour axis, ours at their measured hours."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 5.2), width_ratios=[1.1, 1.25], layout="constrained")
        _draw_paper(left, spec, [p for p in found if p.kind in ("published", "line")])
        _draw_measured(right, spec, [p for p in found if p.kind in ("measured", "untrained")])
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _look(modality: str, architecture: str) -> dict[str, Any]:
    """Return how a run's mark looks: hollow for text only, filled with images; dots and stars as in the paper."""
    colour = COLOURS[modality]
    return {
        "marker": MARKERS[architecture],
        "color": colour,
        "markersize": SIZES[architecture],
        "markerfacecolor": "white" if modality == "text" else colour,
        "markeredgewidth": 1.6 if architecture == "encoder" else 1.2,
        "linestyle": "none",
    }


def _legend() -> list[Line2D]:
    handles = [Line2D([], [], label=NAMES[m], **(_look(m, "encoder") | {"marker": "s"})) for m in COLOURS]
    shapes = [("encoder", "dual encoder"), ("decoder", "dual decoder")]
    grey = {"color": GREY, "markerfacecolor": GREY}
    return handles + [Line2D([], [], label=label, **(_look("text", shape) | grey)) for shape, label in shapes]


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights moved apart to at least ``gap``, in the same order, so that labels do not overlap.

    Example:
        >>> spread([1.0, 1.0, 5.0], gap=1.0)
        [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[list[int], float]] = []
    for index in order:
        groups.append(([index], heights[index]))
        # A group's labels surround its mean height; groups that touch are joined.
        while len(groups) > 1:
            (lower, low), (upper, high) = groups[-2:]
            if high - low >= gap * (len(lower) + len(upper)) / 2:
                break
            members = lower + upper
            groups[-2:] = [(members, sum(heights[i] for i in members) / len(members))]
    placed = [0.0] * len(heights)
    for members, middle in groups:
        for rank, index in enumerate(members):
            placed[index] = middle + gap * (rank - (len(members) - 1) / 2)
    return placed


def _draw_paper(axes: Axes, spec: FigureSpec, found: Sequence[Point]) -> None:
    axes.set_title(f"Published: {spec.dataset}\nhours were drawn, never tabulated: no hour axis")
    axes.set_ylabel(f"{spec.metric} (%)")
    place = {"text": 0.0, "text+image": 1.0}
    marks = [p for p in found if p.kind == "published"]
    for line in (p for p in found if p.kind == "line"):
        axes.axhline(line.value, color=ORANGE, linewidth=1.6, zorder=1)
        axes.annotate(
            f"{line.label} {line.value:.2f}", (1, line.value), (0, -4), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top", color=ORANGE, fontsize=8.5, bbox=PLATE,
        )  # fmt: skip
    low, high = min(p.value for p in found) - 1.2, max(p.value for p in found) + 1.2
    for modality, x in place.items():
        column = [p for p in marks if p.modality == modality]
        # Include the levels, so that no label covers a line.
        levels = [p.value for p in found if p.kind == "line"]
        heights = spread([p.value for p in column] + levels, gap=(high - low) * 0.042)[: len(column)]
        side = -1 if x == 0 else 1
        for point, y in zip(column, heights, strict=True):
            # Encoders left, decoders right, so that equal values do not hide one another.
            at = x + (-0.05 if point.architecture == "encoder" else 0.05)
            axes.plot(at, point.value, zorder=3, **_look(modality, point.architecture))
            axes.annotate(
                f"{point.label}  {point.value:.2f}", (at, point.value), (x + side * 0.2, y), textcoords="data",
                ha="right" if side < 0 else "left", va="center", fontsize=8.5, bbox=PLATE,
                arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 5},
            )  # fmt: skip
    axes.set_xlim(-1.55, 2.55)
    axes.set_ylim(low, high)
    axes.set_xticks(list(place.values()), ["text only", "text + images"])
    axes.tick_params(axis="x", length=0)


def _draw_measured(axes: Axes, spec: FigureSpec, found: Sequence[Point]) -> None:
    axes.set_title(f"Measured here: {spec.measured_title}\nmean, its seeds, ± 1 sd")
    axes.set_xlabel("training time (hours, log scale)")
    axes.set_ylabel(f"{spec.metric} (%)")
    trained = [p for p in found if p.kind == "measured"]
    if not trained:
        axes.text(0.5, 0.5, "nothing trained yet", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    hours = [h for p in trained for _, h, _ in p.seeds if h is not None]
    axes.set_xscale("log")
    left, right = min(hours) / 2.2, max(hours) * 3
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if left <= tick <= right]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for point in trained:
        _draw_run(axes, point)
    for point in (p for p in found if p.kind == "untrained"):
        axes.axhline(point.value, color=COLOURS[point.modality], linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"{point.label} {point.value:.1f}", (0, point.value), (5, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="bottom", fontsize=8.5, color=COLOURS[point.modality], bbox=PLATE,
        )  # fmt: skip
    axes.margins(y=0.12)


def _draw_run(axes: Axes, point: Point) -> None:
    look, colour = _look(point.modality, point.architecture), COLOURS[point.modality]
    if len(point.seeds) > 1:
        hours, values = [h for _, h, _ in point.seeds], [v for _, _, v in point.seeds]
        axes.plot(hours, values, "o", color=colour, markersize=3.5, alpha=0.45, linestyle="none", zorder=2)
    axes.errorbar([point.hours], [point.value], yerr=point.sd, ecolor=colour, capsize=3, zorder=3, **look)
    axes.annotate(
        point.label, (point.hours, point.value), (9, 0), textcoords="offset points", va="center", fontsize=8.5,
        bbox=PLATE, zorder=4,
    )  # fmt: skip
