"""One ONNX graph from token ids to unit vectors, with its tokenizer."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from vixml.tagging.exports.text_encoder import TextEncoder, expect_vectors, sample_texts
from vixml.tagging.model_folder import LANGUAGE
from vixml.tagging.tagger import Tagger

MODEL = "model.onnx"
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
ONE_FILE = 1 << 30  # bytes of weights that protobuf holds safely; more are beside the graph


def write(tagger: Tagger, work: Path) -> list[str]:
    """Write the graph and compare what onnxruntime gives with the model, in batches of several sizes and lengths.

    Raises:
        VixmlError: vectors that differ.
    """
    encoder = TextEncoder.of(tagger)
    encoder.write_tokenizer(tagger.folder.folder / LANGUAGE, work, ready=True)
    ids, mask = torch.full((3, min(7, encoder.longest)), 5), torch.ones(3, min(7, encoder.longest), dtype=torch.int64)
    mask[1, -1] = 0
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (ids, mask),
            str(work / MODEL),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            dynamo=True,
            external_data=size > ONE_FILE,
            verbose=False,
        )
    texts = sample_texts(tagger)
    expected = tagger.encode(texts)
    for size in (1, 5, len(texts)):
        expect_vectors(encode(work, texts, size), expected, texts, f"the ONNX graph, in batches of {size},")
    return [f"{len(texts)} texts have the model's vectors to 1e-5 (onnxruntime, batches of 1, 5 and {len(texts)})."]


def encode(folder: Path, texts: list[str], size: int = 32) -> np.ndarray:
    """Return the vectors of texts by onnxruntime and the tokenizer alone: (n, dim) float32."""
    import onnxruntime

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(texts), size):
        rows = tokenizer.encode_batch(texts[start : start + size])
        given = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        found += session.run([OUTPUT], {name: np.array(value, np.int64) for name, value in given.items()})
    return np.concatenate(found)
