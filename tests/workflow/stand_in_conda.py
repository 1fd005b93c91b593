#!/usr/bin/env python
"""A stand-in for conda, for machines that have none: answers what Snakemake asks and makes real environments with pip.

It proves that the rules' `conda:` entries, the pins of the file's pip section, the activation and the post-deploy script work.
It does not prove that conda-forge offers what the file's conda section names: Python is that of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

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
        create(Path(arguments[arguments.index("--prefix") + 1]), Path(arguments[arguments.index("--file") + 1]))
        (prefix / "bin").mkdir(parents=True, exist_ok=True)
        (prefix / "bin" / "activate").write_text(ACTIVATE)
    elif not command.startswith("clean"):
        print(f"stand-in conda does not know: {command}", file=sys.stderr)
        return 1
    return 0


def create(target: Path, file: Path) -> None:
    """Install the pip section of an environment file into a new virtual environment, each package as it is pinned."""
    pins = next(entry["pip"] for entry in yaml.safe_load(file.read_text())["dependencies"] if isinstance(entry, dict))
    assert all("==" in pin for pin in pins) and any(pin.startswith("torch==") for pin in pins)
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *pins], check=True)
    if subprocess.run([*pip[:3], "check"], capture_output=True).returncode:
        raise SystemExit("the pins of the file do not fit each other")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
