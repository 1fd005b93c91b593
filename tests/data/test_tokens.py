"""Tokens: those of the model's own tokenizer, cut, never padded."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from vixml.data.corpus import SPLITS, Corpus
from vixml.data.tokens import tokenize_corpus
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file
from vixml.ragged import Ragged

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def make_tokenizer(folder, **settings):
    """Write a small BERT tokenizer that, as published ones do, pads and truncates by itself."""
    pieces = [*LETTERS, *("##" + c for c in LETTERS), "heart", "love", "##ve"]
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(5)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "model_max_length": 512} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_equals_the_models_own_tokenizer(picto, tmp_path):
    from transformers import AutoTokenizer

    folder = make_tokenizer(tmp_path / "model")
    tokenize_corpus(picto[0], folder, 9, tmp_path / "tokens", model="tiny")
    corpus, theirs = Corpus.load(picto[0]), AutoTokenizer.from_pretrained(folder)
    for split in SPLITS:
        tokens = Ragged.load(tmp_path / "tokens" / split)
        expected = theirs(corpus.texts(split), truncation=True, max_length=9, padding=False)["input_ids"]
        assert [tokens.row(i).tolist() for i in range(len(tokens))] == expected
        assert tokens.lengths.max() <= 9 and 0 not in tokens.values
        assert tokens.header == {
            "tokenizer": "tiny",
            "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
            "max_len": 9,
            "pad_id": 0,
        }
    manifest = read_json(tmp_path / "tokens" / "manifest.json")
    assert manifest["facts"]["train"]["longest"] == 9 and manifest["facts"]["train"]["at_max_len"] > 0


def test_cut_texts_keep_their_special_tokens(picto, tmp_path):
    tokenize_corpus(picto[0], make_tokenizer(tmp_path / "model"), 3, tmp_path / "tokens")
    tokens = Ragged.load(tmp_path / "tokens" / "label")
    assert all(row[0] == 2 and row[-1] == 3 and len(row) == 3 for row in map(tokens.row, range(len(tokens))))
    assert tokens.header["tokenizer"] == "model"


def test_batches_do_not_show(picto, tmp_path, monkeypatch):
    folder = make_tokenizer(tmp_path / "model")
    tokenize_corpus(picto[0], folder, 9, tmp_path / "one")
    monkeypatch.setattr("vixml.data.tokens.BATCH", 1)
    tokenize_corpus(picto[0], folder, 9, tmp_path / "two")
    one, two = (read_json(tmp_path / name / "manifest.json") for name in ("one", "two"))
    assert one["outputs_sha256"] == two["outputs_sha256"]


def test_a_decoders_tokenizer_pads_with_its_end_token(picto, tmp_path):
    folder = make_tokenizer(tmp_path / "model", pad_token=None, eos_token={"content": "[SEP]"})
    tokenize_corpus(picto[0], folder, 9, tmp_path / "tokens")
    assert Ragged.load(tmp_path / "tokens" / "test").header["pad_id"] == 3


def test_bad_tokenizers(picto, tmp_path):
    with pytest.raises(VixmlError, match="tokenizer is missing") as caught:
        tokenize_corpus(picto[0], tmp_path, 9, tmp_path / "tokens")
    assert "prepare-model" in caught.value.hint
    with pytest.raises(VixmlError, match="no room for text") as caught:
        tokenize_corpus(picto[0], make_tokenizer(tmp_path / "a"), 2, tmp_path / "tokens")
    with pytest.raises(VixmlError, match="names no padding token"):
        tokenize_corpus(picto[0], make_tokenizer(tmp_path / "b", pad_token=None), 9, tmp_path / "tokens")
    with pytest.raises(VixmlError, match="not in the vocabulary"):
        tokenize_corpus(picto[0], make_tokenizer(tmp_path / "c", pad_token="<pad>"), 9, tmp_path / "tokens")
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    with pytest.raises(VixmlError, match="not a readable tokenizer"):
        tokenize_corpus(picto[0], tmp_path / "a", 9, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
