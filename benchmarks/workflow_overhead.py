"""Time what each entry point costs where nothing is to be done, and how long the paper's whole plan takes.

python benchmarks/workflow_overhead.py                        # on the tests' miniature, made for it in a temporary folder
python benchmarks/workflow_overhead.py --tree ~/vixml         # on a clone in which `snakemake` has made everything, and `make record` was given

The entry points take turns, round by round. Each command's own start is part of its time: it is what a reader waits.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from origin import record

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path("benchmarks/results/workflow_overhead.json")
# entry point -> (its command where nothing is to be done, what it prints then, the seconds that it may take)
ENTRY_POINTS = {
    "snakemake": (("snakemake", "--cores", "all", "paper_tables"), "Nothing to be done", 5.0),
    "dvc": (("dvc", "repro"), "Stage 'results' didn't change, skipping", 10.0),
    "slurm, dry run": (("snakemake", "--profile", "profiles/slurm", "-n", "paper_tables"), "Nothing to be done", 10.0),
}
PAPER = ("snakemake", "-n", "paper_tables", "--configfile", "config/paper.yaml")
PAPER_SECONDS = 30.0


def run(tree: Path, command: tuple[str, ...]) -> tuple[float, str]:
    """Return the seconds that a command took in a repository, and what it printed."""
    paths = os.pathsep.join(filter(None, [str(tree / "src"), os.environ.get("PYTHONPATH")]))
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return seconds, done.stdout


def miniature(folder: Path) -> Path:
    """Return a clone in which the tests' miniature was made and recorded."""
    sys.path.insert(0, str(ROOT / "tests" / "workflow"))
    # isort: off
    from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers, which the miniature imports
    import tiny_world

    tiny_world.write(tiny_world.clone(ROOT, folder))
    run(folder, ("snakemake", "--cores", "all", "paper_tables"))
    for words in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", "b"),
    ):
        run(folder, ("git", *words))
    run(folder, ("dvc", "commit", "--force", "--quiet"))
    return folder


def spread(seconds: list[float], limit: float) -> dict[str, float]:
    """Return median and extremes, beside what is allowed."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "limit": limit}


def entry_points(tree: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Return the seconds of each entry point where nothing is to be done."""
    seconds: dict[str, list[float]] = {entry_point: [] for entry_point in ENTRY_POINTS}
    for _ in range(rounds):
        for entry_point, (command, says, _) in ENTRY_POINTS.items():
            took, shown = run(tree, command)
            if says not in shown:
                sys.exit(f"{tree} is not up to date: {' '.join(command)} printed\n{shown[-3000:]}")
            seconds[entry_point].append(took)
    return {
        entry_point: {"command": " ".join(ENTRY_POINTS[entry_point][0])}
        | spread(seconds[entry_point], ENTRY_POINTS[entry_point][2])
        for entry_point in ENTRY_POINTS
    }


def paper(rounds: int) -> dict[str, Any]:
    """Return how many jobs the paper's plan has, and how long planning takes with nothing made yet."""
    seconds, shown = [], ""
    with tempfile.TemporaryDirectory() as nothing:
        for _ in range(rounds):
            took, shown = run(ROOT, (*PAPER, "--config", f"results={nothing}"))
            seconds.append(took)
    rules = {
        name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", shown.split("Job stats:")[1], re.MULTILINE)
    }
    total = rules.pop("total")
    return {"command": " ".join(PAPER), "jobs": total, "rules": rules} | spread(seconds, PAPER_SECONDS)


def main() -> None:
    """Print the table and write it with its origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, help="a clone that is up to date; the tests' miniature without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = given.tree.resolve() if given.tree else miniature(Path(folder) / "repository")
        manifests = len(list((tree / "results").rglob("manifest.json")))
        found = entry_points(tree, given.rounds)
    planned = paper(given.rounds)
    print(f"{'nothing to be done':<24}{'median':>9}{'fastest':>9}{'slowest':>9}{'allowed':>9}")
    for name, row in [*found.items(), (f"paper: {planned['jobs']} jobs", planned)]:
        print(f"{name:<24}" + "".join(f"{row[key]:>7.2f} s" for key in ("median", "min", "max", "limit")))
    about = {
        "benchmark": "workflow_overhead",
        "tree": "as given" if given.tree else "the tests' miniature",
        "stages": manifests,
        "rounds": given.rounds,
    }
    record(given.out, {**about, "entry_points": found, "paper": planned})


if __name__ == "__main__":
    main()
