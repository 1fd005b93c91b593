"""Evidence for each number of the report.

Of ours: values seed by seed, the resolved config, the manifests of every stage, and the one command that reproduces it. Of
a published value: the training run behind it, and the command that runs it here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.config.load import read_yaml
from vixml.config.published import PublishedValue, TrainingRun
from vixml.provenance import MANIFEST, read_manifest
from vixml.report.results import TRAINED, Result, Results, aggregate
from vixml.report.tables import Row, Section, Table
from vixml.stages import place

# -- the command that a reader copies -------------------------------------------------------------------------------------

PAPER = "paper.yaml"  # the configuration with the paper's runs


@dataclass(frozen=True)
class Commands:
    """Commands that make a run's scores, from ``configfile`` (empty: the default); ``asked``: seeds of the paper's runs."""

    configfile: str
    asked: dict[tuple[str, str], tuple[int, ...]]

    @classmethod
    def load(cls, config_dir: Path | str, configfile: str = "") -> Commands:
        """Read the runs and seeds of the paper's configuration, if the folder has one."""
        path = Path(config_dir) / PAPER
        targets = read_yaml(path).get("targets", []) if path.exists() else []
        asked: dict[tuple[str, str], tuple[int, ...]] = {}
        for target in targets:
            for run in target["runs"]:
                asked.setdefault((target["dataset"], run), tuple(target.get("seeds", [0])))
        return cls(configfile, asked)

    def planned(self, dataset: str, run: str, seed: int | None = None) -> str:
        """Return the command for a run of a published row."""
        asked = self.asked.get((dataset, run))
        seeds = (asked or (0,)) if seed is None else (seed,)
        scores = [place("score", dataset=dataset, run=run, seed=one, split="test") for one in seeds]
        return snakemake(scores, f"config/{PAPER}" if asked else "")


def snakemake(folders: Iterable[Path], configfile: str = "") -> str:
    r"""Return the command that makes these folders of one run, or everything if there are none.

    Folders of several seeds are one word, which the shell expands.

    Targets come first: every word after ``--configfile`` is taken for another file.

    Example:
        >>> print(snakemake([Path("a/seed0/s"), Path("a/seed1/s")], "config/picto.yaml"))
        snakemake --cores all a/seed{0,1}/s/manifest.json --configfile config/picto.yaml
        >>> print(snakemake([Path("a/seed0/s")]))
        snakemake --cores all a/seed0/s/manifest.json
        >>> print(snakemake([], "my shop.yaml"))
        snakemake --cores all --configfile 'my shop.yaml'
    """
    seeds: dict[str, list[str]] = {}
    for folder in folders:
        before, seed, after = re.fullmatch(r"(.*/seed)(\d+)(/.*)", folder.as_posix()).groups()
        seeds.setdefault(f"{before}%s{after}/{MANIFEST}", []).append(seed)
    words = [target % (found[0] if len(found) == 1 else f"{{{','.join(found)}}}") for target, found in seeds.items()]
    return " ".join(
        ["snakemake --cores all", *words, *(["--configfile", shlex.quote(configfile)] if configfile else [])]
    )


# -- our runs -------------------------------------------------------------------------------------------------------------


