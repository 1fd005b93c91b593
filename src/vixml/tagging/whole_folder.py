"""Put a folder in place whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vixml.errors import VixmlError


@contextmanager
def whole_folder(out: Path, marker: str, what: str) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; at the end it takes the place of ``out``, after an error it is removed.

    Args:
        out: the folder to write.
        marker: name of the file that shows that an existing ``out`` may be replaced.
        what: the kind of such a folder, in messages.

    Raises:
        VixmlError: ``out`` exists and is something else.
    """
    out = out.absolute()
    if out.exists() and not (out / marker).is_file():
        hint = "name another folder, or remove this one"
        raise VixmlError(f"the folder to write exists and is no {what}", where=out, hint=hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".tmp-{out.name}-", dir=out.parent))
    try:
        (work / "new").mkdir()
        yield work / "new"
        if out.exists():
            os.rename(out, work / "old")
        os.rename(work / "new", out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
