"""Training curves as small inline SVG drawings, from ``model/log.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.reproduce.layout import spread
from vixml.reproduce.results import Result

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 84, 24, 34
N_STYLES = 5  # stroke styles in templates/report.css


@dataclass(frozen=True)
class Series:
    """One line of a chart: y at each x, both finite."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class RunCurves:
    """The charts of one run, as SVG text."""

    run: str
    charts: tuple[str, ...]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log: one JSON object a line, a line an epoch.

    Raises:
        VixmlError: a line that is not a JSON object (the line is named).
    """
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise VixmlError(
                "a line of a training log is not JSON", where=f"{path}:{number}", found=line[:80]
            ) from error
        if not isinstance(value, dict):
            raise VixmlError("a line of a training log is not an object", where=f"{path}:{number}", found=line[:80])
        lines.append(value)
    return lines


def curves(results: Sequence[Result]) -> RunCurves | None:
    """Return the charts of one trained model's seeds, or None if none of them left a log.

    The loss is drawn for every seed; its terms and the validation diagnostics for the first.
    """
    logs = [(result.seed, result.trained_folder / "model" / "log.jsonl") for result in results]
    read = [(seed, lines) for seed, path in logs if path.exists() and (lines := read_log(path))]
    if not read:
        return None
    run, (first, lines) = results[0].trained_as, read[0]
    groups = [
        ("training loss", [_series(f"seed {seed}", log, "loss") for seed, log in read]),
        (f"terms of the loss, seed {first}", _named(lines, "loss/")),
        (f"validation P@1 (%), seed {first}", _named(lines, "P@1/")),
        (f"mean cosine between items, seed {first}", _named(lines, "cosine_")),
    ]
    charts = [line_chart(series, f"{run}: {title}", title) for title, found in groups if (series := _drawable(found))]
    return RunCurves(run, tuple(charts))


def _named(lines: Sequence[dict[str, Any]], prefix: str) -> list[Series]:
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith(prefix))
    return [_series(key.removeprefix(prefix), lines, key) for key in keys]


def _series(name: str, lines: Sequence[dict[str, Any]], key: str) -> Series:
    pairs = [(line["epoch"] + 1, line[key]) for line in lines if _finite(line.get(key))]
    return Series(name, tuple(x for x, _ in pairs), tuple(y for _, y in pairs))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _drawable(series: Sequence[Series]) -> list[Series]:
    return [one for one in series if one.xs]


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


def line_chart(series: Sequence[Series], label: str, title: str) -> str:
    """Return an SVG drawing of lines over epochs, with its label for those who cannot see it.

    Colours and dashes come from the page's style sheet, so that the drawing follows dark mode and prints in grey.
    """
    xs = [x for one in series for x in one.xs]
    ys = [y for one in series for y in one.ys]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    low_y, high_y = min(ys), max(ys)
    pad = (high_y - low_y) * 0.06 or max(abs(high_y) * 0.05, 0.01)
    low_y, high_y = low_y - pad, high_y + pad

    def x_at(value: float) -> float:
        return LEFT + (value - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    ends = ", ".join(f"{one.name} ends at {one.ys[-1]:.4g}" for one in series)
    out = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{label}; {ends}", quote=True)}">',
        f'<text class="title" x="{LEFT - 38}" y="10">{escape(title)}</text>',
    ]
    for value in ticks(low_y, high_y):
        y = y_at(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{value:g}</text>')
    for value in (tick for tick in ticks(low_x, high_x) if tick == round(tick)):
        x = x_at(value)
        out.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="tick" text-anchor="middle" x="{middle:.1f}" y="{HEIGHT - 5}">epoch</text>')
    heights = spread([y_at(one.ys[-1]) for one in series], gap=12.0)
    for index, (one, height) in enumerate(zip(series, heights, strict=True)):
        style = f"s{index % N_STYLES}"
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in zip(one.xs, one.ys, strict=True))
        if len(one.xs) == 1:
            x, y = path.split(",")
            out.append(f'<circle class="{style}" cx="{x}" cy="{y}" r="3"/>')
        out.append(f'<polyline class="{style}" points="{path}"/>')
        out.append(
            f'<text class="name {style}" x="{WIDTH - RIGHT + 6}" y="{height + 3.5:.1f}">{escape(one.name)}</text>'
        )
    return "\n".join([*out, "</svg>"])
