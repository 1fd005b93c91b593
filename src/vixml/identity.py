"""Identity of a long computation: compare all that decides its result, and put unfinished work of another one aside.

An identity is a nested dictionary of JSON values. ``config`` holds settings, ``code`` the hash of each module.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError
from vixml.files import read_json, sha256_json, write_json, write_text
from vixml.progress import warn

_ABSENT = "absent"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether two different identities differ in the code only, and all that differs, as text.

    A setting that only one of them has came or went with the code.

    Example:
        >>> one, other = ({"config": {"lr": lr}, "code": {"a": "1", "b": "2"}} for lr in (0.1, 0.2))
        >>> differences(one, other)
        (False, 'config.lr: 0.1, now 0.2')
        >>> differences(one, {**one, "code": {"a": "1", "b": "3"}})
        (True, 'code of b')
    """
    modules, values, only_code = [], [], True
    for keys, before, now in _differences(found, wanted, ()):
        if keys[0] == "code":
            modules.append(".".join(keys[1:]))
            continue
        only_code &= keys[0] == "config" and _ABSENT in (before, now)
        values.append(f"{'.'.join(keys)}: {_short(before)}, now {_short(now)}")
    return only_code, "; ".join(values + ([f"code of {', '.join(modules)}"] if modules else []))


def put_aside(path: Path, digest: str) -> Path:
    """Rename a file or folder by a short digest, and by a number if there is one already; return its new path."""
    names = (path.with_stem(f"{path.stem}-{digest}{f'-{n}' if n > 1 else ''}") for n in count(1))
    kept = next(name for name in names if not name.exists())
    return path.rename(kept)


@contextmanager
def alone(
    out: Path,
    ending: str,
    what: str = "another process writes this folder",
    hint: str = "wait until it ends, then run the same command again",
) -> Iterator[None]:
    """Hold a lock on the unfinished work of ``out``, ``<out>-<ending>``: two processes would write over each other's files.

    On a file system without locks there is none.

    Raises:
        VixmlError: another process holds it; ``what`` and ``hint`` are those of the error.
    """
    path = out.with_name(f".{out.name}-{ending}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise VixmlError(what, where=out, hint=hint) from None
            except OSError:  # no locks here
                pass
            try:
                held = os.path.samestat(path.stat(), os.fstat(lock.fileno()))
            except FileNotFoundError:
                held = False
            if not held:  # the former holder removed it at this moment
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def kept_folder(out: Path, ending: str, identity: dict[str, Any]) -> Path:
    """Return ``<out>-<ending>``, made if needed; unfinished work of other inputs, settings or code is put aside first.

    Hold :func:`alone` until it is discarded. A warning names what changed and where that work is: it may have taken days.
    ``identity`` is everything that determines the result (JSON values).
    """
    kept = out.with_name(f"{out.name}-{ending}")
    stamp, name = kept / "identity", sha256_json(identity)
    described = kept / "identity.json"
    if kept.exists() and not stamp.exists():  # nothing is in it yet
        shutil.rmtree(kept)
    elif kept.exists() and (found := stamp.read_text()) != name:
        changed = differences(read_json(described), identity)[1] if described.exists() else "the version of vixml"
        aside = put_aside(kept, found[:8])
        warn(
            f"unfinished work in {kept} is not resumed, since it would lead to another result. Changed: {changed}. It is "
            f"kept as {aside}: delete it, or undo the change and move it back."
        )
    kept.mkdir(parents=True, exist_ok=True)
    write_json(described, identity)
    write_text(stamp, name)
    return kept


def discard(kept: Path) -> None:
    """Remove such a folder, and before its content what says whose it is: a kill in between leaves nothing that is resumed."""
    (kept / "identity").unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)  # what stays is of no harm


def _differences(before: Any, now: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the keys and both values of each entry in which two nested dictionaries differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key, _ABSENT), now.get(key, _ABSENT), (*keys, key))
    elif before != now:
        yield keys, before, now


def _short(value: Any) -> str:
    """Print a value; of a hash, its first digits."""
    return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)
