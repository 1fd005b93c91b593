"""What was fetched so far, so that a killed run goes on and fetches nothing twice.

One SQLite file a shard of the store: a row a picture, written when its fate is settled. Its write-ahead log survives a
killed process; the file goes when its shard stands.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Fetched:
    """One picture's fate.

    Attributes:
        image: its id.
        url: where it was asked for.
        status: the last HTTP status, or None.
        bytes: length of the file as it came, or None.
        sha256: of the file as it came, or None.
        attempts: requests made.
        error: why there is no picture, or None.
        png: the picture, prepared, or None.
        may_pass: whether the failure is one that may pass: then it is tried once more before the shard is written.
    """

    image: int
    url: str
    status: int | None
    bytes: int | None
    sha256: str | None
    attempts: int
    error: str | None
    png: bytes | None
    may_pass: bool = False


COLUMNS = [field.name for field in fields(Fetched)]


class Journal:
    """Keep :class:`Fetched` rows by image id. Use it as a context.

    Args:
        path: the file; made where there is none.
        soon: calls a function a moment later, as an event loop's ``call_soon`` does: rows that come at once are then written
            at once, which takes a tenth of the time. None writes each row by itself.
    """

    def __init__(self, path: Path, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self.path, self._soon, self._open = path, soon, True
        self._base = sqlite3.connect(path, isolation_level=None)  # transactions are ours
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS fetched (image INTEGER PRIMARY KEY, url TEXT, status INTEGER, bytes INTEGER, "
            "sha256 TEXT, attempts INTEGER, error TEXT, png BLOB, may_pass INTEGER)"
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._commit()
        self._open = False
        self._base.close()

    def add(self, row: Fetched) -> None:
        """Keep a row for good."""
        if self._soon is not None and not self._base.in_transaction:
            self._base.execute("BEGIN")
            self._soon(self._commit)
        values = [getattr(row, name) for name in COLUMNS]
        self._base.execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _commit(self) -> None:
        if self._open and self._base.in_transaction:
            self._base.commit()

    def settled(self) -> dict[int, int]:
        """Return the requests made for each image that was tried."""
        return dict(self._base.execute("SELECT image, attempts FROM fetched"))

    def may_pass(self) -> dict[int, int]:
        """Return the requests made for each image whose failure may pass."""
        return dict(self._base.execute("SELECT image, attempts FROM fetched WHERE may_pass"))

    def forget(self, images: Iterable[int]) -> None:
        """Drop rows, so that these are tried again."""
        self._base.executemany("DELETE FROM fetched WHERE image = ?", [(image,) for image in images])

    def __iter__(self) -> Iterator[Fetched]:
        """Yield all rows, ascending."""
        for row in self._base.execute("SELECT * FROM fetched ORDER BY image"):
            yield Fetched(*row)
