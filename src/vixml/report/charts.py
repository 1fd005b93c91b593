"""Charts of the report as small inline SVG drawings: parts of the scores as bars, training curves as lines.

Each can be read without colours (fills and dashes differ) and without eyes (its label says all values of the bars and the ends
of the lines). Colours come from the page's style sheet, so that a chart follows dark mode and prints in grey.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.manifest import holds
from vixml.report.results import OLDER, Aggregate, Result, Results, aggregate

# -- drawing ----------------------------------------------------------------------------------------------------------

# In units of the drawing.
WIDTH, PLOT, LEFT, RIGHT, TOP, BOTTOM, LEGEND = 360, 150, 44, 8, 26, 34, 14
GAP = 0.24  # between groups of bars, of a group's width
N_STYLES = 5  # fills `b0` to `b4` and strokes `s0` to `s4` of templates/report.css


class Chart:
    """A frame with a title, a legend, horizontal lines at round values, and room for ticks below.

    ``names`` are in the legend; ``style`` is the class of its marks, ``b`` (bars) or ``s`` (lines).
    """

    def __init__(self, title: str, names: Sequence[str], style: str, low: float, high: float) -> None:
        self.low, self.high, self.floor = low, high, TOP + LEGEND * len(names) + PLOT
        self.parts = []
        self.text("title", 4, 12, title)
        for index, name in enumerate(names):
            y, kind = TOP + LEGEND * index, f"{style}{index % N_STYLES}"
            if style == "b":
                self.parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y - 8.5:.1f}" width="9" height="9"/>')
            else:
                path = f"{LEFT - 14},{y - 3.5:.1f} {LEFT + 9},{y - 3.5:.1f}"
                self.parts.append(f'<polyline class="{kind}" points="{path}"/>')
            self.text("name", LEFT + 14, y, name)
        for value in ticks(low, high):
            y = self.y(value)
            self.parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.text("tick", LEFT - 5, y + 3.5, f"{value:g}", "end")

    def y(self, value: float) -> float:
        """Return the height of a value."""
        return self.floor - (value - self.low) / (self.high - self.low) * PLOT

    def text(self, kind: str, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Write words."""
        self.parts.append(f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>')

    def tick(self, x: float, words: str) -> None:
        """Write words below the plot."""
        self.text("tick", x, self.floor + 13, words, "middle")

    def svg(self, label: str, x_label: str) -> str:
        """Return the drawing; the label is for those who cannot see it."""
        self.text("tick", (LEFT + WIDTH - RIGHT) / 2, self.floor + BOTTOM - 5, x_label, "middle")
        box = f"0 0 {WIDTH} {self.floor + BOTTOM}"
        head = f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(label)}">'
        return "\n".join([head, *self.parts, "</svg>"])


@dataclass(frozen=True)
class Bars:
    """One run's bar in each group; lines show the sample standard deviation over seeds, where there are several."""

    name: str
    values: tuple[Aggregate, ...]


