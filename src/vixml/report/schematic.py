"""Draw the overview of the method: boxes, tokens, vectors and arrows on a canvas measured in inches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from vixml.config.run import RunConfig
from vixml.report.layout import wrapped
from vixml.report.overview import Group, Overview, Panel

WIDTH, HEIGHT = 10.4, 8.1
MARGIN, GUTTER = 0.2, 0.4
INK, GREY, PALE = "#222222", "#5c5c5c", "#e6e6e6"
SMALL, NORMAL, HEADING = 8.0, 8.5, 10.5

# Height of a token; width of one letter at SMALL, and of a token with one symbol.
TOKEN, LETTER, SYMBOL = 0.34, 0.071, 0.32
GAP = 0.05  # between tokens of one group
APART = 0.75  # between groups, at most


class Canvas:
    """A drawing surface in inches, origin at the lower left."""

    def __init__(self, colours: dict[str, str]) -> None:
        self.figure = plt.figure(figsize=(WIDTH, HEIGHT))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.axes.axis("off")
        self.colours = colours

    def text(self, x: float, y: float, words: str, size: float = NORMAL, **look: Any) -> None:
        """Write words around a point."""
        look = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.25} | look
        self.axes.text(x, y, words, fontsize=size, **look)

    def width(self, words: str, size: float) -> float:
        """Return how wide words are."""
        text = self.figure.text(0, 0, words, fontsize=size)
        extent = text.get_window_extent(self.figure.canvas.get_renderer())
        text.remove()
        return extent.width / self.figure.dpi

    def box(
        self, x: float, y: float, w: float, h: float, words: str = "", *, frozen: bool = False, **look: Any
    ) -> None:
        """Draw a part of the network, centred on a point; a frozen one is grey and hatched."""
        style = {"facecolor": "white", "edgecolor": INK, "linewidth": 1.3} | look
        if frozen:
            style |= {"facecolor": PALE, "edgecolor": GREY, "linewidth": 1.0}
        shape = "round,pad=0,rounding_size=0.07"
        self.axes.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, zorder=2, **style))
        if frozen:
            # A ribbon of hatching: behind words it would make them hard to read.
            self.axes.add_patch(
                Rectangle((x - w / 2 + 0.04, y - h / 2 + 0.05), 0.1, h - 0.1, fill=False, hatch="//////", linewidth=0,
                          edgecolor=GREY, zorder=3)
            )  # fmt: skip
        if words:
            self.text(x + (0.06 if frozen else 0), y, words, zorder=4)

    def token(self, x: float, y: float, w: float, kind: str, words: str, name: str) -> None:
        """Draw one token, centred on a point."""
        text, image = self.colours["text"], self.colours["text+image"]
        look = {
            "text": {"facecolor": "white", "edgecolor": text, "linewidth": 1.5},
            "images": {"facecolor": image, "edgecolor": image, "linewidth": 1.5},
            "words": {"facecolor": PALE, "edgecolor": GREY, "linewidth": 0.8},
            "eos": {"facecolor": PALE, "edgecolor": GREY, "linewidth": 0.8},
        }[kind]
        patch = FancyBboxPatch(
            (x - w / 2, y - TOKEN / 2), w, TOKEN, boxstyle="round,pad=0,rounding_size=0.05", zorder=3, **look
        )
        patch.set_gid(name)
        self.axes.add_patch(patch)
        size = 7.2 if "\n" in words else SMALL
        self.text(x, y, words, size, color="white" if kind == "images" else INK, zorder=4, linespacing=1.05)

    def vector(self, x: float, y: float, colour: str, *, filled: bool = False, dashed: bool = False) -> None:
        """Draw a vector as a strip of four cells, centred on a point."""
        for i in range(4):
            self.axes.add_patch(
                Rectangle((x + 0.14 * (i - 2), y - 0.075), 0.14, 0.15, facecolor=colour if filled else "white",
                          edgecolor="white" if filled else colour, linewidth=0.8 if filled else 1.2,
                          linestyle=(0, (2, 1.2)) if dashed else "-", zorder=3)
            )  # fmt: skip

    def arrow(self, start: tuple[float, float], end: tuple[float, float], style: str = "-|>", **look: Any) -> None:
        """Draw an arrow."""
        look = {"color": GREY, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0, "zorder": 2} | look
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=8, **look))

    def picture(self, x: float, y: float, side: float = 0.42) -> None:
        """Draw a picture as everybody draws one: a hill and a sun in a frame."""
        left, low = x - side / 2, y - side / 2
        frame = {"facecolor": "white", "edgecolor": self.colours["text+image"], "linewidth": 1.3}
        self.axes.add_patch(Rectangle((left, low), side, side, zorder=3, **frame))
        hill = [(0.08, 0.1), (0.36, 0.58), (0.55, 0.32), (0.68, 0.46), (0.92, 0.1)]
        points = [(left + side * a, low + side * b) for a, b in hill]
        self.axes.add_patch(Polygon(points, facecolor=self.colours["text+image"], linewidth=0, zorder=4))
        self.axes.add_patch(
            Circle((left + 0.74 * side, low + 0.74 * side), 0.1 * side, facecolor=GREY, linewidth=0, zorder=4)
        )


def draw(found: Overview, colours: dict[str, str]) -> Figure:
    """Draw the panels of the runs, and below them how queries and labels are trained against each other.

    Args:
        found: what to draw.
        colours: of `text` and of `text+image`, as in the other figures.
    """
    canvas = Canvas(colours)
    width = (WIDTH - 2 * MARGIN - GUTTER) / 2
    for i, panel in enumerate(found.panels):
        left = MARGIN + i * (width + GUTTER) if len(found.panels) == 2 else (WIDTH - width) / 2
        _panel(canvas, panel, "ab"[i], left, width)
    _training(canvas, found.config, len(found.panels))
    _legend(canvas)
    return canvas.figure


# -- one encoder --------------------------------------------------------------------------------------------------------


def _panel(canvas: Canvas, panel: Panel, letter: str, left: float, width: float) -> None:
    middle = left + width / 2
    canvas.text(left, HEIGHT - 0.22, letter, HEADING + 1, ha="left", weight="bold")
    canvas.text(left + 0.22, HEIGHT - 0.22, panel.title, HEADING, ha="left")
    canvas.text(left + width, HEIGHT - 0.23, f"run {panel.run}", SMALL, ha="right", color=GREY)
    items, vision, projection, tokens = (HEIGHT - y for y in (0.82, 1.53, 2.1, 2.78))
    spans = _tokens(canvas, panel.groups, letter, middle, tokens, width)
    for group, (start, end) in zip(panel.groups, spans, strict=True):
        at, top = (start + end) / 2, tokens + TOKEN / 2
        if group.kind == "text":
            canvas.box(at, items, 1.15, 0.36, "text of the item", edgecolor=canvas.colours["text"], linewidth=1.0)
            canvas.arrow((at, items - 0.18), (at, top + 0.03))
            words = f"word embeddings,\nat most {panel.max_len} tokens"
            canvas.text(at, (vision + projection) / 2, words, SMALL, bbox=_plate())
        elif group.kind == "images":
            shown = min(panel.per_item, 4)
            for i in range(shown):
                canvas.picture(at + 0.5 * (i - (shown - 1) / 2), items)
            canvas.arrow((at, items - 0.21), (at, vision + 0.2))
            canvas.box(at, vision, 1.75, 0.4, f"vision encoder, frozen\n{panel.vision}", frozen=True)
            canvas.arrow((at, vision - 0.2), (at, projection + 0.14))
            canvas.box(at, projection, 1.75, 0.28, "linear projection")
            canvas.arrow((at, projection - 0.14), (at, top + 0.03))
    _model(canvas, panel, middle, width, tokens, spans)


def _tokens(
    canvas: Canvas, found: Sequence[Group], letter: str, middle: float, y: float, width: float
) -> list[tuple[float, float]]:
    """Draw the sequence; return where each group starts and ends."""
    words = [
        [wrapped(label, max(12, len(label) // 2 + 3)) if group.kind == "words" else label for label in group.labels]
        for group in found
    ]
    wide = [[_width(label, group.kind) for label in labels] for labels, group in zip(words, found, strict=True)]
    total, n_gaps = sum(sum(row) + GAP * (len(row) - 1) for row in wide), len(found) - 1
    # What stands above text and images is wider than they are, so groups stand apart as far as there is room.
    between = min(APART, max(2 * GAP, (width - total) / max(1, n_gaps)))
    total += between * n_gaps
    scale = min(1.0, width / total)
    spans, x, place = [], middle - scale * total / 2, 0
    for group, labels, row in zip(found, words, wide, strict=True):
        start = x
        for label, own in zip(labels, row, strict=True):
            place += 1
            canvas.token(x + scale * own / 2, y, scale * own, group.kind, label, f"{letter}-{place:02}-{group.kind}")
            x += scale * (own + GAP)
        spans.append((start, x - scale * GAP))
        x += scale * (between - GAP)
    return spans


def _width(label: str, kind: str) -> float:
    if kind in ("text", "images"):
        return SYMBOL
    return 0.14 + LETTER * 0.9 * max(len(line) for line in label.split("\n"))


def _model(
    canvas: Canvas, panel: Panel, middle: float, width: float, tokens: float, spans: list[tuple[float, float]]
) -> None:
    model, pooled = tokens - 0.82, tokens - 1.68
    for start, end in spans:
        canvas.arrow(((start + end) / 2, tokens - TOKEN / 2 - 0.02), ((start + end) / 2, model + 0.27))
    words = f"language model: {panel.model}\n{panel.attention}; {panel.trained}"
    canvas.box(middle, model, width, 0.52, words, frozen=panel.frozen)
    canvas.arrow((middle, model - 0.26), (middle, pooled + 0.1))
    canvas.text(middle, (model + pooled) / 2 - 0.08, panel.pooling, SMALL, bbox=_plate(), zorder=5)
    canvas.vector(middle, pooled, INK)
    canvas.text(middle + 0.4, pooled - 0.01, "vector $f(x)$ of the item", ha="left")


def _plate() -> dict[str, Any]:
    return {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}


# -- training -------------------------------------------------------------------------------------------------------------


def _training(canvas: Canvas, config: RunConfig, n_panels: int) -> None:
    top = 3.12
    canvas.axes.plot([MARGIN, WIDTH - MARGIN], [top + 0.22] * 2, color="#bbbbbb", linewidth=0.7)
    canvas.text(MARGIN, top - 0.05, "abc"[n_panels], HEADING + 1, ha="left", weight="bold")
    canvas.text(MARGIN + 0.22, top - 0.05, "Training of query, label and prototype (PRIME)", HEADING, ha="left")
    query, label, free, centroid = 2.46, 1.5, 1.1, 0.78
    read = "text, images" if config.uses_images else "text"
    for y, words in ((query, f"query $i$\n{read}"), (label, f"label $r$\n{read}")):
        canvas.box(0.75, y, 1.05, 0.44, words, linewidth=0.9, edgecolor=GREY)
        canvas.arrow((1.28, y), (1.72, y))
        canvas.arrow((2.62, y), (3.05, y))
    which = "as in a or b" if n_panels == 2 else "as in a"
    canvas.box(2.17, (query + label) / 2, 0.9, query - label + 0.44, f"encoder $f$\n{which},\nshared")
    canvas.vector(3.36, query, INK)
    canvas.text(3.36, query + 0.2, "$q_i$", 9.5)
    canvas.vector(3.36, label, INK)
    canvas.text(3.36, label - 0.2, "$u_r$", 9.5)
    canvas.arrow((3.36, query - 0.1), (3.36, label + 0.1), "<|-|>", color=INK)
    canvas.text(3.36, (query + label) / 2, "$L(q,u) + L(u,q)$", bbox=_plate(), zorder=5)
    # The prototype network reads three vectors.
    network, middle = 6.9, (label + centroid) / 2
    canvas.arrow((3.67, label), (network - 0.85, label))
    for y, words, look in (
        (free, "free vector of the label's cluster", {"filled": True}),
        (centroid, "centroid: mean of its training queries", {"dashed": True}),
    ):
        canvas.text(4.95, y, words, SMALL, ha="right")
        canvas.vector(5.32, y, INK, **look)
        canvas.arrow((5.63, y), (network - 0.85, y))
    canvas.text(5.32, centroid - 0.2, "$c_r$", 9.5)
    if not config.prototype.unit_text:
        canvas.text(5.32, label + 0.13, "not yet normalised", SMALL, color=GREY)
    heads = config.prototype.heads
    words = f"label prototype network\none transformer layer,\n{heads} head{'s' if heads > 1 else ''}, mean of three"
    canvas.box(network, middle, 1.7, label - centroid + 0.34, words)
    canvas.arrow((network + 0.85, middle), (8.28, middle))
    canvas.vector(8.6, middle, INK)
    canvas.text(8.6, middle - 0.2, "$z_r$", 9.5)
    canvas.axes.plot([3.67, 8.6], [query, query], color=GREY, linewidth=1.0, zorder=1)
    canvas.arrow((8.6, query), (8.6, middle + 0.1), "<|-|>", color=INK)
    canvas.text(8.6, (query + middle) / 2 + 0.1, "$L(q,z)$", bbox=_plate(), zorder=5)
    _words_on_loss(canvas, config, query)


def _words_on_loss(canvas: Canvas, config: RunConfig, query: float) -> None:
    loss = config.loss
    margin = f"{loss.margin_min:g}" + (f" to {loss.margin_max:g}" if loss.margin_max != loss.margin_min else "")
    canvas.text(
        4.32, query - 0.37,
        f"loss = $L(q,u) + L(u,q) + L(q,z) + {loss.regulariser:g}\\,R$\n"
        f"$L$: triplet loss, {loss.negatives} hardest negatives of the batch, margin {margin}\n"
        "$R$: $z$ is to rank better than $u$",
        SMALL, ha="left", zorder=5,
    )  # fmt: skip
    how = config.inference
    if how.method == "label-search":
        canvas.text(9.15, 1.08, f"inference:\nlabels ranked\nby $q \\cdot {how.labels_as}_r$", SMALL, ha="left")


def _legend(canvas: Canvas) -> None:
    """Draw what the looks mean, in one centred line."""
    strip = 4 * 0.14
    entries: list[tuple[float, str, Callable[[float, float], None]]] = [
        (SYMBOL, "text token", lambda x, y: canvas.token(x, y, SYMBOL, "text", "$e$", "legend-text")),
        (SYMBOL, "image token", lambda x, y: canvas.token(x, y, SYMBOL, "images", "$v$", "legend-images")),
        (0.42, "prompt words", lambda x, y: canvas.token(x, y, 0.42, "words", "abc", "legend-words")),
        (0.42, "trained", lambda x, y: canvas.box(x, y, 0.42, 0.28)),
        (0.42, "frozen", lambda x, y: canvas.box(x, y, 0.42, 0.28, frozen=True)),
        (strip, "learned vector", lambda x, y: canvas.vector(x, y, INK, filled=True)),
        (strip, "vector kept between epochs", lambda x, y: canvas.vector(x, y, INK, dashed=True)),
    ]
    inner, outer = 0.08, 0.17
    total = sum(wide + inner + canvas.width(words, SMALL) for wide, words, _ in entries) + outer * (len(entries) - 1)
    x, y = (WIDTH - total) / 2, 0.22
    for wide, words, mark in entries:
        mark(x + wide / 2, y)
        canvas.text(x + wide + inner, y, words, SMALL, ha="left")
        x += wide + inner + canvas.width(words, SMALL) + outer
