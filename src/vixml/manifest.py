"""Read only what a manifest vouches for.

A finished stage left the size and the SHA-256 of each of its files in its manifest. A stage that reads the folder hashes these files
first, each once per process, and again at the end if one was touched meanwhile (docs/design.md). No verification is kept from one
process to the next: that would trust times and sizes, which a failing disk does not change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json, sha256_file, sha256_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ITSELF = "manifest_sha256"
ALTERED = "a file is not the one that its stage wrote"
AGAIN = "delete the folder and run snakemake again; if it happens twice, check the disk"

# File (size, times, inode) -> SHA-256, of this process.
_HASHES: dict[tuple[Any, ...], str] = {}
# A change within the same tick of the file system's clock leaves the times as they are; ticks are 4 to 10 ms.
_TICKS = 50_000_000


def inside(name: str) -> bool:
    """Return whether a path in a manifest stays inside its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts and "\0" not in name


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Read a stage's manifest and check that it was not altered.

    Raises:
        VixmlError: missing, of another schema version, or with another configuration or other files than it was written with.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json(path, finite=True)
    found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
    what, hint = "a result of another schema version", "run its stage again with this version of vixml"
    expect_equal(found, SCHEMA_VERSION, what, where=path, hint=hint)
    for key, digest in (("outputs", "outputs_sha256"), ("config", "config_sha256")):
        if key not in manifest:
            continue  # `vixml check` names what an older one lacks
        what = f"a manifest was altered: its {key}"
        expect_equal(sha256_json(manifest.get(key)), manifest.get(digest), what, where=f"{path}: {digest}", hint=AGAIN)
    if ITSELF in manifest:  # those of earlier versions have none
        found = with_digest(manifest)[ITSELF]
        expect_equal(found, manifest[ITSELF], "a manifest was altered", where=f"{path}: {ITSELF}", hint=AGAIN)
    return manifest


def with_digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest that vouches for itself: with the hash of all its other keys, facts and versions too."""
    rest = {key: value for key, value in manifest.items() if key != ITSELF}
    return rest | {ITSELF: sha256_json(rest)}


def holds(folder: Path | str, name: str) -> bool:
    """Return whether a finished folder has a file ``name``, or files in a folder of that name: its manifest decides.

    Files that a former publication left, or that somebody put there, are not part of a folder. A folder without a manifest is
    still being written, or is no stage's: then what exists decides.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        return (folder / name).exists()
    return any(file == name or file.startswith(f"{name}/") for file in read_manifest(folder).get("outputs", ()))


def describe_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return ``{relative path: {sha256, bytes}}`` for every file below ``folder``, sorted."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in files}


def expect_nothing_else(folder: Path | str) -> None:
    """Check that a finished folder has only the files that its manifest names, for example before a library looks into it.

    transformers opens whichever weights, adapters and settings it finds in a folder. A folder without a manifest is no stage's.

    Raises:
        VixmlError: a file that the manifest does not name.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        return
    known = read_manifest(folder).get("outputs", {}).keys() | {MANIFEST}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if path.relative_to(folder).as_posix() not in known:
            hint = "move it away, or delete the folder and run snakemake again"
            raise VixmlError("a folder holds a file that its stage did not write", where=path, hint=hint)


def not_whole(folder: Path | str) -> list[str]:
    """Return the files that a finished folder's manifest names and that are missing or of another size."""
    folder = Path(folder)
    outputs = read_json(folder / MANIFEST)["outputs"]
    sizes = {name: path.stat().st_size for name in outputs if (path := folder / name).is_file()}
    return [name for name, entry in outputs.items() if sizes.get(name) != entry["bytes"]]


