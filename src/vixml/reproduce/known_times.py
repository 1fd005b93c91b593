"""Times that are known, beside what the model of costs predicts for them (docs/cost.md). No torch."""

from __future__ import annotations

import math
from pathlib import Path

from vixml.config.load import load_world
from vixml.config.run import RunConfig
from vixml.config.runs import load_runs
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.reproduce.assumptions import HARDWARE, VISION
from vixml.reproduce.claims import read_csv
from vixml.reproduce.cost import train_cost
from vixml.reproduce.fact_claims import STATED
from vixml.reproduce.job import Job
from vixml.reproduce.shapes import clustering_flop
from vixml.reproduce.summary import load_reference

BENCHMARK = Path("benchmarks/results/training_step-2threads.json")
REFERENCE = Path("results/reference/picto-summary.json")
REHEARSAL = Path("benchmarks/results/scale.json")


def sustained_here(config_dir: Path | str, benchmark: Path, way: str = "ours, bf16") -> dict[str, float]:
    """Return the operations a second and thread that the benchmark of a training step sustained, by case.

    Samples a second times the operations that this model counts for a sample, of the benchmark's own configuration.
    """
    world, measured = load_world(config_dir), read_json(benchmark)
    found = {}
    for case, modality in (("text", "text"), ("images", "text+image")):
        config = RunConfig.model_validate(
            {
                "modality": modality,
                "prototype": {"free_vectors": 2048},
                "mining": None,
                "training": {"batch_size": measured["batch_size"], "epochs": 1},
            }
        )
        job = Job.of(world, "picto", config)
        speed = measured["cases"][case]["samples_per_second"][way]["median"]
        found[case] = speed * job.step_flop / job.trained_queries / measured["machine"]["threads"]
    return found


def known(config_dir: Path | str, reference: Path) -> list[tuple[str, str, str, str, float]]:
    """Return (what, where, known, predicted, predicted / known) of every time that is known.

    The paper's training times are compared with the whole stage; ours leave out set-up and diagnostics, and so does their
    prediction. A latency is compared with one forward pass.
    """
    world, runs, gpu = load_world(config_dir), load_runs(config_dir), HARDWARE["gpu"]

    def job(dataset: str, run: str) -> Job:
        return Job.of(world, dataset, runs[dataset, run])

    found = []
    for _, line in read_csv(Path(config_dir) / "reported" / "other_facts.csv"):
        topic, item, value = line["topic"], line["item"], line["value"]
        if (topic, line["unit"]) in {("training time", "h"), ("Figure 2", "h")}:
            dataset, run = _stated(item)
            published = float(value.split()[-1])
            predicted = train_cost(job(dataset, run), gpu).hours
            where = "paper, end of Figure 2's axis" if topic == "Figure 2" else "paper"
            found.append((f"{run}, {dataset}", where, published, predicted, "h"))
        elif topic == "latency per query":
            dataset, run = _stated(item)
            one = job(dataset, run)
            speed = gpu.decoder if one.causal else gpu.encoder
            found.append((f"a query, {run}", "paper", float(value), one.encode(one.query) / speed * 1e3, "ms"))
        elif topic == "latency per image":
            found.append(
                ("a picture, siglip2", "paper", float(value), VISION["siglip2"].flop / gpu.encoder * 1e3, "ms")
            )
    for line in load_reference(reference)["rows"]:
        if line["hours"]:
            predicted = job(line["dataset"], line["run"]).step_flop / HARDWARE["cpu"].encoder / 60
            found.append((f"{line['run']}, {line['dataset']}", "here, one core", line["hours"] * 60, predicted, "min"))
    return [
        (what, where, f"{value:.3g} {unit}", f"{predicted:.3g} {unit}", predicted / value)
        for what, where, value, predicted, unit in found
    ]


def host_speed(rehearsal: Path) -> dict[str, float]:
    """Return the operations a second that a processor sustained in 2-means and centroids, at the largest size rehearsed."""
    measured = read_json(rehearsal)
    width, largest = measured["dim"], {name: part["measured"][-1] for name, part in measured["parts"].items()}
    mining, centroids = largest["mining"], largest["centroids"]
    return {
        "balanced 2-means": clustering_flop(mining["rows"], math.ceil(mining["rows"] / measured["group"]), width)
        / mining["seconds"],
        "centroids": 2.0 * centroids["rows"] * width / centroids["seconds"],
    }


def rehearsed(rehearsal: Path) -> list[list[str]]:
    """Return one line a part: what, time at each size, how it grows, memory at the largest size."""
    lines = []
    for part in read_json(rehearsal)["parts"].values():
        sizes = part["measured"]
        times = [f"{one['seconds']:.3g} s ({_share(one['size'])})" for one in sizes]
        rows = f"{sizes[-1]['rows']:,}"
        lines.append(
            [part["words"], ", ".join(times), rows, f"{part['growth']:.2f}", f"{sizes[-1]['peak_mb'] / 1024:.1f} GB"]
        )
    return lines


def _share(size: float) -> str:
    return "all" if size == 1 else f"1/{1 / size:.0f}"


def _stated(item: str) -> tuple[str, str]:
    if item not in STATED:
        raise VixmlError(
            "a published time that no run stands for",
            where="config/reported/other_facts.csv",
            found=item,
            hint="name its run in STATED of src/vixml/reproduce/fact_claims.py",
        )
    return STATED[item]
