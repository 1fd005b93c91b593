"""A GGUF file (llama.cpp's format) to float32 weights and a tokenizer.

Quantised tensors are dequantised: what comes out is the published file's content, not the checkpoint that the file was
made from. Only arrays, numbers and strings are read; the file's chat template, a program, is left behind.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vixml.errors import VixmlError

FILE = "model.gguf"


def read_gguf(data: bytes, where: str, work: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str, dict[str, Any]]:
    """Return what a GGUF file holds.

    Args:
        data: the file.
        where: what errors call it.
        work: a folder on whose disk the file lies for as long as it is read.

    Returns:
        the network's configuration, its tensors under transformers' names (float32), the text of ``tokenizer.json`` and
        the content of ``tokenizer_config.json``.

    Raises:
        VixmlError: not a whole GGUF file, an architecture or a splitting of words that is not known here, or tensors that
            the network has no place for.
    """
    # `gguf` maps files only, it reads no memory.
    with tempfile.TemporaryDirectory(prefix=".tmp-gguf-", dir=work) as folder:
        (Path(folder) / FILE).write_bytes(data)
        try:
            facts, names = _open(Path(folder) / FILE)
            split = _splitter(facts, where)
            config, tensors = _network(folder)
            text, settings = _tokenizer(folder, split, facts)
        except (VixmlError, MemoryError, ImportError):
            raise
        except Exception as error:  # both libraries raise whatever their parsing met
            raise VixmlError(
                "a weights file cannot be read",
                where=where,
                found=f"{type(error).__name__}: {error}",
                expected="a GGUF file of an architecture that transformers reads",
                hint="check 'kind' and 'weights_member' in config/models.yaml",
            ) from error
    # transformers skips tensors that it has no name for; a skipped one (scaled rotary frequencies, say) changes vectors.
    if len(names - {"output.weight"}) != len(tensors):
        raise VixmlError(
            "a GGUF file and its network do not have the same tensors",
            where=where,
            found=f"{len(names)} tensors in the file: {', '.join(sorted(n for n in names if 'blk.' not in n))}, ...",
            expected=f"the {len(tensors)} of {config['model_type']}, and output.weight at most",
        )
    return config, tensors, text, settings | {"model_max_length": config["max_position_embeddings"]}


SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}


def _open(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return the file's short facts and the names of its tensors."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    keys = ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", *SPECIAL.values())
    facts = {key: reader.fields[key].contents() if key in reader.fields else None for key in keys}
    return facts, {tensor.name for tensor in reader.tensors}


def _splitter(facts: dict[str, Any], where: str) -> Any:
    """Return how a text is split before its pieces are merged: the file has a name for it, which transformers ignores.

    The names are llama.cpp's. Without the digits of `smollm`, two blanks in front of a number come out as two tokens where
    the published tokenizer has one.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    words = ByteLevel(add_prefix_space=False, use_regex=True)
    known = {"gpt-2": words, "smollm": Sequence([Digits(individual_digits=True), words])}
    model, name = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if model != "gpt2" or name not in known:
        raise VixmlError(
            "a GGUF file's tokenizer is of a kind that is not known here",
            where=where,
            found=f"tokenizer.ggml.model {model!r}, tokenizer.ggml.pre {name!r}",
            expected=f"'gpt2' (byte-level BPE) and one of: {', '.join(map(repr, known))}",
            hint="name another source for 'tokenizer' in config/models.yaml, or take kind: hub",
        )
    return known[name]


def _network(folder: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import torch
    from transformers import AutoModel

    # The base model: no head over the vocabulary.
    model, report = AutoModel.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    # What is missing would stay random, with no more than a warning.
    if missing := sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"])):
        raise ValueError(f"without, or of another shape: {', '.join(missing)}")
    # Such a model refuses `save_pretrained`, so its parts go out one by one.
    left_out = ("_", "quantization_config")  # the weights are plain numbers from here on
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith(left_out)}
    return config | {"dtype": "float32"}, {name: value.numpy() for name, value in model.state_dict().items()}


def _tokenizer(folder: str, split: Any, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE, local_files_only=True)
    tokenizer.backend_tokenizer.pre_tokenizer = split
    # As the file numbers them: transformers 5.17 gives other names to some.
    own = {key: facts[field] for key, field in SPECIAL.items()}
    names = {
        key: getattr(tokenizer, key) if number is None else tokenizer.backend_tokenizer.id_to_token(int(number))
        for key, number in own.items()
    }
    # The generic class takes tokenizer.json as it is; the architecture's own would build it anew.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {key: name for key, name in names.items() if name}
    return tokenizer.backend_tokenizer.to_str(pretty=True) + "\n", settings
