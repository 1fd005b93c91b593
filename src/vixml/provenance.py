"""Run a stage so that its folder appears whole, with its resolved config and a manifest, or not at all."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from vixml import __version__
from vixml.errors import VixmlError, expect_equal
from vixml.files import disk_full, no_space, read_json, sha256_file, sha256_json, write_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "transformers", "tokenizers", "pydantic", "snakemake")


@contextmanager
def stage(
    out: Path | str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path | str],
    facts: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Yield a work folder; on success publish its files in ``out``, ``manifest.json`` last.

    A stage's folder is complete exactly when it holds a manifest, so the workflow's outputs *are* the manifests. If
    the body raises, ``out`` is left as it was.

    Args:
        out: the folder to write.
        name: its command, e.g. ``"train"``.
        config: the resolved configuration that this stage obeyed (JSON values).
        inputs: name -> file, or folder written by another stage; each is named by its hash in the manifest.
        facts: a dictionary that the body may fill (device, steps, counts); kept in the manifest.

    Yields:
        A temporary folder beside ``out`` (same disk, so that publishing is a rename).
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.perf_counter()
    facts = {} if facts is None else facts
    described = {key: describe_input(path) for key, path in inputs.items()}
    _sweep(out)
    work = Path(tempfile.mkdtemp(prefix=f"{_prefix(out)}{os.getpid()}-", dir=out.parent))
    try:
        yield work
        outputs = describe_outputs(work)
        write_json(
            work / MANIFEST,
            {
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
            },
        )
        _publish(work, out)
    except (OSError, RuntimeError) as error:
        if no_space(error):
            raise disk_full(out) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def require_space(out: Path | str, n_bytes: int) -> None:
    """Check before a stage that its disk holds ``n_bytes`` more.

    For files written through a memory map: on a full disk the system kills the process without a message.

    Raises:
        VixmlError: less is free.
    """
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise disk_full(out, f"{free / 1e6:,.0f} MB free", f"{n_bytes / 1e6:,.0f} MB")


def _prefix(out: Path) -> str:
    return f".tmp-{out.name}-{platform.node()}-"


def _sweep(out: Path) -> None:
    """Remove the work folders of this stage's former tries on this machine that were killed before they could."""
    for left in out.parent.glob(f"{_prefix(out)}*"):
        pid = left.name.removeprefix(_prefix(out)).split("-", 1)[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _publish(work: Path, out: Path) -> None:
    # mkdtemp creates private folders; results are for everyone.
    out.mkdir(parents=True, exist_ok=True)
    # The old manifest goes first: until the new one is in place, the stage counts as not done.
    (out / MANIFEST).unlink(missing_ok=True)
    for entry in sorted(work.iterdir()):
        if entry.name == MANIFEST:
            continue
        target = out / entry.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(entry, target)
    os.replace(work / MANIFEST, out / MANIFEST)


def describe_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return ``{relative path: {sha256, bytes}}`` for every file below ``folder``, sorted."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in files}


def not_whole(folder: Path | str) -> list[str]:
    """Return the files that a finished folder's manifest names and that are missing or of another size."""
    folder = Path(folder)
    outputs = read_json(folder / MANIFEST)["outputs"]
    sizes = {name: path.stat().st_size for name in outputs if (path := folder / name).is_file()}
    return [name for name, entry in outputs.items() if sizes.get(name) != entry["bytes"]]


def describe_input(path: Path | str) -> dict[str, Any]:
    """Name an input by content: a stage's folder by its manifest's digest, a plain file by its own hash.

    Raises:
        VixmlError: the input is missing, or is a folder that no stage has finished.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MANIFEST).exists():
            raise VixmlError(
                "an input folder is not complete",
                where=path,
                found=f"no {MANIFEST}",
                hint="run the stage that makes it; snakemake does so by itself",
            )
        return {"path": path.as_posix(), "sha256": read_json(path / MANIFEST)["outputs_sha256"]}
    if not path.exists():
        raise VixmlError("an input is missing", where=path, hint="run the stage that makes it")
    return {"path": path.as_posix(), "sha256": sha256_file(path)}


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Read a stage's manifest.

    Raises:
        VixmlError: missing, or of another schema version.
    """
    manifest = read_json(Path(folder) / MANIFEST)
    what, hint = "a result of another schema version", "run its stage again with this version of vixml"
    expect_equal(manifest.get("schema_version"), SCHEMA_VERSION, what, where=Path(folder) / MANIFEST, hint=hint)
    return manifest


def versions() -> dict[str, str]:
    """Return the versions of Python, vixml and the packages that results depend on."""
    found = {"python": platform.python_version(), "vixml": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
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
    """Return the commit of the source tree and whether it has uncommitted changes (None outside git)."""
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
    status = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "modified": None if status is None else bool(status)}


def machine() -> dict[str, Any]:
    """Return the device a stage ran on: processor, cores usable, threads, and the GPU if torch is loaded and sees one."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        described["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return described


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Return this process's peak resident memory so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
