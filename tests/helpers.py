"""Archives, registry entries, commands and lists for the tests of all packages."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models
from typer.testing import CliRunner

from vixml.cli import app
from vixml.config.registry import Source
from vixml.errors import VixmlError
from vixml.files import read_json, sha256_json, write_json
from vixml.manifest import MANIFEST, describe_outputs, with_digest
from vixml.ragged import Ragged

# The smallest tokenizer.json that can be read.
TOKENIZER = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]")).to_str()


def zipped(members: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive of ``members``."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def write_zip(path: Path, members: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive of ``members``; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zipped(members, compression))
    return path


def excel(rows: Sequence[Sequence[object]], **formats: str) -> bytes:
    """Return an Excel file of a sheet with these rows and a second one; ``formats``: of numbers, by cell."""
    import openpyxl

    book, written = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    for cell, number_format in formats.items():
        book.active[cell].number_format = number_format
    book.create_sheet("other").append(["x"])
    book.save(written)
    return written.getvalue()


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks: (kind, data)."""
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def register(path: Path, name: str) -> Source:
    """Return the registry's entry for a file as it is."""
    data = path.read_bytes()
    about = {"version": "1.0", "licence": "MIT", "used_for": "tests"}
    digest = hashlib.sha256(data).hexdigest()
    return Source(name=name, filename=path.name, sha256=digest, bytes=len(data), **about)


def run_stage(*arguments: object) -> str:
    """Run the command of a stage in this process and return its output.

    Raises:
        VixmlError: as the stage does.
    """
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, VixmlError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(matrix: Ragged) -> list[list[int]]:
    """Return all rows as lists."""
    return [matrix.row(i).tolist() for i in range(len(matrix))]


def files_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def update_manifest(folder: Path) -> None:
    """Update a folder's manifest to its altered files, as if its stage had written them."""
    path = folder / MANIFEST
    outputs = describe_outputs(folder)
    write_json(path, with_digest(read_json(path) | {"outputs": outputs, "outputs_sha256": sha256_json(outputs)}))


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    """Flip one bit of a file, at a share of its length."""
    data = bytearray(path.read_bytes())
    data[min(int(at * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)
