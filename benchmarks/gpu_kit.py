"""Measure and check on a GPU everything that has only been counted so far, in parts of at most two minutes.

    python benchmarks/gpu_kit.py --out benchmarks/results                       # all parts, on a GPU
    python benchmarks/gpu_kit.py --out /tmp/kit --parts search centroids        # some
    python benchmarks/gpu_kit.py --out /tmp/kit --device cpu --tiny             # the code, not the speed

Each part is a process of its own with a time limit. It prints a row (ours, the straightforward way, their ratio, the limit,
the share of it), its check against a reference, and the figure to reach, if there is one; and writes the row with card,
date and versions to ``FOLDER/kit-PART-CARD.json``. A part that fails, takes too long or runs out of memory says so, and the
others run. The last part projects the paper's largest training from the measured rows.

Needs Python 3.11 to 3.13, torch >= 2.11, transformers >= 5.17, peft, pyarrow and numpy; weights are random and data are made
up, so no network. Packages that this machine lacks are read from ``--wheels FOLDER`` (benchmarks/README.md).

Exit code: 0 if every part ran and every check passed, otherwise 1; figures that were not reached change nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = sys.executable
SECONDS = 120
# Name: module, function and its arguments.
PARTS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "decoder-0.5b": ("kit_training", "decoder", ("qwen2.5-0.5b", "plain", 0.45)),
    "decoder-0.5b-liger": ("kit_training", "decoder", ("qwen2.5-0.5b", "liger", 0.45)),
    "decoder-3b": ("kit_training", "decoder", ("qwen2.5-3b", "plain", 0.55)),
    "decoder-3b-liger": ("kit_training", "decoder", ("qwen2.5-3b", "liger", 0.55)),
    "memory-gemma-3-4b": ("kit_training", "memory", ("text-gemma-3-4b",)),
    "memory-qwen3-4b": ("kit_training", "memory", ("text-qwen3-4b",)),
    "memory-qwen2.5-7b": ("kit_training", "memory", ("vixml-qwen2.5-7b",)),
    "mining": ("kit_vectors", "mining", ()),
    "search": ("kit_vectors", "exact_search", (3.0,)),
    "encoder-minilm": ("kit_training", "encoder", ("vixml-minilm-l3", 4.0)),
    "encoder-distilbert": ("kit_training", "encoder", ("vixml-distilbert", 4.0)),
    "encoder-e5": ("kit_training", "encoder", ("vixml-bert", 4.0)),
    "pooling": ("kit_vectors", "pooling", ()),
    "centroids": ("kit_vectors", "centroids", ()),
    "projection": ("kit_projection", "projection", (60.0,)),
}
OUTCOMES = {0: "passed", 1: "CHECK FAILED", 3: "OUT OF MEMORY", 4: "FAILED"}


def run_part(name: str, out: Path, device: str, tiny: bool) -> int:
    """Run one part in this process, print its rows and write them; return a key of :data:`OUTCOMES`."""
    try:
        import measure
        import torch

        from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers
        from vixml.errors import VixmlError
        from vixml.memory import kind_of_memory
        from vixml.runtime import find_device

        module, function, arguments = PARTS[name]
        chosen = find_device(device)
        if name == "projection":
            arguments = (out, *arguments)
        rows = getattr(importlib.import_module(module), function)(measure.Kit(chosen, tiny), *arguments)
    except ImportError as error:
        print(f"{name}: {error}\n  what now: install it, or pass --wheels (benchmarks/README.md)", flush=True)
        return 4
    except VixmlError as error:
        print(f"{name}: {error}", flush=True)
        return 3 if error.__cause__ is not None and kind_of_memory(error.__cause__) else 4
    except Exception as error:
        if kind_of_memory(error):
            print(f"{name}: {str(error).splitlines()[0]}", flush=True)
            return 3
        traceback.print_exc()
        return 4
    card = torch.cuda.get_device_name() if chosen.type == "cuda" else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    shown = {"benchmark": f"kit-{name}", "card": card, "tiny": tiny, "rows": rows}
    measure.write(f"kit-{name}", rows, out / f"kit-{name}-{slug}.json", shown)
    for row in rows:
        check, reach = row.get("check"), row.get("reach")
        if check:
            print(
                f"check {'passed' if check['passed'] else 'FAILED'}: {check['what']}; found {json.dumps(check['found'])}"
            )
        if reach:
            least = "at most" if reach["at_most"] else "at least"
            state = "reached" if reach["reached"] else "NOT reached"
            print(f"to reach: {reach['what']}, {least} {reach['figure']:g}; found {reach['found']:.3g}: {state}")
    return 0 if all(row["check"]["passed"] for row in rows if "check" in row) else 1


def unpack(wheels: Path, folder: Path) -> None:
    """Unpack the wheels that fit this Python and have not a compiled part for another."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for path in sorted(wheels.glob("*.whl")):
        python, abi = path.stem.split("-")[-3:-1]
        if abi == "none" or abi.startswith("abi3") or tag in python.split("."):
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(folder)


def outcome_of(name: str, arguments: list[str], limit: float, env: dict[str, str]) -> str:
    """Run a part as a process; return how it ended."""
    command = [PYTHON, str(Path(__file__).resolve()), "--part", name, *arguments]
    try:
        code = subprocess.run(command, env=env, cwd=HERE.parent, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"STOPPED after {limit:g} s"
    return OUTCOMES.get(code, f"ENDED with status {code}")


def main() -> int:
    """Run the parts, and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: tests the code, measures nothing")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of packages that are not installed")
    parser.add_argument("--limit", type=float, default=SECONDS, help="seconds that a part may take")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        return run_part(chosen.part, chosen.out, chosen.device, chosen.tiny)
    if chosen.wheels and not list(chosen.wheels.glob("*.whl")):
        parser.error(f"--wheels {chosen.wheels}: no wheels there")
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["--out", str(out), "--device", chosen.device, *(["--tiny"] if chosen.tiny else [])]
    outcomes = {}
    with tempfile.TemporaryDirectory() as packages:
        if chosen.wheels:
            unpack(chosen.wheels, Path(packages))
        path = [str(HERE.parent / "src"), str(HERE), packages, os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "HF_HUB_OFFLINE": "1"}
        env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        for name in chosen.parts:
            print(f"== {name}", flush=True)
            outcomes[name] = outcome_of(name, arguments, chosen.limit, env)
    print("\n" + "\n".join(f"{name:<20} {outcome}" for name, outcome in outcomes.items()))
    return int(any(outcome != OUTCOMES[0] for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
