"""docs/dataset.md is followed to the letter: its tables, its entry, its counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from vixml.check.fit import expect_fit
from vixml.cli import main
from vixml.config.load import load_workflow, load_world
from vixml.config.project import Project
from vixml.data.corpus import Corpus
from vixml.files import read_json
from vixml.images.store import ImageStore

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/dataset.md").read_text(encoding="utf-8")
BLOCKS = [(kind, text) for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


def block(kind: str, number: int = 0) -> str:
    return [text for found, text in BLOCKS if found == kind][number]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder like the repository's root, with the page's `shop` and its photos."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/datasets.yaml").write_text(block("yaml", 0), encoding="utf-8")
    (tmp_path / "shop/models.yaml").write_text(block("yaml", 1), encoding="utf-8")
    photos = tmp_path / "results/raw/shop/photos"
    photos.mkdir(parents=True)
    for name, colour in (("rod.jpg", "red"), ("reel.jpg", "green"), ("net.png", "blue"), ("stove.jpg", "grey")):
        Image.new("RGB", (40, 30), colour).save(photos / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_the_tables_build_as_the_page_says(place, kind):
    path = place / "results/raw/shop" / {"json": "items.jsonl", "csv": "items.csv"}[kind]
    path.write_text(block(kind), encoding="utf-8")
    entry = (place / "shop/datasets.yaml").read_text(encoding="utf-8")
    (place / "shop/datasets.yaml").write_text(entry + block("yaml", 2), encoding="utf-8")
    assert main(re.search(r"`vixml (build-corpus [^`]*)`", PAGE)[1].split()) == 0
    corpus = Corpus.load(place / "results/data/shop/corpus")
    texts = ["Camping stove", "Fish hooks", "Fishing rod, 2 m", "Landing net", "Tent for three"]
    assert sorted(corpus.texts("train") + corpus.texts("test")) == texts
    assert corpus.texts("label") == ["fishing", "outdoor"]
    command = "render-images shop --out images --config-dir shop"
    assert main(command.split()) == 0
    assert len(list(ImageStore.open(place / "images"))) == 4
    assert read_json(place / "images/manifest.json")["facts"]["n_missing"] == 0
    # The runs of the example can be trained on it, with what the page says to change.
    copy_example(place)
    runs = place / "shop/runs/shop.yaml"
    assert "`images.per_item`" in PAGE
    runs.write_text(runs.read_text(encoding="utf-8").replace("per_item: 3", "per_item: 2"), encoding="utf-8")
    project = Project(Path("shop"), Path("results"))
    expect_fit(project, [("shop", run, "test") for _, run in project.runs])


def copy_example(place: Path) -> None:
    """Copy the example's runs, table and workflow to the page's `shop`, with other names."""
    for kind in ("runs", "tables", "."):
        (place / "shop" / kind).mkdir(exist_ok=True)
        text = (ROOT / "examples/cataclysm/config" / kind / "cataclysm.yaml").read_text(encoding="utf-8")
        (place / "shop" / kind / "shop.yaml").write_text(
            text.replace("examples/cataclysm/config", "shop").replace("cataclysm", "shop"), encoding="utf-8"
        )


def test_the_plan_is_asked_for_counts_until_they_are_there(place, capsys):
    copy_example(place)
    command = re.search(r"^vixml (plan .*?)  ", PAGE, re.MULTILINE)[1].split()
    assert main(command) == 2 and "counts.json in its folder has them" in capsys.readouterr().err
    with open(place / "shop/datasets.yaml", "a") as stream:
        stream.write(block("yaml", 2))
    assert main(command) == 0
    assert "shop" in capsys.readouterr().out


def test_every_message_that_the_page_names_is_one_of_the_code():
    files = [*(ROOT / "src/vixml").rglob("*.py"), *(ROOT / "rules").glob("*.smk")]
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    table = PAGE.split("## What may go wrong")[1].split("\n\n")[2]
    cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    messages = [message for cell in cells for message in re.findall(r"`(?:\.\.\. )?(.*?)`", cell)]
    assert len(messages) > 10 and [message for message in messages if message not in sources] == []


def test_the_example_is_the_one_in_the_repository():
    entry = load_world(ROOT / "examples/cataclysm/config").datasets["cataclysm"]
    shown = yaml.safe_load(block("yaml", 3))
    assert shown["catalogue"].items() <= entry.catalogue.model_dump().items() and shown["text"] == entry.text
    counts = entry.expect
    said = re.search(r"cataclysm: ([\d,]+) items, ([\d,]+) labels, [\d,]+ pairs, ([\d,]+) sprites", PAGE)
    numbers = [int(number.replace(",", "")) for number in said.groups()]
    assert numbers == [counts.n_train + counts.n_test, counts.n_labels, counts.n_images]
    assert f"{counts.n_test} test items" in PAGE


def test_the_example_asks_for_what_its_folder_holds(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = "examples/cataclysm/config/cataclysm.yaml"
    config = load_workflow(yaml.safe_load(Path(path).read_text(encoding="utf-8")), path)
    assert f"--configfile {path}" in PAGE and config.tables == ["cataclysm"]
