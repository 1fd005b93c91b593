"""The stage `build-corpus`: verified raw files to a verified corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vixml.config.registry import Dataset, Source
from vixml.data.archive import SourceReader
from vixml.data.catalogue import build_catalogue, required_tables
from vixml.data.corpus import Corpus, split_settings, verify_averages, verify_counts
from vixml.data.download import verify_download
from vixml.data.picto import build_picto
from vixml.data.xc_repository import ImageTable, build_from_archive
from vixml.provenance import stage


def build_corpus(
    dataset_id: str, dataset: Dataset, sources: Mapping[str, Source], raw_dir: Path | str, out: Path | str
) -> None:
    """Build one dataset's corpus folder (docs/formats.md, `corpus/`).

    Raises:
        VixmlError: a raw file missing, altered or malformed, counts other than `expect`, averages other than published.
    """
    raw_dir = Path(raw_dir)
    used = {name: sources[name] for name in dataset.sources}
    for name, source in used.items():
        verify_download(raw_dir / source.filename, name, source)
    hashes = {name: source.sha256 for name, source in used.items()}
    config = {"id": dataset_id, **dataset.settings("build-corpus"), "sha256": hashes}
    facts: dict[str, Any] = {}
    inputs = {name: raw_dir / source.filename for name, source in used.items()}
    tables = required_tables(dataset, raw_dir) if dataset.catalogue is not None else {}
    # A table in parts has an input for each.
    inputs |= {f"{name}.{n + 1}" if n else name: path for name, paths in tables.items() for n, path in enumerate(paths)}
    where = f"config/datasets.yaml: datasets.{dataset_id}"
    with stage(out, "build-corpus", config=config, inputs=inputs, facts=facts) as work:
        reader = SourceReader(raw_dir, used)
        if dataset.builder == "picto":
            facts |= build_picto(reader, *split_settings(dataset), work)
        elif dataset.builder == "xc-repository":
            table = ImageTable(inputs[dataset.image_table]) if dataset.image_table is not None else None
            facts |= build_from_archive(reader.archive(dataset.sources[0]), dataset, work, table)
        else:
            facts |= build_catalogue(dataset, tables, work, raw_dir)
        verify_counts(facts, dataset.expect, f"{where}.expect")
        verify_averages(facts, dataset.averages, f"{where}.facts")
        # Read once what the next stages will read, so that a bad corpus is never put in place.
        Corpus.load(work, filter_required=dataset.filter_required)
