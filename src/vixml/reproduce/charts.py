"""Bars side by side as a small inline SVG drawing that can be read without colours and without eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vixml.reproduce.curves import N_STYLES, ticks
from vixml.reproduce.verdicts import Aggregate

WIDTH, PLOT, LEFT, RIGHT, TOP, BOTTOM, LEGEND = 360, 150, 34, 6, 26, 34, 14
GAP = 0.24  # of a group's width


@dataclass(frozen=True)
class Bars:
    """One run's bar in each group; lines show the sample standard deviation over seeds, where there are several."""

    name: str
    values: tuple[Aggregate, ...]


def bar_chart(groups: Sequence[str], bars: Sequence[Bars], title: str, x_label: str) -> str:
    """Return an SVG drawing of non-negative percentages, with all of its values for those who cannot see it.

    Fills come from the page's style sheet, so that the drawing follows dark mode and prints in grey.

    Example:
        >>> from vixml.reproduce.verdicts import aggregate
        >>> drawing = bar_chart(["a", "b"], [Bars("run", (aggregate([1.0]), aggregate([2.0])))], "P@1", "labels")
        >>> "run: a 1.0, b 2.0" in drawing
        True
    """
    height = TOP + LEGEND * len(bars) + PLOT + BOTTOM
    floor, top = height - BOTTOM, max(v.mean + (v.sd or 0.0) for one in bars for v in one.values) * 1.04 or 1.0
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    width = step * (1 - GAP) / len(bars)

    def y_at(value: float) -> float:
        return floor - value / top * PLOT

    spoken = "; ".join(
        f"{one.name}: "
        + ", ".join(f"{group} {value.mean:.1f}" for group, value in zip(groups, one.values, strict=True))
        for one in bars
    )
    out = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{title}, percent; {spoken}")}">',
        f'<text class="title" x="4" y="12">{escape(title)} (%)</text>',
    ]
    for index, one in enumerate(bars):
        y = TOP + LEGEND * index
        out.append(f'<rect class="b{index % N_STYLES}" x="{LEFT}" y="{y - 8.5:.1f}" width="9" height="9"/>')
        out.append(f'<text class="name" x="{LEFT + 14}" y="{y}">{escape(one.name)}</text>')
    for value in ticks(0.0, top):
        y = y_at(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{value:g}</text>')
    for place, group in enumerate(groups):
        x = LEFT + step * (place + GAP / 2)
        middle = LEFT + step * (place + 0.5)
        out.append(f'<text class="tick" text-anchor="middle" x="{middle:.1f}" y="{floor + 13}">{escape(group)}</text>')
        for index, one in enumerate(bars):
            value, left = one.values[place], x + width * index
            y = y_at(value.mean)
            out.append(
                f'<rect class="b{index % N_STYLES}" x="{left + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{floor - y:.1f}"/>'
            )
            if value.sd is not None:
                low, high = y_at(max(value.mean - value.sd, 0.0)), y_at(value.mean + value.sd)
                centre = left + width / 2
                out.append(f'<line class="error" x1="{centre:.1f}" x2="{centre:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    out.append(
        f'<text class="tick" text-anchor="middle" x="{(LEFT + WIDTH) / 2:.1f}" y="{height - 5}">{escape(x_label)}</text>'
    )
    return "\n".join([*out, "</svg>"])
