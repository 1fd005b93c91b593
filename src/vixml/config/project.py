"""Look up runs, datasets and models of one configuration by name."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TypeVar

from vixml.config.load import load_runs, load_world, require, unknown_key
from vixml.config.registry import Dataset, TextModel, VisionModel, World
from vixml.config.run import RunConfig, SeededRun
from vixml.errors import VixmlError

T = TypeVar("T")


class Project:
    """A folder of configuration (datasets.yaml, models.yaml, runs/) and a folder of all results."""

    def __init__(self, config_dir: Path | str = "config", results: Path | str = "results") -> None:
        self.config_dir, self.results = Path(config_dir), Path(results)

    @cached_property
    def world(self) -> World:
        """Return the registry of sources, datasets and models."""
        return load_world(self.config_dir)

    @cached_property
    def runs(self) -> dict[tuple[str, str], RunConfig]:
        """Return every run: ``{(dataset, run): configuration}``."""
        return load_runs(self.config_dir)

    def run(self, dataset: str, run: str) -> RunConfig:
        """Return a run's resolved configuration; an unknown dataset or run is an error with the nearest name."""
        if (dataset, run) not in self.runs:
            self.dataset(dataset)
            known = sorted(r for d, r in self.runs if d == dataset)
            raise unknown_key(run, known, self._place("runs", f"dataset {dataset}"), "run")
        return self.runs[dataset, run]

    def seeded_run(self, dataset: str, run: str, seed: int) -> SeededRun:
        """Return a run with one of its seeds; errors are those of :meth:`run`."""
        return SeededRun(dataset, run, seed, self.run(dataset, run))

    def own_run(self, dataset: str, run: str) -> RunConfig:
        """Return a run that has a trained model of its own; one that reuses the model of another is an error."""
        config = self.run(dataset, run)
        if config.reuse is not None:
            what, found = "this run has no model of its own", f"it reuses that of {config.reuse}"
            hint = f"name {config.reuse}; `vixml predict {dataset} {run}` reads what it leaves"
            raise VixmlError(what, where=f"run {run}", found=found, hint=hint)
        return config

    def trainings_of(self, dataset: str, run: str, seed: int) -> list[tuple[str, str, int]]:
        """Return the trainings whose models a run reads, also to choose its inference; none for a baseline without an encoder."""
        config = self.run(dataset, run)
        models = (config.reuse or run, *config.inference.chosen_on) if config.needs_encoder else ()
        return [(dataset, model, seed) for model in models]

    def dataset(self, name: str) -> Dataset:
        """Return a dataset's entry of datasets.yaml."""
        return self._entry(self.world.datasets, name, self._place("datasets.yaml", "datasets"), "dataset")

    def text_model(self, name: str) -> TextModel:
        """Return a language model's entry of models.yaml."""
        return self._entry(self.world.text_models, name, self._place("models.yaml", "text_models"), "language model")

    def vision_model(self, name: str) -> VisionModel:
        """Return a vision model's entry of models.yaml."""
        return self._entry(self.world.vision_models, name, self._place("models.yaml", "vision_models"), "vision model")

    def _entry(self, entries: dict[str, T], name: str, where: str, kind: str) -> T:
        require(name, entries, where, kind)
        return entries[name]

    def _place(self, file: str, key: str) -> str:
        """Return where a part of the configuration is, of which one file may hold everything."""
        return f"{self.config_dir}: {key}" if self.config_dir.is_file() else f"{self.config_dir / file}: {key}"
