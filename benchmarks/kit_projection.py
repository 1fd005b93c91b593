"""Project the paper's largest training from the measured rows of the GPU kit (benchmarks/gpu_kit.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measure
from measure import Kit

from vixml.config.project import Project
from vixml.errors import VixmlError
from vixml.plan.cost import PlannedRun

DATASET, RUN = "LF-AmazonTitles-1.3M", "vixml-qwen2.5-3b"
PAPER = 178.0  # hours (appendix A)
STEPS = ("decoder-3b-liger", "decoder-3b")  # the first that was measured


def medians(out: Path, tiny: bool, device: str) -> dict[str, float]:
    """Return the median of each part's newest row in a folder, of this device and size."""
    found = {}
    for path in sorted(out.glob("kit-*.json"), key=lambda path: path.stat().st_mtime):
        document = json.loads(path.read_text(encoding="utf-8"))
        row = document["rows"][0]
        if document.get("tiny") == tiny and row["device"] == device:
            found[document["benchmark"].removeprefix("kit-")] = row["ours"]["median"]
    return found


def projection(kit: Kit, out: Path, reach: float) -> list[dict[str, Any]]:
    """Return the hours of Qwen2.5-3B with images on LF-AmazonTitles-1.3M, from measured steps, mining and centroids.

    Passes other than steps (set-up, diagnostics) count in proportion to the plan's operations; every clustering counts as
    one in groups of 16, the longest. Writing checkpoints is left out.

    Raises:
        VixmlError: a part that this needs has not been measured.
    """
    found = medians(out, kit.tiny, kit.device.type)
    steps = next((name for name in STEPS if name in found), None)
    missing = [name for name in ("mining", "centroids") if name not in found] + ([] if steps else list(STEPS[-1:]))
    if missing:
        hint = f"run them: --parts {' '.join(missing)} projection"
        raise VixmlError("the projection needs rows of other parts", where=out, found=f"none of {missing}", hint=hint)
    project = Project("config")
    config = project.run(DATASET, RUN)
    job, epochs = PlannedRun.of(project.world, DATASET, config), config.training.epochs
    last = epochs - (config.mining.cluster == "end")
    clusterings = len(range(config.mining.start, last, config.mining.update))
    seconds = {
        "steps": epochs * job.trained_queries / found[steps],
        "mining": clusterings * found["mining"],
        "centroids": (epochs + 1) * found["centroids"],
    }
    seconds["other passes"] = seconds["steps"] * job.diagnostics_flop / job.step_flop
    hours = {name: value / 3600 for name, value in seconds.items()}
    total = sum(hours.values())
    row = measure.row(
        "projected: training of Qwen2.5-3B with images", f"{DATASET}, {epochs} epochs", {"median": total},
        {"median": PAPER}, {"median": PAPER / total, "min": PAPER / total, "max": PAPER / total}, limit=None,
        limit_by="straightforward: the paper's hours", threads=1, device=kit.device.type, unit="h", hours=hours, steps_of=steps,
    )  # fmt: skip
    return [measure.to_reach(row, "hours", total, reach, at_most=True)]
