"""``vixml export``: write a model in another program's form, verify it, then put it in place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vixml.errors import VixmlError
from vixml.files import atomic_path, sha256_json, write_json, write_text
from vixml.progress import warn
from vixml.tagging.exports import onnx, sentence_transformers
from vixml.tagging.exports.card import card, losses
from vixml.tagging.exports.text_encoder import exact_tagger
from vixml.tagging.exports.vectors import COLUMNS, Vectors, write_faiss, write_parquet
from vixml.tagging.model_folder import ModelFolder
from vixml.tagging.whole_folder import whole_folder

ENCODERS = {"sentence-transformers": sentence_transformers.write, "onnx": onnx.write}
PACKAGES = {"sentence-transformers": ["sentence_transformers"], "onnx": ["onnxscript", "onnxruntime"]}
MARKER, FORMAT = "export.json", "vixml-export-1"


def export(model: Path | str, to: str, out: Path | str, items: bool = False) -> list[str]:
    """Write an export and return lines about what was verified; ``out`` appears whole, or not at all.

    Args:
        to: ``sentence-transformers``, ``onnx``, ``faiss`` or ``parquet``.
        out: folder to write; it may replace another export. For ``parquet`` without items also a file, ``*.parquet``.
        items: with ``faiss`` and ``parquet``, the training items, too.

    Raises:
        VixmlError: no model folder, a package that is missing, an ``out`` that is something else, or an export that does
            not give what the model gives.
    """
    out = Path(out)
    if items and to in ENCODERS:
        what, hint = "an encoder holds no training items", "leave out --items, or take --to faiss or parquet"
        raise VixmlError(what, where=f"--to {to} --items", hint=hint)
    _check_packages(to)
    folder = ModelFolder.open(model)
    lost = losses(folder, to)
    one_file = to == "parquet" and out.suffix == ".parquet" and not out.is_dir()
    if one_file:
        if items:
            raise VixmlError("labels and items are two tables", where=out, hint="name a folder with --out")
        _expect_table(out)
        with atomic_path(out) as path:
            lines = [write_parquet(Vectors.of_labels(folder), path).replace(path.name, out.name)]
    else:
        with whole_folder(out, MARKER, "export of vixml") as work:
            lines = _write(folder, to, work, items)
            about = {"format": FORMAT, "to": to, "model": sha256_json(folder.header)}
            write_text(work / "README.md", card(folder, to, items, lines, lost))
            write_json(work / MARKER, about | {name: folder.header[name] for name in ("dataset", "run", "seed")})
    for line in lost:
        warn(line)
    return lines


def _write(folder: ModelFolder, to: str, work: Path, items: bool) -> list[str]:
    """Write and verify the files of an export; return lines about the check."""
    if to in ENCODERS:
        return ENCODERS[to](exact_tagger(folder), work)
    parts = [Vectors.of_labels(folder), *([Vectors.of_items(folder)] if items else [])]
    if to == "parquet":
        return [write_parquet(part, work / f"{part.kind}.parquet") for part in parts]
    tagger = exact_tagger(folder)
    return [write_faiss(part, work, tagger) for part in parts]


def _expect_table(out: Path) -> None:
    """Check that a file that will be replaced is a table of an export, not that of the training items."""
    if not out.exists():
        return
    try:
        columns = pq.read_schema(out).names
    except (pa.ArrowException, OSError):
        columns = None
    if columns != COLUMNS:
        found = "no Parquet file that can be read" if columns is None else f"columns {', '.join(columns)}"[:200]
        what, hint = "the file to write exists and is no export of vixml", "name another file, or remove this one"
        raise VixmlError(what, where=out, found=found, expected=f"columns {', '.join(COLUMNS)}", hint=hint)


def _check_packages(to: str) -> None:
    """Check that the packages of a target are installed."""
    missing = [name.replace("_", "-") for name in PACKAGES.get(to, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise VixmlError(
            "a package is not installed",
            where=f"vixml export --to {to}",
            found=f"no {', no '.join(missing)}",
            hint="pip install 'vixml[export]', or " + " ".join(["pip install", *missing]),
        )
