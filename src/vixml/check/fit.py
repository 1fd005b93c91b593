"""Check runs against their data before anything is trained: what can be known from the registry, the counts and the model's folder.

Snakemake calls this when it builds its graph. In a first call the corpus is not there yet, so that `vixml tokenize`, which reads
it next, checks the same runs again (environment variable ``VIXML_RUNS``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vixml.config.defaults import FEWEST_TO_TRAIN
from vixml.config.limits import LINEAR_LABELS, LINEAR_TEXTS, has_linear
from vixml.config.load import family_file, require, require_fit
from vixml.config.project import Project
from vixml.config.tables import FactsSpec, TableSpec, named_runs
from vixml.errors import VixmlError
from vixml.evaluation.metrics import DEEP_KS, KS
from vixml.files import read_json
from vixml.provenance import MANIFEST
from vixml.stages import place

METRICS = {f"{name}@{k}" for names, ks in (("P nDCG PSP PSnDCG", KS), ("R hit MAP MRR", DEEP_KS)) for name in names.split() for k in ks}  # fmt: skip
Scored = tuple[str, str, str]  # dataset, run, split


def runs_value(scored: Iterable[Mapping[str, Any]]) -> str:
    """Return runs as the value of ``VIXML_RUNS``.

    Example:
        >>> parse(runs_value([{"dataset": "shop", "run": "text", "seed": 0, "split": "test"}]))
        [('shop', 'text', 'test')]
    """
    return " ".join(dict.fromkeys(f"{one['dataset']}:{one['run']}:{one['split']}" for one in scored))


def parse(runs: str) -> list[Scored]:
    """Return the runs of :func:`runs_value`; what is none is left out."""
    parts = [tuple(part.split(":")) for part in runs.split()]
    return [part for part in parts if len(part) == 3]


def expect_fit(project: Project, scored: Iterable[Scored], published: bool = True) -> None:
    """Raise VixmlError, with file and key, for the first run that cannot be trained and scored on its data.

    ``published``: image embeddings may be imported.
    """
    scored = list(scored)
    _expect_one_share(project, scored)
    for dataset, name, split in _with_splits(project, scored):
        run, entry = project.run(dataset, name), project.dataset(dataset)
        file = family_file(project.config_dir, dataset, name)
        imported = published and run.images.vision in entry.published_vectors
        corpus = place("build-corpus", project.results, dataset=dataset)
        misfits = _misfits(run, entry.has_images or imported, imported, split, counts_of(project, dataset))
        for what, key, found, expected, hint in misfits:
            at = ".".join(filter(None, ("runs", name, key)))
            where = f"{file}: {at} ({dataset}, {corpus / 'counts.json'})"
            raise VixmlError(what, where=where, found=found, expected=expected, hint=hint)
        model = place("prepare-model", project.results, model=run.encoder.model)
        config = read_json(model / "config.json") if (model / MANIFEST).exists() else None
        if run.needs_encoder and isinstance(config, dict):
            require_fit(run, project.world, f"{file}: runs.{name}", config)


def _expect_one_share(project: Project, scored: Iterable[Scored]) -> None:
    """Check that runs that are compared on held-out queries hold out the same number of them."""
    first: dict[str, tuple[str, float]] = {}
    for dataset, name, split in scored:
        share = project.run(dataset, name).training.validation
        other, wanted = first.setdefault(dataset, (name, share)) if split == "validation" else (name, share)
        if share != wanted:
            raise VixmlError(
                "runs that are compared on held-out queries hold out different shares",
                where=f"{family_file(project.config_dir, dataset, name)}: runs.{name}.training.validation",
                found=share,
                expected=f"{wanted}, as {other}",
                hint="give them one share, or score one of them on test",
            )


def _with_splits(project: Project, scored: Iterable[Scored]) -> Iterator[Scored]:
    """Yield what is scored, each after the runs on whose held-out queries its inference is chosen."""
    for dataset, name, split in scored:
        yield from ((dataset, other, "validation") for other in project.run(dataset, name).inference.chosen_on)
        yield dataset, name, split


def counts_of(project: Project, dataset: str) -> dict[str, Any]:
    """Return what is known of a corpus: its ``counts.json``, the registry's ``expect`` before it is built, or nothing."""
    folder, expect = place("build-corpus", project.results, dataset=dataset), project.dataset(dataset).expect
    if (folder / MANIFEST).exists():
        return read_json(folder / "counts.json")
    return expect.model_dump(exclude_none=True) if expect is not None else {}


