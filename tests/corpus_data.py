"""A small corpus in memory, to be written as the stage build-corpus writes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vixml.data.corpus import QUERY_SPLITS, CorpusWriter
from vixml.ragged import Ragged


@dataclass(frozen=True)
class Items:
    """The rows of one split: ids (unique) and texts, in step."""

    ids: list[str]
    texts: list[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Items:
        """Return items whose text is their id."""
        return cls(list(texts), list(texts))


@dataclass
class CorpusData:
    """A whole corpus in memory, ready to be written.

    Attributes:
        items: split -> items, for train, test and label.
        labels: split -> (n_split rows over labels), for train and test, ascending in each row.
        image_keys, image_sources: row = image id.
        images: split -> (n_split rows over images), in order of preference.
        filters: split -> (n_split rows over labels), pairs never scored; empty where the dataset has none.
        facts: further entries of counts.json.
    """

    items: dict[str, Items]
    labels: dict[str, Ragged]
    image_keys: list[str]
    image_sources: list[str]
    images: dict[str, Ragged]
    filters: dict[str, Ragged] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path | str) -> dict[str, Any]:
        """Write the folder of docs/formats.md and return its counts; the same corpus gives the same bytes."""
        writer = CorpusWriter(folder, self.image_keys)
        for split in ("label", *QUERY_SPLITS):
            with writer.split(split) as add:
                for row, (item, text) in enumerate(zip(self.items[split].ids, self.items[split].texts, strict=True)):
                    labels = self.labels[split].row(row).tolist() if split in self.labels else ()
                    add(item, text, labels)
            self.images[split].save(writer.folder / f"{split}_images")
        sources = dict(zip(self.image_keys, self.image_sources, strict=True))
        return writer.finish(source=sources.__getitem__, filters=self.filters, facts=self.facts)


def random_corpus(rng: np.random.Generator, sizes: dict[str, int], n_images: int, most: int = 3) -> CorpusData:
    """Return a corpus with random labels, filters, and fewer than ``most`` images per item."""

    def pairs(split: str, share: float) -> Ragged:
        rows = [np.flatnonzero(rng.random(sizes["label"]) < share) for _ in range(sizes[split])]
        return Ragged.from_rows(rows, sizes["label"])

    images = {}
    for split, n in sizes.items():
        chosen = [rng.choice(n_images, rng.integers(0, most), replace=False) for _ in range(n)]
        images[split] = Ragged.from_rows(chosen, n_images)
    labels, filters = ({split: pairs(split, share) for split in QUERY_SPLITS} for share in (0.2, 0.1))
    items = {split: Items.of([f"{split} {i}" for i in range(n)]) for split, n in sizes.items()}
    keys = [str(i) for i in range(n_images)]
    return CorpusData(items, labels, keys, ["nowhere"] * n_images, images, filters)
