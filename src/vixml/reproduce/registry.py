"""What the registry files say of a run: whether it can be run at all, and whether it stands in for the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vixml.config.load import load_world
from vixml.config.run import RunConfig
from vixml.config.runs import load_runs
from vixml.config.world import World


@dataclass(frozen=True)
class Registry:
    """The registry of datasets and models, and every run's config."""

    world: World
    runs: dict[tuple[str, str], RunConfig]

    @classmethod
    def load(cls, config_dir: Path | str) -> Registry:
        """Read ``datasets.yaml``, ``models.yaml`` and ``runs/``."""
        return cls(load_world(config_dir), load_runs(config_dir))

    def blocked(self, dataset: str, run: str | None) -> str | None:
        """Return what is missing to run a published row here, or None."""
        if dataset not in self.world.datasets:
            return f"blocked on: {dataset} has no entry in config/datasets.yaml"
        if run is None:
            return "blocked on: no run here repeats this row"
        if (dataset, run) not in self.runs:
            return f"blocked on: no run {run} of {dataset} in config/runs"
        return None

    def stand_in(self, dataset: str, run: str) -> str | None:
        """Return why a run's data or weights are not the paper's, or None if they are."""
        world, reasons = self.world, []
        # What nobody registered cannot be vouched for.
        if dataset not in world.datasets or world.datasets[dataset].stand_in:
            reasons.append(f"dataset {self.title(dataset)}")
        config = self.runs.get((dataset, run))
        if config is None:
            return "stand-in: " + (reasons[0] if reasons else f"run {run} is in no file of config/runs")
        if config.needs_encoder:
            text = world.text_models.get(config.encoder.model)
            if text is None or not text.exact:
                reasons.append(f"altered weights of {text.title if text else config.encoder.model}")
            vision = world.vision_models.get(config.images.vision)
            if config.needs_bank and (vision is None or vision.stand_in):
                reasons.append(f"vision encoder {vision.title if vision else config.images.vision}")
        return "stand-in: " + ", ".join(reasons) if reasons else None

    def title(self, dataset: str) -> str:
        """Return a dataset's printed name."""
        entry = self.world.datasets.get(dataset)
        return entry.title if entry else dataset
