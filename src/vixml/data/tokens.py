"""The stage `tokenize`: every text of a corpus to token ids, once, without padding.

An encoder's texts are surrounded by special tokens. A decoder's are bare: its first token precedes the whole prompt, of
which the text is one piece, and its last token is another piece.
"""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError, expect_whole, reading
from vixml.files import read_json, sha256_file
from vixml.progress import bar
from vixml.provenance import describe_input, stage
from vixml.ragged import RaggedWriter

BATCH = 8192


def tokenize_corpus(
    corpus_dir: Path | str,
    model_dir: Path | str,
    max_len: int,
    out: Path | str,
    *,
    model: str | None = None,
    attention: str = "bidirectional",
    eos: str | None = None,
) -> None:
    """Tokenize the three splits of a corpus.

    Args:
        model_dir: folder of `prepare-model`; only its tokenizer files are read.
        max_len: tokens kept of each text, special tokens included (a decoder's texts have none).
        out: folder to write: ``{split}/`` (Ragged over the vocabulary; the header names the tokenizer).
        model: the text model's name; the folder's name by default.
        attention: ``bidirectional`` (special tokens around each text) or ``causal`` (bare texts).
        eos: the token that ends a prompt; None takes the one that the tokenizer's settings name.

    Raises:
        VixmlError: no readable tokenizer, ``max_len`` too small for its special tokens, an unknown ``eos``, or a malformed
            corpus.
    """
    corpus_dir, model_dir = Path(corpus_dir), Path(model_dir)
    path = model_dir / "tokenizer.json"
    model = model or model_dir.name
    bare = attention == "causal"
    inputs = {"corpus": corpus_dir, "tokenizer": path, "tokenizer_config": model_dir / "tokenizer_config.json"}
    for name in ("tokenizer", "tokenizer_config"):
        if inputs[name].exists():
            describe_input(inputs[name])  # verified before it is read for the header
    tokenizer = load_tokenizer(model_dir, max_len, bare=bare)
    special = 0 if bare else tokenizer.num_special_tokens_to_add(is_pair=False)
    header = {
        "tokenizer": model,
        "tokenizer_sha256": sha256_file(path),
        "max_len": max_len,
        "special": "bare" if bare else "around",
        "bos_ids": bos_ids(load_tokenizer(model_dir)) if bare else [],
        "eos_id": eos_id(model_dir, tokenizer, eos),
    }
    facts: dict[str, Any] = {}
    config = {"model": model, "max_len": max_len, "attention": attention, "eos": eos}
    with stage(out, "tokenize", config=config, inputs=inputs, facts=facts) as work:
        corpus = Corpus.load(corpus_dir)
        # Ids may have gaps (added tokens beyond the vocabulary), so the bound is the largest id, not the size.
        n_cols = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        for split in SPLITS:
            texts = corpus.texts(split)
            with RaggedWriter(work / split) as writer, bar(f"tokenizing {split}", len(texts)) as advance:
                for start in range(0, len(texts), BATCH):
                    batch = texts[start : start + BATCH]
                    with reading("a tokenizer fails on a text", path, hint="check 'tokenizer' in config/models.yaml"):
                        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=not bare)
                    for encoding in encodings:
                        writer.append(encoding.ids)
                    advance(len(batch))
                tokens = writer.close(n_cols, **header)
            lengths = tokens.lengths
            facts[split] = {
                "tokens": len(tokens.values),
                "longest": int(lengths.max(initial=0)),
                # Probably cut: is max_len large enough?
                "at_max_len": int((lengths == max_len).sum()),
                # A bare text may have no token at all; the prompt then has only what surrounds it.
                "empty": int((lengths == special).sum()),
            }


def load_tokenizer(model_dir: Path | str, max_len: int | None = None, *, bare: bool = False) -> Tokenizer:
    """Return a folder's tokenizer: truncating at ``max_len`` (None: not at all), never padding.

    Raises:
        VixmlError: missing or malformed ``tokenizer.json``, or no room for text beside the special tokens (none if
            ``bare``).
    """
    path = Path(model_dir) / "tokenizer.json"
    if not path.is_file():
        raise VixmlError("a tokenizer is missing", where=path, hint="run the stage that writes it: vixml prepare-model")
    hint = "write it again: vixml prepare-model"
    with reading("not a readable tokenizer", path, hint=hint):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode("a b", add_special_tokens=True)  # what is read may still fail at the first text
    if max_len is None:
        return tokenizer
    special = 0 if bare else tokenizer.num_special_tokens_to_add(is_pair=False)
    what = f"max_len leaves no room for text beside the {special} special tokens that this tokenizer adds"
    expect_whole(max_len, special + 1, what, where="--max-len (encoder.max_len)")
    tokenizer.enable_truncation(max_length=max_len)
    return tokenizer


def tokenize_pieces(model_dir: Path | str, pieces: list[str]) -> list[list[int]]:
    """Return the token ids of each piece of a prompt (``"and its image"``), without special tokens or truncation.

    Raises:
        VixmlError: no readable tokenizer.
    """
    tokenizer = load_tokenizer(model_dir)
    return [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]


def bos_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that a tokenizer puts in front of a text: one of Llama's and Gemma's, none of Qwen's and SmolLM2's.

    The behaviour of ``tokenizer.json`` decides, not a ``bos_token`` in the settings: SmolLM2's name one that its tokenizer
    never adds. The tokenizer truncates nothing.
    """
    encoded = tokenizer.encode("a", add_special_tokens=True)
    return [i for i, _ in takewhile(lambda pair: pair[1], zip(encoded.ids, encoded.special_tokens_mask, strict=True))]


def eos_id(model_dir: Path | str, tokenizer: Tokenizer, eos: str | None = None) -> int | None:
    """Return the id that ends a prompt: of ``eos`` if given, else the tokenizer's ``eos_token``, else its ``sep_token``.

    None if there is none of the three; a prompt with ``{eos}`` is then impossible.

    Raises:
        VixmlError: a token that is not in the vocabulary.
    """
    path = Path(model_dir) / "tokenizer_config.json"
    where, hint = "config/models.yaml: eos", "correct it, or leave it out to take the tokenizer's end token"
    if eos is None:
        settings = read_json(path)
        for key in ("eos_token", "sep_token"):
            token = settings.get(key) if isinstance(settings, dict) else None
            # Older files write a token as an object.
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                eos, where = token, f"{path}: {key}"
                hint = "the tokenizer's files do not belong together: vixml prepare-model"
                break
        else:
            return None
    number = tokenizer.token_to_id(eos)
    if number is None:
        what, expected = "the end token is not in the vocabulary", f"a token of {path.with_name('tokenizer.json')}"
        raise VixmlError(what, where=where, found=json.dumps(eos), expected=expected, hint=hint)
    return number