def verify(folder: Path | str, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Verify files of a finished folder (None: all that its manifest names) by size and SHA-256; return its manifest.

    Raises:
        VixmlError: no manifest, an altered one, or a file that is missing or altered.
    """
    return Reading().folder(Path(folder), names)


def verify_file(path: Path | str) -> None:
    """Verify one file by the manifest of the folder that it is in, if a stage wrote that folder.

    Raises:
        VixmlError: the file is altered, or its folder's manifest is.
    """
    path = Path(path)
    if (found := _vouched_by(path)) is not None:
        verify(found[0], [found[1]])


def describe_input(path: Path | str) -> dict[str, Any]:
    """Verify an input and name it by content: a stage's folder by its manifest's digest, a plain file by its own hash.

    Raises:
        VixmlError: the input is missing, is a folder that no stage has finished, or is not what its manifest vouches for.
    """
    return Reading().describe(path)


def check_run(folder: Path, expected: Mapping[str, object], option: str) -> None:
    """Check that a folder belongs to a run.

    Raises:
        VixmlError: it belongs to another.
    """
    config = read_manifest(folder)["config"]
    found, wanted = (" ".join(f"{key} {of.get(key)}" for key in expected) for of in (config, expected))
    hint = "a run with `reuse` reads the index and the model of the run that it names; every other run its own"
    expect_equal(found, wanted, "this folder belongs to another run", where=f"{option} {folder}", hint=hint)


def expect_one_origin(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the inputs of a stage that were made from one another are of one making.

    After a corpus was built again, its old tokens are whole, and vouched for, but row i of them is another item.
    ``described`` has what :meth:`Reading.describe` returns of each input.

    Raises:
        VixmlError: an input was made, perhaps through others, from a former state of another input.
    """
    # Folders of stages: files of configuration are read by many stages and rerun none.
    folders = [entry for entry in described.values() if (Path(entry["path"]) / MANIFEST).is_file()]
    now = {os.path.abspath(entry["path"]): entry["sha256"] for entry in folders}
    for entry in folders:
        made = [(entry["path"], entry["sha256"])]
        for path, state in made:  # grows
            for source in _inputs_of(Path(path), state):
                digest = now.get(os.path.abspath(source["path"]), source["sha256"])
                if digest != source["sha256"]:
                    raise VixmlError(
                        "an input is older than what it was made from", where=path, found=f"made from {source['path']} "
                        f"with sha256 {source['sha256'][:12]}", expected=f"from what is there now, {digest[:12]}",
                        hint="run its stage again; snakemake runs what is older by itself",
                    )  # fmt: skip
                one = (source["path"], source["sha256"])
                made += [one] if one not in made else []


def _inputs_of(folder: Path, state: str) -> list[dict[str, Any]]:
    """Return what a folder was made from; nothing of a file, and of a folder that was made again since or is half written."""
    if (folder / MANIFEST).is_file():
        with suppress(VixmlError):
            manifest = read_manifest(folder)
            return list(manifest.get("inputs", {}).values()) if manifest.get("outputs_sha256") == state else []
    return []


class Reading:
    """The inputs of one stage: each file's hash, and its state when it was hashed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[Any, ...], str]] = {}

    def describe(self, path: Path | str, named_only: bool = False) -> dict[str, Any]:
        """Verify an input and return its path and digest, as :func:`describe_input`.

        ``named_only``: do not hash the files of a folder, because its reader verifies each one.
        """
        path = Path(path)
        if path.is_dir():
            if not (path / MANIFEST).exists():
                hint = "run the stage that makes it; snakemake does so by itself"
                raise VixmlError("an input folder is not complete", where=path, found=f"no {MANIFEST}", hint=hint)
            manifest = self.folder(path, () if named_only else None)
            return {"path": path.as_posix(), "sha256": manifest["outputs_sha256"]}
        if not path.exists():
            raise VixmlError("an input is missing", where=path, hint="run the stage that makes it")
        if (found := _vouched_by(path)) is not None:
            self.folder(found[0], [found[1]])
        return {"path": path.as_posix(), "sha256": self._hash(path)}

    def folder(self, folder: Path, names: Iterable[str] | None) -> dict[str, Any]:
        """Verify files of a folder as :func:`verify` does."""
        manifest = read_manifest(folder)
        outputs: Mapping[str, Any] = manifest.get("outputs", {})
        files = []
        for name in outputs if names is None else names:
            if not inside(name):
                raise VixmlError("a manifest names a file outside its folder", where=folder / MANIFEST, found=name)
            path, expected = folder / name, f"{outputs[name]['bytes']} bytes"
            what = "a file that the manifest names is missing" if not path.is_file() else ALTERED
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
            expect_equal(found, expected, what, where=path, hint=AGAIN)
            files.append((path, outputs[name]["sha256"]))
        # hashlib and the disk let other threads run; the largest file first, so that none waits alone at the end.
        files.sort(key=lambda file: -file[0].stat().st_size)
        with ThreadPoolExecutor(max(1, min(8, len(files), usable_cores()))) as workers:
            hashes = list(workers.map(lambda file: self._hash(file[0]), files))
        for (path, expected), found in zip(files, hashes, strict=True):
            expect_equal(f"sha256 {found}", f"sha256 {expected}", ALTERED, where=path, hint=AGAIN)
        return manifest

    def verify_unchanged(self) -> None:
        """Verify that every file is still what was hashed: hash those again that were touched meanwhile.

        Raises:
            VixmlError: another process replaced or altered an input while the stage read it.
        """
        for path, (state, digest) in self._seen.items():
            try:
                same = _state(path) == state or sha256_file(path) == digest
            except FileNotFoundError:
                same = False
            if not same:
                raise VixmlError(
                    "an input changed while a stage read it",
                    where=path,
                    hint="another process writes to the same results: wait for it, then run the same command again",
                )

    def _hash(self, path: Path) -> str:
        state = _state(path)
        if (digest := _HASHES.get(state)) is None:
            digest = sha256_file(path)
            if time.time_ns() - max(state[-2:]) > _TICKS:
                _HASHES[state] = digest
        self._seen[path] = state, digest
        return digest


def _state(path: Path) -> tuple[Any, ...]:
    found = path.stat()
    return str(path.absolute()), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _vouched_by(path: Path) -> tuple[Path, str] | None:
    """Return the stage's folder that a file is in, and its name there; None: no stage wrote it."""
    for folder in list(path.parents)[:3]:
        if (folder / MANIFEST).is_file():
            manifest, name = read_json(folder / MANIFEST), path.relative_to(folder).as_posix()
            ours = isinstance(manifest, dict) and isinstance(manifest.get("outputs"), dict)
            return (folder, name) if ours and name in manifest["outputs"] else None
    return None


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
