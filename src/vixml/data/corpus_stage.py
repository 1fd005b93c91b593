"""The stage `build-corpus`: verified raw files to a verified corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vixml.config.world import Dataset, Source
from vixml.data.archive import SourceReader
from vixml.data.corpus import Corpus, CorpusData, verify_counts
from vixml.data.download import verify_file
from vixml.data.picto import build_picto
from vixml.errors import VixmlError
from vixml.provenance import stage


def _picto(dataset_id: str, dataset: Dataset, reader: SourceReader) -> CorpusData:
    if dataset.split_seed is None or dataset.test_fraction is None:
        raise VixmlError(
            "a dataset that we split ourselves needs a seed and a share",
            where=f"config/datasets.yaml: datasets.{dataset_id}",
            expected="split_seed and test_fraction",
        )
    return build_picto(reader, dataset.split_seed, dataset.test_fraction)


BUILDERS: dict[str, Callable[[str, Dataset, SourceReader], CorpusData]] = {"picto": _picto}


def build_corpus(
    dataset_id: str, dataset: Dataset, sources: Mapping[str, Source], raw_dir: Path | str, out: Path | str
) -> None:
    """Build one dataset's corpus folder.

    Args:
        dataset_id: its key in config/datasets.yaml.
        dataset: its entry.
        sources: the registry's sources by name.
        raw_dir: folder with the fetched files.
        out: folder to publish (docs/formats.md, `corpus/`).

    Raises:
        VixmlError: a raw file missing or altered, a pack laid out differently, counts other than `expect`.
    """
    if dataset.builder not in BUILDERS:
        raise VixmlError(
            f"this version builds {' and '.join(sorted(BUILDERS))} only",
            where=f"config/datasets.yaml: datasets.{dataset_id}.builder",
            found=dataset.builder,
            hint="the reader of the Extreme Classification Repository's archives comes with a later version",
        )
    raw_dir = Path(raw_dir)
    used = {name: sources[name] for name in dataset.sources}
    for name, source in used.items():
        verify_file(raw_dir / source.filename, name, source)
    # Facts are for the reader, the title for tables: neither changes the corpus.
    config = dataset.model_dump(mode="json", exclude={"facts", "title"})
    config = {"id": dataset_id, **config, "sha256": {name: source.sha256 for name, source in used.items()}}
    facts: dict[str, object] = {}
    inputs = {name: raw_dir / source.filename for name, source in used.items()}
    with stage(out, "build-corpus", config=config, inputs=inputs, facts=facts) as work:
        data = BUILDERS[dataset.builder](dataset_id, dataset, SourceReader(raw_dir, used))
        facts |= data.counts()
        verify_counts(facts, dataset.expect, f"config/datasets.yaml: datasets.{dataset_id}.expect")
        data.write(work)
        # What the next stages will read is read once here, so that a bad corpus is never published.
        Corpus.load(work, filter_required=dataset.filter_required)
