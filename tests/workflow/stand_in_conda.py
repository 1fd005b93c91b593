#!/usr/bin/env python
"""A stand-in for conda, for machines that have none: answers what Snakemake asks and makes real environments with pip.

It proves that the rules' `conda:` entries, the pins of the file's pip section, the activation and the post-deploy script work.
It does not prove that conda-forge offers what the file's conda section names: Python is that of the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

# What jobs import: their modules, and by them those of every package.
JOBS = (
    "import vixml.training.train, vixml.retrieval.predict, vixml.images.pool, vixml.images.vision, vixml.report.report"
)
SOURCE = Path(__file__).resolve().parents[2] / "src"
ACTIVATE = 'source "$1/bin/activate"\n'


def main(arguments: list[str]) -> int:
    prefix = Path(os.environ["STAND_IN_CONDA_PREFIX"])
    command = " ".join(arguments)
    if command == "--version":
        print("conda 25.1.0")
    elif command.startswith("info"):
        print(json.dumps({"conda_prefix": str(prefix), "platform": "linux-64"}))
    elif command.startswith("config --get channel_priority"):
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif command.startswith("env create"):
        create(prefix, *(Path(arguments[arguments.index(option) + 1]) for option in ("--prefix", "--file")))
        (prefix / "bin").mkdir(parents=True, exist_ok=True)
        (prefix / "bin" / "activate").write_text(ACTIVATE, encoding="utf-8")
    elif not command.startswith("clean"):
        print(f"stand-in conda does not know: {command}", file=sys.stderr)
        return 1
    return 0


def create(prefix: Path, target: Path, file: Path) -> None:
    """Make a virtual environment of the pip section of an environment file.

    As conda has one store of packages, so has this: the first environment of a file is installed, the next ones share its files.
    """
    pins = next(
        entry["pip"]
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]
        if isinstance(entry, dict)
    )
    assert all("==" in pin for pin in pins) and any(pin.startswith("torch==") for pin in pins)
    store = prefix / "store" / hashlib.sha256("\n".join(pins).encode()).hexdigest()[:16]
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{store}.lock"):
        if not (store / "whole").exists():
            shutil.rmtree(store, ignore_errors=True)
            install(store, pins)
            (store / "whole").touch()
    shutil.copytree(store, target, symlinks=True, copy_function=link, dirs_exist_ok=True)
    for path in [target / "pyvenv.cfg", *(target / "bin").iterdir()]:
        if not path.is_symlink() and bytes(store) in (content := path.read_bytes()):
            mode = path.stat().st_mode
            path.unlink()  # the store's own stays as it is
            path.write_bytes(content.replace(bytes(store), bytes(target)))
            path.chmod(mode)


def link(source: str, target: str) -> None:
    """Link a file, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def install(target: Path, pins: list[str]) -> None:
    """Install each package as it is pinned; compile the modules that jobs import, once for all environments that share them."""
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    pip = [str(target / "bin" / "python"), "-m", "pip"]
    options = ["-qq", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "install", *options, *pins], check=True)
    if subprocess.run([*pip, "check"], capture_output=True).returncode:
        raise SystemExit("the pins of the file do not fit each other")
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(SOURCE)}
    subprocess.run([str(target / "bin" / "python"), "-c", JOBS], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
