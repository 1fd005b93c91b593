"""The stage `build-corpus`: verified raw files to a verified corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.config.registry import Dataset, Source
from vixml.data.archive import SourceReader
from vixml.data.catalogue import build_catalogue, required_tables
from vixml.data.corpus import Corpus, verify_averages, verify_counts
from vixml.data.download import verify_file
from vixml.data.picto import build_picto
from vixml.data.xc_repository import Fields, ImageTable, build_from_archive
from vixml.errors import VixmlError
from vixml.provenance import stage


@dataclass(frozen=True)
class Build:
    """What a builder is given: the dataset's key and entry, its sources' files, and the folder to write."""

    dataset_id: str
    dataset: Dataset
    reader: SourceReader
    folder: Path
    sources: Mapping[str, Source]


def _picto(build: Build) -> dict[str, Any]:
    dataset = build.dataset
    if dataset.split_seed is None or dataset.test_fraction is None:
        raise VixmlError(
            "a dataset that we split ourselves needs a seed and a share",
            where=f"config/datasets.yaml: datasets.{build.dataset_id}",
            expected="split_seed and test_fraction",
        )
    data = build_picto(build.reader, dataset.split_seed, dataset.test_fraction)
    return data.write(build.folder)


def _xc_repository(build: Build) -> dict[str, Any]:
    dataset = build.dataset
    expect = dataset.expect
    total = expect.n_train + expect.n_test + expect.n_labels if expect else 0
    table = None
    if dataset.image_table is not None:
        table = ImageTable(build.reader.raw_dir / build.sources[dataset.image_table].filename)
    return build_from_archive(
        build.reader.archive(dataset.sources[0]),
        Fields(dataset.text_fields, dataset.image_urls, table),
        build.folder,
        filter_required=dataset.filter_required,
        total=total,
    )


def _catalogue(build: Build) -> dict[str, Any]:
    return build_catalogue(build.dataset, build.reader.raw_dir, build.folder)


BUILDERS: dict[str, Callable[[Build], dict[str, Any]]] = {
    "picto": _picto,
    "xc-repository": _xc_repository,
    "catalogue": _catalogue,
}


def build_corpus(
    dataset_id: str, dataset: Dataset, sources: Mapping[str, Source], raw_dir: Path | str, out: Path | str
) -> None:
    """Build one dataset's corpus folder.

    Args:
        dataset_id: its key in config/datasets.yaml.
        dataset: its entry.
        sources: the registry's sources by name.
        raw_dir: folder with the fetched files.
        out: folder to write (docs/formats.md, `corpus/`).

    Raises:
        VixmlError: a raw file missing, altered or malformed, counts other than `expect`, averages other than published.
    """
    raw_dir = Path(raw_dir)
    used = {name: sources[name] for name in dataset.sources}
    for name, source in used.items():
        verify_file(raw_dir / source.filename, name, source)
    # Facts are for the reader, the title for tables: neither changes the corpus.
    config = dataset.model_dump(mode="json", exclude={"facts", "title", "fetch", "published_vectors"})
    config = {"id": dataset_id, **config, "sha256": {name: source.sha256 for name, source in used.items()}}
    facts: dict[str, Any] = {}
    inputs = {name: raw_dir / source.filename for name, source in used.items()}
    if dataset.catalogue is not None:
        inputs |= required_tables(dataset, raw_dir)
    if dataset.averages:
        config["averages"] = dataset.averages
    where = f"config/datasets.yaml: datasets.{dataset_id}"
    with stage(out, "build-corpus", config=config, inputs=inputs, facts=facts) as work:
        facts |= BUILDERS[dataset.builder](Build(dataset_id, dataset, SourceReader(raw_dir, used), work, used))
        verify_counts(facts, dataset.expect, f"{where}.expect")
        verify_averages(facts, dataset.averages, f"{where}.facts")
        # What the next stages will read is read once here, so that a bad corpus is never published.
        Corpus.load(work, filter_required=dataset.filter_required)
