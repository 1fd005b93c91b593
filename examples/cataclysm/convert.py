"""Turn the data of the game Cataclysm: Dark Days Ahead into tables and images that `vixml build-corpus` reads.

A query is an item that can be crafted, its labels are the components of its recipes, its images are its sprites in up to
three tile sets. docs/dataset.md walks through it.

    python examples/cataclysm/convert.py GAME/usr/share/games/cataclysm-dda results/raw/cataclysm

Rules:
- Of several alternatives for one component (nails or screws), only the one that the game shows first counts;
  ``--alternatives all`` counts all of them. References to lists of requirements are followed. Tools do not count.
- Recipes for the same item are merged. Obsolete recipes, and results that are not items (buildings), are left out.
- An item or recipe inherits missing entries from the one named under ``copy-from``.
- Other sizes of a garment (``xl_``, ``xs_``) are left out, because nearly the same item would be in both train and test.
- An item's sprite is its own tile, or else the tile of what it ``looks_like``. Sprites are enlarged, pixel by pixel, to about 96.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

Object = dict[str, Any]
TILE_SETS = ["UltimateCataclysm", "ChestHole16Tileset", "RetroDaysTileset"]
SIDE = 96
# The types of objects that are items.
ITEMS = {
    "AMMO", "ARMOR", "BATTERY", "BIONIC_ITEM", "BOOK", "COMESTIBLE", "ENGINE", "GENERIC", "GUN", "GUNMOD", "MAGAZINE",
    "PET_ARMOR", "TOOL", "TOOLMOD", "TOOL_ARMOR", "WHEEL",
}  # fmt: skip
OTHER_SIZES = ("xl_", "xs_")


class Game:
    """The game's objects, with what they inherit.

    Args:
        folder: of the game's data, with `json` and `gfx` below it.
    """

    def __init__(self, folder: Path) -> None:
        objects = [entry for path in sorted(folder.glob("json/**/*.json")) for entry in _entries(path)]
        if not objects:
            raise SystemExit(f"no JSON files below {folder / 'json'}: is it the folder of the game's data?")
        recipes = [entry for entry in objects if entry.get("type") == "recipe"]
        self.recipes = [_inherit(entry, {entry["result"]: entry for entry in reversed(recipes)}) for entry in recipes]
        self.requirements = {entry["id"]: entry for entry in objects if entry.get("type") == "requirement"}
        known = [entry for entry in objects if entry.get("type") in ITEMS]
        parents = {entry.get("id", entry.get("abstract")): entry for entry in known}
        self.items = {name: _inherit(entry, parents) for name, entry in parents.items() if "id" in entry}

    def components(self, entry: Object, alternatives: str) -> Iterator[str]:
        """Yield the ids of the components of a recipe or a list of requirements."""
        for name, *_ in entry.get("using", []):
            yield from self.components(self.requirements.get(name, {}), alternatives)
        for group in entry.get("components", []):
            for name, *rest in group if alternatives == "all" else group[:1]:
                if rest[-1:] == ["LIST"]:
                    yield from self.components(self.requirements.get(name, {}), alternatives)
                else:
                    yield name

    def crafted(self, alternatives: str) -> dict[str, list[str]]:
        """Return the components of every item that can be crafted."""
        found: dict[str, set[str]] = {}
        for recipe in self.recipes:
            result = recipe["result"]
            if result in self.items and not recipe.get("obsolete") and not result.startswith(OTHER_SIZES):
                used = {name for name in self.components(recipe, alternatives) if name in self.items}
                found.setdefault(result, set()).update(used - {result})
        return {name: sorted(used) for name, used in sorted(found.items()) if used}


def _entries(path: Path) -> list[Object]:
    read = json.loads(path.read_text(encoding="utf-8"))
    return [entry for entry in (read if isinstance(read, list) else [read]) if isinstance(entry, dict)]


def _inherit(entry: Object, parents: dict[str, Object]) -> Object:
    """Return an object with what it inherits from its chain of ``copy-from``."""
    found, seen = dict(entry), {id(entry)}
    while (parent := parents.get(entry.get("copy-from", ""))) is not None and id(parent) not in seen:
        # `obsolete` and `abstract` are not inherited.
        found = {key: value for key, value in parent.items() if key not in ("obsolete", "abstract")} | found
        seen.add(id(parent))
        entry = parent
    return found


def words(value: Any) -> str:
    """Return a name or description, written as text or as {str: ...} or {str_sp: ...} (singular = plural)."""
    if isinstance(value, dict):
        value = value.get("str", value.get("str_sp", value.get("str_pl")))
    return value if isinstance(value, str) else ""


class TileSet:
    """Sprites of one tile set: numbered through all its sheets, row by row."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "tile_config.json").read_text(encoding="utf-8"))
        size = config["tile_info"][0]
        self.tiles: dict[str, int] = {}
        self.boxes: list[tuple[Path, tuple[int, int, int, int]]] = []
        for sheet in config["tiles-new"]:
            path = folder / sheet["file"]
            width, height = sheet.get("sprite_width", size["width"]), sheet.get("sprite_height", size["height"])
            for tile in sheet.get("tiles", []):
                sprite = _first_sprite(tile.get("fg"))
                names = tile["id"] if isinstance(tile["id"], list) else [tile["id"]]
                self.tiles |= {name: sprite for name in names if sprite is not None}
            with Image.open(path) as image:
                columns, rows = image.width // width, image.height // height
            corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
            self.boxes += [(path, (x, y, x + width, y + height)) for x, y in corners]
        self._sheets: dict[Path, Image.Image] = {}

    def sprite(self, name: str, items: dict[str, Object]) -> Image.Image | None:
        """Return an item's sprite, enlarged; None if it is missing or empty."""
        seen: set[str] = set()
        while name not in self.tiles:
            seen.add(name)
            name = items.get(name, {}).get("looks_like", "")
            if not name or name in seen:
                return None
        if self.tiles[name] >= len(self.boxes):
            return None
        path, box = self.boxes[self.tiles[name]]
        if path not in self._sheets:
            self._sheets[path] = Image.open(path).convert("RGBA")
        sprite = self._sheets[path].crop(box)
        if sprite.getbbox(alpha_only=True) is None:
            return None
        times = max(1, SIDE // max(sprite.size))
        return sprite.resize((sprite.width * times, sprite.height * times), Image.Resampling.NEAREST)


def _first_sprite(value: Any) -> int | None:
    """Return a tile's sprite number; of rotations and variants ([{weight, sprite}]) the first."""
    while isinstance(value, list | dict):
        value = value.get("sprite") if isinstance(value, dict) else next(iter(value), None)
    return value if isinstance(value, int) and value >= 0 else None


def convert(folder: Path, out: Path, tile_sets: list[str], alternatives: str) -> dict[str, int]:
    """Write items.parquet, label.parquet and the sprites; return counts."""
    game = Game(folder)
    crafted = game.crafted(alternatives)
    labels = sorted({name for used in crafted.values() for name in used})
    sets = {name: TileSet(folder / "gfx" / name) for name in tile_sets}
    (out / "sprites").mkdir(parents=True, exist_ok=True)
    numbers = count()

    def row(name: str) -> Object:
        item, paths = game.items[name], []
        for tile_set in sets.values():
            if (sprite := tile_set.sprite(name, game.items)) is not None:
                # A number, since ids contain characters that file names cannot.
                paths.append(f"sprites/{next(numbers):05d}.png")
                sprite.save(out / paths[-1])
        text = {"name": words(item.get("name")), "description": words(item.get("description"))}
        return {"id": name, **text, "pictures": paths}

    rows = {name: row(name) for name in sorted({*crafted, *labels})}
    queries = pd.DataFrame([rows[name] | {"labels": used} for name, used in crafted.items()])
    queries.to_parquet(out / "items.parquet", index=False)
    pd.DataFrame([rows[name] for name in labels]).to_parquet(out / "label.parquet", index=False)
    pairs = sum(map(len, crafted.values()))
    return {"items": len(crafted), "labels": len(labels), "pairs": pairs, "sprites": next(numbers)}


def main() -> None:
    """Parse arguments, convert, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", type=Path, help="folder of the game's data, with json/ and gfx/")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--tile-sets", nargs="*", default=TILE_SETS, help="folders of gfx/, at most one sprite of each")
    parser.add_argument("--alternatives", choices=["first", "all"], default="first")
    given = parser.parse_args()
    counts = convert(given.game, given.out, given.tile_sets, given.alternatives)
    print(f"{given.out}: " + ", ".join(f"{number:,} {what}" for what, number in counts.items()))


if __name__ == "__main__":
    main()
