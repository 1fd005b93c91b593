"""Look into a trained model and its vectors: the record, the weights, the norms. One function a question, without torch."""

from __future__ import annotations

import json
import math
import struct

import numpy as np

from vixml.data.corpus import Corpus
from vixml.files import load_array, read_json
from vixml.reproduce.sampled import PIECE, ROWS, pieces, sample
from vixml.reproduce.sealed import Failed, NotThere, Ok, Outcome, Sealed, same

PART = 1 << 24  # bytes of a tensor read at a time
# Rows are normalised in float32.
UNIT = 1e-4
# How a number is stored -> its bits as an unsigned number, and an exponent of ones only: NaN or infinity. Read so,
# bfloat16 needs no library.
EXPONENT = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}


# -- model ------------------------------------------------------------------------------------------------------------


def training_record(model: Sealed, identity: dict[str, object]) -> Outcome:
    """Check that ``training.json`` is of this run, and that its last loss is a number."""
    file = model.path / "training.json"
    record = read_json(file)
    outcome = same(record, identity, file, "a training record of something else")
    if isinstance(outcome, Failed):
        return outcome
    loss = (record.get("last_epoch") or {}).get("loss")
    if loss is not None and not math.isfinite(loss):
        return Failed("a training ended without a loss", loss, "a finite number", f"{file}: last_epoch.loss")
    return Ok()


def finite_weights(model: Sealed) -> Outcome:
    """Check that no weight of a trained model is NaN or infinite, a piece of a tensor at a time."""
    file = model.path / "model.safetensors"
    if not file.exists():
        return NotThere(str(file))
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    for name, entry in header.items():
        if entry.get("dtype") not in EXPONENT:
            continue  # whole numbers, and the file's own notes
        kind, ones = EXPONENT[entry["dtype"]]
        start, stop = entry["data_offsets"]
        width = np.dtype(kind).itemsize
        for at in range(start, stop, PART):
            n = (min(at + PART, stop) - at) // width
            bits = np.fromfile(file, dtype=kind, count=n, offset=8 + length + at)
            wrong = (bits & bits.dtype.type(ones)) == ones
            if wrong.any():
                place = f"{file}: {name}, number {(at - start) // width + int(np.argmax(wrong))}"
                return Failed("a weight is not finite", "NaN or infinity", "numbers", place)
    return Ok()


# -- index ------------------------------------------------------------------------------------------------------------


def unit_rows(index: Sealed, corpus: Corpus) -> Outcome:
    """Check the vectors of queries and labels: as many as the corpus has, and a sample of them of length 1."""
    names = {"train": "train", "test": "test", "label_u": "label", "label_z": "label"}
    for name, split in names.items():
        file = index.path / f"{name}.npy"
        if name == "label_z" and not file.exists():
            continue  # a method without prototypes
        vectors = load_array(file)
        if vectors.ndim != 2 or len(vectors) != corpus.n(split) or vectors.dtype != np.float32:
            expected = f"({corpus.n(split)}, dim) float32"
            return Failed("an index is not that of the corpus", f"{vectors.shape} {vectors.dtype}", expected, file)
        for part in pieces(sample(len(vectors), ROWS), PIECE):
            norms = np.linalg.norm(vectors[part], axis=1)
            wrong = ~(np.abs(norms - 1) <= UNIT)  # NaN is wrong too
            if wrong.any():
                at = int(np.argmax(wrong))
                return Failed("a vector is not of length 1", norms[at], f"1 ± {UNIT:g}", f"{file}, row {part[at]}")
    return Ok("rows of length 1")
