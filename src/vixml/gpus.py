"""Leases on the GPUs of this machine: every job computes on cards of its own.

A lease is a lock that the operating system holds for a process (``flock``), so a job gives its cards back, however it ends. All
users and workflows see the same locks. A lease chooses among the cards that a batch system assigned (``CUDA_VISIBLE_DEVICES``).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vixml.errors import VixmlError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "VIXML_LEASED_GPUS"  # set for the processes that a job starts: its cards are theirs
PATIENCE = 60.0  # seconds; a job that has just ended may take some to let go of its card
_held: list[int] = []  # file descriptors: closing one gives the card back


def folder() -> Path:
    """Return where the locks lie: one folder for all users of this machine."""
    return Path(tempfile.gettempdir()) / "vixml-gpus"


def nvidia_smi(fields: str) -> tuple[list[str], str | None]:
    """Return what the driver's tool prints about each card, a line per card, and why it prints nothing, or None."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], "no nvidia-smi on PATH"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi failed: {str(error)[:300]}"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        return [], f"nvidia-smi failed: {lines[0] if lines else f'status {done.returncode}'}"
    return lines, None


def visible_gpus() -> list[tuple[str, str]]:
    """Return the cards that this process may use: (name for ``CUDA_VISIBLE_DEVICES``, name that no other card has).

    Empty where ``nvidia-smi`` lists none: then there is nothing to choose.
    """
    described = [[part.strip() for part in line.split(",")] for line in nvidia_smi("index,uuid")[0] if "," in line]
    cards = [(index, uuid) for index, uuid, *_ in described if index.isdecimal()]
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return cards
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    unique = dict(cards)
    # An identifier may be shortened, and that of a part of a card (MIG) is in no list.
    full = [next((uuid for _, uuid in cards if uuid.startswith(name)), name) for name in names]
    return [(name, unique.get(name, known)) for name, known in zip(names, full, strict=True)]


def lease(n: int = 1, say: Callable[[str], object] = lambda line: print(line, file=sys.stderr)) -> list[str]:
    """Take ``n`` free cards for this process and those that it starts; only they are visible to CUDA afterwards.

    Call it before anything uses CUDA. A process whose parent leased cards takes part in that lease. ``say`` is called once if
    all cards are taken and this process waits. The cards are returned as in ``CUDA_VISIBLE_DEVICES``, empty if there is nothing
    to choose.

    Raises:
        VixmlError: fewer cards than ``n``, or too few free ones after :data:`PATIENCE` seconds, or locks that this user
            cannot open.
    """
    if LEASED in os.environ:
        for name in os.environ[LEASED].split(","):
            _share(name)
        return os.environ.get(VISIBLE, "").split(",")
    cards = visible_gpus()
    if not cards:
        return []
    if len(cards) < n:
        raise VixmlError(
            f"{n} GPUs are asked for, more than there are",
            where="processes_per_training" if n > 1 else VISIBLE,
            found=f"{len(cards)}: {', '.join(name for name, _ in cards)}",
            expected=f"at least {n}",
            hint="lower it, or unset CUDA_VISIBLE_DEVICES if it hides some",
        )
    until, told = time.monotonic() + PATIENCE, False
    while True:
        taken = [(name, unique, lock) for name, unique in cards if (lock := _take(unique)) is not None]
        for _, _, lock in taken[n:] if len(taken) >= n else taken:
            os.close(lock)
        if len(taken) >= n:
            break
        busy = "; ".join(f"GPU {name}: {_holder(unique)}" for name, unique in cards)
        if time.monotonic() > until:
            raise VixmlError(
                "no GPU is free" if n == 1 else f"{n} GPUs are not free",
                where=f"this machine's {len(cards)}",
                found=busy,
                hint="wait until one of these jobs ends, or stop it; a workflow starts as many jobs at once as `gpu` in its "
                "profile's `resources` says. The same command then resumes",
            )
        if not told:
            say(f"waits for a GPU, {PATIENCE:.0f} seconds at most: {busy}")
            told = True
        time.sleep(0.5)
    names, uniques, locks = zip(*taken[:n], strict=True)
    _held.extend(locks)
    os.environ[VISIBLE], os.environ[LEASED] = ",".join(names), ",".join(uniques)
    return list(names)


def _path(unique: str) -> Path:
    return folder() / "".join(c if c.isalnum() or c == "-" else "_" for c in unique)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn the system's refusal of a lock into one error."""
    try:
        yield
    except OSError as error:
        wrong = path if path.is_symlink() or path.exists() else path.parent
        found = "a symbolic link" if wrong.is_symlink() else error.strerror
        if wrong.exists() and wrong.stat().st_uid != os.getuid():
            found += f", owned by user {wrong.stat().st_uid}"
        raise VixmlError(
            "the lock of a GPU cannot be used",
            where=wrong,
            found=found,
            expected="a file that every user may write, on a local disk" if wrong == path else "a folder, mode 1777",
            hint="delete it if no job runs, or let its owner do so; or set TMPDIR to a folder of yours, where jobs with "
            "another TMPDIR do not see which GPUs you use",
        ) from error


def _open(unique: str) -> int:
    """Open a card's lock file, which every user may write."""
    path, flags = _path(unique), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with _usable(path):
        with suppress(FileExistsError):
            path.parent.mkdir()
            path.parent.chmod(0o1777)
        with suppress(FileExistsError):  # systems refuse to create what another user has in a folder of all
            lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(lock, 0o666)
            return lock
        return os.open(path, flags)


def _take(unique: str) -> int | None:
    """Return a lock on a card that nobody holds, or None. Held shared, so that this job's processes can hold it too."""
    with ExitStack() as stack:
        lock = _open(unique)
        stack.callback(os.close, lock)
        with _usable(_path(unique)), suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):  # a full disk: then nobody reads who holds it
                os.truncate(lock, 0)
                os.write(lock, f"process {os.getpid()}, {' '.join(sys.argv)[:200]}\n".encode())
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            stack.pop_all()
            return lock
    return None


def _share(unique: str) -> None:
    """Hold a card that the parent leased, so that it is not free before this process ends."""
    lock = _open(unique)
    with _usable(_path(unique)):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _held.append(lock)


def _holder(unique: str) -> str:
    """Return who holds a card, as it wrote."""
    with os.fdopen(_open(unique), "rb") as file:
        return file.read(300).decode("utf-8", "replace").strip() or "taken"