def bar_chart(groups: Sequence[str], bars: Sequence[Bars], title: str, x_label: str) -> str:
    """Return an SVG drawing of non-negative percentages.

    Example:
        >>> from vixml.report.results import aggregate
        >>> drawing = bar_chart(["a", "b"], [Bars("run", (aggregate([1.0]), aggregate([2.0])))], "P@1", "labels")
        >>> "run: a 1.0, b 2.0" in drawing
        True
    """
    top = max(v.mean + (v.sd or 0.0) for one in bars for v in one.values) * 1.04 or 1.0
    chart = Chart(f"{title} (%)", [one.name for one in bars], "b", 0.0, top)
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    width = step * (1 - GAP) / len(bars)
    for place, group in enumerate(groups):
        chart.tick(LEFT + step * (place + 0.5), group)
        for index, one in enumerate(bars):
            value, left = one.values[place], LEFT + step * (place + GAP / 2) + width * index
            y = chart.y(value.mean)
            chart.parts.append(
                f'<rect class="b{index % N_STYLES}" x="{left + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{chart.floor - y:.1f}"/>'
            )
            if value.sd is not None:
                low, high = chart.y(max(value.mean - value.sd, 0.0)), chart.y(value.mean + value.sd)
                x = left + width / 2
                chart.parts.append(f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    words = [f"{title}, percent"]
    for one in bars:
        values = (f"{group} {value.mean:.1f}" for group, value in zip(groups, one.values, strict=True))
        words.append(f"{one.name}: {', '.join(values)}")
    return chart.svg("; ".join(words), x_label)


@dataclass(frozen=True)
class Series:
    """One line of a chart: y at each x, both finite."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def line_chart(series: Sequence[Series], label: str, title: str, x_label: str = "epoch") -> str:
    """Return an SVG drawing of lines, over epochs or something else that has whole numbers."""
    xs, ys = [x for one in series for x in one.xs], [y for one in series for y in one.ys]
    first, last = min(xs), max(max(xs), min(xs) + 1)
    pad = (max(ys) - min(ys)) * 0.06 or max(abs(max(ys)) * 0.05, 0.01)
    chart = Chart(title, [one.name for one in series], "s", min(ys) - pad, max(ys) + pad)

    def x_at(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    for value in ticks(first, last):
        if value == round(value):
            chart.tick(x_at(value), f"{value:g}")
    for index, one in enumerate(series):
        style, at = f"s{index % N_STYLES}", [(x_at(x), chart.y(y)) for x, y in zip(one.xs, one.ys, strict=True)]
        if len(at) == 1:
            chart.parts.append(f'<circle class="{style}" cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        chart.parts.append(f'<polyline class="{style}" points="{path}"/>')
    ends = ", ".join(f"{one.name} ends at {one.ys[-1]:.4g}" for one in series)
    return chart.svg(f"{label}; {ends}", x_label)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about ``count`` round numbers within [low, high].

    Example:
        >>> ticks(0.0, 0.31), ticks(1, 300)
        ([0.0, 0.1, 0.2, 0.3], [100.0, 200.0, 300.0])
    """
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


# -- parts of the scores: by frequency of labels, by whether an item has an image ---------------------------------------

SIDES = ("with", "without")
# Part of a breakdown in scores.json -> its metrics, the title of their charts, and of the groups below the bars.
PARTS = {
    "by_frequency": (("P@1", "P@5"), "{} from each group of labels, rarest first", "group of labels, rarest first"),
    "by_label_image": (("P@1", "P@5"), "{} from labels with and without an image", "labels"),
    "by_query_image": (("P@1",), "{} of queries with and without an image", "queries"),
}


@dataclass(frozen=True)
class RunParts:
    """One run's parts over its seeds, in percent."""

    run: str
    seeds: tuple[int, ...]
    # (part, metric) -> of each group; None where it has no queries or labels. Groups of labels, rarest first, and labels with
    # and without an image contribute to the metric, and add up to it; of queries it is the metric itself. Data without images
    # have no parts by image.
    values: dict[tuple[str, str], tuple[Aggregate | None, ...]]


@dataclass(frozen=True)
class Breakdown:
    """One dataset's runs."""

    dataset: str
    groups: tuple[dict[str, Any], ...]  # of labels of like frequency
    n_queries: tuple[int, int]  # with and without an image
    charts: tuple[str, ...]  # of the runs ``compared``, as SVG text
    compared: tuple[str, ...]
    runs: tuple[RunParts, ...]
    without: tuple[str, ...]  # runs whose scores have no parts


def breakdowns(results: Results, compare: Sequence[str]) -> list[Breakdown]:
    """Return the parts of every dataset that has some; the runs of ``compare`` are drawn side by side, the table has all.

    Raises:
        VixmlError: a breakdown that lacks a part, or two of one dataset over different groups of labels.
    """
    datasets = dict.fromkeys(dataset for dataset, _ in sorted(results.by_run))
    found = [_breakdown(dataset, results, compare) for dataset in datasets]
    return [one for one in found if one is not None]


def _breakdown(dataset: str, results: Results, compare: Sequence[str]) -> Breakdown | None:
    # The runs compared in the order asked for, then the others.
    names = [run for name, run in sorted(results.by_run) if name == dataset]
    names = [run for run in compare if run in names] + [run for run in names if run not in compare]
    whole = [run for run in names if all("breakdown" in result.scores for result in results.of(dataset, run))]
    if not whole:
        return None
    found = [result for run in whole for result in results.of(dataset, run)]
    first, groups = found[0], _groups(found[0])
    for result in found:
        if _groups(result) != groups:
            what = "two results of one dataset are broken down over different groups of labels"
            file, expected = result.folder / "scores.json", f"the groups of {first.folder / 'scores.json'}"
            raise VixmlError(what, where=file, expected=expected, hint=OLDER)
    runs = tuple(_parts(run, results.of(dataset, run)) for run in whole)
    drawn, parts = [one for one in runs if one.run in compare], first.scores["breakdown"]
    return Breakdown(
        dataset,
        tuple(group | {"frequency": _frequency(group["train_count"])} for group in parts["by_frequency"]),
        tuple(parts["by_query_image"][side]["n_queries"] for side in SIDES),
        tuple(_charts(drawn)) if drawn else (),
        tuple(one.run for one in drawn),
        runs,
        tuple(run for run in names if run not in whole),
    )


def _groups(result: Result) -> list[tuple[Any, ...]]:
    """Return what tells the groups of labels of a breakdown, which must have every part."""
    parts = result.scores["breakdown"]
    if missing := sorted(PARTS.keys() - parts.keys()):
        where, found = f"{result.folder / 'scores.json'}: breakdown", f"no {', '.join(missing)}"
        raise VixmlError("a breakdown lacks a part", where=where, found=found, hint="score the run again")
    return [(group["train_count"], group["n_labels"]) for group in parts["by_frequency"]]


def _parts(run: str, results: Sequence[Result]) -> RunParts:
    values = {}
    for part, (metrics, _, _) in PARTS.items():
        found = [result.scores["breakdown"][part] for result in results]
        groups = SIDES if isinstance(found[0], dict) else range(len(found[0]))
        for metric in metrics:
            # Seeds share their queries and labels, so either all have a value or none.
            over_seeds = ([_value(of[group], metric) for of in found] for group in groups)
            means = tuple(None if None in seeds else aggregate(seeds) for seeds in over_seeds)
            if groups is not SIDES or means[0] is not None:
                values[part, metric] = means
    return RunParts(run, tuple(result.seed for result in results), values)


def _value(group: dict[str, Any], metric: str) -> float | None:
    """Return what a group contributes to a metric, or a side's own value; None of a side without labels or queries."""
    if group.get("n_labels") == 0 and "train_count" not in group:
        return None
    return group.get("contribution", group)[metric]


def _frequency(count: Sequence[int] | None) -> str:
    """Print the range of a group's training frequencies.

    Example:
        >>> _frequency([2, 2]), _frequency([70, 211]), _frequency(None)
        ('2', '70–211', '–')
    """
    return "–" if count is None else "–".join(map(str, dict.fromkeys(count)))


def _charts(runs: Sequence[RunParts]) -> Iterator[str]:
    for part, (metrics, title, x_label) in PARTS.items():
        for metric in metrics:
            found = ((one.run, one.values.get((part, metric), (None,))) for one in runs)
            bars = [Bars(run, values) for run, values in found if None not in values]  # an empty side has no value
            if bars:
                n = len(bars[0].values)
                groups = (
                    ["with an image", "without"] if part != "by_frequency" else [str(1 + group) for group in range(n)]
                )
                yield bar_chart(groups, bars, title.format(metric), x_label)


# -- training curves --------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log: one JSON object per line, one line per epoch; an error names the line that is none."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            problem = "a line of a training log is not JSON"
            raise VixmlError(problem, where=f"{path}:{number}", found=line[:80]) from error
        if not isinstance(lines[-1], dict):
            raise VixmlError("a line of a training log is not an object", where=f"{path}:{number}", found=line[:80])
    return lines


def curves(results: Sequence[Result]) -> tuple[str, tuple[str, ...]] | None:
    """Return a trained model's run and the charts of its seeds, as SVG text, or None if none of them left a log.

    The loss is drawn for every seed; its terms and the validation diagnostics for the first.
    """
    logs = [(result.seed, result.place("train") / "log.jsonl") for result in results]
    logs = [(seed, path) for seed, path in logs if path.exists() and holds(path.parent, path.name)]
    read = [(seed, lines) for seed, path in logs if (lines := read_log(path))]
    if not read:
        return None
    run, (first, lines) = results[0].trained_as, read[0]
    groups = [
        ("training loss", [_series(f"seed {seed}", log, "loss") for seed, log in read]),
        (f"terms of the loss, seed {first}", _named(lines, "loss/")),
        (f"validation P@1 (%), seed {first}", _named(lines, "P@1/")),
        (f"mean cosine between items, seed {first}", _named(lines, "cosine_")),
    ]
    drawn = [(title, [one for one in series if one.xs]) for title, series in groups]
    return run, tuple(line_chart(series, f"{run}: {title}", title) for title, series in drawn if series)


def _named(lines: Sequence[dict[str, Any]], prefix: str) -> list[Series]:
    """Return one line for each key that begins with ``prefix``."""
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith(prefix))
    return [_series(key.removeprefix(prefix), lines, key) for key in keys]


def _series(name: str, lines: Sequence[dict[str, Any]], key: str) -> Series:
    finite = [line for line in lines if isinstance(line.get(key), int | float) and math.isfinite(line[key])]
    return Series(name, tuple(line["epoch"] + 1 for line in finite), tuple(line[key] for line in finite))
