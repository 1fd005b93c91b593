"""Tokens: those of the model's own tokenizer, cut, never padded."""

from __future__ import annotations

import pytest
from helpers import rows_of
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from vixml.data.corpus import SPLITS, Corpus
from vixml.data.tokens import tokenize_corpus, tokenize_pieces
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file, write_json
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
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})
    return folder


def test_equals_the_models_own_tokenizer(picto, tmp_path):
    from transformers import AutoTokenizer

    folder = make_tokenizer(tmp_path / "model")
    tokenize_corpus(picto[0], folder, 9, tmp_path / "tokens", model="tiny")
    corpus, theirs = Corpus.load(picto[0]), AutoTokenizer.from_pretrained(folder)
    for split in SPLITS:
        tokens = Ragged.load(tmp_path / "tokens" / split)
        expected = theirs(corpus.texts(split), truncation=True, max_length=9, padding=False)["input_ids"]
        assert rows_of(tokens) == expected
        assert tokens.lengths.max() <= 9 and 0 not in tokens.values
        about = {"tokenizer": "tiny", "tokenizer_sha256": sha256_file(folder / "tokenizer.json"), "max_len": 9}
        assert tokens.header == about | {"special": "around", "bos_ids": [], "eos_id": None}
    manifest = read_json(tmp_path / "tokens" / "manifest.json")
    assert manifest["facts"]["train"]["longest"] == 9 and manifest["facts"]["train"]["at_max_len"] > 0


def make_decoder_tokenizer(folder, bos=False, **settings):
    """Write a small byte-level BPE; like Llama's it puts its first token in front, or like Qwen's it only names one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<end>", *letters, "he", "hear", "Ġhe", "ar"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e"), ("a", "r"), ("he", "ar"), ("Ġ", "he")]))
    tokenizer.add_special_tokens(["<s>", "</s>", "<end>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", names | settings)
    return folder


@pytest.mark.parametrize("bos", [True, False])
def test_a_decoders_texts_are_bare(picto, tmp_path, bos):
    from transformers import AutoTokenizer

    folder = make_decoder_tokenizer(tmp_path / "model", bos)
    tokenize_corpus(picto[0], folder, 5, tmp_path / "tokens", attention="causal")
    corpus, theirs = Corpus.load(picto[0]), AutoTokenizer.from_pretrained(folder)
    for split in SPLITS:
        tokens = Ragged.load(tmp_path / "tokens" / split)
        expected = theirs(corpus.texts(split), add_special_tokens=False)["input_ids"]
        # Five tokens of the text: a first token that is not there takes no place either.
        assert rows_of(tokens) == [row[:5] for row in expected]
        assert tokens.lengths.max() == 5 and not {0, 1, 2} & set(tokens.values.tolist())
        assert tokens.header["special"] == "bare" and tokens.header["bos_ids"] == ([0] if bos else [])
        assert tokens.header["eos_id"] == 1


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_decoder_may_keep_one_token(picto, tmp_path, attention):
    folder = make_decoder_tokenizer(tmp_path / "model", bos=True)
    if attention == "bidirectional":
        with pytest.raises(VixmlError, match="no room for text"):
            tokenize_corpus(picto[0], folder, 1, tmp_path / "tokens")
        return
    tokenize_corpus(picto[0], folder, 1, tmp_path / "tokens", attention=attention)
    tokens = Ragged.load(tmp_path / "tokens" / "label")
    assert set(tokens.lengths.tolist()) == {1} and tokens.header["bos_ids"] == [0]


def test_texts_without_a_token_are_counted(picto, tmp_path, monkeypatch):
    monkeypatch.setattr(Corpus, "texts", lambda self, split: ["", "hear", ""] if split == "label" else ["he"])
    tokenize_corpus(picto[0], make_decoder_tokenizer(tmp_path / "a", True), 5, tmp_path / "bare", attention="causal")
    tokenize_corpus(picto[0], make_tokenizer(tmp_path / "b"), 5, tmp_path / "around")
    for name, lengths in (("bare", [0, 1, 0]), ("around", [2, 6, 2])):
        facts = read_json(tmp_path / name / "manifest.json")["facts"]
        assert facts["label"]["empty"] == 2 and facts["train"]["empty"] == 0
        found = Ragged.load(tmp_path / name / "label").lengths
        assert [min(int(n), 5) for n in lengths] == found.tolist()


def test_the_end_token_is_the_registrys_then_the_tokenizers(picto, tmp_path):
    folder = make_decoder_tokenizer(tmp_path / "model")
    tokenize_corpus(picto[0], folder, 5, tmp_path / "own", attention="causal", eos="<end>")
    assert Ragged.load(tmp_path / "own" / "test").header["eos_id"] == 2
    tokenize_corpus(picto[0], make_tokenizer(tmp_path / "bert", sep_token="[SEP]"), 9, tmp_path / "sep")
    assert Ragged.load(tmp_path / "sep" / "test").header["eos_id"] == 3
    with pytest.raises(VixmlError, match="end token is not in the vocabulary") as caught:
        tokenize_corpus(picto[0], folder, 5, tmp_path / "no", attention="causal", eos="<stop>")
    assert caught.value.found == '"<stop>"' and not (tmp_path / "no").exists()


def test_words_of_a_prompt_are_tokenized_alone(tmp_path):
    folder = make_decoder_tokenizer(tmp_path / "model", bos=True)
    he, space_he, a = (Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(t) for t in ("he", "Ġhe", "a"))
    assert tokenize_pieces(folder, ["he he he", "a", ""]) == [[he, space_he, space_he], [a], []]
    # A BERT's file asks for five tokens and pads to sixteen; a prompt gets neither.
    assert [len(ids) for ids in tokenize_pieces(make_tokenizer(tmp_path / "bert"), ["love", "q" * 7])] == [1, 7]
    with pytest.raises(VixmlError, match="tokenizer is missing"):
        tokenize_pieces(tmp_path, ["he"])


def test_batches_do_not_show(picto, tmp_path, monkeypatch):
    folder = make_tokenizer(tmp_path / "model")
    tokenize_corpus(picto[0], folder, 9, tmp_path / "one")
    monkeypatch.setattr("vixml.data.tokens.BATCH", 1)
    tokenize_corpus(picto[0], folder, 9, tmp_path / "two")
    one, two = (read_json(tmp_path / name / "manifest.json") for name in ("one", "two"))
    assert one["outputs_sha256"] == two["outputs_sha256"]


def test_bad_tokenizers(picto, tmp_path):
    with pytest.raises(VixmlError, match="tokenizer is missing") as caught:
        tokenize_corpus(picto[0], tmp_path, 9, tmp_path / "tokens")
    assert "prepare-model" in caught.value.hint
    with pytest.raises(VixmlError, match="no room for text") as caught:
        tokenize_corpus(picto[0], make_tokenizer(tmp_path / "a"), 2, tmp_path / "tokens")
    (tmp_path / "a" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(VixmlError, match="not a readable tokenizer"):
        tokenize_corpus(picto[0], tmp_path / "a", 9, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
