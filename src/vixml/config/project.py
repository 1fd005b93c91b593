"""Tell for each stage what it reads, where it writes and which settings it obeys, from names alone.

The command line takes its default paths from here, Snakemake its inputs and ``params``; so both are written once.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from vixml.config.load import find_run, load_runs, load_world, unknown_key
from vixml.config.registry import Dataset, TextModel, VisionModel, World
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.paths import place

T = TypeVar("T")


class Project:
    """A folder of configuration and a folder of results.

    Args:
        config_dir: folder of datasets.yaml, models.yaml and runs/.
        results: folder of all results.
    """

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
        """Return a run's resolved configuration.

        Raises:
            VixmlError: no such run; the nearest name is given.
        """
        return find_run(self.runs, self.config_dir, dataset, run)

    def own_run(self, dataset: str, run: str) -> RunConfig:
        """Return a run that has a trained model of its own.

        Raises:
            VixmlError: no such run, or one that reuses the model of another.
        """
        config = self.run(dataset, run)
        if config.reuse is not None:
            raise VixmlError(
                "this run has no model of its own",
                where=f"run {run}",
                found=f"it reuses that of {config.reuse}",
                hint=f"name {config.reuse}; `vixml predict {dataset} {run}` reads what it leaves",
            )
        return config

    def trained_as(self, dataset: str, run: str) -> str:
        """Return the run whose model a run uses: its own name, or the one that it reuses."""
        return self.run(dataset, run).reuse or run

    def dataset(self, name: str) -> Dataset:
        """Return a dataset's entry of datasets.yaml."""
        return self._entry(self.world.datasets, name, "datasets.yaml: datasets")

    def text_model(self, name: str) -> TextModel:
        """Return a language model's entry of models.yaml."""
        return self._entry(self.world.text_models, name, "models.yaml: text_models")

    def vision_model(self, name: str) -> VisionModel:
        """Return a vision model's entry of models.yaml."""
        return self._entry(self.world.vision_models, name, "models.yaml: vision_models")

    def _entry(self, entries: dict[str, T], name: str, where: str) -> T:
        if name not in entries:
            raise unknown_key(name, sorted(entries), f"{self.config_dir}/{where}")
        return entries[name]

    def out(self, stage: str, **names: object) -> Path:
        """Return the folder that a stage writes."""
        return place(stage, self.results, **names)

    def reads(self, stage: str, **names: Any) -> dict[str, Path]:
        """Return the folders of other stages that a stage reads, by name; raw files are :meth:`sources`.

        Args:
            stage: a key of ``vixml.paths.PLACES``.
            names: ``dataset``, ``run``, ``seed``, ``split``, ``model``, ``vision``, as far as the stage has them.

        Raises:
            VixmlError: a name that the configuration does not know.
        """
        if stage in ("train", "build-index", "measure-latency"):
            return self._encoding(stage, **names)
        if stage == "predict":
            return self._predicting(**names)
        corpus = {"corpus": self.out("build-corpus", **names)} if "dataset" in names else {}
        match stage:
            case "render-images" | "fetch-images" | "import-vectors":
                return corpus
            case "tokenize":
                return corpus | {"model": self.out("prepare-model", **names)}
            case "embed-images":
                from_hub = self.vision_model(names["vision"]).weights is None
                model = {"model": self.out("prepare-vision", **names)} if from_hub else {}
                return {"images": self.out("render-images", **names)} | model
            case "export-dataset":
                has_images = self.dataset(names["dataset"]).has_images
                return corpus | ({"images": self.out("render-images", **names)} if has_images else {})
            case "score":
                return corpus | {"predictions": self.out("predict", **names)}
            case _:
                return {}

    def _encoding(self, stage: str, dataset: str, run: str, **names: Any) -> dict[str, Path]:
        config = self.run(dataset, run)
        encoder = config.encoder
        found = {
            "corpus": self.out("build-corpus", dataset=dataset),
            "tokens": self.out("tokenize", dataset=dataset, model=encoder.model, max_len=encoder.max_len),
            "model": self.out("prepare-model", model=encoder.model),
        }
        if config.uses_images:
            found["embeddings"] = self.out("embed-images", dataset=dataset, vision=config.images.vision)
        if stage != "train":
            found["trained"] = self.out("train", dataset=dataset, run=run, **names)
        if stage == "measure-latency":
            found["index"] = self.out("build-index", dataset=dataset, run=run, **names)
        return found

    def _predicting(self, dataset: str, run: str, split: str = "test", **names: Any) -> dict[str, Path]:
        config = self.run(dataset, run)
        model = {"dataset": dataset, "run": self.trained_as(dataset, run), **names}
        found = {"corpus": self.out("build-corpus", dataset=dataset)}
        if config.needs_encoder:
            found["index"] = self.out("build-index", **model)
            if config.inference.image_weight > 0:
                found["embeddings"] = self.out("embed-images", dataset=dataset, vision=config.images.vision)
        if split == "validation":  # the model names the queries that were held out
            found["trained"] = self.out("train", **model)
        return found

    def sources(self, stage: str, **names: str) -> list[str]:
        """Return the raw files that a stage reads, as entries of ``sources``."""
        match stage:
            case "build-corpus" | "render-images":
                return list(self.dataset(names["dataset"]).sources)
            case "prepare-model":
                entry = self.text_model(names["model"])
                return sorted({source for source in (entry.weights, entry.tokenizer) if source})
            case "embed-images" | "prepare-vision":
                weights = self.vision_model(names["vision"]).weights
                return [weights] if weights else []
            case "import-vectors":
                return list(self.dataset(names["dataset"]).published_vectors[names["vision"]].sources)
            case _:
                return []

    def obeys(self, stage: str, **names: str) -> dict[str, Any]:
        """Return the settings that a stage obeys, as JSON values: a change of anything else makes nothing again."""
        found: dict[str, Any] = {}
        if "run" in names and stage in ("train", "predict"):
            found = self.run(names["dataset"], names["run"]).settings(stage)
        elif "model" in names:
            found = self.text_model(names["model"]).settings(stage)
        elif "vision" in names:
            found = self.vision_model(names["vision"]).settings(stage)
        if stage == "import-vectors":
            found["files"] = self.sources(stage, **names)
        elif "dataset" in names and stage not in ("predict", "tokenize", "embed-images"):
            found |= self.dataset(names["dataset"]).settings(stage)
        if stage == "export-dataset":
            sources = self.dataset(names["dataset"]).sources
            found["licences"] = {name: self.world.sources[name].licence for name in sources}
        if sources := self.sources(stage, **names):
            found["sha256"] = {name: self.world.sources[name].sha256 for name in sources}
        return found
