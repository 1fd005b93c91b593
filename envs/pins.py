"""Keep every environment file in step with requirements.lock, the one place where versions are pinned.

python envs/pins.py lock     # make a fresh environment from pyproject.toml and write its versions to the lock
python envs/pins.py extend   # after `pip install` of a new dependency: pin it and what it brings, as installed
python envs/pins.py write    # write environment.yml, envs/cpu.yaml and envs/gpu.yaml from the lock, once that is installed,
                             # and envs/lowest.txt from the lower bounds of pyproject.toml
python envs/pins.py check    # fail if one of them is out of date
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
# torch is held where the numbers in results/reference were made; everything else follows from pyproject.toml.
HELD = ["torch==2.13.0"]
# What only an environment with a GPU has (the extra `gpu` of pyproject.toml): no other machine could install or lock it.
GPU_PINS = ["liger-kernel==0.8.5"]

# What works on a workflow from outside; no job needs it.
TOOLS = ("dvc",)
GPU_ONLY = re.compile(r"^(nvidia-|cuda-|triton)", re.IGNORECASE)

LOCK_HEADER = """\
# What was tested, to the last package: `make install` uses it. Written by `make lock`, not by hand.
# torch: whether this is the build for processors or the one for GPUs depends on the index that pip is configured to use
# (PyTorch's install page says how); both work, so its own GPU libraries are not listed here.
"""

ENVIRONMENT = """\
# Everything, the tools of developers included: conda env create -f environment.yml
# Written by `make lock` from requirements.lock, not by hand.
name: vixml
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""

CPU = """\
# The environment of every rule, for `snakemake --use-conda` without a GPU; envs/cpu.post-deploy.sh adds vixml itself.
# Written by `make lock` from requirements.lock, not by hand.
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""

GPU = """\
# The environment of every rule, for `snakemake --use-conda` with a GPU (`device: cuda`, or auto where there is one);
# envs/gpu.post-deploy.sh adds vixml itself. As envs/cpu.yaml, but for faiss, which brings its CUDA libraries. torch is the build that
# pip is configured for.
# Written by `make lock` from requirements.lock, not by hand.
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


LOWEST = """\
# The lower bound of every range in pyproject.toml: `make test-lowest` tests them together.
# Written by `python envs/pins.py write`, not by hand.
"""


def pins() -> dict[str, str]:
    """Return ``{normalised name: line}`` of the lock."""
    lines = [line.strip() for line in LOCK.read_text().splitlines()]
    return {normal(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


def normal(name: str) -> str:
    """Return a distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(wanted: list[str]) -> set[str]:
    """Return the names of ``wanted`` requirements and of all that they require in turn (from the installed metadata)."""
    from packaging.requirements import Requirement

    reached: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            key = (normal(requirement.name), extra)
            if key in reached:
                continue
            reached.add(key)
            try:
                below = [Requirement(text) for text in requires(requirement.name) or ()]
            except PackageNotFoundError:
                continue
            waiting += [r for r in below if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in reached}


def files() -> dict[Path, str]:
    """Return what the environment files must hold."""
    locked = pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # post-deploy installs vixml without a network, so the build needs its backend in the environment.
    jobs = [text for text in project["project"]["dependencies"] if not text.startswith(TOOLS)]
    runtime = needed(jobs) | {"setuptools"}
    every = list(locked.values())
    some = [line for name, line in locked.items() if name in runtime]
    bounds = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    gpu = sorted([line.replace("faiss-cpu==", "faiss-gpu==") for line in some] + GPU_PINS)
    return {
        ROOT / "envs" / "lowest.txt": LOWEST + "".join(f"{_lowest(text)}\n" for text in bounds),
        ROOT / "environment.yml": ENVIRONMENT + _listed(every),
        ROOT / "envs" / "cpu.yaml": CPU + _listed(some),
        # Of faiss, each version is published in both builds.
        ROOT / "envs" / "gpu.yaml": GPU + _listed(gpu),
    }


def _lowest(text: str) -> str:
    """Return a requirement's lower bound as a pin: ``torch>=2.11`` -> ``torch==2.11``."""
    found = re.match(r"([\w.-]+)>=([\w.]+)", text)
    if found is None:
        sys.exit(f"pyproject.toml: {text!r} has no lower bound")
    return f"{found[1]}=={found[2]}"


def _listed(lines: list[str]) -> str:
    return "".join(f"      - {line}\n" for line in lines)


def lock() -> None:
    """Install pyproject's ranges into a fresh environment and pin what pip chose."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev]", *HELD], check=True)
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--all", "--exclude", "pip", "--exclude", "vixml"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    LOCK.write_text(LOCK_HEADER + "".join(f"{line}\n" for line in _portable(frozen.splitlines())))


def extend() -> None:
    """Pin what pyproject.toml needs as it is installed: what the lock lacks, and what pip had to move for it."""
    from importlib.metadata import version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = pins()
    for name in sorted(needed(wanted) | locked.keys()):
        try:
            locked[name] = _portable([f"{name}=={version(name)}"])[0] if not GPU_ONLY.match(name) else ""
        except PackageNotFoundError:
            continue  # asked for by a marker or an extra of another platform
    lines = sorted(line for line in locked.values() if line)
    LOCK.write_text(LOCK_HEADER + "".join(f"{line}\n" for line in sorted(lines, key=str.lower)))


def _portable(lines: list[str]) -> list[str]:
    # torch's GPU libraries come with its GPU build, which pins them itself; its build tag depends on the index.
    return [re.sub(r"^(torch==[0-9.]+)\+.*$", r"\1", line) for line in lines if not GPU_ONLY.match(line)]


def main(action: str) -> int:
    """Do what the module's first lines say."""
    if action == "lock":
        lock()
        return 0
    if action == "extend":
        extend()
        action = "write"
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    if action == "check":
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make lock`, or `python envs/pins.py write`")
        return int(bool(stale))
    for path in stale:
        path.write_text(files()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"lock", "extend", "write", "check"}:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
