"""Read archives from the internet, in memory or as a stream, with size limits and never unpacked; and local images.

A wheel is a zip file. Its member names are only ever keys of a dictionary; no name becomes a path on disk, so a name such
as ``../../x`` can do nothing.
"""

from __future__ import annotations

import errno
import hashlib
import io
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from vixml.config.registry import Source
from vixml.errors import VixmlError, reading

MEMBER_LIMIT = 64 << 20
NESTED = "!"


class Archive:
    """A zip file opened for reading.

    ``file``: its path, or the bytes of an archive inside another, which need a ``name`` for errors.

    Raises:
        VixmlError: missing, or not a zip.
    """

    def __init__(self, file: Path | str | bytes, name: str | None = None) -> None:
        self.name = name or str(file)
        stream: Path | IO[bytes] = io.BytesIO(file) if isinstance(file, bytes) else Path(file)
        if isinstance(stream, Path) and not stream.exists():
            raise VixmlError("an archive is missing", where=self.name, hint="fetch it: vixml download NAME")
        hint = "delete it and fetch it again: vixml download NAME"
        with reading("not a readable zip archive", self.name, hint=hint):
            self._zip = zipfile.ZipFile(stream)
            self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the member names that start with ``prefix`` and end with ``suffix``, sorted."""
        return sorted(name for name in self._members if name.startswith(prefix) and name.endswith(suffix))

    def read(self, member: str, limit: int = MEMBER_LIMIT) -> bytes:
        """Return the bytes of one member; more than ``limit`` are refused, whatever the archive declares (zip bombs).

        Raises:
            VixmlError: no such member, larger than ``limit``, or damaged.
        """
        where = f"{self.name}: {member}"
        info = self._members.get(member)
        if info is None:
            raise VixmlError(
                "the archive has no such member",
                where=where,
                hint="the source is of another version than config/ describes: check its version and sha256",
            )
        if info.file_size > limit:
            raise _too_large(where, f"{info.file_size} bytes declared", limit)
        with self._reading(member), self._zip.open(info) as stream:
            # One byte more than allowed: the archive may declare a wrong size.
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise _too_large(where, f"more than {limit} bytes", limit)
        return data

    def only(self, filename: str) -> Member | None:
        """Return the member with that file name, in any folder, or None.

        Raises:
            VixmlError: several members have that name, or a member's path leads out of the archive's folder.
        """
        for name in self._members:
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
                raise VixmlError(
                    "an archive holds a file that would be written outside its folder",
                    where=self.name,
                    found=repr(name),
                    expected="names inside the archive's folder",
                    hint="nothing was written; the archive is not the published one, or is malicious: delete it",
                )
        found = sorted(name for name in self._members if PurePosixPath(name).name == filename)
        if len(found) > 1:
            what = "an archive holds a file twice"
            hint = "the archive is not the one that config/ describes: fetch it again"
            raise VixmlError(what, where=self.name, found=", ".join(found), expected=f"one {filename}", hint=hint)
        return Member(self, found[0]) if found else None

    def _reading(self, member: str) -> AbstractContextManager[None]:
        what, hint = "a member of the archive cannot be read", "the archive is damaged: delete it and fetch it again"
        return reading(what, f"{self.name}: {member}", hint=hint)


@dataclass(frozen=True)
class Member:
    """One file of an archive, to be read as a stream; ``str`` names archive and member, for errors."""

    archive: Archive
    name: str

    def open(self) -> IO[bytes]:
        """Return a stream of its bytes.

        Raises:
            VixmlError: encrypted, or packed in a way that Python cannot unpack.
        """
        with self.archive._reading(self.name):
            return self.archive._zip.open(self.name)

    def __str__(self) -> str:
        return f"{self.archive.name}: {self.name}"


class SourceReader:
    """Read references ``source:member`` (``source:outer.zip!member`` for a zip in a zip), keeping archives open.

    Example:
        >>> SourceReader("raw", {}).split("justmyresource-mdi:icons.zip!abacus.svg")
        ('justmyresource-mdi', 'icons.zip', 'abacus.svg')
    """

    def __init__(self, raw_dir: Path | str, sources: Mapping[str, Source]) -> None:
        self.raw_dir, self.sources = Path(raw_dir), sources
        self._open: dict[tuple[str, str | None], Archive] = {}

    def path(self, source: str) -> Path:
        """Return the path of a source.

        Raises:
            VixmlError: a source that the registry does not know.
        """
        if source not in self.sources:
            raise VixmlError(
                "an image comes from a source that is not in the registry",
                where=source,
                expected="one of: " + ", ".join(sorted(self.sources)),
                hint="build the corpus again with this config/datasets.yaml",
            )
        return self.raw_dir / self.sources[source].filename

    def archive(self, source: str, nested: str | None = None) -> Archive:
        """Return the archive of a source, or a zip inside it.

        Raises:
            VixmlError: a source that the registry does not know, a missing or damaged file.
        """
        if (source, nested) not in self._open:
            if nested is None:
                opened = Archive(self.path(source))
            else:
                outer = self.archive(source)
                opened = Archive(outer.read(nested), f"{outer.name}{NESTED}{nested}")
            self._open[source, nested] = opened
        return self._open[source, nested]

    @staticmethod
    def split(reference: str) -> tuple[str, str | None, str]:
        """Return (source, nested archive or None, member).

        Raises:
            VixmlError: not of the form ``source:member``.
        """
        source, colon, member = reference.partition(":")
        if not colon or not source or not member:
            raise VixmlError("not an image reference", found=repr(reference), expected="source:member")
        outer, mark, inner = member.partition(NESTED)
        return (source, outer, inner) if mark else (source, None, member)

    def read(self, reference: str, limit: int = MEMBER_LIMIT) -> bytes:
        """Return the bytes a reference names."""
        source, nested, member = self.split(reference)
        return self.archive(source, nested).read(member, limit)


class LocalFiles:
    """Read references ``catalogue:path``, and nothing outside a catalogue's folder; ``digest`` covers all that was read."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.digest = hashlib.sha256()

    def read(self, reference: str, limit: int = MEMBER_LIMIT) -> bytes | str:
        """Return the bytes of an image, or the reason why there are none: no such file, or larger than ``limit``.

        Raises:
            VixmlError: a path (a link, for example) that leads out of the folder.
        """
        found = self._read(self.folder / SourceReader.split(reference)[2], limit)
        self.digest.update(b"-" if isinstance(found, str) else hashlib.sha256(found).digest())
        return found

    def _read(self, path: Path, limit: int) -> bytes | str:
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(self.folder.resolve()):
                found, hint = str(resolved), "copy the file into the folder: a link that leads out is not followed"
                raise VixmlError("an image is outside the folder of its catalogue", where=path, found=found, hint=hint)
            if not path.is_file():
                return "no such file"
            if path.stat().st_size > limit:
                return f"larger than {limit} bytes"
            return path.read_bytes()
        except (ValueError, RuntimeError, OSError) as error:  # a null character, links in a circle, no name of a file
            if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            return "no such file"


def _too_large(where: str, found: str, limit: int) -> VixmlError:
    what = "a member of the archive is larger than allowed"
    hint = "the archive is not the one that config/ describes, or is malicious: delete it"
    return VixmlError(what, where=where, found=found, expected=f"at most {limit} bytes", hint=hint)
