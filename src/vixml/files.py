"""Write files so that they are either whole or absent, and name their contents by hash.

Every output of the project passes through here: it is written under a temporary name in the same folder, flushed to
the disk, and renamed; then the folder is flushed, so that the name outlives a loss of power as well. A killed process leaves at
most a ``.tmp-*`` file, never half a result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vixml.errors import MACHINE, VixmlError, expect_equal, machine_error

DAY = 86_400.0
# Seconds without a change after which a temporary file, and a work folder, are nobody's: a file is being written all the time, while
# a training writes to its work folder at the end.
ABANDONED = (DAY, 30 * DAY)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``, else remove it.

    Raises:
        VixmlError: the disk is full (the old file, if any, is untouched).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Publishing a stage's work folder flushes all of it, and removing it leaves nothing behind.
    alone = not any(part.startswith(".tmp-") for part in path.parts)
    if alone:
        sweep(path)
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(8)}")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        os.chmod(temporary, mode)  # safetensors writes private files; results are for everyone
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        if alone:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the first error says more
            temporary.unlink(missing_ok=True)
        if no_space(error):
            raise disk_full(path) from error
        if not isinstance(error, OSError) and (said := machine_error(error, path)) is not None:
            raise said from error
        raise


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out``, on the same disk; remove it afterwards, and those of former tries that were killed."""
    sweep(out)
    work = Path(tempfile.mkdtemp(prefix=f"{_prefix(out)}{os.getpid()}-", dir=out.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove the temporary files and work folders of ``out`` whose processes ended before they could.

    Of another machine or container, nothing tells whether a process runs: there age decides (:data:`ABANDONED`).
    """
    prefix = _prefix(out)
    # Nothing of a folder that may be written but not listed, or of none.
    for left in out.parent.glob(f".tmp-{escape(out.name)}-*"):
        pid = left.name.removeprefix(prefix).split("-", 1)[0]
        own = left.name.startswith(prefix) and pid.isdecimal()
        if (not psutil.pid_exists(int(pid))) if own else _abandoned(left):
            with suppress(OSError):  # another user's
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def _abandoned(left: Path) -> bool:
    try:
        found = left.lstat()
    except FileNotFoundError:  # renamed or removed by its process
        return False
    return time.time() - found.st_mtime > ABANDONED[stat.S_ISDIR(found.st_mode)]


def _prefix(out: Path) -> str:
    return f".tmp-{out.name}-{platform.node()}-{_pid_namespace()}-"


@cache
def _pid_namespace() -> int:
    """Return what distinguishes the process ids of a container from those of another one with the same host name."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # only Linux has them
        return 0


def sync_folder(folder: Path | str) -> None:
    """Flush a folder's names to the disk; without that, a loss of power may undo a rename of the last seconds.

    Raises:
        OSError: the disk failed. A file system that cannot flush folders (some network disks) is left alone.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path | str) -> None:
    """Flush every file and folder below ``folder``; those that were flushed already cost next to nothing."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(place)


# NumPy ("... requested and ... written") and torch's writer, by path and by stream, name no number of an error.
_CUT_SHORT = ("requested and", "unexpected pos", "iostream error", "PytorchStreamWriter failed")


def no_space(error: BaseException) -> bool:
    """Return whether a failed write met a full disk or quota; NumPy and torch only report a short write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError | RuntimeError) and any(words in str(error) for words in _CUT_SHORT)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, over ``target`` if that is a file; on another disk, copy it beside ``target`` and rename that."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copied = target.with_name(f".tmp-{target.name[:100]}-{secrets.token_hex(8)}")
        try:
            if source.is_dir():
                shutil.copytree(source, copied, symlinks=True)
            else:
                shutil.copy2(source, copied)
                with open(copied, "rb") as stream:
                    os.fsync(stream.fileno())
            os.replace(copied, target)
        finally:
            shutil.rmtree(copied, ignore_errors=True) if copied.is_dir() else copied.unlink(missing_ok=True)
        shutil.rmtree(source) if source.is_dir() else source.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file a second name without copying it, where the disk can; elsewhere copy it."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOSPC, errno.EDQUOT):
            raise
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def disk_full(path: Path | str, found: str | None = None, expected: str | None = None) -> VixmlError:
    """Return the error for a full disk; nothing already written is lost."""
    what = "no space left on the disk"
    return VixmlError(what, where=path, found=found, expected=expected, hint=MACHINE[what][1])


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, keys in the order given; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; a number that is not finite (`NaN`, `1e999`), which JSON lacks and cannot be written again, is an error.

    Raises:
        ValueError: no such JSON.
    """
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite: {text[:40]}")
    return value


def read_json(path: Path | str, *, finite: bool = False) -> Any:
    """Read a JSON file; ``finite`` refuses other numbers (:func:`parse_json`), else whoever uses a number names its key.

    Raises:
        VixmlError: the file is missing or is not JSON (the line is named).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return parse_json(text) if finite else json.loads(text)
    except FileNotFoundError as error:
        hint = "run the stage that writes it: snakemake builds it by itself"
        raise VixmlError("a file that this stage reads is missing", where=path, hint=hint) from error
    except (ValueError, RecursionError) as error:  # another encoding, a number of 10,000 digits, 10,000 brackets
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        found, hint = f"{type(error).__name__}: {error}"[:200], "delete it and run snakemake again; it is generated"
        raise VixmlError("not a JSON file in UTF-8", where=where, found=found, hint=hint) from error


def read_header(path: Path | str, form: str, kind: str) -> dict[str, Any]:
    """Read the JSON header of a folder and check that its ``format`` is ``form``; ``kind``: e.g. ``"an image store"``.

    Raises:
        VixmlError: missing, not JSON, or of another format.
    """
    header = read_json(path)
    found = header.get("format") if isinstance(header, dict) else type(header).__name__
    hint = "rebuild it with this version of vixml; snakemake does so automatically"
    expect_equal(found, form, f"not {kind} of this version", where=path, hint=hint)
    return header


def save_array(path: Path | str, array: np.ndarray) -> None:
    """Write ``array`` as ``.npy`` atomically (the header carries shape and dtype; no pickles)."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


def load_array(path: Path | str, *, mmap: bool = True) -> np.ndarray:
    """Read a ``.npy`` file, memory-mapped read-only by default.

    Raises:
        VixmlError: missing, truncated, or an object array (those are pickles, which run code when read).
    """
    path = Path(path)
    try:
        # An empty file cannot be mapped, so empty arrays are read instead.
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise VixmlError("an array is missing", where=path, hint="run the stage that writes it") from error
    except OSError:
        raise
    except Exception as error:  # a damaged header raises errors of Python's tokenizer, and of memory for absurd shapes
        if mmap and "empty" in str(error):
            return load_array(path, mmap=False)
        what, hint = "not a whole .npy file", "delete its folder and run snakemake again"
        raise VixmlError(what, where=path, found=str(error), expected="a NumPy array of numbers", hint=hint) from error


def sha256_file(path: Path | str) -> str:
    """Return the hex SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
