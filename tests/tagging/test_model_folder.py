"""A model folder: nothing but data, the same wherever it is, refused if it is not whole."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers import update_manifest
from PIL import Image
from safetensors.torch import load_file, save_file

from vixml import Tagger
from vixml.config.project import Project
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file, write_json
from vixml.images.store import ImageStore
from vixml.manifest import with_digest
from vixml.provenance import stage
from vixml.stages import place
from vixml.tagging.model_folder import HEADER
from vixml.tagging.pack import pack

TEXTS = ["box river", "toy diamond", "ember"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tags(folder: Path) -> list:
    return Tagger.load(folder).tag(TEXTS, k=3)


def test_a_moved_folder_gives_the_same_tags_and_a_repeated_pack_the_same_bytes(shop, packed, tmp_path):
    folder = packed("images")
    moved = Path(shutil.copytree(folder, tmp_path / "far away" / "a model"))
    assert tags(moved) == tags(folder)
    again = pack(shop.project, "shop", "images", 0, moved)  # in place of another one
    assert contents(again) == contents(folder)
    assert {path.suffix for path in folder.rglob("*.*")} <= {".json", ".npy", ".safetensors", ".parquet", ".md"}
    assert list(tmp_path.glob("*/.tmp*")) == [] and str(shop.folder).encode() not in b"".join(contents(folder).values())
    header = read_json(folder / HEADER)
    assert set(header["files"]) | {HEADER} == set(contents(folder))


def test_thumbnails_are_the_first_images_of_the_training_items(shop, packed, tmp_path):
    tagger = Tagger.load(packed("images"))
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    store = ImageStore.open(place("render-images", shop.project.results, dataset="shop"))
    some = 0
    for row in range(corpus.n("train")):
        present = [image for image in corpus.images("train").row(row).tolist() if image not in store.missing]
        found = tagger.thumbnail(row)
        assert (found is not None) == bool(present)
        if present:
            image, original = (Image.open(io.BytesIO(data)).convert("RGB") for data in (found, store.read(present[0])))
            assert image.format is None and image.size == original.size and max(image.size) <= 96
            difference = np.abs(np.asarray(image, np.int16) - np.asarray(original, np.int16)).mean()
            assert difference < 12
            some += 1
    assert 0 < some < corpus.n("train") and tagger.thumbnail(-1) is tagger.thumbnail(10**6) is None
    assert "Small images" in (packed("images") / "README.md").read_text(encoding="utf-8")
    without = pack(shop.project, "shop", "images", 0, tmp_path / "m", thumbnails=False)
    assert not list(without.glob("neighbours/thumb*"))
    assert tags(without) == tags(packed("images"))
    for folder in (without, packed("text")):
        assert not any(map(Tagger.load(folder).thumbnail, range(corpus.n("train"))))


def test_thumbnails_that_do_not_belong_together_are_refused(packed, tmp_path):
    folder = Path(shutil.copytree(packed("images"), tmp_path / "m"))
    name = "neighbours/thumbnail_offsets.npy"
    np.save(folder / name, np.load(folder / name) + 1)
    with pytest.raises(VixmlError, match="altered"):
        Tagger.load(folder)
    resigned(folder, name)
    with pytest.raises(VixmlError, match="belong together"):
        Tagger.load(folder)


def test_images_that_were_made_again_are_not_those_of_the_run(shop, packed, tmp_path):
    packed("images")
    results = Path(shutil.copytree(shop.project.results, tmp_path / "results"))
    images = results / "data/shop/images"
    write_json(images / "store.json", read_json(images / "store.json") | {"more": 1})
    update_manifest(images)
    project = Project(shop.project.config_dir, results)
    with pytest.raises(VixmlError, match="images are not those"):
        pack(project, "shop", "images", 0, tmp_path / "m")
    pack(project, "shop", "images", 0, tmp_path / "m", thumbnails=False)


def test_neighbours_can_be_left_out(shop, packed, tmp_path):
    whole = packed("text")
    folder = pack(shop.project, "shop", "text", 0, tmp_path / "m", neighbours=False)
    assert not (folder / "neighbours").exists() and "left out" in (folder / "README.md").read_text(encoding="utf-8")
    for found, others in zip(tags(folder), tags(whole), strict=True):
        assert [(tag.id, tag.score) for tag in found] == [(tag.id, tag.score) for tag in others]
        assert not any(tag.voters for tag in found)


@pytest.mark.parametrize(("run", "what"), [
    ("popular", "nothing to pack"), ("shuffled", "control"), ("text--augmented", "vote"), ("no-such", "unknown run"),
])  # fmt: skip
def test_a_run_that_cannot_tag_is_refused(shop, tmp_path, run, what):
    with pytest.raises(VixmlError, match=what):
        pack(shop.project, "shop", run, 0, tmp_path / "m", neighbours=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_or_changed_run_or_a_foreign_folder_is_refused(shop, packed, tmp_path):
    packed("text")
    with pytest.raises(VixmlError, match=r"not complete|missing"):
        pack(shop.project, "shop", "text", 7, tmp_path / "m")
    changed = Path(shutil.copytree(shop.project.config_dir, tmp_path / "config"))
    runs = (changed / "runs/shop.yaml").read_text(encoding="utf-8")
    (changed / "runs/shop.yaml").write_text(runs.replace("epochs: 1", "epochs: 3"), encoding="utf-8")
    with pytest.raises(VixmlError, match="other settings"):
        pack(Project(changed, shop.project.results), "shop", "text", 0, tmp_path / "m")
    with pytest.raises(VixmlError, match="no model folder"):
        pack(shop.project, "shop", "text", 0, changed)
    assert (changed / "datasets.yaml").exists()


def resigned(folder: Path, name: str) -> None:
    """Write a changed file's size and hash into the header, as someone who forges a folder would."""
    header, path = read_json(folder / HEADER), folder / name
    header["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    write_json(folder / HEADER, with_digest(header))


def edited(**changes):
    return lambda folder: write_json(folder / HEADER, with_digest(read_json(folder / HEADER) | changes))


def bytes_of(name: str, change, signed: bool = False):
    """Return what changes the content of a file, and its entry in the header."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        if signed:
            resigned(folder, name)

    return damage


def json_of(name: str, change):
    """Return what changes the value in a JSON file, and its entry in the header."""
    return bytes_of(name, lambda data: json.dumps(change(json.loads(data))).encode(), signed=True)


def another_head(folder: Path) -> None:
    tensors = load_file(folder / "head.safetensors")
    save_file(tensors | {"prototypes.free.weight": torch.zeros(3, 3)}, folder / "head.safetensors")
    resigned(folder, "head.safetensors")


def a_way_out(folder: Path) -> None:
    edited(files=read_json(folder / HEADER)["files"] | {"../other": {"sha256": "", "bytes": 0}})(folder)


WEIGHTS, Z, VOTERS = "language/model.safetensors", "labels/z.npy", "neighbours/vectors.npy"
CONFIG, LABELS = "language/config.json", "neighbours/labels"


def test_a_choice_of_other_settings_or_other_trainings_is_not_packed(packed, shop, tmp_path):
    packed("chosen")
    results = Path(shutil.copytree(shop.project.results, tmp_path / "results"))
    config = Path(shutil.copytree(shop.project.config_dir, tmp_path / "config"))
    runs = config / "runs/shop.yaml"
    written = yaml.safe_load(runs.read_text(encoding="utf-8"))
    written["runs"]["chosen"]["inference"]["image_weight"] = 0.5
    runs.write_text(yaml.safe_dump(written), encoding="utf-8")
    with pytest.raises(VixmlError, match="chosen with other settings"):
        pack(Project(config, results), "shop", "chosen", 0, tmp_path / "m")
    # Made anew from other texts.
    lexical = place("hash-texts", results, dataset="shop")
    with stage(tmp_path / "anew", "hash-texts", config={}, inputs={}) as work:
        for file in lexical.glob("*.npy"):
            np.save(work / file.name, -np.load(file))
    shutil.rmtree(lexical)
    (tmp_path / "anew").rename(lexical)
    with pytest.raises(VixmlError, match="other folders than there are now") as caught:
        pack(Project(shop.project.config_dir, results), "shop", "chosen", 0, tmp_path / "m")
    assert "lexical" in caught.value.where and not (tmp_path / "m").exists()


@pytest.mark.parametrize(("damage", "what"), [
    (bytes_of(WEIGHTS, lambda data: data[:-100]), "cut short"), (bytes_of(Z, lambda data: data[:-1] + b"\x01"), "altered"),
    (lambda folder: (folder / LABELS / "values.npy").unlink(), "missing"),
    (lambda folder: shutil.rmtree(folder / "language"), "missing"), (lambda folder: (folder / HEADER).unlink(), "not a model folder"),
    (bytes_of(HEADER, lambda data: data[:200]), "not a JSON file"), (edited(format="vixml-model-2"), "newer version"),
    (edited(format="gguf"), "not the header"), (edited(files={}), "not packed"),
    (lambda folder: write_json(folder / HEADER, read_json(folder / HEADER) | {"seed": 7}), "header of a model folder was altered"),
    (lambda folder: write_json(folder / HEADER, {"format": "vixml-model-1"}), "does not know"),
    (json_of("config.json", lambda value: value | {"magic": 1}), "does not know"),
    (json_of(CONFIG, lambda value: value | {"auto_map": {"AutoModel": "evil.Evil"}}), "code of its own"),
    (edited(vision="eyes"), "does not know"), (edited(n_labels="many"), "does not know"), (edited(tokens=7), "does not know"),
    (edited(files=["head.safetensors"]), "does not know"), (edited(files={"head.safetensors": 1}), "does not know"),
    (edited(dim=True), "does not know"), (edited(magic=1), "does not know"), (json_of(CONFIG, lambda _: 7), "not a JSON object"),
    (json_of(CONFIG, lambda _: []), "not a JSON object"),
    (lambda folder: (folder / "language/adapter_config.json").write_text("{}"), "not packed"), (another_head, "do not fit"),
    (a_way_out, "outside itself"),
])  # fmt: skip
def test_a_folder_that_is_not_whole_is_one_clear_error(packed, tmp_path, damage, what):
    folder = Path(shutil.copytree(packed("text"), tmp_path / "m"))
    damage(folder)
    with pytest.raises(VixmlError, match=what):
        Tagger.load(folder)


def array(name, change):
    """Return what alters an array of a folder and signs it again."""

    def damage(folder: Path) -> None:
        changed = change(np.load(folder / name))
        (folder / name).unlink()
        np.save(folder / name, changed)
        resigned(folder, name)

    return damage


def fewer_rows(name):
    def damage(folder: Path) -> None:
        table = pq.read_table(folder / name)
        pq.write_table(table.slice(0, 4), folder / name)
        resigned(folder, name)

    return damage


def no_voters(folder: Path) -> None:
    files = read_json(folder / HEADER)["files"]
    edited(files={name: one for name, one in files.items() if name != VOTERS})(folder)


def with_a_gap(vectors: np.ndarray) -> np.ndarray:
    vectors[-1, -1] = np.nan
    return vectors


@pytest.mark.parametrize(("run", "damage", "what"), [
    ("text", array(Z, lambda z: z.astype(float)), "float64"), ("text", array(Z, lambda z: z[:, :7]), "(9, 7)"),
    ("text", array(Z, lambda z: z[:, 0]), "(9,)"), ("text", array(Z, lambda z: z[:4]), "(4, 32)"), ("text", bytes_of(Z, lambda _: b"no array", signed=True), "whole .npy"),
    ("text", array(Z, with_a_gap), "not finite"), ("frozen", array("labels/u.npy", lambda u: u[:4]), "(4, 32)"),
    ("text", fewer_rows("labels/items.parquet"), "4 rows"), ("text", fewer_rows("neighbours/items.parquet"), "4 rows"),
    ("text", array(VOTERS, lambda rows: rows[:7]), "(7, 32)"), ("text", array(VOTERS, with_a_gap), "not finite"),
    ("knn", array(VOTERS, lambda rows: rows[:, :32]), "32)"), ("chosen", array(VOTERS, lambda rows: rows[:, :32]), "32)"),
    ("text", json_of(f"{LABELS}/header.json", lambda value: value | {"n_cols": 99}), "99"), ("knn", no_voters, "lacks a file"),
    ("chosen", array("lexical.npy", lambda rows: rows[:, :9]), "(2, 9)"), ("chosen", array("linear/terms.npy", lambda t: t - 1 - t[0]), "terms"),
    ("chosen", array("linear/coefficients.npy", lambda rows: rows[:, :4]), "4)"),
    ("text", edited(dim=31), "31"), ("images", edited(image_dim=31), ""), ("images", edited(vision=None, image_dim=None), ""),
])  # fmt: skip
def test_parts_that_do_not_fit_each_other_are_refused_on_opening(packed, tmp_path, run, damage, what):
    folder = Path(shutil.copytree(packed(run), tmp_path / "m"))
    damage(folder)
    with pytest.raises(VixmlError) as caught:
        Tagger.load(folder)
    assert what in str(caught.value)


def test_the_card_tells_scores_use_data_and_licences(packed):
    card = (packed("images") / "README.md").read_text(encoding="utf-8")
    parts = ["# Shop: images", "not scored", "Intended use", "42 training items", "2 images per item"]
    assert [part for part in (*parts, "| language model: none |") if part not in card] == []
    assert read_json(packed("images") / "dataset.json")["catalogue"]["folder"] == "."
