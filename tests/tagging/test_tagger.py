"""Tags of new items: those of the pipeline for its test split, unseen words, pictures of any kind, added labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vixml import Tagger
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.stages import place
from vixml.tagging.tagger import Unreadable


def rows_of_test(shop) -> list[dict]:
    """Return the shop's test items as rows of its table."""
    rows = [json.loads(line) for line in (shop.folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    by_id = {row["id"]: row for row in rows}
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    found = []
    for item in corpus.ids("test"):
        row = by_id[item]
        # The pipeline drops a file that is no image; `tag` refuses it.
        photos = [str(shop.folder / name) for name in row["photos"] if name != "ember-20.png"]
        found.append({"name": row["name"], "more": row["more"], "photos": photos})
    return found


@pytest.mark.parametrize(
    "run",
    ["text", "text--augmented", "images", "images--augmented", "late", "decoder", "frozen", "knn"],
)
def test_tags_of_the_test_split_are_the_pipelines_predictions(shop, packed, run):
    tagger, rows = Tagger.load(packed(run)), rows_of_test(shop)
    folder = place("predict", shop.project.results, dataset="shop", run=run, seed=0, split="test")
    expected, scores = (np.load(folder / f"{name}.npy") for name in ("labels", "scores"))
    found = tagger.tag(rows, k=expected.shape[1])
    assert len(found) == len(expected) > 10
    for tags, labels, values in zip(found, expected, scores, strict=True):
        assert [tag.id for tag in tags] == [tagger.ids[label] for label in labels if label >= 0]
        np.testing.assert_allclose([tag.score for tag in tags], values[labels >= 0], atol=2e-6)
    # One at a time, another way through encoder and search leads to the same.
    for row, tags in zip(rows[:5], found, strict=False):
        (alone,) = tagger.tag([row], k=4, voters=0)
        assert [tag.label for tag in alone] == [tag.label for tag in tags[:4]]


def test_adapters(shop, packed):
    test_tags_of_the_test_split_are_the_pipelines_predictions(shop, packed, "adapters")
