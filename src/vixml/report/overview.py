"""What the overview of the method shows, taken from the configuration of runs: tokens in order, names, what is trained."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from vixml.config.load import read_yaml, unknown_key, validate
from vixml.config.run import RunConfig, Strict
from vixml.config.tables import FigureSpec, load_figures, spec_path
from vixml.config.template import parse_template
from vixml.errors import VixmlError
from vixml.report.results import Registry

Kind = Literal["words", "text", "images", "eos"]
# Of longer lists the first and the last are drawn.
DRAWN = 4


class OverviewRun(Strict):
    """A run whose inputs are drawn token by token."""

    title: str = Field(description="Heading of its panel, before the language model's name.")
    run: str = Field(description="A run with early fusion.")


class OverviewSpec(Strict):
    """The method in one drawing, without numbers: it follows from the configuration of its runs."""

    kind: Literal["overview"] = Field(description="Tells this file from those of metrics against training time.")
    id: str = Field(description="The file's name.")
    paper_figure: str = Field(description="As the paper numbers it.")
    title: str = Field(description="Its caption.")
    dataset: str = Field(description="Entry of config/datasets.yaml: whose runs they are.")
    runs: list[OverviewRun] = Field(
        min_length=1, max_length=2, description="Drawn side by side; loss and prototype network are the first one's."
    )


@dataclass(frozen=True)
class Group:
    """Neighbouring tokens of one kind.

    Attributes:
        kind: prompt `words`, `text`, `images` or `eos`.
        labels: what stands in each token drawn; of words, the words.
    """

    kind: Kind
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """How one run's encoder reads an item.

    Attributes:
        title: the heading.
        run: its name.
        groups: the sequence, in the order of the run's template.
        model: name of the language model, and how much of it is used.
        attention: who sees whom.
        trained: what of the language model learns.
        frozen: whether nothing of it does.
        vision: name of the vision encoder; None for a run without images.
        per_item: images of an item, at most.
        max_len: text tokens, at most.
        pooling: how the last layer becomes one vector.
    """

    title: str
    run: str
    groups: tuple[Group, ...]
    model: str
    attention: str
    trained: str
    frozen: bool
    vision: str | None
    per_item: int
    max_len: int
    pooling: str


@dataclass(frozen=True)
class Overview:
    """Everything that is drawn.

    Attributes:
        panels: one a run.
        config: the run that the loss and the prototype network are drawn of.
    """

    panels: tuple[Panel, ...]
    config: RunConfig


def load_drawings(config_dir: Path | str, names: Sequence[str]) -> list[FigureSpec | OverviewSpec]:
    """Read the figures named, in that order, of either kind.

    Raises:
        VixmlError: an unknown figure, a key nobody knows, an id that is not the file's name.
    """
    found: list[FigureSpec | OverviewSpec] = []
    for name in names:
        path = spec_path(config_dir, "figures", name)
        data = read_yaml(path) if path.exists() else {}
        if "kind" not in data:
            found += load_figures(config_dir, [name])
            continue
        spec = validate(OverviewSpec, data, path)
        if spec.id != name:
            raise VixmlError("the id is not the file's name", where=f"{path}: id", found=spec.id, expected=name)
        found.append(spec)
    return found


def overview(spec: OverviewSpec, registry: Registry) -> Overview:
    """Look up what is drawn.

    Raises:
        VixmlError: an unknown run, or one that this drawing cannot show: late fusion, or a method without a prototype
            network.
    """
    configs = [_config(spec, one.run, registry) for one in spec.runs]
    if configs[0].method != "PRIME":
        raise VixmlError(
            "the overview draws the label prototype network of PRIME",
            where=f"config/figures/{spec.id}.yaml: runs.0",
            found=f"{spec.runs[0].run}, method {configs[0].method}",
            hint="name a run with method PRIME first",
        )
    panels = [_panel(one, config, registry) for one, config in zip(spec.runs, configs, strict=True)]
    return Overview(tuple(panels), configs[0])


def _config(spec: OverviewSpec, run: str, registry: Registry) -> RunConfig:
    where = f"config/figures/{spec.id}.yaml: runs"
    config = registry.runs.get((spec.dataset, run))
    if config is None:
        raise unknown_key(run, sorted(r for d, r in registry.runs if d == spec.dataset), where)
    if config.uses_images and config.images.fusion != "early":
        raise VixmlError(
            "the overview draws images as tokens of the language model",
            where=where,
            found=f"{run}, images.fusion {config.images.fusion}",
            hint="name a run with early fusion",
        )
    return config


def groups(config: RunConfig) -> tuple[Group, ...]:
    """Return a run's sequence, in the order of its template.

    Example:
        >>> [(g.kind, g.labels) for g in groups(RunConfig(images={"per_item": 2}))]
        [('images', ('$v_1$', '$v_2$')), ('text', ('$e_1$', '$e_2$', '…', '$e_n$'))]
    """
    found = []
    for piece in parse_template(config.encoder.template):
        if piece.field is None:
            found.append(Group("words", (piece.words,)))
        elif piece.field == "text":
            found.append(Group("text", ("$e_1$", "$e_2$", "…", "$e_n$")))
        elif piece.field == "eos":
            found.append(Group("eos", ("eos",)))
        elif config.uses_images:
            n = config.images.per_item
            labels = [f"$v_{{{i}}}$" if i > 9 else f"$v_{i}$" for i in range(1, n + 1)]
            found.append(Group("images", tuple(labels if n <= DRAWN else [*labels[:2], "…", labels[-1]])))
    return tuple(found)


def _panel(one: OverviewRun, config: RunConfig, registry: Registry) -> Panel:
    encoder, text_models = config.encoder, registry.world.text_models
    if encoder.model not in text_models:
        raise unknown_key(encoder.model, sorted(text_models), f"config/runs: {one.run}: encoder.model")
    entry = text_models[encoder.model]
    vision = None
    if config.uses_images:
        known = registry.world.vision_models
        if config.images.vision not in known:
            raise unknown_key(config.images.vision, sorted(known), f"config/runs: {one.run}: images.vision")
        vision = known[config.images.vision].title
    trained = {
        "full": "all weights trained",
        "lora": f"adapters (LoRA, r = {encoder.lora.r}) trained",
        "frozen": "frozen",
    }
    steps = ["mean over all tokens" if encoder.pooling == "mean" else "last token"]
    steps += ["centred"] if encoder.centre else []
    return Panel(
        title=f"{one.title}: {entry.title}",
        run=one.run,
        groups=groups(config),
        model=entry.title + (f", first {encoder.layers} layers" if encoder.layers else ""),
        attention="bidirectional attention" if entry.attention == "bidirectional" else "causal attention",
        trained=trained[encoder.train],
        frozen=encoder.train == "frozen",
        vision=vision,
        per_item=config.images.per_item,
        max_len=encoder.max_len,
        pooling=", ".join([*steps, "normalised"]),
    )


def to_csv(found: Overview) -> str:
    """Return the tokens drawn, in order: a line a token."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["panel", "run", "place", "token", "label"])
    for letter, panel in zip("ab", found.panels, strict=False):
        tokens = [(group.kind, label) for group in panel.groups for label in group.labels]
        for place, (kind, label) in enumerate(tokens, start=1):
            writer.writerow([letter, panel.run, place, kind, label.replace("$", "")])
    return stream.getvalue()
