"""Layouts of tables and figures: the models behind ``config/tables``, ``config/summaries`` and ``config/figures``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from vixml.config.load import read_yaml, validate, with_line
from vixml.config.published import IDENTITY, PAPER
from vixml.config.run import Seed, Strict
from vixml.errors import VixmlError


def named_runs(node: Any, datasets: Sequence[str] = ()) -> Iterator[tuple[str, str, int | None]]:
    """Yield (dataset, run, seed) of every row of a table's layout, at any depth."""
    if isinstance(node, dict):
        if isinstance(node.get("dataset"), str):
            datasets = [node["dataset"]]
        elif node.get("datasets"):
            datasets = node["datasets"]
        for run in [node.get("run"), *(node.get("runs") or [])]:
            if isinstance(run, str):
                yield from ((dataset, run, node.get("seed")) for dataset in datasets)
        for key, value in node.items():
            if key != "published":
                yield from named_runs(value, datasets)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from named_runs(value, datasets)


class PaperRow(Strict):
    """A row of the paper, on every dataset for which the paper has it."""

    label: str = Field(description="As printed.")
    published: dict[str, str] = Field(description="Columns of reported_results.csv that identify the row's cells.")
    run: str | None = Field(None, description="Our run that reproduces it; `null` if there is none.")
    seed: Seed | None = Field(None, description="One seed of that run, for tables with one row per seed.")

    @model_validator(mode="after")
    def _known_columns(self) -> PaperRow:
        unknown = sorted(set(self.published) - set(IDENTITY))
        if unknown:
            raise ValueError(f"published names no column of reported_results.csv: {', '.join(unknown)}")
        return self


class Block(Strict):
    """Rows under one heading."""

    title: str = Field("", description="The heading; empty for none.")
    rows: list[PaperRow]


class MeasuredRow(Strict):
    """A row that the paper does not have: a run of ours."""

    label: str = Field(description="Name of the row.")
    run: str = Field(description="The run, as in config/runs.")
    seed: Seed | None = Field(None, description="One seed of that run; `null`: the mean of all.")
    note: str = Field("", description="A remark in the last column.")


class MeasuredBlock(Strict):
    """Rows measured here on a dataset of ours, in the shape of the paper's rows."""

    dataset: str = Field(description="Entry of config/datasets.yaml.")
    title: str = Field(description="Heading above the rows.")
    rows: list[MeasuredRow]


class TableHeading(Strict):
    """Identity and headings of a table."""

    id: str = Field(description="The file's name, without its extension.")
    paper_table: str = Field(
        "", description="`paper_table` of its cells, e.g. `Table 1`; empty for a table that the paper does not have."
    )
    title: str = Field(description="Heading, after the paper's number of the table.")
    note: str = Field("", description="A paragraph below the heading.")
    row_title: str = Field("backbone", description="Heading of the rows' labels.")

    @property
    def heading(self) -> str:
        """Return number and title; a table that the paper does not have has no number."""
        return f"{self.paper_table}: {self.title}" if self.paper_table else self.title

    @property
    def name(self) -> str:
        """Return the name of a table in running text."""
        return self.paper_table or self.title


class TableSpec(TableHeading):
    """One table: columns (dataset x metric), and rows in blocks, of the paper, of ours, or of both."""

    layout: Literal["grid"] = Field("grid", description="Layout; `grid`: one section per dataset.")
    source: str = Field(PAPER, description="`source` of its cells: the publication that printed them.")
    datasets: list[str] = Field([], description="Datasets of the paper's rows.")
    metrics: list[str] = Field(description="Columns, with their cut-offs, e.g. `P@1`.")
    blocks: list[Block] = Field([], description="The paper's rows.")
    measured: list[MeasuredBlock] = Field([], description="Rows that the paper does not have.")

    @model_validator(mode="after")
    def _has_rows(self) -> TableSpec:
        if not (self.blocks or self.measured):
            raise ValueError("a table has no rows: `measured` for rows of ours, `blocks` for the paper's")
        if self.blocks and not self.paper_table:
            raise ValueError("rows of the paper (`blocks`) need its table (`paper_table`)")
        return self


class ClaimRow(Strict):
    """A sentence of the paper with a number in it, and how ours is computed."""

    item: str = Field(description="`item` of other_facts.csv.")
    topic: str = Field(description="`topic` of other_facts.csv.")
    how: Literal["hours", "more-hours", "sd", "gain", "none"] = Field(
        description="`hours` of a run; `more-hours`: the first run's over the second's, in percent; `sd` of a metric over seeds; "
        "`gain`: a run's metric minus a published value; `none`: no run here answers it."
    )
    dataset: str | None = Field(None, description="Dataset of the runs; `null` for `none`.")
    runs: list[str] = Field([], description="Our runs, in the order that `how` needs.")
    metric: str = Field("P@1", description="`sd`, `gain`: the metric.")
    published: dict[str, str] = Field({}, description="`gain`: columns that identify the published value.")
    why: str = Field("", description="A remark for the reader; for `none`, the reason.")


class FactsSpec(TableHeading):
    """One table of facts; its rows follow from the published files and the registry."""

    layout: Literal["facts"] = Field(description="`facts`, for a table without scores.")
    facts: Literal["datasets", "backbones", "latencies", "claims"] = Field(description="Which facts.")
    paper_table: str = Field(description="Its place in the paper, e.g. `Table 8`.")
    row_title: str = Field("dataset", description="Heading of the rows' labels.")
    claims: list[ClaimRow] = Field([], description="For `claims`: the sentences.")


class FigureLine(Strict):
    """A horizontal line: a published number."""

    label: str = Field(description="Text at the line.")
    published: dict[str, str] = Field(description="Columns of reported_results.csv that select the number.")


