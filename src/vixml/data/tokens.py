"""The stage `tokenize`: every text of a corpus to token ids, once, without padding."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_file
from vixml.progress import bar
from vixml.provenance import stage
from vixml.ragged import Ragged

BATCH = 8192


def tokenize_corpus(
    corpus_dir: Path | str, model_dir: Path | str, max_len: int, out: Path | str, *, model: str | None = None
) -> None:
    """Tokenize the three splits of a corpus.

    Args:
        corpus_dir: folder of `build-corpus`.
        model_dir: folder of `prepare-model`; only its tokenizer files are read.
        max_len: tokens kept of each text, special tokens included.
        out: folder to publish: ``{split}/`` (Ragged over the vocabulary; the header names the tokenizer).
        model: the text model's name; the folder's name by default.

    Raises:
        VixmlError: no readable tokenizer, ``max_len`` too small for its special tokens, or a malformed corpus.
    """
    corpus_dir, model_dir = Path(corpus_dir), Path(model_dir)
    model = model or model_dir.name
    tokenizer = load_tokenizer(model_dir, max_len)
    header = {
        "tokenizer": model,
        "tokenizer_sha256": sha256_file(model_dir / "tokenizer.json"),
        "max_len": max_len,
        "pad_id": pad_id(model_dir, tokenizer),
    }
    facts: dict[str, Any] = {}
    inputs = {
        "corpus": corpus_dir,
        "tokenizer": model_dir / "tokenizer.json",
        "tokenizer_config": model_dir / "tokenizer_config.json",
    }
    with stage(out, "tokenize", config={"model": model, "max_len": max_len}, inputs=inputs, facts=facts) as work:
        corpus = Corpus.load(corpus_dir)
        for split in SPLITS:
            tokens = encode(tokenizer, corpus.texts(split), header, f"tokenizing {split}")
            lengths = tokens.lengths
            facts[split] = {
                "tokens": len(tokens.values),
                "longest": int(lengths.max(initial=0)),
                # A text as long as allowed was probably cut: worth a look at max_len.
                "at_max_len": int((lengths == max_len).sum()),
            }
            tokens.save(work / split)


def load_tokenizer(model_dir: Path | str, max_len: int) -> Tokenizer:
    """Return a folder's tokenizer: truncating at ``max_len``, never padding.

    Raises:
        VixmlError: missing or malformed ``tokenizer.json``, or no room for text beside the special tokens.
    """
    path = Path(model_dir) / "tokenizer.json"
    if not path.is_file():
        raise VixmlError("a tokenizer is missing", where=path, hint="run the stage that makes it: vixml prepare-model")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise VixmlError(
            "not a readable tokenizer", where=path, found=str(error), hint="make it again: vixml prepare-model"
        ) from error
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_len <= special:
        raise VixmlError(
            "max_len leaves no room for text",
            where="--max-len (encoder.max_len)",
            found=max_len,
            expected=f"more than the {special} special tokens that this tokenizer adds",
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_len)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], header: dict[str, Any], text: str) -> Ragged:
    """Return the token ids of ``texts``, special tokens included: (n_texts rows over the vocabulary)."""
    values: list[np.ndarray] = []
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    with bar(text, len(texts)) as advance:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=True)]
            offsets[start + 1 : start + 1 + len(rows)] = [len(row) for row in rows]
            values.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
            advance(len(batch))
    np.cumsum(offsets, out=offsets)
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int32)
    # Ids may have gaps (added tokens beyond the vocabulary), so the bound is the largest id, not the size.
    n_cols = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return Ragged(flat, offsets, n_cols, header)


def pad_id(model_dir: Path | str, tokenizer: Tokenizer) -> int:
    """Return the id that fills a batch: the tokenizer's own padding token, else its end-of-text token.

    Padded places are masked, so the choice touches no result; the id must only exist.

    Raises:
        VixmlError: the tokenizer's settings name neither, or one that is not in its vocabulary.
    """
    path = Path(model_dir) / "tokenizer_config.json"
    settings = read_json(path)
    for key in ("pad_token", "eos_token"):
        token = settings.get(key) if isinstance(settings, dict) else None
        # Older files write a token as an object.
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            number = tokenizer.token_to_id(token)
            if number is None:
                raise VixmlError(
                    "the padding token is not in the vocabulary",
                    where=f"{path}: {key}",
                    found=json.dumps(token),
                    hint="the tokenizer's files do not belong together: vixml prepare-model",
                )
            return number
    raise VixmlError("the tokenizer names no padding token", where=path, expected="pad_token or eos_token")
