"""A model folder: everything that tagging needs and nothing else, in one place that can be moved (docs/formats.md).

:mod:`vixml.tagging.pack` writes it. It holds arrays (``.npy``, safetensors), tables (Parquet) and JSON only, each named with
its hash in ``model.json``: loading runs no code, and a damaged copy is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import load_file

from vixml.config.registry import Dataset, VisionModel
from vixml.config.run import RunConfig, Strict
from vixml.data.corpus import read_strings
from vixml.data.lexical import BUCKETS, NGRAMS
from vixml.data.network_config import read_settings
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import read_json, sha256_file
from vixml.images.vision import Lite0, VisionEncoder, efficientnet_lite0, open_hub_vision
from vixml.manifest import ITSELF, inside, with_digest
from vixml.models.backbone import expect_shapes
from vixml.models.prompt import Prompt
from vixml.models.siamese import Siamese
from vixml.retrieval.calibration import Calibration
from vixml.retrieval.linear import LinearModel
from vixml.retrieval.ranking import adds_linear
from vixml.retrieval.search import check_rows
from vixml.runtime import choose_precision, dtype_of

HEADER, FORMAT, VERSION = "model.json", "vixml-model", 1
LANGUAGE, HEAD, VISION, LITE0 = "language", "head.safetensors", "vision", "vision/lite0.safetensors"
LABELS, NEIGHBOURS, LEXICAL, CALIBRATION = "labels", "neighbours", "lexical.npy", "calibration.json"
LINEAR_TERMS, LINEAR_COEFFICIENTS = "linear/terms.npy", "linear/coefficients.npy"
TRAINING_ONLY = ("centroid", "has_centroid", "vectors", "has_vector")  # prototypes are packed as vectors
COPY_AGAIN = "copy the folder again, or write it again with `vixml pack`"
Settings = TypeVar("Settings", bound=BaseModel)


class File(Strict):
    """Size and hash of a file of the folder."""

    sha256: str
    bytes: int


class Tokens(Strict):
    """Tokens that the tokenizer adds to a text (:mod:`vixml.data.tokens`)."""

    special: str | None
    bos_ids: list[int] | None
    eos_id: int | None


class Vision(Strict):
    """The vision encoder, as the registry has it."""

    name: str
    precision: str
    entry: VisionModel


class Header(Strict):
    """Content of ``model.json``; names of files lead to no other folder."""

    format: str
    dataset: str
    run: str
    seed: int
    precision: Literal["fp32", "bf16", "fp16"]
    n_labels: int = Field(ge=1)
    dim: int = Field(ge=1)
    tokens: Tokens
    image_dim: int | None
    vision: Vision | None
    files: dict[str, File]
    manifest_sha256: str | None = None  # of all the rest; folders of earlier versions have none


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder: content of ``model.json``, resolved run, and the entry of its dataset."""

    folder: Path
    header: dict[str, Any]
    run: RunConfig
    dataset: Dataset

    @classmethod
    def open(cls, folder: Path | str) -> ModelFolder:
        """Open a folder and verify every file by size and hash.

        Raises:
            VixmlError: no model folder, one of another version, or a file that is missing, cut short or altered.
        """
        folder = Path(folder)
        if not (folder / HEADER).is_file():
            found = f"no {HEADER}" if folder.is_dir() else "no such folder"
            expected = f"a folder that `vixml pack` wrote, with {HEADER}"
            hint = "name such a folder; a copy that was interrupted lacks files"
            raise VixmlError("not a model folder", where=folder, found=found, expected=expected, hint=hint)
        header = read_json(folder / HEADER)
        _check_header(header, folder / HEADER)
        for name, entry in header["files"].items():
            _verify(folder, name, entry)
        # Libraries look into these two: a file that they would find there changes what they open.
        present = {path for part in (LANGUAGE, VISION) for path in (folder / part).rglob("*") if path.is_file()}
        if foreign := sorted(present - {folder / name for name in header["files"]}):
            what, hint = "a model folder holds a file that was not packed", "remove it"
            raise VixmlError(what, where=foreign[0], hint=hint)
        opened = cls(folder, header, _read(folder, "config", RunConfig), _read(folder, "dataset", Dataset))
        config = opened.path(f"{LANGUAGE}/config.json")
        if "auto_map" in read_settings(config):
            what, hint = "a model folder asks for code of its own", "pack a model without it"
            expected = "an architecture that transformers has: loading a model runs no code"
            raise VixmlError(what, where=f"{config}: auto_map", expected=expected, hint=hint)
        return opened

    def __contains__(self, name: str) -> bool:
        return name in self.header["files"]

    def path(self, name: str) -> Path:
        """Return the path of a verified file.

        Raises:
            VixmlError: the folder has no such file.
        """
        if name not in self:
            raise VixmlError("a model folder lacks a file", where=self.folder / name, hint=COPY_AGAIN)
        return self.folder / name

    def array(self, name: str) -> np.ndarray:
        """Return an array, memory-mapped; writing to it changes no file.

        Raises:
            VixmlError: no such file, or no array.
        """
        path = self.path(name)
        with reading("not a whole .npy file", path, hint=COPY_AGAIN):
            return np.load(path, mmap_mode="c", allow_pickle=False)  # torch shares writable arrays only

    def vectors(self, name: str, n: int, width: int | None = None) -> np.ndarray:
        """Return vectors as :meth:`array`: (n, width) float32, every value finite, whose check takes 7 % of the time of the hash.

        ``width`` None: ``dim`` of the header, or more.

        Raises:
            VixmlError: another shape or type, NaN or infinity.
        """
        found = self.array(name)
        if width is None:
            width = max((self.header["dim"], *found.shape[1:2]))
        expected = f"shape {(n, width)}, float32"
        what, where = "vectors of a model folder do not fit the rest of it", self.folder / name
        expect_equal(f"shape {found.shape}, {found.dtype}", expected, what, where=where, hint=COPY_AGAIN)
        check_rows(f"rows of {name}", found)
        return found

    def calibration(self) -> Calibration | None:
        """Return what the model's scores are worth; None if nothing was held out to tell."""
        return _read(self.folder, CALIBRATION.removesuffix(".json"), Calibration) if CALIBRATION in self else None

    def linear(self) -> LinearModel | None:
        """Return the linear model that adds to votes, its coefficients memory-mapped; None where inference has none."""
        if not adds_linear(self.run.inference):
            return None
        terms = self.array(LINEAR_TERMS)
        n_terms, what = len(NGRAMS) * BUCKETS, "terms of a linear model do not fit"
        if terms.ndim != 1 or terms.dtype != np.int32 or (terms < 0).any() or (terms >= n_terms).any():
            found, expected = f"shape {terms.shape}, {terms.dtype}", f"a list of int32 from 0 to {n_terms - 1}"
            raise VixmlError(what, where=self.folder / LINEAR_TERMS, found=found, expected=expected, hint=COPY_AGAIN)
        coefficients = self.vectors(LINEAR_COEFFICIENTS, len(terms), self.header["n_labels"])
        return LinearModel(self.term_weights(), terms, coefficients)

    def term_weights(self) -> np.ndarray:
        """Return the weight of each hashed term (:func:`vixml.data.lexical.inverse_frequencies`)."""
        return self.vectors(LEXICAL, len(NGRAMS), BUCKETS)

    def items(self, part: str, n: int | None = None) -> pa.Table:
        """Return the columns ``id`` and ``text`` of the labels or of the neighbours.

        Raises:
            VixmlError: no such table, or not one of ``n`` rows.
        """
        path = self.path(f"{part}/items.parquet")
        found = read_strings(path, ["id", "text"], COPY_AGAIN)
        if n is not None:
            what = "a table of a model folder does not fit the rest of it"
            expect_equal(f"{len(found)} rows", f"{n} rows", what, where=path, hint=COPY_AGAIN)
        return found

    def model(self, prompt: Prompt, device: torch.device, lean: bool = True) -> Siamese:
        """Return the trained networks for inference, on the CPU; ``device`` is where they will compute.

        ``lean`` False opens a BERT with transformers, too.

        Raises:
            VixmlError: tensors that do not fit the run.
        """
        run = self.run if device.type == "cuda" else plain_kernels(self.run)
        image_dim = self.header["image_dim"] if run.uses_images else None
        model = Siamese(run, self.folder / LANGUAGE, self.header["n_labels"], image_dim, prompt, device, lean)
        tensors, what = load_file(self.path(HEAD)), "the weights of a model folder do not fit its run"
        expect_shapes(tensors, head_state(model), what, where=self.folder / HEAD, hint=COPY_AGAIN)
        model.load_state_dict(tensors, strict=False)
        return model.eval()

    def vision(self, device: torch.device, precision: str) -> VisionEncoder | None:
        """Return the vision encoder; None where inference reads no images."""
        about = self.header["vision"]
        if about is None:
            return None
        entry, dtype = VisionModel.model_validate(about["entry"]), dtype_of(choose_precision(precision, device))
        if LITE0 not in self:
            return open_hub_vision(about["name"], entry, self.folder / VISION, device.type, dtype)
        with torch.device("meta"):  # no time for random weights
            network = Lite0()
        network.load_state_dict(load_file(self.path(LITE0)), assign=True)
        return efficientnet_lite0(about["name"], network, entry.image_size, device.type, dtype)


