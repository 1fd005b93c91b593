"""Checkpoints of the hub: placed by hand or fetched, whole or cut to their text part."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers import TOKENIZER
from hub_server import COMMIT, serve_hub, turn_away
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Gemma3Config, Gemma3ForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

from vixml.config.registry import TextModel
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file, write_json
from vixml.models.weights import prepare_model
from vixml.provenance import read_manifest

NAME = "Tiny/Qwen2"
INDEX = "model.safetensors.index.json"
SMALL = dict(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=64, max_position_embeddings=48,
)  # fmt: skip
TOKENS = torch.tensor([[5, 7, 11, 2]])


def entry(checkpoint=NAME, **changes):
    settings = dict(title="Tiny", checkpoint=checkpoint, kind="hub", hidden_size=32, parameters="9k", licence="none")
    return TextModel(**settings | changes)


def publish(model, folder, **options):
    """Write a checkpoint as its authors do, with a pickle and code beside it that must not be read."""
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}', encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code of the repository was run')", encoding="utf-8")
    config = read_json(folder / "config.json") | {"auto_map": {"AutoModel": "modeling_tiny.TinyModel"}}
    write_json(folder / "config.json", config)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A causal model of 16-bit weights, with a separate head, in two shards."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=False)).to(torch.bfloat16)
    folder = publish(model, tmp_path_factory.mktemp("qwen"), max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) == 2
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """A multi-modal model: text and vision share a shard."""
    torch.manual_seed(0)
    text = SMALL | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
    vision = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=28, patch_size=14
    )
    tokens = dict(mm_tokens_per_image=1, image_token_index=59, boi_token_index=58, eoi_token_index=57)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens))
    folder = publish(model, tmp_path_factory.mktemp("gemma"), max_shard_size="60KB")
    return folder, model.eval()


def place(folder, raw, checkpoint=NAME):
    return shutil.copytree(folder, raw / "hub" / checkpoint.replace("/", "--"))


def test_a_placed_checkpoint_in_shards_is_taken_as_it_is(qwen, tmp_path):
    placed = place(qwen, tmp_path / "raw")
    prepare_model("tiny", entry(), {}, tmp_path / "raw", tmp_path / "model")
    shards = sorted(path.name for path in qwen.glob("model-*.safetensors"))
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"config.json", INDEX, "tokenizer.json", "tokenizer_config.json", "manifest.json", *shards}
    for name in shards:
        assert sha256_file(tmp_path / "model" / name) == sha256_file(qwen / name) == sha256_file(placed / name)
    assert read_json(tmp_path / "model" / INDEX)["weight_map"] == read_json(qwen / INDEX)["weight_map"]
    assert "auto_map" not in read_json(tmp_path / "model" / "config.json")
    model, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(model).__name__ == "Qwen2Model" and not report["missing_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}, "the published precision"
    expected = Qwen2ForCausalLM.from_pretrained(qwen).model(TOKENS).last_hidden_state
    assert torch.equal(model(TOKENS).last_hidden_state, expected)
    manifest = read_manifest(tmp_path / "model")
    assert manifest["facts"] == {"origin": "placed by hand", "revision": None, "unused_tensors": ["lm_head.weight"]}
    assert manifest["inputs"][shards[0]]["sha256"] == sha256_file(qwen / shards[0])
    assert set(manifest["inputs"]) == files - {"manifest.json"}


def test_one_file_without_a_head_needs_no_index(tmp_path):
    publish(AutoModel.from_config(Qwen2Config(**SMALL)), tmp_path / "raw" / "hub" / "Tiny--Qwen2")
    prepare_model("tiny", entry(), {}, tmp_path / "raw", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file() and not (tmp_path / "model" / INDEX).exists()
    assert read_manifest(tmp_path / "model")["facts"]["unused_tensors"] == []


def test_of_a_multi_modal_checkpoint_the_text_part_is_cut_out(gemma, tmp_path):
    folder, whole = gemma
    place(folder, tmp_path / "raw", "google/tiny")
    mixed = [name for name in folder.glob("model-*") if len({k.split(".")[0] for k in load_file(name)}) > 1]
    assert mixed, "a shard holds both"
    prepare_model("tiny", entry("google/tiny"), {}, tmp_path / "raw", tmp_path / "model")
    model, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(model).__name__ == "Gemma3TextModel"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = whole.model.language_model(TOKENS).last_hidden_state
        assert torch.equal(model.eval()(TOKENS).last_hidden_state, expected)
    index = read_json(tmp_path / "model" / INDEX)
    assert not any("vision" in key or "projector" in key for key in index["weight_map"])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert index["metadata"]["total_size"] == size
    for name in set(index["weight_map"].values()):
        with safe_open(tmp_path / "model" / name, framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}
            assert set(shard.keys()) == {key for key, file in index["weight_map"].items() if file == name}


def cut_a_shard(folder):
    shard = min(folder.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9])


def mix_shards(folder):
    shard = max(folder.glob("model-*.safetensors"))
    save_file({f"other.{k}": v for k, v in load_file(shard).items()}, shard)


def lead_outside(folder):
    write_json(folder / INDEX, {"weight_map": {"a": "../../x.safetensors"}})


def change_config(**changes):
    return lambda folder: write_json(folder / "config.json", read_json(folder / "config.json") | changes)


@pytest.mark.parametrize(
    ("damage", "message", "where"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "checkpoint lacks a file", "config.json"),
        (lambda folder: (folder / INDEX).unlink(), "checkpoint lacks a file", "model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "checkpoint lacks a file", "tokenizer.json"),
        (lead_outside, "not an index of", INDEX),
        (cut_a_shard, "weights file cannot be read", ".safetensors"),
        (mix_shards, "shards are not those of the index", INDEX),
        (change_config(intermediate_size=48), "do not fit the architecture", "layers.0.mlp.down_proj.weight"),
        (change_config(num_hidden_layers=3, layer_types=None), "do not fit the architecture", "layers.2."),
        (change_config(model_type="tiny-invention"), "architecture is not known", "model_type"),
    ],
    ids=["nothing", "pickles only", "no tokenizer", "path outside", "cut", "mixed", "narrow", "deeper", "unknown"],
)
def test_an_incomplete_or_damaged_checkpoint_is_one_clear_error(qwen, tmp_path, damage, message, where):
    damage(place(qwen, tmp_path / "raw"))
    with pytest.raises(VixmlError, match=message) as caught:
        prepare_model("tiny", entry(), {}, tmp_path / "raw", tmp_path / "model")
    assert where in str(caught.value.where)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"], "nothing is left behind"


@pytest.fixture
def hub(qwen, monkeypatch):
    with serve_hub(monkeypatch, NAME, qwen) as answers:
        yield answers


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_checkpoint_is_fetched_and_its_commit_recorded(hub, qwen, tmp_path, revision):
    prepare_model("tiny", entry(revision=revision), {}, tmp_path / "raw", tmp_path / "model")
    facts = read_manifest(tmp_path / "model")["facts"]
    assert facts == {"origin": "hub", "revision": COMMIT, "unused_tensors": ["lm_head.weight"]}
    for path in [*qwen.glob("*.safetensors"), qwen / "tokenizer.json"]:
        assert sha256_file(tmp_path / "model" / path.name) == sha256_file(path)
    fetched = [path for path in hub.asked if "/resolve/" in path]
    assert fetched and not [path for path in fetched if path.endswith((".bin", ".py"))], "no pickle, no code"
    assert not list((tmp_path / "raw" / "hub").iterdir()), "the download is moved, not copied"


def test_a_placed_folder_takes_precedence_over_the_hub(hub, qwen, tmp_path):
    place(qwen, tmp_path / "raw")
    prepare_model("tiny", entry(), {}, tmp_path / "raw", tmp_path / "model")
    assert not hub.asked


@pytest.mark.parametrize("status, hint", [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "revision"), (None, "network")])
def test_the_error_of_a_hub_that_does_not_answer_names_the_folder_to_fill(hub, tmp_path, monkeypatch, status, hint):
    hub.status = status
    if status is None:
        turn_away(monkeypatch)
    with pytest.raises(VixmlError, match="cannot fetch Tiny/Qwen2") as caught:
        prepare_model("tiny", entry(), {}, tmp_path / "raw", tmp_path / "model")
    assert hint in caught.value.hint and str(tmp_path / "raw" / "hub" / "Tiny--Qwen2") in caught.value.hint
    assert not (tmp_path / "model").exists()
