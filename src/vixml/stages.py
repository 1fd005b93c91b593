"""Declare the stages of the workflow: the name, code, folder, inputs and settings of each. Nothing of this is written elsewhere.

The command line takes its folders from here, Snakemake its inputs, outputs and ``params``, and ``vixml.digest`` the code of a
stage. Nothing heavy is imported, because ``vixml --help`` reads this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vixml.errors import VixmlError
from vixml.provenance import MANIFEST

if TYPE_CHECKING:
    from vixml.config.project import Project
    from vixml.config.registry import Dataset, TextModel, VisionModel
    from vixml.config.run import RunConfig, SeededRun


@dataclass(frozen=True)
class Stage:
    """One stage: a function in its package, a command and a rule.

    Attributes:
        name: its command.
        module: the module of its function.
        place: the folder that it writes, below that of all results; complete when it holds its manifest. Two stages may make
            the same kind of folder. None: whoever calls it names the folder.
        reads: the folders that it reads: input -> the stage that writes it.
        per_split: of these, the folders that it reads once for each run in ``inference.chosen_on``, numbered (``index_1``), if any.
        only_if: when a job reads an input at all; without an entry, always.
        sources: the raw files that a job reads, as entries of ``sources``; None: it reads no raw files.
        obeys: the settings that a job obeys, as JSON values; a change of any other setting reruns nothing.
        per_model: its folder belongs to a trained model, so a run with ``reuse`` has none.
    """

    name: str
    module: str
    place: str | None = None
    reads: Mapping[str, str] = field(default_factory=dict)
    per_split: tuple[str, ...] = ()
    only_if: Mapping[str, Callable[[Job], bool]] = field(default_factory=dict)
    sources: Callable[[Job], Iterable[str]] | None = None
    obeys: Callable[[Job], dict[str, Any]] = lambda job: {}
    per_model: bool = False


_RUN = "runs/{dataset}/{run}/seed{seed}"
_CORPUS = {"corpus": "build-corpus"}
_ENCODES = _CORPUS | {"tokens": "tokenize", "embeddings": "embed-images", "model": "prepare-model"}
_WITH_IMAGES = {"embeddings": lambda job: job.run.uses_images}
_VOTES = _CORPUS | {"index": "build-index", "embeddings": "embed-images", "lexical": "hash-texts"}
_IF_THEY_VOTE = {
    "index": lambda job: job.run.needs_encoder,
    "embeddings": lambda job: job.run.needs_encoder and job.run.inference.image_weight > 0,
    "lexical": lambda job: job.run.needs_encoder and job.run.inference.lexical_weight > 0,
}

STAGES = {stage.name: stage for stage in (
    Stage("download", "vixml.data.download"),
    Stage(
        "build-corpus", "vixml.data.build", "data/{dataset}/corpus",
        sources=lambda job: job.dataset.sources,
        obeys=lambda job: job.dataset.settings("build-corpus"),
    ),
    Stage(
        "prepare-model", "vixml.models.weights", "models/{model}",
        sources=lambda job: job.model.sources,
        obeys=lambda job: job.model.settings("prepare-model"),
    ),
    Stage(
        "tokenize", "vixml.data.tokens", "data/{dataset}/tokens/{model}-{max_len}",
        reads=_CORPUS | {"model": "prepare-model"},
        obeys=lambda job: job.model.settings("tokenize"),
    ),
    Stage("hash-texts", "vixml.data.lexical", "data/{dataset}/lexical", reads=_CORPUS),
    Stage(
        "render-images", "vixml.images.render", "data/{dataset}/images",
        reads=_CORPUS,
        sources=lambda job: job.dataset.sources,
        obeys=lambda job: job.dataset.settings("render-images"),
    ),
    Stage(
        "fetch-images", "vixml.images.fetch", "data/{dataset}/images",
        reads=_CORPUS,
        obeys=lambda job: job.dataset.settings("fetch-images"),
    ),
    Stage(
        "prepare-vision", "vixml.images.vision", "vision/{vision}",
        sources=lambda job: job.vision.sources,
        obeys=lambda job: job.vision.settings("prepare-vision"),
    ),
    Stage(
        "embed-images", "vixml.images.pool", "data/{dataset}/embeddings/{vision}",
        reads={"images": "render-images", "model": "prepare-vision"},
        only_if={"model": lambda job: not job.vision.sources},
        sources=lambda job: job.vision.sources,
        obeys=lambda job: job.vision.settings("embed-images"),
    ),
    Stage(
        "import-vectors", "vixml.images.import_vectors", "data/{dataset}/embeddings/{vision}",
        reads=_CORPUS,
        sources=lambda job: job.dataset.published_vectors[job.names["vision"]].sources,
        obeys=lambda job: job.vision.settings("import-vectors") | {"files": job.sources()},
    ),
    Stage(
        "export-dataset", "vixml.images.export", "exported/{dataset}",
        reads=_CORPUS | {"images": "render-images"},
        only_if={"images": lambda job: job.dataset.has_images},
        obeys=lambda job: job.project.world.export_settings(job.names["dataset"], job.names.get("vision") or ()),
    ),
    Stage(
        "train", "vixml.training.train", _RUN + "/model", per_model=True,
        reads=_ENCODES,
        only_if=_WITH_IMAGES,
        obeys=lambda job: job.run.settings("train") | job.dataset.settings("train"),
    ),
    # What encoding obeys of a run is part of its training, so a change remakes `trained`.
    Stage(
        "build-index", "vixml.retrieval.index", _RUN + "/index", per_model=True,
        reads=_ENCODES | {"trained": "train"},
        only_if=_WITH_IMAGES,
    ),
    Stage(
        "measure-latency", "vixml.retrieval.latency", _RUN + "/latency", per_model=True,
        reads=_ENCODES | {"trained": "train", "index": "build-index"},
        only_if=_WITH_IMAGES,
    ),
    Stage(
        "install-peers", "vixml.retrieval.peers", "peers",
        obeys=lambda job: {"python": list(sys.version_info[:2])},  # wheels are of one
    ),
    # The model names the queries that were held out.
    Stage(
        "choose-inference", "vixml.evaluation.choose", _RUN + "/choice",
        reads=_VOTES | {"trained": "train"}, per_split=("index", "trained"),
        only_if=_IF_THEY_VOTE,
        obeys=lambda job: job.run.settings("predict"),
    ),
    Stage(
        "predict", "vixml.retrieval.predict", _RUN + "/{split}/predictions",
        reads=_VOTES | {"trained": "train", "choice": "choose-inference", "peers": "install-peers"},
        only_if=_IF_THEY_VOTE | {
            "peers": lambda job: job.run.is_peer,
            "trained": lambda job: job.names.get("split") == "validation",
            "choice": lambda job: job.run.inference.method == "chosen",
        },
        obeys=lambda job: job.run.settings("predict"),
    ),
    Stage(
        "score", "vixml.evaluation.score", _RUN + "/{split}/score",
        reads=_CORPUS | {"predictions": "predict"},
        obeys=lambda job: job.dataset.settings("score"),
    ),
    Stage("make-tables", "vixml.report.write_tables"),
    Stage("make-figures", "vixml.report.figures"),
    Stage("make-report", "vixml.report.report"),
    Stage("make-tuning", "vixml.report.tuning"),
)}  # fmt: skip


# Stage -> the folder that it writes, of those that have one place.
PLACES = {name: stage.place for name, stage in STAGES.items() if stage.place}


def place(stage: str, results: Path | str = "results", **names: object) -> Path:
    """Return the folder that a stage writes; names that it does not need are ignored.

    Example:
        >>> place("train", dataset="picto", run="vixml-minilm-l3", seed=0).as_posix()
        'results/runs/picto/vixml-minilm-l3/seed0/model'
    """
    return Path(results, PLACES[stage].format(**names))


def find(stage: str, results: Path | str = "results") -> list[tuple[Path, dict[str, str]]]:
    """Return the folders of a stage that exist, finished or not, each with the names in its path, in order.

    Example:
        >>> import tempfile
        >>> results = tempfile.mkdtemp()
        >>> place("tokenize", results, dataset="picto", model="minilm-l3", max_len=32).mkdir(parents=True)
        >>> [names for _, names in find("tokenize", results)]
        [{'dataset': 'picto', 'model': 'minilm-l3', 'max_len': '32'}]
    """
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/.][^/]*)", PLACES[stage])  # a leading dot is that of a work folder
    folders = sorted(path for path in Path(results).glob(re.sub(r"\{\w+\}", "*", PLACES[stage])) if path.is_dir())
    matches = [(path, re.fullmatch(pattern, path.relative_to(results).as_posix())) for path in folders]
    return [(path, match.groupdict()) for path, match in matches if match]


def raw_dir(results: Path | str) -> Path:
    """Return the folder of downloaded files."""
    return Path(results, "raw")


class Job:
    """One job of a stage: what it reads, writes and obeys follows from a few names.

    Args:
        project: the configuration and the folder of results.
        names: ``dataset``, ``run``, ``seed``, ``split``, ``model``, ``max_len``, ``vision``, as far as the stage has them.
        given: folders to use in place of those that follow from the names: inputs, ``raw`` and ``out``.
    """

    def __init__(
        self, project: Project, stage: str, names: Mapping[str, Any], given: Mapping[str, Path | None] | None = None
    ) -> None:
        self.project, self.stage, self.names = project, STAGES[stage], dict(names)
        self.given = {name: folder for name, folder in (given or {}).items() if folder is not None}

    @property
    def run(self) -> RunConfig:
        """Return the run's resolved configuration."""
        return self.project.run(self.names["dataset"], self.names["run"])

    @property
    def seeded_run(self) -> SeededRun:
        """Return the run with its seed."""
        return self.project.seeded_run(self.names["dataset"], self.names["run"], self.names["seed"])

    @property
    def dataset(self) -> Dataset:
        """Return the dataset's entry of datasets.yaml."""
        return self.project.dataset(self.names["dataset"])

    @property
    def model(self) -> TextModel:
        """Return the language model's entry of models.yaml."""
        return self.project.text_model(self.names["model"])

    @property
    def vision(self) -> VisionModel:
        """Return the vision encoder's entry of models.yaml."""
        return self.project.vision_model(self.names["vision"])

    @property
    def raw(self) -> Path:
        """Return the folder of downloaded files."""
        return self.given.get("raw") or raw_dir(self.project.results)

    @property
    def out(self) -> Path:
        """Return the folder to write."""
        return self.given.get("out") or self.folder(self.stage.name)

    def folder(self, stage: str) -> Path:
        """Return the folder that a stage writes for the names of this job."""
        names, writes = dict(self.names), STAGES[stage]
        if "run" in names and writes.per_model and not self.stage.per_model:
            names["run"] = self.run.reuse or names["run"]
        for name, value in (
            ("model", lambda: self.run.encoder.model),
            ("max_len", lambda: self.run.encoder.max_len),
            ("vision", lambda: self.run.images.vision),
        ):
            if name not in names and f"{{{name}}}" in writes.place:
                names[name] = value()
        return place(stage, self.project.results, **names)

    def reads(self) -> dict[str, Path]:
        """Return the folders that this job reads, by input.

        Raises:
            VixmlError: a name that the configuration does not know.
        """
        found = {}
        for name, stage in self.stage.reads.items():
            if name in self.stage.only_if and not self.stage.only_if[name](self):
                continue
            splits = self.run.inference.chosen_on if name in self.stage.per_split else ()
            if splits and name in self.given:
                raise VixmlError(
                    "inference is chosen on several trainings, and one folder is named", where=f"--{name}",
                    found=self.given[name], expected=f"those of {', '.join(splits)}, which follow from their names",
                    hint="leave the option out",
                )  # fmt: skip
            for number, run in enumerate(splits, 1):
                found[f"{name}_{number}"] = Job(self.project, self.stage.name, self.names | {"run": run}).folder(stage)
            if not splits:
                found[name] = self.given.get(name) or self.folder(stage)
        return found

    def finished(self) -> dict[str, Path]:
        """Return :meth:`reads`, where the folders that follow from the names are finished.

        Raises:
            VixmlError: one of them is missing or unfinished.
        """
        found = self.reads()
        for name, folder in found.items():
            if name not in self.given and not (folder / MANIFEST).exists():
                raise VixmlError(
                    f"an input of `{self.stage.name}` is missing: {name}",
                    where=folder,
                    expected=f"a finished folder, with {MANIFEST}",
                    hint="Snakemake makes everything in order (README); or name another folder, see `--help`",
                )
        return found

    def sources(self) -> list[str]:
        """Return the raw files that this job reads, as entries of ``sources``."""
        return list(self.stage.sources(self)) if self.stage.sources else []

    def obeys(self) -> dict[str, Any]:
        """Return the settings that this job obeys, as JSON values, with the hashes of its raw files."""
        found = self.stage.obeys(self)
        if names := self.sources():
            found |= {"sha256": {name: self.project.world.sources[name].sha256 for name in names}}
        return found
