"""A user's images that were added, changed or named by another table are drawn again; nothing is drawn twice."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vixml.cli import main
from vixml.files import read_json

ROOT = Path(__file__).resolve().parents[2]
JOBS = CORPUS, IMAGES = "Build the corpus of shop", "Draw the images of shop"
MANIFEST = "results/data/shop/images/manifest.json"


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> Callable[[], list[str]]:
    """Return a function that makes the images of `shop` and returns the jobs that this took; ten images are there."""
    for name in ("Snakefile", "config", "rules", "profiles", "docs", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    Path("p").mkdir()
    for number in range(10):
        Image.new("RGB", (8, 8), "red").save(f"p/{number}.png")

    def made() -> list[str]:
        command = ["snakemake", MANIFEST, "--cores", "1", "--configfile", "shop.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return [job for job in JOBS if job in done.stdout + done.stderr]

    return made


def new(column: str) -> None:
    """Write a catalogue of twelve items, without the counts that its corpus must have."""
    rows = [f"{number},title {number},x|y,{number}.png" for number in range(12)]
    Path("t.csv").write_text("\n".join([f"id,title,tags,{column}", *rows]), encoding="utf-8")
    images = () if column == "image" else ("--id", "id", "--images", "none")
    assert main(["new", "shop", "t.csv", "--image-folder", "p", *images]) == 0
    file = Path("shop.yaml")
    file.write_text(re.sub(r" *expect: .*\n", "", file.read_text(encoding="utf-8")), encoding="utf-8")


def missing() -> int:
    return read_json(MANIFEST)["facts"]["n_missing"]


def test_images_of_a_column(jobs):
    new("image")
    assert jobs() == [CORPUS, IMAGES] and missing() == 2
    shutil.copy("p/0.png", "p/10.png")
    assert jobs() == [IMAGES] and missing() == 1
    Path("p/of no item.png").touch()
    assert jobs() == []
    Image.new("RGB", (9, 8), "blue").save("p/3.png")
    assert jobs() == [IMAGES]
    # Which images another table names is known once the corpus is built.
    table = Path("t.csv").read_text(encoding="utf-8")
    Path("t.csv").write_text(table.replace(",3.png", ",10.png"), encoding="utf-8")
    assert jobs() == [CORPUS, IMAGES] and jobs() == []


def test_images_named_by_ids(jobs):
    new("file")
    assert jobs() == [CORPUS, IMAGES] and missing() == 0 and jobs() == []
    shutil.copy("p/0.png", "p/10.png")
    assert jobs() == [CORPUS, IMAGES]
