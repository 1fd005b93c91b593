"""The worked example of docs/dataset.md, on a few invented objects in the game's format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vixml.config.load import load_world
from vixml.data.archive import SourceReader
from vixml.data.build import build_corpus
from vixml.data.corpus import Corpus
from vixml.files import read_json, write_json
from vixml.images.render import render_images
from vixml.images.store import ImageStore

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/cataclysm"
RED, BLUE, GREEN, CLEAR = (200, 0, 0, 255), (0, 0, 200, 255), (0, 200, 0, 255), (0, 0, 0, 0)

ITEMS = [
    {"id": "spear", "type": "GENERIC", "name": {"str": "spear"}, "description": "A pole."},
    {"id": "long_spear", "type": "GENERIC", "name": {"str_sp": "long spears"}, "copy-from": "spear"},
    {"id": "xl_coat", "type": "ARMOR", "name": {"str": "coat (XL)"}, "description": "Large."},
    {"abstract": "wood", "type": "GENERIC", "name": "wood", "description": "From a tree.", "looks_like": "stick"},
    {"id": "plank", "type": "GENERIC", "name": {"str": "plank"}, "copy-from": "wood"},
    {"id": "stick", "type": "GENERIC", "name": "stick", "description": "Thin."},
    {"id": "rope", "type": "TOOL", "name": {"str": "rope"}, "description": "Long."},
    {"id": "nail", "type": "AMMO", "name": {"str": "nail"}, "description": "Sharp.", "looks_like": "nail"},
    {"id": "screw", "type": "AMMO", "name": {"str": "screw"}, "description": "Turned."},
    {"id": "rope", "type": "effect_type", "name": ["Bound"]},
]
RECIPES = [
    {
        "result": "spear",
        "type": "recipe",
        "components": [[["stick", 1], ["plank", 1]], [["fixing", 2, "LIST"]]],
        "using": [["binding", 1]],
        "tools": [[["knife", -1]]],
    },
    {"result": "spear", "id_suffix": "other", "type": "recipe", "copy-from": "spear", "components": [[["screw", 1]]]},
    {"result": "long_spear", "type": "recipe", "copy-from": "spear", "using": [], "components": [[["spear", 1]]]},
    {"result": "plank", "type": "recipe", "obsolete": True, "components": [[["stick", 2]]]},
    {"result": "xl_coat", "type": "recipe", "components": [[["rope", 1]]]},
    {"result": "house", "type": "recipe", "components": [[["plank", 99]]]},
]
REQUIREMENTS = [
    {"id": "binding", "type": "requirement", "components": [[["rope", 1]]]},
    {"id": "fixing", "type": "requirement", "components": [[["nail", 1], ["screw", 1]]]},
]
TILES = {
    "tile_info": [{"width": 2, "height": 2}],
    "tiles-new": [
        {"file": "a.png", "tiles": [{"id": "spear", "fg": 1}, {"id": ["rope", "x"], "fg": [{"weight": 1, "sprite": 2}]}]},
        {"file": "b.png", "sprite_width": 4, "sprite_height": 4, "tiles": [{"id": "stick", "fg": [4, 5]}]},
        {"file": "b.png", "tiles": [{"id": "screw", "fg": -1}]},
    ],
}  # fmt: skip


@pytest.fixture
def game(tmp_path):
    folder = tmp_path / "game"
    for name, content in {
        "items/a": ITEMS,
        "recipes": RECIPES,
        "b/c/requirements": REQUIREMENTS,
        "one": {"type": "x"},
    }.items():
        path = folder / f"json/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    tiles = folder / "gfx/Tiny"
    tiles.mkdir(parents=True)
    write_json(tiles / "tile_config.json", TILES)
    sheet = Image.new("RGBA", (4, 4), CLEAR)  # sprites 0 to 3: clear, red, clear, clear
    sheet.paste(RED, (2, 0, 4, 2))
    sheet.save(tiles / "a.png")
    Image.new("RGBA", (4, 4), BLUE).save(tiles / "b.png")  # sprite 4
    return folder


def convert(game, out, *options):
    command = [sys.executable, EXAMPLE / "convert.py", game, out, "--tile-sets", "Tiny", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    tables = [pd.read_parquet(out / f"{name}.parquet").set_index("id") for name in ("items", "label")]
    return done.stdout, *tables


def test_tables_and_sprites_follow_the_stated_rules(game, tmp_path):
    output, items, label = convert(game, tmp_path / "out")
    assert "2 items, 5 labels, 5 pairs, 2 sprites" in output
    # Recipes merged, first alternatives, lists followed; tools, obsolete recipes and other sizes left out.
    assert {name: list(row) for name, row in items.labels.items()} == {
        "spear": ["nail", "rope", "screw", "stick"],
        "long_spear": ["spear"],
    }
    assert items.name["long_spear"] == "long spears" and items.description["long_spear"] == "A pole."
    assert sorted(label.index) == ["nail", "rope", "screw", "spear", "stick"]
    assert list(label.pictures["nail"]) == list(label.pictures["screw"]) == list(label.pictures["rope"]) == []
    colours = {}
    for name, paths in {**label.pictures, **items.pictures}.items():
        for path in paths:
            with Image.open(tmp_path / "out" / path) as sprite:
                assert sprite.size == (96, 96)
                colours[name] = sprite.getpixel((50, 50))
    # Sprites are numbered across sheets: 4 is the first of the second sheet.
    assert colours == {"spear": RED, "stick": BLUE}
    _, items, label = convert(game, tmp_path / "all", "--alternatives", "all")
    assert list(items.labels["spear"]) == ["nail", "plank", "rope", "screw", "stick"]
    assert label.name["plank"] == "plank" and label.description["plank"] == "From a tree."
    assert list(label.pictures["plank"]), "it looks like a stick"


def test_the_registry_entry_builds_what_was_converted(game, tmp_path):
    convert(game, tmp_path / "raw/cataclysm")
    entry = load_world(EXAMPLE / "config").datasets["cataclysm"]
    entry = entry.model_copy(update={"expect": None, "test_fraction": 0.5})
    build_corpus("cataclysm", entry, {}, tmp_path / "raw", tmp_path / "corpus")
    counts = read_json(tmp_path / "corpus/counts.json")
    assert (counts["n_train"], counts["n_test"], counts["n_labels"]) == (1, 1, 5)
    corpus = Corpus.load(tmp_path / "corpus")
    assert set(corpus.texts("label")) == {"nail", "rope", "screw", "spear", "stick"}
    folder = tmp_path / "raw" / entry.catalogue.folder
    reader = SourceReader(tmp_path / "raw", {})
    render_images(tmp_path / "corpus", reader, entry.image_size, 1, tmp_path / "images", 1, folder)
    assert len(list(ImageStore.open(tmp_path / "images"))) == len(corpus.image_keys()) == 2


def test_another_folder_is_named(tmp_path):
    command = [sys.executable, EXAMPLE / "convert.py", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "is it the folder of the game's data?" in done.stderr
