"""Vision models of the hub: prepared, opened by either library, and the same vectors as the published model gives."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub_server import COMMIT, serve_hub
from images_helpers import png
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    BertConfig,
    BertModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from vixml.config.load import load_world
from vixml.config.registry import VisionModel
from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.images.vision import VisionSource, open_hub_vision, prepare_vision
from vixml.provenance import read_manifest

CONFIG = Path(__file__).resolve().parents[2] / "config"
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SIDE, PATCH = 48, 16
FP32 = torch.float32


def entry(kind="hub", checkpoint="Tiny/Eyes", **changes):
    settings = dict(title="Eyes", checkpoint=checkpoint, kind=kind, image_size=SIDE, dim=32, licence="none")
    return VisionModel(**settings | changes)


def random_weights(model):
    """Spread every parameter: fresh biases are zero and fresh norms one, and would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A model of text and images, with its processor, as its authors publish it."""
    text = dict(SMALL, vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    vision = dict(SMALL, image_size=SIDE, patch_size=PATCH)
    model = random_weights(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    processor = SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2)
    processor.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04a pickle")
    return folder, model.vision_model, processor


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    model = random_weights(ViTModel(ViTConfig(**SMALL, image_size=SIDE, patch_size=PATCH)))
    folder = tmp_path_factory.mktemp("vit")
    model.save_pretrained(folder)
    settings = dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=2)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **settings)
    processor.save_pretrained(folder)
    edit(folder / "preprocessor_config.json", size=SIDE)  # one number, as in the published file of the paper's ViT
    return folder, model, processor


def edit(path, **changes):
    """Change keys of a JSON file."""
    write_json(path, read_json(path) | changes)


def place(folder, raw, checkpoint="Tiny/Eyes"):
    return shutil.copytree(folder, raw / "hub" / checkpoint.replace("/", "--"))


def opened(folder, tmp_path, kind="hub", dtype=FP32, **changes):
    place(folder, tmp_path / "raw")
    prepare_vision("eyes", entry(kind, **changes), tmp_path / "raw", tmp_path / "eyes")
    return open_hub_vision("eyes", entry(kind, **changes), tmp_path / "eyes", "cpu", dtype)


@pytest.mark.parametrize("which", ["siglip", "vit"])
def test_vectors_equal_those_of_the_published_model_and_processor(which, request, tmp_path):
    folder, model, processor = request.getfixturevalue(which)
    encoder = opened(folder, tmp_path)
    images = [png(seed, size) for seed, size in ((1, SIDE), (2, 80), (3, 20))]
    pixels = torch.from_numpy(np.stack([encoder.preprocess(image) for image in images]))
    expected = processor([Image.open(io.BytesIO(image)) for image in images], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(encoder.normalise(pixels), expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        wanted = model(pixel_values=expected).pooler_output
    assert wanted.std(dim=0).min() > 1e-3, "the images tell in every number"
    torch.testing.assert_close(encoder.encode(pixels), wanted, rtol=1e-4, atol=1e-5)
    for row in range(3):  # a batch of one
        torch.testing.assert_close(encoder.encode(pixels[row : row + 1])[0], wanted[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_stays_close(siglip, tmp_path, dtype, bound):
    exact = opened(siglip[0], tmp_path)
    half = open_hub_vision("eyes", entry(), tmp_path / "eyes", "cpu", dtype)
    pixels = torch.from_numpy(np.stack([exact.preprocess(png(seed, SIDE)) for seed in range(4)]))
    found, wanted = half.encode(pixels), exact.encode(pixels)
    assert found.dtype == FP32
    assert (found - wanted).norm(dim=1).max() < bound * wanted.norm(dim=1).min()


def test_only_the_image_part_is_kept_byte_for_byte(siglip, tmp_path):
    folder, _, _ = siglip
    opened(folder, tmp_path)
    files = {path.name for path in (tmp_path / "eyes").iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json", "manifest.json"}
    whole, part = load_file(folder / "model.safetensors"), load_file(tmp_path / "eyes" / "model.safetensors")
    vision = {key: value for key, value in whole.items() if key.startswith("vision_model.")}
    assert {f"vision_model.{key}" for key in part} == set(vision)
    assert all(torch.equal(part[key], vision[f"vision_model.{key}"]) for key in part)
    manifest = read_manifest(tmp_path / "eyes")
    unused = len(whole) - len(part)
    assert manifest["facts"] == {"origin": "placed by hand", "revision": None, "unused_tensors": unused}
    assert set(manifest["inputs"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert manifest["config"] == {"vision": "eyes", **entry().settings("prepare-vision")}


def test_a_published_configuration_without_defaults_is_read(siglip, tmp_path):
    folder = place(siglip[0], tmp_path / "raw")
    settings = read_json(folder / "config.json")
    del settings["vision_config"]["model_type"]
    write_json(folder / "config.json", settings | {"auto_map": {"AutoModel": "code.Eyes"}})
    prepare_vision("eyes", entry(), tmp_path / "raw", tmp_path / "eyes")
    assert "auto_map" not in read_json(tmp_path / "eyes" / "config.json")


def test_a_model_is_fetched_and_its_commit_recorded(vit, tmp_path, monkeypatch):
    with serve_hub(monkeypatch, "Tiny/Eyes", vit[0]) as hub:
        prepare_vision("eyes", entry(), tmp_path / "raw", tmp_path / "eyes")
    assert read_manifest(tmp_path / "eyes")["facts"] == {"origin": "hub", "revision": COMMIT, "unused_tensors": 0}
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))], "no pickle, no code"
    assert not list((tmp_path / "raw" / "hub").iterdir()), "the download is handed over, not kept twice"


def test_a_download_is_kept_when_the_entry_does_not_match_it(vit, tmp_path, monkeypatch):
    with serve_hub(monkeypatch, "Tiny/Eyes", vit[0]) as hub:
        with pytest.raises(VixmlError, match="registry and the checkpoint differ"):
            prepare_vision("eyes", entry(dim=48), tmp_path / "raw", tmp_path / "eyes")
        fetched = len(hub.asked)
        prepare_vision("eyes", entry(), tmp_path / "raw", tmp_path / "eyes")
        weights = [path for path in hub.asked[fetched:] if path.endswith("model.safetensors")]
    assert len(weights) <= 1, "asked whether it is still the same, at most"


# -- open_clip ----------------------------------------------------------------------------------------------------------


@timm.models.register_model
def vit_tiny_siglip_for_tests(pretrained=False, **settings):
    """The architecture of SigLIP's image part as timm has it, small."""
    shape = dict(img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0)
    shape |= {key: settings[key] for key in ("num_classes", "global_pool")}
    return VisionTransformer(**shape, class_token=False, act_layer="gelu_tanh")


