"""A folder for sentence-transformers: ``SentenceTransformer(folder)``, or ``AutoModel`` and pooling by hand.

It is written in the form of the published models (`sentence_transformers.models.*`), which every version since 2 opens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.tagging.exports.text_encoder import TextEncoder, expect_vectors, sample_texts
from vixml.tagging.model_folder import LANGUAGE
from vixml.tagging.tagger import Tagger

POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def write(tagger: Tagger, work: Path) -> list[str]:
    """Write the folder and compare what it gives, opened by the library, with the model.

    Raises:
        VixmlError: a model that these modules cannot express, or vectors that differ.
    """
    encoder = TextEncoder.of(tagger)
    for found, why in ((encoder.late, "late fusion"), (encoder.gap, "positions left for images, behind words")):
        if found is not None:
            raise VixmlError(
                "the modules of sentence-transformers cannot express this model",
                where=tagger.folder.folder,
                found=why,
                expected="a language model and a pooled vector",
                hint="--to onnx holds the whole text encoder",
            )
    _write_network(encoder, work)
    encoder.write_tokenizer(tagger.folder.folder / LANGUAGE, work)
    write_json(work / "sentence_bert_config.json", {"max_seq_length": encoder.longest, "do_lower_case": False})
    write_json(work / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    pooling: dict[str, Any] = {"word_embedding_dimension": encoder.dim, "include_prompt": True}
    kept = "lasttoken" if encoder.last else "mean_tokens"
    pooling |= {f"pooling_mode_{name}": name == kept for name in POOLINGS}
    modules: list[tuple[str, dict[str, Any]]] = [("Pooling", pooling), ("Normalize", {})]
    if encoder.centre is not None:  # subtracted from the unit vector
        shift = {"in_features": encoder.dim, "out_features": encoder.dim, "bias": True}
        shift |= {"activation_function": "torch.nn.modules.linear.Identity"}
        modules += [("Dense", shift), ("Normalize", {})]
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, (name, settings) in enumerate(modules, start=1):
        folder = work / f"{number}_{name}"
        folder.mkdir()
        write_json(folder / "config.json", settings)
        if name == "Dense":
            weights = {"linear.weight": torch.eye(encoder.dim), "linear.bias": -encoder.centre.float()}
            save_file(weights, folder / "model.safetensors")
        kind = f"sentence_transformers.models.{name}"
        listed.append({"idx": number, "name": str(number), "path": folder.name, "type": kind})
    write_json(work / "modules.json", listed)
    from sentence_transformers import SentenceTransformer  # vixml.models has made torchvision importable

    texts = sample_texts(tagger)
    opened = SentenceTransformer(str(work), device="cpu", local_files_only=True)
    found = opened.encode(texts, batch_size=16, show_progress_bar=False, convert_to_numpy=True)
    expect_vectors(found, tagger.encode(texts), texts, "the export for sentence-transformers")
    return [f"{len(texts)} texts have the model's vectors to 1e-5 (sentence-transformers, opened from this folder)."]


def _write_network(encoder: TextEncoder, folder: Path) -> None:
    """Write the network as ``AutoModel`` opens it: with a pooler if it has one, which no vector passes, of zeros."""
    from transformers import AutoModel

    network = encoder.network
    with torch.device("meta"):
        whole = AutoModel.from_config(network.config)
    tensors = network.state_dict()
    blank = {name: torch.zeros(t.shape) for name, t in whole.state_dict().items() if name not in tensors}
    whole.load_state_dict(tensors | blank, assign=True)
    whole.save_pretrained(folder)
