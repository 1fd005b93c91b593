"""Read the local images of a user's catalogue, and nothing outside its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vixml.data.archive import MEMBER_LIMIT, SourceReader
from vixml.errors import VixmlError


class LocalFiles:
    """Read references ``catalogue:path`` below a folder; :attr:`digest` is the SHA-256 of all that was read, in order.

    Args:
        folder: of the catalogue.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.digest = hashlib.sha256()

    def read(self, reference: str, limit: int = MEMBER_LIMIT) -> bytes | None:
        """Return the bytes of an image, or None if there is no such file.

        Raises:
            VixmlError: a path (a link, for example) that leads out of the folder, or a file larger than ``limit``.
        """
        path = self.folder / SourceReader.split(reference)[2]
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise VixmlError(
                "an image lies outside the folder of its catalogue",
                where=path,
                found=str(path.resolve()),
                hint="copy the file into the folder: a link that leads out is not followed",
            )
        data = None
        if path.is_file():
            if path.stat().st_size > limit:
                raise VixmlError(
                    "an image is larger than allowed",
                    where=path,
                    found=f"{path.stat().st_size} bytes",
                    expected=f"at most {limit} bytes",
                )
            data = path.read_bytes()
        self.digest.update(b"-" if data is None else hashlib.sha256(data).digest())
        return data
