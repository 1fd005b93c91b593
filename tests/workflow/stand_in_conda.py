#!/usr/bin/env python
"""A stand-in for conda, for machines that have none: answers what Snakemake asks and makes virtual environments.

It proves that the rules' `conda:` entries, the activation and the post-deploy script work. It does not prove that conda-forge
offers what the files name: no package is installed, the environment borrows those of the interpreter that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

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
        create(Path(arguments[arguments.index("--prefix") + 1]), Path(arguments[arguments.index("--file") + 1]), prefix)
    elif not command.startswith("clean"):
        print(f"stand-in conda does not know: {command}", file=sys.stderr)
        return 1
    return 0


def create(target: Path, file: Path, prefix: Path) -> None:
    pins = [line.strip()[2:] for line in file.read_text().splitlines() if "==" in line]
    assert any(pin.startswith("torch==") for pin in pins), "no pins in the pip section"
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    borrowed = sysconfig.get_paths()["purelib"]
    inside = next(target.glob("lib/python*/site-packages"))
    for old in inside.glob("setuptools*"):
        shutil.rmtree(old)  # the one that venv brings is older than the pinned one
    (inside / "borrowed.pth").write_text(borrowed + "\n")
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    (prefix / "bin" / "activate").write_text(ACTIVATE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
