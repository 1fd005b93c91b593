"""The one error that bad input raises, and how it is shown."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

from vixml.text import shown


class VixmlError(Exception):
    """Report bad input: what went wrong, where, what was found, what was expected and what to do.

    Args:
        what: one sentence, no trailing full stop, e.g. ``"the download does not match its checksum"``.
        where: file, ``file:line`` or configuration key.
        found: what was there.
        expected: what should have been there.
        hint: the next step for the reader, an imperative sentence.

    Example:
        >>> print(VixmlError("unknown key", where="config/runs/picto.yaml: epoch", hint="did you mean 'epochs'?"))
        unknown key
          where:    config/runs/picto.yaml: epoch
          what now: did you mean 'epochs'?
    """

    def __init__(
        self, what: str, *, where: object = None, found: object = None, expected: object = None, hint: str | None = None
    ) -> None:
        self.what, self.where, self.found, self.expected, self.hint = what, where, found, expected, hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = {"where": self.where, "found": self.found, "expected": self.expected, "what now": self.hint}
        lines = [f"  {name + ':':<9} {value}" for name, value in parts.items() if value is not None]
        return shown("\n".join([self.what, *lines]))


def expect_equal(found: object, expected: object, what: str, *, where: object, hint: str | None = None) -> None:
    """Check that two values, or texts such as ``"3 images"``, are equal.

    Raises:
        VixmlError: they differ; the arguments are as in :class:`VixmlError`.
    """
    if found != expected:
        raise VixmlError(what, where=where, found=found, expected=expected, hint=hint)


def expect_index(index: int, n: int, what: str, *, where: object, hint: str | None = None) -> None:
    """Check that ``0 <= index < n``.

    Raises:
        VixmlError: it is not; the rest is as in :func:`expect_equal`.
    """
    if not 0 <= index < n:
        raise VixmlError(what, where=where, found=index, expected=f"0 to {n - 1}", hint=hint)


@contextmanager
def reading(what: str, where: object, *, expected: object = None, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one clear error.

    For libraries that raise errors of many kinds; one in Rust (tokenizers, safetensors) may panic, which is no ``Exception``.
    Running out of memory and errors of the machine pass through: they say nothing about the file.

    Raises:
        VixmlError: the block raised an error; the arguments are as in :class:`VixmlError`.
    """
    try:
        yield
    except (VixmlError, MemoryError):
        raise
    except BaseException as error:
        panicked = type(error).__module__ == "pyo3_runtime"
        if not (isinstance(error, Exception) or panicked) or _is_no_fault_of_the_file(error):
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        found = f"{type(error).__name__}: {lines[0][:200]}"
        raise VixmlError(what, where=where, found=found, expected=expected, hint=hint) from error


def _is_no_fault_of_the_file(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return machine_error(error, "") is not None
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "allocate memory" in str(error))


def expect_whole(
    value: object, least: int, what: str, *, where: object, hint: str | None = None, most: int = 2**63 - 1
) -> None:
    """Check that a value is a whole number (no truth value, no float) from ``least`` to ``most``.

    Raises:
        VixmlError: it is not; the rest is as in :func:`expect_equal`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        found = f"{value!r:.40} ({type(value).__name__})"
        expected = f"a whole number, {least} or more" + (f", {most:,} at most" if most < 2**63 - 1 else "")
        raise VixmlError(what, where=where, found=found, expected=expected, hint=hint)


# Everyday errors of a machine: what they mean, and what to do. Finished stages are kept in each case.
_AGAIN = "then run the same command again"
MACHINE = {
    "no space left on the disk": (
        (errno.ENOSPC, errno.EDQUOT),
        f"free some space and {_AGAIN[5:]}; finished stages are kept, training resumes from its last checkpoint",
    ),
    "a file or folder is missing": ((errno.ENOENT,), f"check the path; a stage's folder is made by snakemake, {_AGAIN}"),
    "permission denied": (
        (errno.EACCES, errno.EPERM), f"give your account the right to it, or choose another folder (`results`); {_AGAIN}"
    ),
    "the disk is read-only": ((errno.EROFS,), f"choose a folder on another disk (`results`), or remount it; {_AGAIN}"),
    "the disk reports an error": (
        (errno.EIO, errno.ENXIO, errno.ENODEV), f"check the disk and its cable or mount; {_AGAIN}, on another disk if need be"
    ),
    "a network disk no longer has the file": (
        (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), f"check that the disk is mounted; {_AGAIN}"
    ),
    "too many open files": ((errno.EMFILE, errno.ENFILE), f"raise the limit (`ulimit -n 4096`); {_AGAIN}"),
    "a name or path is too long": ((errno.ENAMETOOLONG,), f"shorten the names, or the path of the folder; {_AGAIN}"),
    "a part of a path is no folder": ((errno.ENOTDIR,), f"move the file of that name away; {_AGAIN}"),
    "a folder where a file should be": ((errno.EISDIR,), f"name a file, or move the folder away; {_AGAIN}"),
    "something of that name exists already": ((errno.EEXIST, errno.ENOTEMPTY), f"move it away; {_AGAIN}"),
    "symbolic links lead in a circle": ((errno.ELOOP,), f"correct the links; {_AGAIN}"),
    "the file is larger than this disk or account allows": (
        (errno.EFBIG,), f"see `ulimit -f`, or choose another disk (`results`); {_AGAIN}"
    ),
    "the disk does not support this": (
        (errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS), f"choose a folder on another disk; {_AGAIN}"
    ),
    "a file or the disk is in use": (
        (errno.EBUSY, errno.ETXTBSY, errno.EDEADLK, errno.ENOLCK), f"end what else uses it; {_AGAIN}"
    ),
    "out of memory": ((errno.ENOMEM,), f"end what else runs here, or take a machine with more memory; {_AGAIN}"),
    "no more processes can be started": ((errno.EAGAIN,), f"end what else runs here (`ulimit -u`); {_AGAIN}"),
}  # fmt: skip


def machine_error(error: BaseException, where: object) -> VixmlError | None:
    """Return an everyday error of a machine in words, by the system's number; None for an error of any other kind."""
    if not isinstance(error, OSError):
        # Libraries in Rust (safetensors, tokenizers) tell the number in their text.
        told = None if isinstance(error, VixmlError) else re.search(r"\(os error (\d+)\)", str(error))
        return machine_error(OSError(int(told[1]), os.strerror(int(told[1]))), where) if told else None
    names = " -> ".join(f"{name!s:.300}" for name in (error.filename, error.filename2) if name is not None)
    if error.errno == errno.EEXIST and isinstance(error.filename, str | os.PathLike):
        link = Path(error.filename)
        if link.is_symlink() and not os.path.exists(link):
            hint = f"mount the disk that it leads to, or correct it; {_AGAIN}"
            return VixmlError("a symbolic link leads nowhere", where=link, found=f"-> {os.readlink(link)}", hint=hint)
    for what, (numbers, hint) in MACHINE.items():
        if error.errno in numbers:
            return VixmlError(what, where=names or where, found=error.strerror, hint=hint)
    return None
