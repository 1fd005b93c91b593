"""A checkpoint of the model hub, placed by hand or fetched: its files, and some of its tensors copied out, never a pickle.

Nothing is held in memory: only the safetensors headers are looked at, shards are moved or copied whole, and a part of a
checkpoint is cut out byte by byte. The published precision is kept. Which files are taken is the :class:`Layout`'s say; what
stands in the network's configuration is its reader's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vixml.data.download import hub_error
from vixml.errors import VixmlError
from vixml.files import atomic_path, read_json, write_json


@dataclass(frozen=True)
class Layout:
    """The names of a kind of checkpoint's files.

    Attributes:
        config: the network's configuration.
        weights: the weights, where they are one file.
        required: files that must lie beside them.
        optional: files that are taken if they are there.
        hint: what to do where a required file is missing.
    """

    config: str = "config.json"
    weights: str = "model.safetensors"
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    hint: str = ""

    @property
    def index(self) -> str:
        """Return the name of the file that says which shard holds which tensor."""
        return f"{self.weights}.index.json"

    @property
    def patterns(self) -> list[str]:
        """Return what is fetched. `model*`: some repositories carry a second copy of the weights under another name."""
        return [self.config, self.weights.replace(".", "*.", 1), self.index, *self.required, *self.optional]

    def __str__(self) -> str:
        parts = [self.config, f"{self.weights} (or its shards and {self.index})", *self.required]
        return ", ".join(parts)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's files on this disk.

    Attributes:
        folder: where they lie.
        layout: their names.
        placed: whether a person placed them there; such files are copied, never moved.
        revision: the commit on the hub; None where they were placed by hand.
        headers: weights file -> tensor -> ``dtype``, ``shape`` and ``data_offsets``.
    """

    folder: Path
    layout: Layout
    placed: bool
    revision: str | None
    headers: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, name: str, revision: str | None, raw_dir: Path, layout: Layout) -> Checkpoint:
        """Open a checkpoint. A folder placed by hand takes precedence over the hub; an interrupted download is resumed.

        Args:
            name: ORGANISATION/NAME on the hub.
            revision: a commit, a branch or None for the newest.
            raw_dir: folder of fetched files (results/raw).
            layout: the files to take.

        Raises:
            VixmlError: the hub cannot be reached or refuses, or the files are not those of a checkpoint.
        """
        folder = placed_folder(raw_dir, name)
        placed = folder.exists()
        commit = None
        if not placed:
            folder = folder.with_name(f".download-{folder.name}")
            commit = _download(name, revision, folder, placed_folder(raw_dir, name), layout)
        headers = {file: header_of(folder / file) for file in _weight_files(folder, layout)}
        _check_index(folder, headers, layout)
        _companions(folder, layout)  # before anything is moved out of a download: what lacks a file stays whole
        return cls(folder, layout, placed, commit, headers)

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a manifest says of it: ``origin`` and ``revision``."""
        return {"origin": "placed by hand" if self.placed else "hub", "revision": self.revision}

    @property
    def config(self) -> dict[str, Any]:
        """Return its configuration. `auto_map` names Python files of the repository; they are never run."""
        return {key: value for key, value in read_json(self.folder / self.layout.config).items() if key != "auto_map"}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor."""
        return {key: tuple(value["shape"]) for header in self.headers.values() for key, value in header.items()}

    def write_weights(self, work: Path, names: Mapping[str, str]) -> None:
        """Write some tensors, and the files beside the weights, into ``work``.

        Args:
            work: the folder to fill.
            names: tensor as published -> as written.
        """
        kept = {
            file: part
            for file, header in self.headers.items()
            if (part := {key: names[key] for key in header if key in names})
        }
        for file, part in kept.items():
            if part == {key: key for key in self.headers[file]}:
                self._hand_over(file, work)
            else:
                cut_out(self.folder / file, self.headers[file], part, work / file)
        if list(kept) != [self.layout.weights]:
            sizes = [extent(self.headers[file][key]) for file, part in kept.items() for key in part]
            places = {new: file for file, part in kept.items() for new in part.values()}
            write_json(work / self.layout.index, {"metadata": {"total_size": sum(sizes)}, "weight_map": places})
        for file in _companions(self.folder, self.layout):
            self._hand_over(file, work)

    def done(self) -> None:
        """Remove a download that was written and found in order; what was placed by hand stays."""
        if not self.placed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hand_over(self, file: str, work: Path) -> None:
        try:
            if self.placed:  # a person's file must not change with the result
                raise OSError
            os.link(self.folder / file, work / file)
        except OSError:  # another disk, or one without links
            shutil.copyfile(self.folder / file, work / file)


