"""Vision encoders of the model hub: a ViT or SigLIP by transformers, or SigLIP by open_clip, behind one interface.

Both backends end in the same :class:`HubVision`: what differs is how a folder of ``vixml prepare-vision`` becomes a network,
and under which names its processor's settings stand. Vectors are the network's own pooled output (for SigLIP its attention
pooling, METHOD 2; for ViT the pooler that was trained with it), before any normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vixml import whole_torchvision as _first  # noqa: F401 -- before transformers and open_clip
from vixml.config.world import VisionModel
from vixml.data.hub_checkpoint import Layout, unknown_architecture
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.images.decode import decode_square

TRANSFORMERS = Layout(
    required=("preprocessor_config.json",),
    hint="the mean and the deviation of the pixels stand in it: take a checkpoint that has one",
)
OPEN_CLIP = Layout(config="open_clip_config.json", weights="open_clip_model.safetensors")
LAYOUTS = {"hub": TRANSFORMERS, "hub-open-clip": OPEN_CLIP}
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# open_clip hands this name to timm, which would follow `hf-hub:` and `local-dir:` to other places.
TIMM_NAME = re.compile(r"^[a-z0-9_]+$")


@dataclass(frozen=True)
class Processing:
    """How a picture becomes numbers: ``(pixels * scale - mean) / std``, each colour by itself.

    Attributes:
        size: side in pixels.
        resample: how a picture of another size is brought to it.
        scale: factor of the pixels 0 to 255.
        mean: of the scaled pixels, red, green, blue.
        std: their deviation.
    """

    size: int
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class HubVision:
    """A frozen network of the hub (a :class:`vixml.images.vision.VisionEncoder`).

    Args:
        name: its entry in config/models.yaml.
        network: maps (n, 3, size, size) to (n, dim); already of this type and on this device.
        processing: how pixels become its input.
        dim: length of the vector.
        device: ``cpu`` or ``cuda``.
        dtype: of the network's weights.
    """

    def __init__(
        self,
        name: str,
        network: Callable[[torch.Tensor], torch.Tensor],
        processing: Processing,
        dim: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.dim, self.image_size = name, dim, processing.size
        self.network, self.device, self.dtype = network, device, dtype
        self.processing = processing
        shape = (1, 3, 1, 1)
        mean = torch.tensor(processing.mean, device=device).view(shape)
        std = torch.tensor(processing.std, device=device).view(shape)
        self._mean, self._std = mean, std

    def preprocess(self, png: bytes) -> np.ndarray:
        """Decode to (image_size, image_size, 3) uint8; another size is fitted as the checkpoint's processor resizes."""
        return decode_square(png, self.image_size, self.processing.resample)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Map (n, h, w, 3) uint8 to (n, 3, h, w) float32, as the checkpoint's processor does."""
        pixels = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return (pixels * self.processing.scale - self._mean) / self._std

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Pool (n, h, w, 3) uint8 to (n, dim) float32."""
        return self.network(self.normalise(batch).to(self.dtype)).float()


def open_hub_vision(name: str, entry: VisionModel, folder: Path, device: str, dtype: torch.dtype) -> HubVision:
    """Open a vision encoder from the folder that ``vixml prepare-vision`` wrote.

    Args:
        name: its entry in config/models.yaml.
        entry: that entry; its size and dimension must be the network's.
        folder: with configuration, weights and, for transformers, the processor's settings.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and activations.

    Raises:
        VixmlError: weights that lack a parameter or do not fit, an unknown architecture, another size or dimension than
            the entry's, a network without a pooled output.
    """
    opened = _open_clip_network if entry.kind == "hub-open-clip" else _transformers_network
    network, processing = opened(folder, device, dtype)
    if processing.size != entry.image_size:
        raise _of_another_network(name, "image_size", entry.image_size, processing.size)
    encoder = HubVision(name, network, processing, entry.dim, device, dtype)
    blank = torch.zeros(1, processing.size, processing.size, 3, dtype=torch.uint8)
    found = encoder.encode(blank).shape[1]
    if found != entry.dim:
        raise _of_another_network(name, "dim", entry.dim, found)
    return encoder


def _transformers_network(folder: Path, device: str, dtype: torch.dtype) -> tuple[Callable, Processing]:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # a stage draws its own
    path = folder / TRANSFORMERS.config
    try:
        network, report = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
        )
    except (ValueError, TypeError, KeyError) as error:
        raise unknown_architecture(path, read_json(path), error) from error
    except RuntimeError as error:  # a tensor of another shape
        raise _unfit(folder, str(error).strip().splitlines()[-1]) from error
    if network.main_input_name != "pixel_values":
        raise VixmlError(
            "not a vision model",
            where=path,
            found=type(network).__name__,
            expected="a network that reads pictures",
            hint="correct `checkpoint` in config/models.yaml",
        )
    if report["missing_keys"]:
        raise _unfit(folder, "no " + ", ".join(sorted(report["missing_keys"])[:3]))
    network = network.eval().requires_grad_(False).to(device)

    def pooled(pixels: torch.Tensor) -> torch.Tensor:
        output = getattr(network(pixel_values=pixels), "pooler_output", None)
        if output is None:
            raise VixmlError(
                "a vision model without a pooled output",
                where=path,
                found=type(network).__name__,
                expected="pooler_output, as ViT and SigLIP have it",
                hint="take a checkpoint with a pooler, or its attention pooling",
            )
        return output

    return pooled, _processing(folder / TRANSFORMERS.required[0])


def _processing(path: Path) -> Processing:
    """Read a processor's settings as transformers writes them."""
    said = read_json(path)
    size = said.get("size", {})
    side = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
    other = size.get("width", side) if isinstance(size, dict) else side
    if said.get("do_center_crop") and side is not None:
        crop = said.get("crop_size", side)
        other = crop.get("height") if isinstance(crop, dict) else crop
    if not isinstance(side, int) or side != other:
        raise VixmlError(
            "a processor of another kind",
            where=f"{path}: size",
            found=f"{said.get('size')}, cropped to {other}" if said.get("do_center_crop") else said.get("size"),
            expected="one side in pixels, or equal height and width",
            hint="the pictures of the store are square; take a checkpoint for square pictures",
        )
    scaled, normal = said.get("do_rescale", True), said.get("do_normalize", True)
    return Processing(
        size=side,
        resample=Image.Resampling(said.get("resample", Image.Resampling.BICUBIC)),
        scale=float(said.get("rescale_factor", 1 / 255)) if scaled else 1.0,
        mean=_three(said.get("image_mean") if normal else (0, 0, 0), path, "image_mean"),
        std=_three(said.get("image_std") if normal else (1, 1, 1), path, "image_std"),
    )


