"""Time the whole of `snakemake paper_tables` on PICTO at two commits, in turn, and set their numbers side by side.

Each commit is checked out and installed (`make install`) in a folder of its own, which is kept: a second call installs nothing.
The sources are downloaded once and copied to both, so that no network is timed; everything else is made again in each round.
On a shared machine, processor time is more reliable than wall-clock time. --epochs shortens every training of both commits: enough
to compare them on a slow machine, but it understates the gain of faster steps.

    python benchmarks/demo.py --folder /tmp/demo                # against the first commit that had a demo
    python benchmarks/demo.py --folder /tmp/demo --before v0.1 --epochs 1
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure

ROOT = Path(__file__).resolve().parents[1]
FIRST = "36b60f7"
RUNS = "results/runs/picto"
# The epochs of every run of the demo that trains are in one of these, depending on the commit.
CONFIG, EPOCHS = ("config/runs/picto.yaml", "config/presets/picto.yaml"), "epochs: 10"
METRICS = ("P@1", "P@5", "PSP@1", "R@100")


def prepared(folder: Path, commit: str, raw: Path, epochs: int) -> Path:
    """Return a clone of the commit with its environment and the downloaded sources, and no results."""
    name = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", commit], check=True, capture_output=True, text=True
    ).stdout.strip()
    tree = folder / name
    if not tree.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
        subprocess.run(["git", "-C", str(tree), "checkout", "-q", name], check=True)
    subprocess.run(["git", "-C", str(tree), "checkout", "-q", "--", "config"], check=True)
    set_epochs(tree, epochs)
    subprocess.run(["make", "-s", "install"], cwd=tree, check=True)
    if not raw.exists():
        # Corpus and images need every download except the language models.
        wanted = ["data", "images", "results/models/minilm-l3/manifest.json"]
        run(tree, ["snakemake", *wanted, "--cores", "all", "--quiet", "all"])
        shutil.copytree(tree / "results" / "raw", raw)
    shutil.rmtree(tree / ".snakemake", ignore_errors=True)
    for made in (tree / "results").glob("*"):
        if made.name != "reference":
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    shutil.copytree(raw, tree / "results" / "raw")
    return tree


def set_epochs(tree: Path, epochs: int) -> None:
    """Change the number of epochs of every run of the demo that trains."""
    texts = {path: path.read_text() for name in CONFIG if (path := tree / name).exists()}
    if sum(len(re.findall(rf"\b{EPOCHS}\b", text)) for text in texts.values()) != 1:
        sys.exit(f"{tree}: expected {EPOCHS!r} exactly once in {' and '.join(CONFIG)}")
    for path, text in texts.items():
        path.write_text(re.sub(rf"\b{EPOCHS}\b", f"epochs: {epochs}", text))


def run(tree: Path, command: list[str]) -> tuple[float, float]:
    """Run a command in a clone's own environment; return its wall clock and processor seconds."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{tree / '.venv' / 'bin'}:{env['PATH']}"
    used, start = _processor(), time.perf_counter()
    done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return time.perf_counter() - start, _processor() - used


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def scores(tree: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of every run, in percent."""
    found = {}
    for path in sorted((tree / RUNS).glob("*/seed0/test/score/scores.json")):
        metrics = json.loads(path.read_text())["metrics"]
        found[path.relative_to(tree / RUNS).parts[0]] = {name: round(metrics[name], 2) for name in METRICS}
    return found


def main() -> None:
    """Print the seconds and the ratio, and write them with the scores of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where clones and environments stay (12 GB)")
    parser.add_argument("--before", default=FIRST, help="the commit to compare with (default: %(default)s)")
    parser.add_argument("--now", default="HEAD", help="the commit to measure (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of every training (default: %(default)s, all)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    ways: dict[str, Any] = {"ours": given.now, "straightforward": given.before}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    found, commits = {}, {}
    for turn in range(given.rounds):
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            tree = prepared(given.folder.resolve(), ways[name], given.folder.resolve() / "raw", given.epochs)
            seconds = run(tree, ["snakemake", "--cores", "all", "paper_tables"])
            wall[name].append(seconds[0])
            used[name].append(seconds[1])
            found[name], commits[name] = scores(tree), tree.name
            print(f"{tree.name}: {seconds[0]:.0f} s, {seconds[1]:.0f} s of processor time", flush=True)
    rows = [
        measure.row(
            path,
            f"PICTO, nine runs of {given.epochs} epochs, against commit {commits['straightforward']}",
            measure.spread(times["ours"]),
            measure.spread(times["straightforward"]),
            measure.ratios(times["straightforward"], times["ours"]),
            limit=statistics.median(times["straightforward"]) / 2,
            limit_by="half of what it was",
            threads=os.cpu_count() or 1,
            commits=commits,
            scores=found,
        )
        for path, times in (("paper_tables", wall), ("paper_tables, processor", used))
    ]
    measure.write("demo", rows, given.out)


if __name__ == "__main__":
    main()
