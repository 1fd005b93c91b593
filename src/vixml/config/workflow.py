"""Models of ``config/config.yaml`` and its overlays: what to run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vixml.config.run import Count, Strict


class Target(Strict):
    """Runs of one dataset with the seeds to train."""

    dataset: str = Field(description="Entry of config/datasets.yaml.")
    runs: list[str] = Field(description="Runs of that dataset, from config/runs/.")
    seeds: list[int] = Field([0], description="Seeds; three or more give intervals.")
    split: Literal["test", "validation"] = Field("test", description="Split to score; `validation` is for tuning only.")


class Threads(Strict):
    """Threads per job. On small models, two jobs with one thread each are faster than one job with two (benchmarks/)."""

    train: Count = Field(1, description="Training, encoding.")
    images: Count = Field(2, description="Rendering and pooling images.")
    search: Count = Field(1, description="Search and scoring.")


class WorkflowConfig(Strict):
    """The whole of `config/config.yaml`; an overlay (`--configfile`) replaces the keys it names."""

    name: str = Field("demo", description="Printed in the report.")
    description: str = Field("", description="One sentence for the report.")
    config_dir: str = Field(
        "config",
        description="Folder of datasets.yaml, models.yaml, runs/, tables/, reported/; or this file, if it has these parts, too.",
    )
    results: str = Field("results", description="Folder for everything generated.")
    pages: str | None = Field(
        None,
        description="Folder of tables, figures, the report and the tuning table. Default: `results` for the `name` in "
        "config/config.yaml, `results/pages/{name}` for any other, so that no configuration overwrites the pages of "
        "another.",
    )
    targets: list[Target] = Field(description="Runs to train and score.")
    tables: list[str] = Field(["table1", "table3"], description="Tables to write, files of config/tables/.")
    figures: list[str] = Field(["figure2"], description="Figures to draw.")
    compare: list[str] = Field(
        ["text-minilm-l3", "vixml-minilm-l3"],
        description="Runs whose predictions the report's gallery shows; gains and losses are those of the second over the first.",
    )
    side_by_side: list[str] = Field(
        ["text-minilm-l3", "vixml-minilm-l3", "vixml-minilm-l3--shuffled"],
        description="Runs whose scores the report breaks down side by side.",
    )
    only_shown: bool = Field(
        False,
        description="Run only what `tables` need, e.g. `--config 'tables=[table3]' only_shown=True`: skip runs that no table "
        "shows, timings without the table of latencies, and other datasets.",
    )
    published_vectors: bool = Field(
        True,
        description="Import published image embeddings (`published_vectors` of a dataset); `false`: pool images here.",
    )
    latencies: list[str] = Field(
        [], description="Trained runs of the first target's dataset whose latency is measured, with their first seed."
    )
    threads: Threads = Threads()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the heavy stages.")
    processes_per_training: Count = Field(
        1,
        description="Processes that train a run together (torchrun), each on its own GPU if there are any. They share each "
        "batch, so the result equals that of one process up to rounding.",
    )