def _open_clip_network(folder: Path, device: str, dtype: torch.dtype) -> tuple[nn.Module, Processing]:
    import open_clip
    from safetensors.torch import load_file

    path = folder / OPEN_CLIP.config
    said = read_json(path)
    model, process = said.get("model_cfg", {}), said.get("preprocess_cfg", {})
    vision = dict(model.get("vision_cfg", {}))
    timm_name = vision.get("timm_model_name")
    if "embed_dim" not in model or (timm_name is not None and not TIMM_NAME.match(str(timm_name))):
        raise VixmlError(
            "not the configuration of an open_clip model",
            where=f"{path}: model_cfg",
            found=f"timm_model_name {timm_name}" if "embed_dim" in model else ", ".join(model) or "nothing",
            expected="embed_dim, vision_cfg (with a plain timm_model_name, if any)",
        )
    try:
        # The smallest text network that can be made: it is thrown away.
        text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        vision |= {"timm_model_pretrained": False} if timm_name else {}
        network = open_clip.CustomTextCLIP(embed_dim=model["embed_dim"], vision_cfg=vision, text_cfg=text).visual
    except (RuntimeError, TypeError, ValueError) as error:
        raise unknown_architecture(path, {"model_type": timm_name or "open_clip"}, error, "open_clip") from error
    try:
        network.load_state_dict(load_file(folder / OPEN_CLIP.weights))
    except RuntimeError as error:
        raise _unfit(folder, str(error).strip().splitlines()[-1].strip()) from error
    size = vision.get("image_size", 224)
    processing = Processing(
        size=size[0] if isinstance(size, list) and len(set(size)) == 1 else size,
        resample=INTERPOLATION.get(process.get("interpolation", "bicubic"), Image.Resampling.BICUBIC),
        scale=1 / 255,
        mean=_three(process.get("mean"), path, "preprocess_cfg.mean"),
        std=_three(process.get("std"), path, "preprocess_cfg.std"),
    )
    return network.eval().requires_grad_(False).to(device, dtype), processing


def _three(values: Sequence[Any] | None, path: Path, key: str) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise VixmlError("a processor of another kind", where=f"{path}: {key}", found=values, expected="three numbers")
    return tuple(float(value) for value in values)


def _unfit(folder: Path, found: str) -> VixmlError:
    return VixmlError(
        "the weights do not fit the architecture",
        where=folder,
        found=found,
        hint="configuration and weights are of two checkpoints, or of a form that is not known here",
    )


def _of_another_network(name: str, key: str, expected: int, found: int) -> VixmlError:
    return VixmlError(
        "the registry says something else than the checkpoint",
        where=f"config/models.yaml: vision_models.{name}.{key}",
        found=expected,
        expected=f"{found}, as the checkpoint has it",
    )
