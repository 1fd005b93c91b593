"""A checkpoint of the model hub, placed by hand or fetched: its files, and some of its tensors copied out, never a pickle.

No tensor is held in memory: only the safetensors headers are read, whole files are linked or copied, and a part of a
checkpoint is cut out byte by byte, in the published precision. The :class:`FileNames` names the files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vixml.data.download import hub_error
from vixml.data.network_config import expect_sizes, read_settings
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import atomic_path, link, write_json


@dataclass(frozen=True)
class FileNames:
    """The names of a checkpoint's files: its configuration, its weights if they are one file, and what is beside them.

    ``hint``: what to do where a required file is missing.
    """

    config: str = "config.json"
    weights: str = "model.safetensors"
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    hint: str = ""

    @property
    def index(self) -> str:
        """Name of the file that maps each tensor to its shard."""
        return f"{self.weights}.index.json"

    @property
    def patterns(self) -> list[str]:
        """Patterns of the files to fetch; `model*` leaves out second copies of the weights under other names."""
        return [self.config, self.weights.replace(".", "*.", 1), self.index, *self.required, *self.optional]

    def __str__(self) -> str:
        parts = [self.config, f"{self.weights} (or its shards and {self.index})", *self.required]
        return ", ".join(parts)


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint's files on this disk.

    Attributes:
        placed: whether they were placed by hand; such files are copied, never linked.
        revision: the commit on the hub; None where they were placed by hand.
        headers: weights file -> tensor -> ``dtype``, ``shape`` and ``data_offsets``.
        companions: the files beside the weights that are taken.
    """

    folder: Path
    layout: FileNames
    placed: bool
    revision: str | None
    headers: dict[str, dict[str, Any]]
    companions: list[str]

    @classmethod
    def open(cls, name: str, revision: str | None, raw_dir: Path, layout: FileNames) -> LocalCheckpoint:
        """Open a checkpoint. A folder placed by hand takes precedence over the hub; an interrupted download is resumed.

        ``name`` is ORGANISATION/NAME; ``revision`` a commit, a branch or None for the newest.

        Raises:
            VixmlError: the hub cannot be reached or refuses, or the files are not those of a checkpoint.
        """
        folder = placed_folder(raw_dir, name)
        placed = folder.exists()
        commit = None
        if not placed:
            folder = folder.with_name(f".download-{folder.name}")
            commit = _download(name, revision, folder, placed_folder(raw_dir, name), layout)
        weights, companions = _verified_files(folder, layout)
        headers = {file: _header(folder / file) for file in weights}
        if listed := _listed(folder, layout):
            found = {key: name for name, header in headers.items() for key in header}
            for key in sorted(listed.keys() | found.keys()):
                in_shard, in_index = (f"in {files.get(key, 'no shard')}" for files in (found, listed))
                what, where = "the shards are not those of the index", f"{folder / layout.index}: {key}"
                hint = "shards and index are of two revisions: fetch them again"
                expect_equal(in_shard, in_index, what, where=where, hint=hint)
        return cls(folder, layout, placed, commit, headers, companions)

    @property
    def facts(self) -> dict[str, Any]:
        """Entries of a manifest: ``origin`` and ``revision``."""
        return {"origin": "placed by hand" if self.placed else "hub", "revision": self.revision}

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration without `auto_map`, which names Python files of the repository; they are never run."""
        path = self.folder / self.layout.config
        config = read_settings(path)
        expect_sizes(config, path)
        return {key: value for key, value in config.items() if key != "auto_map"}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {key: tuple(value["shape"]) for header in self.headers.values() for key, value in header.items()}

    def write_weights(self, work: Path, names: Mapping[str, str]) -> None:
        """Write the tensors of ``names`` (as published -> as written), and the files beside the weights, into ``work``.

        Raises:
            VixmlError: NaN or infinity in one of the tensors.
        """
        sizes, shards = 0, {}
        for file, header in self.headers.items():
            part = {key: names[key] for key in header if key in names}
            _expect_finite(self.folder / file, part)
            sizes += sum(_n_bytes(header[key]) for key in part)
            shards |= {new: file for new in part.values()}
            if part == {key: key for key in header}:
                self._hand_over(file, work)
            elif part:
                _cut_out(self.folder / file, header, part, work / file)
        if list(dict.fromkeys(shards.values())) != [self.layout.weights]:
            write_json(work / self.layout.index, {"metadata": {"total_size": sizes}, "weight_map": shards})
        for file in self.companions:
            self._hand_over(file, work)

    def done(self) -> None:
        """Remove a download that is no longer needed; files placed by hand stay."""
        if not self.placed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hand_over(self, file: str, work: Path) -> None:
        hand_over = shutil.copyfile if self.placed else link  # a person's file must not change with the result
        hand_over(self.folder / file, work / file)


def placed_folder(raw_dir: Path, checkpoint: str) -> Path:
    """Return the folder in which a checkpoint may be placed by hand.

    Example:
        >>> placed_folder(Path("results/raw"), "Qwen/Qwen2.5-3B").as_posix()
        'results/raw/hub/Qwen--Qwen2.5-3B'
    """
    return raw_dir / "hub" / checkpoint.replace("/", "--")


def placed_files(raw_dir: Path, checkpoint: str, layout: FileNames) -> dict[str, Path]:
    """Return name -> path of the files that a stage reads of a checkpoint placed by hand; empty without such a folder.

    Raises:
        VixmlError: the folder exists but is not whole.
    """
    folder = placed_folder(raw_dir, checkpoint)
    if not folder.exists():
        return {}
    index = [layout.index] if (folder / layout.index).is_file() else []
    names = [layout.config, *index, *chain(*_verified_files(folder, layout))]
    return {name: folder / name for name in names}


def _download(name: str, revision: str | None, folder: Path, by_hand: Path, layout: FileNames) -> str:
    """Fetch a checkpoint's files into ``folder``; return their commit."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        snapshot_download(name, revision=commit, allow_patterns=layout.patterns, local_dir=folder)
        return commit
    except Exception as error:  # its errors come from several HTTP libraries, with other names in each version
        raise hub_error(
            error,
            f"cannot fetch {name} from the model hub",
            revision,
            refused="check the name, accept the model's terms on its page and set HF_TOKEN to your token",
            absent="check 'checkpoint' and 'revision' in config/models.yaml",
            alternative=f"or place its files by hand in {by_hand} ({layout})",
        ) from error