def to_timm(weights):
    """Rename SigLIP's tensors from transformers' names to timm's, and join query, key and value."""
    found = {}
    for key, value in weights.items():
        if ".self_attn." in key:
            layer, kind, part = key.split(".")[2], key.split(".")[4], key.split(".")[5]
            if kind == "out_proj":
                found[f"blocks.{layer}.attn.proj.{part}"] = value
            elif kind == "q_proj":
                three = [weights[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
                found[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat(three)
            continue
        for old, new in (
            ("embeddings.patch_embedding.", "patch_embed.proj."),
            ("embeddings.position_embedding.weight", "pos_embed"),
            ("encoder.layers.", "blocks."), (".layer_norm", ".norm"), ("post_layernorm.", "norm."),
            ("head.probe", "attn_pool.latent"), ("head.attention.out_proj.", "attn_pool.proj."),
            ("head.layernorm.", "attn_pool.norm."), ("head.mlp.", "attn_pool.mlp."),
        ):  # fmt: skip
            key = key.replace(old, new)
        if key.startswith("head.attention.in_proj_"):
            part = key.removeprefix("head.attention.in_proj_")
            query, rest = value[: len(value) // 3], value[len(value) // 3 :]
            found |= {f"attn_pool.q.{part}": query, f"attn_pool.kv.{part}": rest}
        else:
            found[key] = value[None] if key == "pos_embed" else value
    return found


@pytest.fixture(scope="module")
def open_clip_folder(siglip, tmp_path_factory):
    """The weights of `siglip` in the form that open_clip publishes, its text part beside them."""
    folder = tmp_path_factory.mktemp("open-clip")
    weights = {k.removeprefix("vision_model."): v for k, v in siglip[1].state_dict().items()}
    tensors = {f"visual.trunk.{key}": value.contiguous() for key, value in to_timm(weights).items()}
    save_file(tensors | {"text.token_embedding.weight": torch.ones(9, 4)}, folder / "open_clip_model.safetensors")
    vision = dict(image_size=SIDE, timm_model_name="vit_tiny_siglip_for_tests", timm_pool="map", timm_proj="none")
    text = dict(context_length=64, vocab_size=256000, hf_tokenizer_name="timm/Eyes", width=1152)
    config = {
        "model_cfg": {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"},
    }
    write_json(folder / "open_clip_config.json", config)
    return folder


def test_the_two_backends_agree_on_the_same_weights(siglip, open_clip_folder, tmp_path):
    first = opened(siglip[0], tmp_path / "a")
    second = opened(open_clip_folder, tmp_path / "b", "hub-open-clip")
    pixels = torch.from_numpy(np.stack([first.preprocess(png(seed, 70)) for seed in range(3)]))
    assert (second.preprocess(png(0, 70)) == pixels[0].numpy()).all()
    torch.testing.assert_close(second.encode(pixels), first.encode(pixels), rtol=1e-4, atol=1e-5)
    kept = load_file(tmp_path / "b" / "eyes" / "open_clip_model.safetensors")
    assert all(key.startswith("trunk.") for key in kept), "the text part is left out"


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "local-dir:/etc", "hf_hub:x/y"])
def test_a_name_that_would_load_from_elsewhere_is_refused(open_clip_folder, tmp_path, name):
    folder = place(open_clip_folder, tmp_path / "raw")
    config = read_json(folder / "open_clip_config.json")
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = name
    write_json(folder / "open_clip_config.json", config)
    with pytest.raises(VixmlError, match="not the configuration of an open_clip model"):
        prepare_vision("eyes", entry("hub-open-clip"), tmp_path / "raw", tmp_path / "eyes")


# -- bad input ----------------------------------------------------------------------------------------------------------


def without_pooler(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def edited(name, **changes):
    return lambda folder: edit(folder / name, **changes)


def of_text(folder):
    shape = SMALL | {"vocab_size": 50, "max_position_embeddings": 16}
    BertModel(BertConfig(**shape)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "changes", "says"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), {}, "checkpoint lacks a file"),
        (without_pooler, {}, "weights do not fit"),
        (edited("config.json", intermediate_size=48), {}, "weights do not fit"),
        (edited("preprocessor_config.json", size={"height": SIDE, "width": 9}), {}, "unsupported image processor"),
        (edited("preprocessor_config.json", image_mean=[0.5, 0.5]), {}, "unsupported image processor"),
        (of_text, {}, "vision model"),
        (lambda folder: None, {"dim": 33}, "registry and the checkpoint differ"),
        (lambda folder: None, {"image_size": 64}, "registry and the checkpoint differ"),
    ],
)
def test_an_unsuitable_checkpoint_is_one_clear_error(vit, tmp_path, damage, changes, says):
    damage(place(vit[0], tmp_path / "raw"))
    with pytest.raises(VixmlError, match=says):
        prepare_vision("eyes", entry(**changes), tmp_path / "raw", tmp_path / "eyes")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"], "nothing is left behind"


def test_a_model_of_the_hub_needs_a_folder_and_one_from_a_wheel_needs_no_preparation(tmp_path):
    world = load_world(CONFIG)
    with pytest.raises(VixmlError, match="needs its folder") as caught:
        VisionSource(world, "siglip2", tmp_path).open("cpu", "fp32")
    assert "vixml prepare-vision siglip2" in caught.value.hint
    with pytest.raises(VixmlError, match="needs no preparation"):
        prepare_vision("x", world.vision_models["efficientnet-lite0"], tmp_path, tmp_path / "out")