class RunEvidence:
    """One run, shown once however many cells rest on it; model and index may be those of a run that it reuses."""

    def __init__(self, results: Sequence[Result], commands: Commands, shown: Sequence[str]) -> None:
        first = results[0]
        self.dataset, self.run, self.key = first.dataset, first.run, run_key(first.dataset, first.run)
        self.seeds = tuple(result.seed for result in results)
        # Each with its values and their summary. A metric that some seeds lack has none; tables refuse it, here it is left out.
        names = [name for name in first.metrics if all(name in result.metrics for result in results)]
        values = {name: tuple(result.metrics[name] for result in results) for name in names}
        measured = {name: (name, seeds, aggregate(seeds)) for name, seeds in values.items()}
        self.metrics = tuple(measured[name] for name in shown if name in measured)
        self.more_metrics = tuple(metric for name, metric in measured.items() if name not in shown)
        self.command = snakemake([result.folder for result in results], commands.configfile)
        self.training = tuple(_training(result) for result in results if result.training)  # a sentence each

        found = {result.seed: _manifests(result) for result in results}
        config = next(iter(found[first.seed].values()))["config"]
        if first.reuses and "predict" in found[first.seed]:
            config = config | found[first.seed]["predict"]["config"]  # the model's settings, overridden by this run's
        self.config = json.dumps(config, indent=2, ensure_ascii=False)
        self.versions = ", ".join(f"{package} {version}" for package, version in first.manifest["versions"].items())
        # (seed, manifest) of each finished stage, and (path, SHA-256) of everything that these read, once.
        self.stages = tuple((seed, manifest) for seed, stages in found.items() for manifest in stages.values())
        self.last = found[first.seed]["score"]
        inputs = {one["path"]: one["sha256"] for _, manifest in self.stages for one in manifest["inputs"].values()}
        self.inputs = tuple(sorted(inputs.items()))
        predictions = {seed: stages["predict"] for seed, stages in found.items() if "predict" in stages}
        indexes = {seed: made["facts"].get("indexes", []) for seed, made in predictions.items()}
        self.indexes = tuple((seed, one) for seed, found in indexes.items() for one in found)  # of approximate searches


def run_key(dataset: str, run: str) -> str:
    """Return the anchor of a run's evidence.

    Example:
        >>> run_key("picto", "vixml-minilm-l3--shuffled")
        'run-picto-vixml-minilm-l3--shuffled'
    """
    return f"run-{dataset}-{run}"


def evidence(results: Results, commands: Commands, shown: Sequence[str] = ()) -> dict[str, RunEvidence]:
    """Return the evidence of every run by its anchor, in order; metrics that are not shown are listed separately."""
    runs = [RunEvidence(results.by_run[key], commands, shown) for key in sorted(results.by_run)]
    return {run.key: run for run in runs}


def _manifests(result: Result) -> dict[str, dict[str, Any]]:
    """Return the manifests of the finished stages that led to a score, by stage."""
    folders = {stage: result.place(stage) for stage in (*TRAINED, "choose-inference", "predict", "score")}
    return {stage: read_manifest(folder) for stage, folder in folders.items() if (folder / MANIFEST).exists()}


def device(manifest: dict[str, Any]) -> str:
    """Return the GPU of a stage, or its processor."""
    machine = manifest["machine"]
    return machine.get("gpu") or f"{machine['processor']}, {machine.get('cores')} cores"


def command(manifest: dict[str, Any]) -> str:
    """Return the command of a stage, without the folder of the program, which differs between machines."""
    program, _, arguments = manifest["command"].partition(" ")
    return f"{Path(program).name} {arguments}".strip()


def _training(result: Result) -> str:
    shown = ("epochs", "steps", "seconds", "samples_per_second", "device", "threads", "precision")
    found = {key.replace("_", " "): result.training.get(key) for key in shown}
    values = [f"{key} {value}" for key, value in found.items() if value is not None]
    whose = f", model of {result.trained_as}" if result.reuses else ""
    return f"seed {result.seed}{whose}: " + ", ".join(values)


# -- published rows -------------------------------------------------------------------------------------------------------

# Columns of reported_results.csv that describe a row, and their names in the page.
DESCRIBED = {
    "method": "method",
    "backbone": "backbone",
    "params": "parameters",
    "modality": "modality",
    "base_method": "base method",
    "vision_encoder": "vision encoder",
    "n_images": "images",
    "inference": "inference",
}


def row_key(table: Table, section: Section, row: Row) -> str:
    """Return the anchor of a published row: its table, section and place."""
    return f"published-{table.spec.id}-{table.sections.index(section) + 1}-{section.rows.index(row) + 1}"


def training_of(value: PublishedValue, runs: dict[str, TrainingRun]) -> str:
    """Return the paper's training run behind a published value, or why there is none."""
    if value.quoted:
        return "none: the paper quotes this row from other authors"
    if not value.run:
        return "none: nothing was trained for this row"
    run = runs.get(value.run)
    if run is None:
        return value.run
    images = f", {run.n_images} images" if run.n_images else ""
    return (
        f"{value.run}: {run.backbone} on {run.modality} of {run.dataset}{images}, {run.epochs} epochs, "
        f"{run.max_len} tokens; used in {' '.join(run.used_in)}"
    )