def _listed(folder: Path, layout: FileNames) -> dict[str, str]:
    """Return tensor -> weights file of the index; empty without an index."""
    if not (folder / layout.index).is_file():
        return {}
    listed = read_settings(folder / layout.index).get("weight_map")
    # A name comes from the internet: it must stay inside the folder.
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in listed.values()
    ):
        what, expected = "not an index of safetensors files", "'weight_map': tensor -> file name"
        raise VixmlError(what, where=folder / layout.index, expected=expected)
    return listed


def _verified_files(folder: Path, layout: FileNames) -> tuple[list[str], list[str]]:
    """Return the names of the weight files, in order, and of those beside them that are taken; none may be missing."""
    weights = sorted(set(_listed(folder, layout).values())) or [layout.weights]
    pickles = "weights in another format (.bin, .pth) run code when they are read: take a checkpoint in safetensors"
    for name in (layout.config, *weights, *layout.required):
        if not (folder / name).is_file():
            others = sorted(path.name for path in folder.glob("*") if path.is_file())
            what = "a checkpoint lacks a file"
            found, hint = ", ".join(others) or "an empty folder", layout.hint if name in layout.required else pickles
            raise VixmlError(what, where=folder / name, found=found, expected=str(layout), hint=hint)
    return weights, [name for name in (*layout.required, *layout.optional) if (folder / name).is_file()]


def unknown_architecture(
    path: Path, config: Mapping[str, Any], error: Exception, library: str = "transformers"
) -> VixmlError:
    """Return the error for a network that the library cannot build."""
    return VixmlError(
        f"a checkpoint's architecture is not known to this version of {library}",
        where=f"{path}: model_type",
        found=f"{config.get('model_type')!r} ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        hint=f"code that a repository carries is never run: take a checkpoint of an architecture inside {library}",
    )


# -- safetensors files ------------------------------------------------------------------------------------------------


def _header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: tensor -> dtype, shape and offsets, checked against the file's length."""
    hint = "delete it and fetch it again"
    error = reading("a weights file cannot be read", path, expected="a whole safetensors file", hint=hint)
    with error, safe_open(path, framework="np"):
        pass
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: value for name, value in header.items() if name != "__metadata__"}


AT_ONCE = 1 << 22  # numbers that are looked at together


def _expect_finite(path: Path, names: Iterable[str]) -> None:
    """Refuse tensors of a safetensors file that hold NaN or infinity; they are memory-mapped and read a part at a time."""
    whole = reading("a weights file cannot be read", path, hint="delete it and fetch it again")
    with whole, safe_open(path, framework="pt") as file:
        for name in names:
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point() or tensor.itemsize < 2 or not tensor.numel():
                continue
            # NaN is both the smallest and the largest number; `isfinite` takes ten times as long.
            extremes = [extreme for part in tensor.flatten().split(AT_ONCE) for extreme in part.aminmax()]
            if not all(extreme.isfinite() for extreme in extremes):
                raise VixmlError(
                    "a tensor of a weights file is not finite",
                    where=f"{path}: {name}",
                    found="NaN or infinity",
                    hint="the file is damaged, or its training diverged: fetch it again, or take another checkpoint",
                )


def _n_bytes(entry: Mapping[str, Any]) -> int:
    start, end = entry["data_offsets"]
    return end - start


def _cut_out(source: Path, header: Mapping[str, Any], names: Mapping[str, str], target: Path) -> None:
    """Copy some tensors of a safetensors file byte for byte; ``names``: tensor as published -> as written."""
    order = sorted(names, key=lambda key: (header[key]["data_offsets"], key))
    entries, end = {}, 0
    for key in order:
        start, end = end, end + _n_bytes(header[key])
        entries[names[key]] = {k: header[key][k] for k in ("dtype", "shape")} | {"data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = np.memmap(source, np.uint8, "r")
    first = 8 + int.from_bytes(data[:8].tobytes(), "little")
    with atomic_path(target) as temporary, open(temporary, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            start, end = header[key]["data_offsets"]
            out.write(data[first + start : first + end])
