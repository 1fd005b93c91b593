"""What to run: the model behind ``config/config.yaml`` and its overlays."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vixml.config.run import Strict


class Target(Strict):
    """Runs of one dataset with the seeds to train."""

    dataset: str = Field(description="Entry of config/datasets.yaml.")
    runs: list[str] = Field(description="Runs of that dataset, from config/runs/.")
    seeds: list[int] = Field([0], description="Seeds; three or more give intervals.")
    split: Literal["test", "validation"] = Field(
        "test", description="Where it is scored; `validation` for tuning only."
    )


class Threads(Strict):
    """Threads per job. Two jobs of one thread out-produce one job of two on small models (benchmarks/)."""

    train: int = Field(1, ge=1, description="Training, encoding.")
    images: int = Field(2, ge=1, description="Rendering and pooling pictures.")
    search: int = Field(1, ge=1, description="Search and scoring.")


class WorkflowConfig(Strict):
    """The whole of `config/config.yaml`; an overlay (`--configfile`) replaces the keys it names."""

    name: str = Field("demo", description="Printed in the report.")
    description: str = Field("", description="One sentence for the report.")
    config_dir: str = Field("config", description="Folder of datasets.yaml, models.yaml, runs/, tables/, reported/.")
    results: str = Field("results", description="Folder for everything generated.")
    pages: str | None = Field(
        None,
        description="Folder of tables, figures, report and the table of tuning. Without it: `results` for the `name` of "
        "config/config.yaml, `results/pages/{name}` for any other, so that no configuration overwrites the pages of another.",
    )
    targets: list[Target] = Field(description="What is trained and scored.")
    tables: list[str] = Field(["table1", "table3"], description="Tables to write, files of config/tables/.")
    figures: list[str] = Field(["figure2"], description="Figures to draw.")
    compare: list[str] = Field(
        ["text-minilm-l3", "vixml-minilm-l3"],
        description="Runs whose labels the report's gallery shows; gains and losses are of the second over the first.",
    )
    side_by_side: list[str] = Field(
        ["text-minilm-l3", "vixml-minilm-l3", "vixml-minilm-l3--shuffled"],
        description="Runs that the report draws side by side: where their scores come from.",
    )
    only_shown: bool = Field(
        False,
        description="Do what `tables` need and nothing else, `--config 'tables=[table3]' only_shown=True`: leave out runs that none "
        "of them shows, timings without the table of latencies, other data sets.",
    )
    published_vectors: bool = Field(
        True,
        description="Whether image vectors are imported where the registry knows them as published (`published_vectors` of "
        "a dataset); `false`: its pictures are fetched and pooled here.",
    )
    latencies: list[str] = Field(
        [],
        description="Trained runs of the first target's dataset whose milliseconds a query are measured, with their first seed.",
    )
    threads: Threads = Threads()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the heavy stages run.")
    processes_per_training: int = Field(
        1,
        ge=1,
        description="Processes that train a run together, each with a GPU where there are any (torchrun). They share each "
        "batch, so the result is that of one process up to rounding.",
    )
