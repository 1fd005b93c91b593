"""Image vectors as published take the place of pooling: what is trained from them is the same to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from vixml.data.corpus import SPLITS, Corpus
from vixml.files import read_json
from vixml.images.embeddings import ImageEmbeddings

VISION = "efficientnet-lite0"
DATA = "results/data/picto"
LEARNT = [
    f"results/runs/picto/vixml-minilm-l3/seed0/{name}"
    for name in (
        "model/model.safetensors",
        "index/test.npy",
        "test/predictions/labels.npy",
        "test/predictions/scores.npy",
    )
] + ["results/runs/picto/knn-vixml-minilm-l3/seed0/test/predictions/scores.npy"]


def publish_vectors(root: Path) -> None:
    """Write the pooled vectors as somebody would publish them, in results/raw, and name them in the registry."""
    corpus, embeddings = Corpus.load(root / DATA / "corpus"), ImageEmbeddings.open(root / DATA / "embeddings" / VISION)
    registry = yaml.safe_load((root / "config/datasets.yaml").read_text(encoding="utf-8"))
    published = {}
    for split in SPLITS:
        lists = embeddings.lists(corpus.images(split), per_item=100)
        # Their own order of rows: nothing may hang on image ids.
        order = np.random.default_rng(0).permutation(len(lists.values))
        place = np.argsort(order)
        rows = np.empty(len(lists), dtype=object)
        for item in range(len(lists)):
            first, last = lists.offsets[item : item + 2]
            rows[item] = place[first:last].tolist() if last > first else -1
        vectors = embeddings.gather(lists.values[order])
        published[split] = {}
        for key, array in (("vectors", vectors), ("map", rows)):
            name = f"eyes-{split}-{key}"
            np.save(root / "results/raw" / f"{name}.npy", array, allow_pickle=key == "map")
            registry["sources"][name] = {
                "kind": "place", "name": name, "version": "-", "filename": f"{name}.npy", "licence": "none",
                "used_for": "tests",
            }  # fmt: skip
            published[split][key] = name
    registry["datasets"]["picto"]["published_vectors"] = {VISION: published}
    (root / "config/datasets.yaml").write_text(yaml.safe_dump(registry, sort_keys=False), encoding="utf-8")


def test_training_from_published_vectors_is_training_from_images(apart):
    before = {name: (apart.root / name).read_bytes() for name in LEARNT}
    publish_vectors(apart.root)
    planned = apart.planned()
    assert planned["import_vectors"] == 1 and planned["train_model"] == 1 and "embed_images" not in planned
    assert not {"build_corpus", "render_images"} & set(planned), "neither corpus nor images depend on the vectors"
    apart.run("snakemake", "--cores", "2")
    embeddings = apart.root / DATA / "embeddings" / VISION
    assert read_json(embeddings / "manifest.json")["stage"] == "import-vectors"
    assert {name: (apart.root / name).read_bytes() for name in LEARNT} == before
    assert apart.planned() == {}
    apart.run("vixml", "check")
    # The page of formats names what was written.
    page = (apart.root / "docs/formats.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in read_json(embeddings / "embeddings.json"))
    # The switch of the workflow leads back to the images.
    back = apart.planned("--config", "published_vectors=False")
    assert back["embed_images"] == 1 and "import_vectors" not in back


def test_the_data_is_published_and_loaded(apart, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    assert apart.planned("export") == {"export_dataset": 1, "export": 1}
    apart.run("snakemake", "--cores", "1", "export")
    folder = apart.root / "results/exported/picto"
    corpus = Corpus.load(apart.root / DATA / "corpus")

    def load(config: str, split: str):
        return datasets.load_dataset(str(folder), config, split=split, cache_dir=str(tmp_path / "cache"))

    for split in ("train", "test"):
        assert load("queries", split)["text"][:] == corpus.texts(split)
    assert load("labels", "label")["text"][:] == corpus.texts("label")
    assert len(load("images", "image")) == len(load(f"vectors-{VISION}", "vector")) == corpus.n_images
    assert apart.planned("export") == {}
