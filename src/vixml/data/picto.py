"""Build PICTO: pictograms (name and drawings) to be tagged with the search words that people wrote for them.

A query is a pictogram; icons of the same name in several packs are one query with the tags and drawings of all. Labels
are its tags, not the packs' categories: drawing style gives the pack away, and categories belong to a pack. Pictures of
labels come from two packs that make no queries, so no label shows a query's own drawing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vixml.data.archive import SourceReader
from vixml.data.corpus import CorpusData, Items
from vixml.data.picto_sources import QUERY_PACKS, Drawing, Pictogram, read_label_packs, read_packs, tag
from vixml.ragged import Ragged

IMAGES_PER_ITEM = 3
MIN_LABEL_FREQUENCY = 2


@dataclass(frozen=True)
class Query:
    """One merged pictogram: its name, its tags in ascending order, its drawings in order of preference."""

    name: str
    tags: tuple[str, ...]
    drawings: tuple[Drawing, ...]


def build_picto(reader: SourceReader, split_seed: int, test_fraction: float) -> CorpusData:
    """Build the corpus from the packs' wheels.

    Args:
        reader: gives access to the seven sources.
        split_seed: seed of the split.
        test_fraction: share of queries held out.

    Returns:
        The corpus, every order in it determined by the sources and the seed alone.
    """
    return assemble(merge(read_packs(reader)), read_label_packs(reader), split_seed, test_fraction)


def merge(pictures: Iterable[Pictogram]) -> list[Query]:
    """Join icons of one name, clean their tags, and return the queries that have any, by name."""
    by_name: dict[str, list[Pictogram]] = defaultdict(list)
    for picture in pictures:
        by_name[picture.name].append(picture)
    queries = []
    for name, icons in sorted(by_name.items()):
        tags = {clean for icon in icons for raw in icon.tags if (clean := tag(raw)) is not None} - {name}
        if tags:
            queries.append(Query(name, tuple(sorted(tags)), choose_drawings(icons)))
    return queries


def choose_drawings(icons: Sequence[Pictogram], limit: int = IMAGES_PER_ITEM) -> tuple[Drawing, ...]:
    """Return up to ``limit`` drawings of one pictogram, the most telling and the most different first.

    One drawing of every pack comes before a second of any, since packs differ more than styles of one pack do. Packs
    stand in the order colour (OpenMoji), filled (Font Awesome), outline (Phosphor, Lucide): colour and surface say more
    to a network trained on photographs than a line does.
    """
    ranked = sorted(icons, key=lambda icon: QUERY_PACKS.index(icon.pack))
    rounds = [
        icon.drawings[place]
        for place in range(max((len(icon.drawings) for icon in ranked), default=0))
        for icon in ranked
        if place < len(icon.drawings)
    ]
    # Two emoji names may share one drawing.
    return tuple({drawing.key: drawing for drawing in rounds}.values())[:limit]


def held_out(names: Sequence[str], seed: int, fraction: float) -> set[str]:
    """Return the ``round(fraction * n)`` names whose SHA-256 with the seed is smallest.

    A hash is a random order that no library version can change.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(order[: round(fraction * len(order))])


def label_drawings(labels: Sequence[str], icons: Iterable[Pictogram]) -> list[list[Drawing]]:
    """Return for each label up to three icons whose name is the tag or contains it as whole words.

    Exact names first, then the shortest names (the fewest other things in the picture), Tabler before Material Design.
    """
    wanted = set(labels)
    longest = max((len(label.split()) for label in labels), default=0)
    found: dict[str, list[tuple[tuple[int, int, int, str], Drawing]]] = defaultdict(list)
    packs = {"tabler": 0, "mdi": 1}
    for icon in icons:
        parts = icon.name.split()
        runs = {
            " ".join(parts[start:end])
            for start in range(len(parts))
            for end in range(start + 1, min(len(parts), start + longest) + 1)
        }
        for label in runs & wanted:
            rank = (len(parts) - len(label.split()), packs[icon.pack], len(icon.name), icon.name)
            found[label].extend((rank, drawing) for drawing in icon.drawings)
    return [
        [drawing for _, drawing in sorted(found[label], key=lambda hit: hit[0])[:IMAGES_PER_ITEM]] for label in labels
    ]


def assemble(
    queries: Sequence[Query], label_icons: Iterable[Pictogram], split_seed: int, test_fraction: float
) -> CorpusData:
    """Split the queries, keep the labels frequent enough in train, drop queries left without one, number the images."""
    test_names = held_out([query.name for query in queries], split_seed, test_fraction)
    parts = {
        "train": [query for query in queries if query.name not in test_names],
        "test": [query for query in queries if query.name in test_names],
    }
    # Frequencies are counted on train alone: test must not decide what is a label.
    frequency = Counter(label for query in parts["train"] for label in query.tags)
    labels = sorted(label for label, count in frequency.items() if count >= MIN_LABEL_FREQUENCY)
    index = {label: number for number, label in enumerate(labels)}
    kept = {split: [q for q in part if any(label in index for label in q.tags)] for split, part in parts.items()}

    drawings = {split: [query.drawings for query in part] for split, part in kept.items()}
    drawings["label"] = [tuple(row) for row in label_drawings(labels, label_icons)]
    pictures = {drawing.key: drawing for rows in drawings.values() for row in rows for drawing in row}
    keys = sorted(pictures)
    image = {key: number for number, key in enumerate(keys)}

    data = CorpusData(
        items={
            "train": Items.of([query.name for query in kept["train"]]),
            "test": Items.of([query.name for query in kept["test"]]),
            "label": Items.of(labels),
        },
        labels={
            split: Ragged.from_rows(
                [sorted(index[label] for label in query.tags if label in index) for query in part], len(labels)
            )
            for split, part in kept.items()
        },
        image_keys=keys,
        image_sources=[pictures[key].source for key in keys],
        images={
            split: Ragged.from_rows([[image[drawing.key] for drawing in row] for row in rows], len(keys))
            for split, rows in drawings.items()
        },
    )
    data.facts["queries_without_label"] = len(queries) - sum(len(part) for part in kept.values())
    data.facts["pairs_with_label_words_in_query"] = round(_overlap(data), 4)
    return data


def _overlap(data: CorpusData) -> float:
    """Return the share of pairs whose label's words all stand in the query: what plain word matching could find."""
    words = {split: [set(text.split()) for text in items.texts] for split, items in data.items.items()}
    hits = [
        words["label"][label] <= words[split][row]
        for split, matrix in data.labels.items()
        for row, label in zip(matrix.row_ids(), matrix.values, strict=True)
    ]
    return float(np.mean(hits)) if hits else 0.0
