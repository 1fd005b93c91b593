"""Put a folder in place whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vixml.errors import VixmlError
from vixml.files import read_json, sync_folder, sync_tree, work_folder


@contextmanager
def whole_folder(out: Path, marker: str, what: str) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; at the end it takes the place of ``out``, after an error it is removed.

    An existing ``out`` is replaced only if it holds a ``marker`` of ours (:func:`is_ours`); ``what`` is the kind of such a folder,
    in messages. Of a symbolic link, what it leads to is replaced, or made.

    Raises:
        VixmlError: ``out`` exists and is something else.
    """
    out = Path(os.path.realpath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    former = out.with_name(f".{out.name}-former")
    if former.is_symlink():  # of an earlier version, which moved the link
        former.unlink()
    if former.exists() and not out.exists():
        os.rename(former, out)  # a kill between the two renames below
    _expect_kind(out, marker, what)
    with work_folder(out) as work:
        (work / "new").mkdir()
        yield work / "new"
        sync_tree(work / "new")
        for last in (False, False, True):
            if out.exists():
                _expect_kind(out, marker, what)
                shutil.rmtree(former, ignore_errors=True)
                with suppress(FileNotFoundError):  # another process moved it at this moment
                    os.rename(out, former)
            try:
                os.rename(work / "new", out)
                break
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and not last:
                    continue  # another process wrote the same folder at this moment
                with suppress(OSError):
                    os.rename(former, out)
                raise
        sync_folder(out.parent)
    shutil.rmtree(former, ignore_errors=True)


def _expect_kind(out: Path, marker: str, what: str) -> None:
    """Check that a folder that will be replaced is of this kind."""
    if out.is_symlink() or (out.exists() and not is_ours(out / marker)):  # a link that leads to itself
        hint = "name another folder, or remove this one"
        raise VixmlError(f"the folder to write exists and is no {what}", where=out, hint=hint)


def is_ours(marker: Path) -> bool:
    """Return whether this project wrote a marker: other programs have a file ``model.json``, too (XGBoost, TensorFlow.js)."""
    if not marker.is_file():
        return False
    try:
        content = read_json(marker)
    except VixmlError:
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith("vixml-")
