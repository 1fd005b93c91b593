"""The Python that `make` installs and tests with, with stand-ins for Pythons of several versions."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "cat", "cksum", "cut", "env", "rm", "sh", "touch")
# `-c` runs as if in another version; `-m venv` keeps an interpreter that is there, as the real one does; pip and pytest only say so.
STAND_IN = """\
#!/bin/sh
'''exec' {python} -IS "$0" "$@"
' '''
import shutil, sys
from pathlib import Path
arguments = sys.argv[1:]
if arguments[0] == "-c":
    sys.version, sys.version_info = "{version}.0", (*map(int, "{version}".split(".")), 0)
    exec(arguments[1])
elif arguments == ["--version"]:
    print("Python {version}.0")
elif arguments[:2] == ["-m", "venv"]:
    folder = Path(arguments[-1])
    if "--clear" in arguments:
        shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    if not (folder / "bin/python").exists():
        shutil.copy(__file__, folder / "bin/python")
else:
    print("{version} runs", *arguments[:2])
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


class Here:
    """A folder with the Makefile, and the Pythons that its PATH has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, root / name)
        (root / "bin").mkdir()
        for tool in TOOLS:
            (root / "bin" / tool).symlink_to(shutil.which(tool))

    def add(self, name: str, version: str) -> None:
        """Put a Python on PATH."""
        path = self.root / "bin" / name
        path.write_text(STAND_IN.format(python=shlex.quote(sys.executable), version=version))
        path.chmod(0o755)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make; the last word is the target."""
        return subprocess.run(
            [shutil.which("make"), *words], cwd=self.root, env={"PATH": str(self.root / "bin")}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.fixture
def here(tmp_path) -> Here:
    return Here(tmp_path)


def test_the_versions_are_those_of_the_project():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.findall(r"3\.(\d+)", required)
    assert f"(3, {low}) <= sys.version_info[:2] < (3, {high})" in (ROOT / "Makefile").read_text()


def test_the_first_python_that_fits_is_taken(here):
    here.add("python3", "3.14")
    done = here.make("install")
    assert done.returncode != 0 and "found:    python3: Python 3.14.0" in done.stdout
    assert "runs" not in done.stdout and not (here.root / ".venv").exists(), "nothing was installed before"
    (here.root / "bin/python3.11").write_text("#!/bin/sh\nexit 127\n")  # an empty shim
    (here.root / "bin/python3.11").chmod(0o755)
    here.add("python3.13", "3.13")
    done = here.make("install")
    assert done.returncode == 0 and "3.13 runs -m pip" in done.stdout


def test_another_python_than_that_of_the_environment_is_refused(here):
    for version in ("3.11", "3.13"):
        here.add(f"python{version}", version)
    assert here.make("PYTHON=python3.13", "install").returncode == 0
    done = here.make("PYTHON=python3.11", "install")
    assert done.returncode != 0 and "what now: rm -rf .venv" in done.stdout
    assert here.make("PYTHON=python3.13", "install").returncode == 0
    assert here.make("install").returncode == 0
    # Other versions of packages: installed into the environment that is there.
    (here.root / "requirements.lock").write_text("")
    assert "3.13 runs -m pip" in here.make("install").stdout


@pytest.mark.parametrize("target", ["test-lowest", "test-highest"])
def test_library_tests_run_with_the_python_that_was_given(here, target):
    for version in ("3.11", "3.12"):
        here.add(f"python{version}", version)
        assert f"{version} runs -m pytest" in here.make(f"PYTHON=python{version}", target).stdout


def test_an_environment_of_an_unfit_python_is_made_again(here):
    here.add("python3.11", "3.11")
    (here.root / ".venv/bin").mkdir(parents=True)
    (here.root / ".venv/bin/python").symlink_to("/no/such/python")
    assert "3.11 runs -m pip" in here.make("install").stdout


# Ends as rules/display.smk does: in order, after two lines.
INTERRUPTED = """\
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(print("kept\\nresume") or 130))
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("whole", [True, False])
def test_an_interrupted_demo_ends_with_the_lines_of_snakemake(here, whole):
    (here.root / ".venv/bin").mkdir(parents=True)
    (here.root / ".venv/bin/activate").write_text(
        "snakemake() { " + shlex.join([sys.executable, "-c", INTERRUPTED]) + "; }\n"
    )
    process = subprocess.Popen(
        [shutil.which("make"), "--old-file", "install", "demo"], cwd=here.root, env={"PATH": str(here.root / "bin")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background may have it ignored
    )  # fmt: skip
    snakemake = int(next(line for line in process.stdout if line.strip().isdecimal()))
    (os.killpg if whole else os.kill)(process.pid if whole else snakemake, signal.SIGINT)
    said = process.stdout.read()
    status = process.wait()
    if whole:  # as Ctrl-C does
        assert said == "kept\nresume\n" and status == -signal.SIGINT
    else:
        assert said.startswith("kept\nresume\nmake: ***") and status == 2, (
            "make was not interrupted, so it has to say why it ends"
        )