def _misfits(
    run: Any, has_images: bool, imported: bool, split: str, counts: Mapping[str, Any]
) -> Iterator[tuple[str, str, object, str, str]]:
    """Yield (what, key, found, expected, hint) of everything that does not fit."""
    n_train, share, depth = counts.get("n_train"), run.training.validation, max(*KS, *DEEP_KS)
    if run.inference.top_k < depth:
        yield (
            "a run keeps too few labels per query for its metrics", "inference.top_k", run.inference.top_k,
            f"{depth} or more", "raise it: fewer labels cost nothing",
        )  # fmt: skip
    if run.needs_embeddings and (not has_images or counts.get("n_images") == 0):
        key = "modality" if run.uses_images else "inference.image_weight"
        yield (
            "a run reads images, and its dataset has none", key, getattr(run, key, run.inference.image_weight),
            "text, or a dataset with images", "name its images in datasets.yaml (catalogue.images), or take them from the run",
        )  # fmt: skip
    reads_corpus = run.needs_embeddings and run.uses_images and not imported
    longest = counts.get("most_images_per_item") if reads_corpus else None
    if longest is not None and run.images.per_item > longest:
        yield (
            "images.per_item exceeds the images available", "images.per_item", run.images.per_item,
            f"at most {longest}, the longest list of images of an item", "lower it, or build the corpus with more images per item",
        )  # fmt: skip
    if split == "validation" and (share == 0 or (n_train is not None and round(share * n_train) == 0)):
        yield (
            "held-out queries of a run are read, and it holds none out", "training.validation", share,
            "a share that leaves one query or more" + (f" of {n_train}" if n_train is not None else ""),
            "raise it, or read the test split",
        )  # fmt: skip
    if n_train is None:
        return
    if n_train < FEWEST_TO_TRAIN:
        yield (
            "a dataset has too few training queries", "", n_train, f"{FEWEST_TO_TRAIN} or more: propensities follow from log(n) - 1",
            "are the tables whole, and is test_fraction a share of test?",
        )  # fmt: skip
    how, n_labels = run.inference, counts.get("n_labels") or 0
    votes = how.method in ("local-ridge", "chosen") and how.ridge.linear_weight > 0
    if (votes or how.method == "linear") and not has_linear(n_train, n_labels):
        yield (
            "a dataset is too large for a linear model on TF-IDF", "inference.ridge.linear_weight" if votes else "inference.method",
            f"{n_train:,} training texts, {n_labels:,} labels", f"{LINEAR_TEXTS:,} and {LINEAR_LABELS:,} at most",
            "set linear_weight to 0" if votes else "leave the run out",
        )  # fmt: skip
    if run.training.epochs and n_train - round(share * n_train) < 1:
        yield (
            "a run holds out all training queries", "training.validation", share, f"a share that leaves one of {n_train}",
            "lower it",
        )  # fmt: skip


def expect_known_rows(project: Project, specs: Mapping[str, TableSpec | FactsSpec], where: Path) -> None:
    """Raise VixmlError, with the nearest name, for an unknown metric, or an unknown run in a one-file configuration's table.

    A row of a run that does not exist reads "not run", as it should in the paper's tables, which a user's runs need not fill.
    """
    known = {run for _, run in project.runs}
    for name, spec in specs.items():
        file = where if where.is_file() else where / "tables" / f"{name}.yaml"
        for dataset, run, _ in named_runs(spec.model_dump()) if where.is_file() else ():
            require(run, known, f"{file}: a row of {dataset}", "run")
        for metric in getattr(spec, "metrics", ()):
            require(metric, METRICS, f"{file}: metrics", "metric")