class FigureMark(Strict):
    """A published P@1 that the figure shows without its hours."""

    label: str = Field(description="Text beside the mark.")
    architecture: Literal["encoder", "decoder"] = Field(description="Shape of the mark: a dot or a star.")
    backbone: str = Field(description="`backbone` of reported_results.csv.")


class MeasuredMark(Strict):
    """A run of ours in the figure."""

    label: str = Field(description="Text beside the mark.")
    run: str = Field(description="The run, as in config/runs.")
    modality: Literal["text", "text+image"] = Field(description="Colour of the mark.")
    architecture: Literal["encoder", "decoder"] = Field("encoder", description="Shape of the mark: a dot or a star.")


class FigureSpec(Strict):
    """A metric against training time."""

    id: str = Field(description="The file's name, without its extension.")
    paper_figure: str = Field(description="Number of the figure in the paper, e.g. `Figure 2`.")
    title: str = Field(description="Caption.")
    metric: str = Field("P@1", description="The vertical axis.")
    dataset: str = Field(description="The paper's dataset.")
    source: str = Field(PAPER, description="`source` of the published values in reported_results.csv.")
    text_table: str = Field(description="Table with the text-only values.")
    image_table: str = Field(description="Table with the values with images.")
    marks: list[FigureMark]
    lines: list[FigureLine] = Field([])
    measured_dataset: str = Field(description="Dataset of the runs measured here.")
    measured_title: str = Field(
        description="Title of the panel of values measured here; it should say if the data are a stand-in."
    )
    measured: list[MeasuredMark] = Field(description="Trained runs, drawn at their measured hours.")
    untrained: list[MeasuredMark] = Field([], description="Runs without training, drawn as horizontal lines.")


class Comparison(Strict):
    """A claim of the paper that PICTO can show: the difference of two runs (an entry of config/reported/comparisons.yaml)."""

    says: str = Field(description="The paper's claim, in a few words.")
    runs: tuple[str, str] = Field(description="Our run that should be ahead, and the run that it is compared with.")
    published: tuple[dict[str, str], dict[str, str]] | None = Field(
        None, description="Columns that select the paper's two scores, in that order; absent where it has no such row."
    )
    control: bool = Field(False, description="Whether the first run should *not* be ahead.")


class Comparisons(Strict):
    """The file config/reported/comparisons.yaml."""

    comparisons: list[Comparison]


class DrawingSpec(Strict):
    """A drawing that is committed beside this file: `{id}.svg`, and `{id}.csv` with what it shows of each setting."""

    kind: Literal["drawing"] = Field(
        description="Distinguishes this file from figures of a metric against training time."
    )
    id: str = Field(description="The file's name.")
    paper_figure: str = Field(description="Number of the figure in the paper.")
    title: str = Field(description="Its caption.")
    dataset: str = Field(description="Entry of config/datasets.yaml whose runs the drawing shows.")


S = TypeVar("S", bound=Strict)


def load_tables(config_dir: Path | str, names: Sequence[str] | None = None) -> list[TableSpec]:
    """Read the tables of scores among those named, in that order; without names, of the paper.

    Raises:
        VixmlError: an unknown table, an unknown key, an id that is not the file's name.
    """
    return [spec for spec in load_any_tables(config_dir, names) if isinstance(spec, TableSpec)]


def load_any_tables(config_dir: Path | str, names: Sequence[str] | None = None) -> list[TableSpec | FactsSpec]:
    """Read the tables named, of scores or of facts, in that order; without names, all of the paper, or all if none is."""
    if names is None and Path(config_dir).is_file():
        names = [table["id"]] if (table := read_yaml(config_dir).get("table")) else []
    known = sorted(path.stem for path in (Path(config_dir) / "tables").glob("*.yaml"))
    specs = [
        _load(config_dir, "tables", name, lambda data: FactsSpec if data.get("layout") == "facts" else TableSpec)
        for name in (known if names is None else names)
    ]
    return [spec for spec in specs if names is not None or spec.paper_table] or specs


def load_summary(config_dir: Path | str, name: str) -> TableSpec:
    """Read the layout of a page's table, with rows of ours only (`config/summaries`)."""
    return _load(config_dir, "summaries", name, lambda _: TableSpec)


def load_figures(config_dir: Path | str, names: Sequence[str]) -> list[FigureSpec | DrawingSpec]:
    """Read the figures named, in that order; either kind."""
    return [
        _load(config_dir, "figures", name, lambda data: DrawingSpec if "kind" in data else FigureSpec) for name in names
    ]


def load_comparisons(config_dir: Path | str) -> list[Comparison]:
    """Read ``reported/comparisons.yaml``."""
    path = Path(config_dir) / "reported" / "comparisons.yaml"
    return validate(Comparisons, read_yaml(path), path).comparisons


def spec_path(config_dir: Path | str, kind: str, name: str) -> Path:
    """Return the file of a table (`tables`) or figure (`figures`): the whole configuration, if that is one file."""
    if Path(config_dir).is_file():
        return Path(config_dir)
    return Path(config_dir) / kind / f"{name}.yaml"


@with_line()
def _load(config_dir: Path | str, kind: str, name: str, model_of: Callable[[dict[str, Any]], type[S]]) -> S:
    path = spec_path(config_dir, kind, name)
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        hint = "one of: " + ", ".join(known) if known else "check --config-dir"
        raise VixmlError(f"no such {kind.rstrip('s')}", where=path, found=name, hint=hint)
    data: Any = read_yaml(path)
    if path == Path(config_dir):
        data = (data.get("table") or {}) if kind == "tables" else {}
    spec = validate(model_of(data), data, path)
    if spec.id != name:
        raise VixmlError("the id is not the file's name", where=f"{path}: id", found=spec.id, expected=name)
    return spec
