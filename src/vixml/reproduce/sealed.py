"""A stage's finished folder and what its manifest promises of it; the three answers that a check may give."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.files import sha256_file, sha256_json
from vixml.provenance import MANIFEST, read_manifest

# A quick check takes larger files by their size.
BIG = 4 << 20
KEYS = {"stage": str, "config": dict, "inputs": dict, "outputs": dict, "outputs_sha256": str}
# The folders right below results: an input is found by what follows one of them, wherever results lay when it was read.
PLACES = ("pages", "raw", "models", "data", "runs", "tables", "figures", "tuning", "report")


@dataclass(frozen=True)
class Ok:
    """A check found what it expected.

    Attributes:
        said: what is worth printing of it; empty for nothing.
    """

    said: str = ""


@dataclass(frozen=True)
class Failed:
    """A check found something else than it expected."""

    what: str
    found: object
    expected: object
    file: object

    def __str__(self) -> str:
        parts = {"file": self.file, "found": self.found, "expected": self.expected}
        return "\n".join(
            [self.what, *(f"  {key + ':':<9} {value}" for key, value in parts.items() if value is not None)]
        )


@dataclass(frozen=True)
class NotThere:
    """What a check would look at does not exist.

    Attributes:
        what: the thing that is missing.
    """

    what: str


Outcome = Ok | Failed | NotThere


def attempt(check: Callable[[], Outcome], where: object = None) -> Outcome:
    """Return what a check answers; what it refuses or cannot read is a failure, not the end of all checks.

    Args:
        check: one check.
        where: the place to name if a failure does not know its own.
    """
    try:
        return check()
    except VixmlError as error:
        return Failed(error.what, error.found, error.expected, error.where or where)
    except OSError as error:
        return Failed("a file cannot be read", error.strerror or error, "a readable file", error.filename or where)
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # A file whose parts are missing or of another kind: whatever reads it stumbles somewhere.
        return Failed("a file does not hold what it should", f"{type(error).__name__}: {error}", None, where)


@dataclass(frozen=True)
class Sealed:
    """A folder that a stage has finished.

    Attributes:
        path: of the folder.
        results: the folder of all results, below which it lies.
    """

    path: Path
    results: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return its manifest; read it only once :meth:`whole_manifest` was ok."""
        return read_manifest(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Return what the stage obeyed."""
        return self.manifest["config"]

    def checks(self, quick: bool) -> list[Callable[[], Outcome]]:
        """Return the checks that every stage's folder must pass, in order."""
        return [self.whole_manifest, lambda: self.same_files(quick), lambda: self.current_inputs(quick)]

    def whole_manifest(self) -> Outcome:
        """Check that the manifest can be read, has its parts, and that none was altered by hand."""
        file = self.path / MANIFEST
        manifest = read_manifest(self.path)
        for key, kind in KEYS.items():
            if not isinstance(manifest.get(key), kind):
                return Failed("a manifest lacks a part", f"no {key}", ", ".join(KEYS), file)
        for key, digest in (("outputs", "outputs_sha256"), ("config", "config_sha256")):
            if (now := sha256_json(manifest[key])) != manifest.get(digest):
                return Failed(f"a manifest was altered: its {key}", now, manifest.get(digest), f"{file}: {digest}")
        return Ok()

    def same_files(self, quick: bool = False) -> Outcome:
        """Check that the files are those that the stage wrote, by size and SHA-256, and that there are no others.

        Args:
            quick: take files above :data:`BIG` bytes by their size.
        """
        outputs = self.manifest["outputs"]
        for name, entry in outputs.items():
            file = self.path / name
            if not file.is_file():
                return Failed("a file that the manifest names is missing", "nothing", f"{entry['bytes']} bytes", file)
            if (size := file.stat().st_size) != entry["bytes"]:
                return Failed(
                    "a file is not the one that its stage wrote", f"{size} bytes", f"{entry['bytes']} bytes", file
                )
            if not (quick and size > BIG) and (digest := sha256_file(file)) != entry["sha256"]:
                return Failed("a file is not the one that its stage wrote", digest, entry["sha256"], file)
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = file.relative_to(self.path).as_posix()
            if name not in outputs and name != MANIFEST and not file.name.startswith("."):
                return Failed("a file that its stage did not write", name, "only what the manifest names", file)
        return Ok()

    def current_inputs(self, quick: bool = False) -> Outcome:
        """Check that the inputs are still what the stage read: otherwise its result is of another chain.

        An input that is gone cannot be compared; that is no failure (raw files may be removed once they were read).
        """
        gone = []
        for name, entry in self.manifest["inputs"].items():
            path = self.locate(entry["path"])
            if path is None or (path.is_dir() and not (path / MANIFEST).exists()):
                gone.append(name)
                continue
            if path.is_dir():
                now = read_manifest(path)["outputs_sha256"]
            elif quick and path.stat().st_size > BIG:
                continue
            else:
                now = sha256_file(path)
            if now != entry["sha256"]:
                return Failed(
                    f"made from another {name} than the one that lies there now: the chain is stale",
                    f"{path}: {now}",
                    entry["sha256"],
                    f"{self.path / MANIFEST}: inputs.{name}",
                )
        return NotThere(f"{', '.join(gone)} of {self.path}") if gone else Ok()

    def locate(self, path: str) -> Path | None:
        """Return where an input lies now, or None: below this folder of results, even if it was another one then."""
        parts = Path(path).parts
        for at, part in enumerate(parts):
            if part in PLACES and (here := self.results.joinpath(*parts[at:])).exists():
                return here
        return None

    def identity(self, **expected: object) -> Outcome:
        """Check that the folder holds what its place says: dataset, run, seed and the like."""
        return same(self.config, expected, self.path / MANIFEST, "a folder holds the result of something else")


def same(found: Mapping[str, Any], expected: Mapping[str, object], file: object, what: str) -> Outcome:
    """Check that some keys of a mapping have the values expected; all that differ are named."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if not wrong:
        return Ok()
    return Failed(
        what,
        ", ".join(f"{key} {found.get(key)}" for key in wrong),
        ", ".join(f"{key} {expected[key]}" for key in wrong),
        file,
    )