def placed_folder(raw_dir: Path, checkpoint: str) -> Path:
    """Return where a checkpoint may be placed by hand.

    Example:
        >>> placed_folder(Path("results/raw"), "Qwen/Qwen2.5-3B").as_posix()
        'results/raw/hub/Qwen--Qwen2.5-3B'
    """
    return raw_dir / "hub" / checkpoint.replace("/", "--")


def placed_files(raw_dir: Path, checkpoint: str, layout: Layout) -> dict[str, Path]:
    """Return the files of a checkpoint placed by hand that a stage reads, by name; empty if there is no such folder.

    Raises:
        VixmlError: the folder is there, but not whole.
    """
    folder = placed_folder(raw_dir, checkpoint)
    if not folder.exists():
        return {}
    index = [layout.index] if (folder / layout.index).is_file() else []
    names = [layout.config, *index, *_weight_files(folder, layout), *_companions(folder, layout)]
    return {name: folder / name for name in names}


def _download(name: str, revision: str | None, folder: Path, by_hand: Path, layout: Layout) -> str:
    """Fetch a checkpoint's files into ``folder``; return the commit they are of."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        snapshot_download(name, revision=commit, allow_patterns=layout.patterns, local_dir=folder)
        return commit
    except Exception as error:  # its errors come from several HTTP libraries, of another name in each version
        raise hub_error(
            error,
            f"cannot fetch {name} from the model hub",
            revision,
            refused="check the name, accept the model's terms on its page and set HF_TOKEN to your token",
            absent="check 'checkpoint' and 'revision' in config/models.yaml",
            alternative=f"or place its files by hand in {by_hand} ({layout})",
        ) from error


def _weight_files(folder: Path, layout: Layout) -> list[str]:
    """Return the names of a checkpoint's weight files, in order.

    Raises:
        VixmlError: none, one is missing, or a name that is no plain file name.
    """
    names = [layout.weights]
    if (folder / layout.index).is_file():
        index = read_json(folder / layout.index)
        listed = index.get("weight_map") if isinstance(index, dict) else None
        # A name comes from the internet: it must stay inside the folder.
        if not isinstance(listed, dict) or not all(
            isinstance(name, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in listed.values()
        ):
            raise VixmlError(
                "not an index of safetensors files",
                where=folder / layout.index,
                expected="'weight_map': tensor -> file name",
            )
        names = sorted(set(listed.values()))
    for name in (layout.config, *names):
        if not (folder / name).is_file():
            others = sorted(path.name for path in folder.glob("*") if path.is_file())
            raise VixmlError(
                "a checkpoint lacks a file",
                where=folder / name,
                found=", ".join(others) or "an empty folder",
                expected=str(layout),
                hint="weights in another format (.bin, .pth) run code when they are read: take a checkpoint in safetensors",
            )
    return names


def _companions(folder: Path, layout: Layout) -> list[str]:
    """Return the files beside the weights that are taken.

    Raises:
        VixmlError: a required one is missing.
    """
    for name in layout.required:
        if not (folder / name).is_file():
            raise VixmlError("a checkpoint lacks a file", where=folder / name, expected=str(layout), hint=layout.hint)
    return [name for name in (*layout.required, *layout.optional) if (folder / name).is_file()]


def _check_index(folder: Path, headers: Mapping[str, Mapping[str, Any]], layout: Layout) -> None:
    if not (folder / layout.index).is_file():
        return
    listed = read_json(folder / layout.index)["weight_map"]
    found = {key: name for name, header in headers.items() for key in header}
    for key in sorted(listed.keys() | found.keys()):
        if listed.get(key) != found.get(key):
            raise VixmlError(
                "the shards are not those of the index",
                where=f"{folder / layout.index}: {key}",
                found=f"in {found.get(key, 'no shard')}",
                expected=f"in {listed.get(key, 'no shard')}",
                hint="shards and index are of two revisions: fetch them again",
            )


def unknown_architecture(
    path: Path, config: Mapping[str, Any], error: Exception, library: str = "transformers"
) -> VixmlError:
    """Return the error of a network that the library cannot build."""
    return VixmlError(
        f"a checkpoint's architecture is not known to this version of {library}",
        where=f"{path}: model_type",
        found=f"{config.get('model_type')!r} ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        hint=f"code that a repository carries is never run: take a checkpoint of an architecture inside {library}",
    )


# -- safetensors files ------------------------------------------------------------------------------------------------

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