def _check_header(header: Any, where: Path) -> None:
    """Check that a header is one, and of this version."""
    found = header.get("format") if isinstance(header, dict) else type(header).__name__
    name, _, number = str(found).rpartition("-")
    newer = name == FORMAT and number.isdecimal() and int(number) > VERSION
    what = "a model folder of a newer version of vixml" if newer else "not the header of a model folder"
    expect_equal(found, f"{FORMAT}-{VERSION}", what, where=where, hint="update vixml" if newer else COPY_AGAIN)
    _validated(Header, header, where)
    if known := header.get(ITSELF):
        found = with_digest(header)[ITSELF]
        expect_equal(found, known, "the header of a model folder was altered", where=where, hint=COPY_AGAIN)


def _verify(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Check a file against its entry in the header."""
    path, what = folder / name, "a file of a model folder is missing, cut short or altered"
    if not inside(name):
        raise VixmlError("a model folder names a file outside itself", where=folder / HEADER, found=name)
    found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    expect_equal(found, f"{entry['bytes']} bytes", what, where=path, hint=COPY_AGAIN)
    expect_equal(sha256_file(path), entry["sha256"], what, where=path, hint=COPY_AGAIN)


def _read(folder: Path, part: str, kind: type[Settings]) -> Settings:
    return _validated(kind, read_json(folder / f"{part}.json"), folder / f"{part}.json")


def _validated(kind: type[Settings], value: Any, path: Path) -> Settings:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise VixmlError(
            "a model folder holds settings that this version of vixml does not know",
            where=f"{path}: {'.'.join(map(str, first['loc']))}",
            found=first["msg"],
            hint="update vixml, or pack the model again with this version",
        ) from error


def plain_kernels(run: RunConfig) -> RunConfig:
    """Return a run that does not ask for a GPU's kernels."""
    return run.model_copy(update={"encoder": run.encoder.model_copy(update={"kernels": "plain"})})


def head_state(model: Siamese) -> dict[str, torch.Tensor]:
    """Return the tensors of ``head.safetensors``: what was learned beside a language model that is packed whole."""
    has_adapters = hasattr(model.backbone.network, "peft_config")
    left_out = "backbone.row_of" if has_adapters else "backbone."
    return {
        name: tensor
        for name, tensor in model.learned_state().items()
        if not name.startswith(left_out) and name not in TRAINING_ONLY
    }
