"""Models of ``config/config.yaml`` and its overlays: what to run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vixml.config.run import Few, Seed, Strict
from vixml.stages import PLACES

# What a folder of results holds at the least: raw files, results of a published commit, or one stage.
_MARKS = (
    "raw",
    "reference",
    "*/manifest.json",
    *(f"{re.sub('{.*?}', '*', place)}/manifest.json" for place in PLACES.values()),
)


def _holds_a_file(path: str) -> bool:
    """Return whether this is a file, or a folder with one; a stage that failed leaves empty folders."""
    return not os.path.isdir(path) or any(files for *_, files in os.walk(path))


class Target(Strict):
    """Runs of one dataset with the seeds to train."""

    dataset: str = Field(description="Entry of config/datasets.yaml.")
    runs: list[str] = Field(min_length=1, description="Runs of that dataset, from config/runs/.")
    seeds: list[Seed] = Field([0], min_length=1, description="Seeds; three or more give intervals.")
    split: Literal["test", "validation"] = Field("test", description="Split to score; `validation` is for tuning only.")

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds


class Threads(Strict):
    """Threads per job. On small models, two jobs with one thread each are faster than one job with two (benchmarks/)."""

    train: Few = Field(1, description="Training, encoding.")
    images: Few = Field(2, description="Rendering and pooling images.")
    search: Few = Field(1, description="Search and scoring.")


class WorkflowConfig(Strict):
    """The whole of `config/config.yaml`; an overlay (`--configfile`) replaces the keys it names."""

    name: str = Field("demo", pattern=r"[^.\s]", max_length=100, description="Printed in the report.")
    description: str = Field("", description="One sentence for the report.")
    config_dir: str = Field(
        "config",
        min_length=1,
        description="Folder of datasets.yaml, models.yaml, runs/, tables/, reported/; or this file, if it has these parts, too.",
    )
    results: str = Field("results", min_length=1, description="Folder for everything generated.")
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
    processes_per_training: Few = Field(
        1,
        description="Processes that train a run together (torchrun), each on its own GPU if there are any. They share each "
        "batch, so the result equals that of one process up to rounding.",
    )

    @field_validator("config_dir", "results", "pages")
    @classmethod
    def _no_wildcard(cls, folder: str | None) -> str | None:
        if folder is not None and (set(folder) & set("{}") or not folder.isprintable() or folder[:1] in "-~"):
            raise ValueError("a folder's name with a brace, a line break or the like, or that starts with - or ~")
        return folder

    @field_validator("results", "pages")
    @classmethod
    def _a_folder_of_its_own(cls, folder: str | None, info: ValidationInfo) -> str | None:
        """Refuse a folder above the project, its configuration or home, and one of results that holds other things."""
        if folder is None:
            return None
        path, config = os.path.realpath(folder), str(info.data.get("config_dir", "config"))
        own = os.path.join(path, "results")
        for what, other in (
            ("the project", "."),
            ("the configuration", config),
            ("your home", os.path.expanduser("~")),
        ):
            if Path(os.path.realpath(other)).is_relative_to(path):
                raise ValueError(f"the folder {path} holds {what}: name one for results alone, e.g. {own}")
        try:
            names = (name for name in os.listdir(path) if not name.startswith((".", "lost+found")))
            found = sorted(name for name in names if _holds_a_file(os.path.join(path, name)))
        except FileNotFoundError:
            return folder
        except OSError as error:
            raise ValueError(f"{path} is not a folder that can be read: {error.strerror}") from error
        if found and info.field_name == "results" and not any(next(Path(path).glob(mark), None) for mark in _MARKS):
            raise ValueError(
                f"the folder {path} holds other things and no results ({', '.join(found[:3])}): name one for results alone, "
                f"e.g. {own}"
            )
        return folder
