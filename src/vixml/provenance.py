"""Run a stage so that its folder appears whole, with its resolved config and a manifest, or not at all.

A finished folder holds what its manifest names (:func:`holds`): publishing removes what an earlier publication wrote and this one
did not. What a stage reads is what the manifests of its inputs vouch for (:mod:`vixml.manifest`).
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from vixml import __version__
from vixml.errors import VixmlError, machine_error
from vixml.files import (
    disk_full,
    move,
    no_space,
    read_json,
    sha256_json,
    sync_folder,
    sync_tree,
    work_folder,
    write_json,
)
from vixml.manifest import (  # the half that reads; its callers know it by this module's name too
    MANIFEST,
    SCHEMA_VERSION,
    Reading,
    describe_input,  # noqa: F401
    describe_outputs,
    expect_one_origin,
    inside,
    not_whole,  # noqa: F401
    read_manifest,  # noqa: F401
    usable_cores,
    with_digest,
)

PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "transformers", "tokenizers", "pydantic", "snakemake")


@contextmanager
def stage(
    out: Path | str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path | str],
    facts: dict[str, Any] | None = None,
    as_read: Collection[str] = (),
) -> Iterator[Path]:
    """Yield a work folder; on success publish its files in ``out``, ``manifest.json`` last.

    A stage's folder is complete exactly when it holds a manifest, so the workflow's outputs *are* the manifests. If
    the body raises, ``out`` is left as it was.

    Args:
        out: the folder to write.
        name: its command, e.g. ``"train"``.
        config: the resolved configuration that this stage obeyed (JSON values).
        inputs: name -> file, or folder written by another stage; each is named by its hash in the manifest. Their files are
            verified before the body runs; so the body opens them, not its caller.
        facts: a dictionary that the body may fill (device, steps, counts); kept in the manifest.
        as_read: inputs too large to be read twice, whose reader verifies each file before it uses it
            (:meth:`vixml.images.store.ImageStore.shard`).

    Yields:
        A temporary folder beside ``out`` (same disk, so that publishing is a rename).

    Raises:
        VixmlError: an input is missing, unfinished, or not what its manifest vouches for, before or after the body; an
            everyday error of the machine.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.perf_counter()
    facts = {} if facts is None else facts
    reading = Reading()
    described = {key: reading.describe(path, named_only=key in as_read) for key, path in inputs.items()}
    expect_one_origin(described)
    try:
        with work_folder(out) as work:
            yield work
            reading.verify_unchanged()
            outputs = describe_outputs(work)
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "stage": name,
                "config": dict(config),
                "config_sha256": sha256_json(dict(config)),
                "inputs": described,
                "outputs": outputs,
                "outputs_sha256": sha256_json(outputs),
                "facts": facts,
                "versions": versions(),
                "source": git_state(),
                "machine": machine(),
                "started_at": started.isoformat(timespec="seconds"),
                "wall_seconds": round(time.perf_counter() - clock, 3),
                "peak_memory_mb": peak_memory_mb(),
                "environment": environment(),
                "command": " ".join(sys.argv),
            }
            write_json(work / MANIFEST, with_digest(manifest))
            _publish(work, out)
    except Exception as error:
        if no_space(error):
            raise disk_full(out) from error
        if (said := machine_error(error, out)) is not None:
            raise said from error
        raise


def require_space(out: Path | str, n_bytes: int) -> None:
    """Check before a stage that its disk holds ``n_bytes`` more.

    For files written through a memory map: on a full disk the system kills the process without a message.

    Raises:
        VixmlError: less is free.
    """
    free = shutil.disk_usage(existing(Path(out))).free
    if free < n_bytes:
        raise disk_full(out, f"{free / 1e6:,.0f} MB free", f"{n_bytes / 1e6:,.0f} MB")


def existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists: it is on the same disk."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _publish(work: Path, out: Path) -> None:
    """Put the files of ``work`` in place, the manifest last, and remove those of former publications.

    Snakemake removes an old manifest before it runs a job, so a record beside the folder names what was published. Until the
    new manifest is in place it names the old files and the new ones: after a kill at any point, the next publication knows all
    of them. Other files, which a user put there, are left alone; no stage reads what a manifest does not name.
    """
    # mkdtemp creates private folders; results are for everyone.
    out.mkdir(parents=True, exist_ok=True)
    sync_tree(work)
    record = out.with_name(f".{out.name}-files")
    with _publishing(out):
        names = set(read_json(work / MANIFEST)["outputs"])
        recorded = _published(record)
        former = recorded | _published(out / MANIFEST)
        if recorded != former | names or not record.exists():
            write_json(record, {"outputs": sorted(former | names)})
        # The old manifest goes first: until the new one is in place, the stage counts as not done.
        (out / MANIFEST).unlink(missing_ok=True)
        sync_folder(out)
        for name in sorted(former - names):
            _remove(out, name)
        for entry in sorted(work.iterdir()):
            if entry.name != MANIFEST:
                _put(entry, out / entry.name)
        sync_folder(out)
        move(work / MANIFEST, out / MANIFEST)
        sync_folder(out)
        sync_folder(out.parent)
        if former - names:
            write_json(record, {"outputs": sorted(names)})


def _put(entry: Path, target: Path) -> None:
    """Move a file or folder into its place; of a folder that is there already, other files stay."""
    is_folder = target.is_dir() and not target.is_symlink()
    if is_folder and entry.is_dir():
        for inner in sorted(entry.iterdir()):
            _put(inner, target / inner.name)
        sync_folder(target)
        return
    if is_folder:
        shutil.rmtree(target)
    elif entry.is_dir():
        target.unlink(missing_ok=True)
    move(entry, target)


@contextmanager
def _publishing(out: Path) -> Iterator[None]:
    """Hold a lock on the folder that holds ``out``, so that two processes do not mix their files in it.

    On a file system without locks (many network disks) there is none: then the next stage refuses a mixture, because its
    files are not those that the manifest vouches for.
    """
    descriptor = os.open(out.parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _published(path: Path) -> set[str]:
    """Return the files that a manifest or a record names; none if it is missing or damaged, and none outside its folder."""
    try:
        named = read_json(path)["outputs"]
    except (VixmlError, OSError, UnicodeDecodeError, KeyError, TypeError):
        return set()
    return (
        {name for name in named if isinstance(name, str) and inside(name)} if isinstance(named, list | dict) else set()
    )


def _remove(out: Path, name: str) -> None:
    """Remove a file that a former publication wrote, and the folders that this leaves empty; follow no symbolic link."""
    path = out / name
    folders = [folder for folder in path.parents if folder != out and out in folder.parents]
    if any(folder.is_symlink() or not folder.is_dir() for folder in folders) or (
        path.is_dir() and not path.is_symlink()
    ):
        return
    path.unlink(missing_ok=True)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def versions() -> dict[str, str]:
    """Return the versions of Python, vixml and the packages that results depend on."""
    found = {"python": platform.python_version(), "vixml": __version__}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@cache
def environment() -> dict[str, Any]:
    """Return how many packages are installed, and one hash of their names and versions; vixml itself is named by its commit.

    Equal hashes mean equal environments, whoever made them; ``pip list`` shows what is behind one. Looked up once per process.
    """
    installed = set()
    for package in importlib.metadata.distributions():
        about = package.metadata  # each access to `metadata`, `name` or `version` reads the disk
        if about["Name"] and about["Name"] != "vixml":
            installed.add(f"{re.sub(r'[-_.]+', '-', about['Name']).lower()}=={about['Version']}")
    return {"packages": len(installed), "sha256": sha256_json(sorted(installed))}


def git_state() -> dict[str, Any]:
    """Return the commit of the source tree and whether it has uncommitted changes, benchmarks' figures aside (None outside git)."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        # Without the lock of the index: another git command may run at the same time.
        command = ["git", "--no-optional-locks", "-C", str(here), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    paths = "--", ":(top)", ":(top,exclude)benchmarks/results"
    status = git("status", "--porcelain", "--untracked-files=no", *paths) if commit else None
    return {"commit": commit, "modified": None if status is None else bool(status)}


def machine() -> dict[str, Any]:
    """Return the device a stage ran on: processor, cores usable, threads, and the GPU if torch is loaded and sees one."""
    described: dict[str, Any] = {"processor": _processor(), "cores": usable_cores()}
    torch = sys.modules.get("torch")
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        described["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return described


def _processor() -> str:
    with suppress(OSError):
        if found := re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Return this process's peak resident memory so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
