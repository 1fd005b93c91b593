"""Look at a safetensors file's header, and copy some of its tensors byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.files import atomic_path

CHUNK = 8 << 20


def header_of(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: name -> dtype, shape and place, checked against the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise VixmlError(
            "a weights file cannot be read",
            where=path,
            found=str(error),
            expected="a whole safetensors file",
            hint="delete it and fetch it again",
        ) from error
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: value for name, value in header.items() if name != "__metadata__"}


def extent(entry: Mapping[str, Any]) -> int:
    """Return the bytes of a tensor, from its entry in the header."""
    start, end = entry["data_offsets"]
    return end - start


def cut_out(source: Path, header: Mapping[str, Any], names: Mapping[str, str], target: Path) -> None:
    """Copy some tensors of a safetensors file byte for byte; ``names`` says which, and what they are called then."""
    order = sorted(names, key=lambda key: (header[key]["data_offsets"], key))
    places, end = {}, 0
    for key in order:
        start, end = end, end + extent(header[key])
        places[names[key]] = {k: header[key][k] for k in ("dtype", "shape")} | {"data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **places}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(source, "rb") as stream, atomic_path(target) as temporary, open(temporary, "wb") as out:
        first = 8 + int.from_bytes(stream.read(8), "little")
        out.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            stream.seek(first + header[key]["data_offsets"][0])
            out.writelines(_chunks(stream, extent(header[key])))


def _chunks(stream: Any, n_bytes: int) -> Iterable[bytes]:
    while n_bytes:
        piece = stream.read(min(CHUNK, n_bytes))
        n_bytes -= len(piece)
        yield piece
