"""A small dataset to export: odd texts, an image store with missing images, image embeddings, and a registry that names it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from images_helpers import png

from vixml.config.registry import World
from vixml.data.corpus import SPLITS, CorpusData, Items
from vixml.files import save_array, write_json
from vixml.images.embeddings import FORMAT
from vixml.images.export import export_dataset
from vixml.images.store import write_store
from vixml.provenance import stage
from vixml.ragged import Ragged

N_IMAGES, MISSING, DIM = 11, (0, 4, 10), 5
TEXTS = {
    "train": ["a plain one", "zwei | Striche", "line\nbreak", 'quotes "and" \\', "猫 and émoji 🐈", ""],
    "test": ["test a", "test b", "---\nname: no header"],
    "label": [f"label {i}" for i in range(7)],
}
SOURCE = {
    "kind": "place", "name": "Some images", "version": "3", "filename": "some.zip", "licence": "CC BY 4.0",
    "used_for": "all of it",
}  # fmt: skip
EYES = {"title": "Eyes", "checkpoint": "some/eyes", "kind": "hub", "image_size": 32, "dim": DIM, "licence": "MIT"}


def registry(**dataset) -> dict:
    """Return a registry of one dataset."""
    entry = {"title": "Tiny: a dataset", "builder": "picto", "sources": ["some"], "text": "a name", "stand_in": True}
    return {
        "sources": {"some": SOURCE},
        "datasets": {"tiny": entry | {"facts": {"pct_labels_with_images": 95.72}} | dataset},
        "text_models": {},
        "vision_models": {"eyes": EYES},
    }


def write_embeddings(folder: Path, vision: str, item_lists: dict[str, Ragged] | None = None, n: int = N_IMAGES) -> Path:
    """Export image embeddings of seeded vectors, with item lists or without."""
    rows = np.random.default_rng(n).standard_normal((n, DIM)).astype(np.float16)
    missing = list(MISSING) if item_lists is None else [1]
    rows[missing] = 0
    with stage(folder, "embed-images" if item_lists is None else "import-vectors", config={}, inputs={}) as work:
        save_array(work / "vectors.npy", rows)
        header = {
            "format": FORMAT,
            "n_images": n,
            "dim": DIM,
            "vision": vision,
            "precision": "fp32",
            "missing": missing,
        }
        for split, lists in (item_lists or {}).items():
            lists.save(work / f"{split}_images")
        write_json(work / "embeddings.json", header | ({"lists": "own"} if item_lists else {}))
    return folder


def write_place(root: Path) -> SimpleNamespace:
    """Write a corpus with odd texts, an image store of three shards with missing images, and image embeddings."""
    rng = np.random.default_rng(0)
    n = {split: len(texts) for split, texts in TEXTS.items()}
    keys = [f"image-{i}" for i in range(N_IMAGES)]
    images = {s: [rng.permutation(N_IMAGES)[: i % 4].tolist() for i in range(n[s])] for s in SPLITS}
    labels = {s: [sorted(rng.permutation(7)[: 1 + i % 3].tolist()) for i in range(n[s])] for s in ("train", "test")}
    data = CorpusData(
        items={split: Items([f"{split}-{i}" for i in range(n[split])], TEXTS[split]) for split in SPLITS},
        labels={split: Ragged.from_rows(rows, 7) for split, rows in labels.items()},
        image_keys=keys,
        image_sources=[f"some:{key}.svg" for key in keys],
        images={split: Ragged.from_rows(rows, N_IMAGES) for split, rows in images.items()},
        filters={"test": Ragged.from_rows([[1], [], [0, 2]], 7)},
    )
    with stage(root / "corpus", "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    rows = [(i, key, None if i in MISSING else png(i)) for i, key in enumerate(keys)]
    with stage(root / "images", "render-images", config={}, inputs={}) as work:
        write_store(work, rows, N_IMAGES, 3)
    embeddings = write_embeddings(root / "embeddings", "eyes")
    return SimpleNamespace(
        root=root, corpus=root / "corpus", images=root / "images", embeddings=embeddings, out=root / "out",
        pngs=[data for _, _, data in rows],
    )  # fmt: skip


def go(place: SimpleNamespace, **given) -> Path:
    """Export the place, with what is given in other ways; return the folder."""
    options = {
        "world": World.model_validate(registry()),
        "images": place.images,
        "embeddings": [place.embeddings],
    } | given
    export_dataset(options["world"], "tiny", place.corpus, options["images"], options["embeddings"], place.out)
    return place.out
