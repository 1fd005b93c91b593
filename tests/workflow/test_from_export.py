"""From an export to tags by commands alone: ``new``, ``fit``, ``tag``; the workflow by itself makes the same; ``--from`` continues."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import same_bytes
import tiny_world
from PIL import Image

from vixml.files import read_json

pytestmark = pytest.mark.slow


def export(folder: Path, extra: int = 0) -> None:
    """Write a table of items and their images; ``extra`` items have a label that is new."""
    (folder / "photos").mkdir(exist_ok=True)
    rows = [
        [f"A{number:03d}", f"{shape} {colour}", "|".join(tiny_world._tags(colour, shape)), f"{colour}.png"]
        for number, (colour, shape) in enumerate(product(tiny_world.COLOURS, tiny_world.SHAPES))
    ]
    rows += [[f"X{number}", f"box flag {number}", "red|parcel", "ember.png"] for number in range(extra)]
    for colour, value in tiny_world.COLOURS.items():
        Image.new("RGB", (40, 30), value).save(folder / "photos" / f"{colour}.png")
    with open(folder / "export.csv", "w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream, delimiter=";").writerows([["id", "title", "tags", "photo"], *rows])


def tags(copy, model: str) -> list[dict[str, str]]:
    """Return the tags of two new items."""
    (copy.root / "new.csv").write_text("id;title;photo\nN1;kite river;photos/river.png\nN2;post moss;\n")
    copy.run("vixml", "tag", "new.csv", "--model", model, "--out", "tags.csv", "--k", "3")
    return list(csv.DictReader(io.StringIO((copy.root / "tags.csv").read_text(encoding="utf-8"))))


def test_from_an_export_to_tags(apart, programs, monkeypatch):
    copy = apart
    monkeypatch.setenv("PATH", programs, prepend=os.pathsep)  # `fit` brings its own
    export(copy.root)
    printed = copy.run("vixml", "new", "shop", "export.csv", "--image-folder", "photos")
    assert "vixml fit shop.yaml" in printed
    said = copy.run("vixml", "fit", "shop", "--cores", "2")
    table = [line for line in said.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table[1:]] == [
        "Popularity", "Untrained, nearest neighbours", "Linear model on TF-IDF", "Trained on text",
        "Trained on text and images", "The same, local ridge votes",
    ]  # fmt: skip
    assert "±" in said and "the best baseline" in said and "no queries were held out of train to choose on" in said
    # The file names nothing of this machine that tagging needs: the folder can be moved.
    (copy.root / "shop.model").rename(copy.root / "moved.model")
    assert not any(str(copy.root).encode() in path.read_bytes() for path in (copy.root / "moved.model").rglob("*.json"))
    found = tags(copy, "moved.model")
    assert {(row["id"], row["rank"]) for row in found} == {(item, str(k)) for item in ("N1", "N2") for k in (1, 2, 3)}

    # Snakemake finds everything made, and makes the same bytes by itself.
    assert "Nothing to be done" in copy.run("snakemake", "-n", "--configfile", "shop.yaml")
    made = copy.root / "results"
    kept = made.rename(copy.root / "by-fit")
    shutil.copytree(kept / "raw", made / "raw")
    copy.run("snakemake", "--cores", "2", "--quiet", "all", "--configfile", "shop.yaml")
    of_shop = [path for part in ("data/shop", "runs/shop") for path in (made / part).rglob("*") if path.is_file()]
    assert len(of_shop) > 50
    names = [path.relative_to(made).as_posix() for path in of_shop]
    assert not [name for name in names if same_bytes._timeless(made, name) != same_bytes._timeless(kept, name)]

    # More items and a new label: the earlier model is the start, and the file says so.
    export(copy.root, extra=8)
    copy.run("vixml", "new", "shop", "export.csv", "--image-folder", "photos", "--force")
    said = copy.run("vixml", "fit", "shop", "--from", "moved.model", "--out", "next.model")
    assert "labels keep their vectors, 1 are new" in said
    assert "start: {folder: moved.model" in (copy.root / "shop.yaml").read_text(encoding="utf-8")
    names = read_json(copy.root / "next.model/model.json")
    assert names["n_labels"] == len({row["label"] for row in tags(copy, "moved.model")} | set(tiny_world.TAGS)) + 1


def test_an_interrupted_fit_resumes(apart):
    export(apart.root)
    apart.run("vixml", "new", "shop", "export.csv", "--image-folder", "photos")
    process = subprocess.Popen(
        [sys.executable, "-m", "vixml", "fit", "shop"], cwd=apart.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(apart.root / "src"), "CI": "1"}, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background may have it ignored
    )  # fmt: skip
    for line in process.stdout:
        if "Train " in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    said = process.stdout.read().splitlines()
    assert process.wait() == 130 and said[-2].startswith("Interrupted.") and said[-1].startswith("To resume,"), said
    assert "shop.model" in apart.run("vixml", "fit", "shop")


def test_a_job_that_ends_as_its_run_is_interrupted_is_kept(apart, tmp_path):
    """Snakemake itself records nothing of it."""
    export(apart.root)
    apart.run("vixml", "new", "shop", "export.csv", "--image-folder", "photos")
    program = tmp_path / "vixml"
    program.write_text(
        f'#!/bin/sh\n{sys.executable} -m vixml "$@"\ncase "$1-$2-$3" in train-shop-text) kill -INT 0;; esac\n'
    )
    program.chmod(0o755)
    process = subprocess.Popen(
        ["snakemake", "--cores", "2", "--configfile", "shop.yaml"], cwd=apart.root, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(apart.root / "src"), "CI": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    said = process.communicate()[0]
    assert process.returncode == 130 and "To resume," in said.splitlines()[-1], said
    model = apart.root / "results/runs/shop/text/seed0/model/manifest.json"
    made = model.stat().st_mtime_ns
    apart.run("snakemake", "--cores", "2", "--configfile", "shop.yaml")
    assert model.stat().st_mtime_ns == made
