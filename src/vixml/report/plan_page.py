"""A plan on the terminal, as JSON, and as the generated parts of docs/cost.md, with known times beside predicted ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vixml.config.load import load_runs, load_world
from vixml.config.published import read_csv
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.plan.assumptions import HARDWARE, VISION, Hardware, Kind
from vixml.plan.cost import Job, count, train_cost
from vixml.plan.plan import BASE, Choice, Group, Plan, choose_hardware, hours, make_plan, read_workflow
from vixml.plan.shapes import clustering_flop, shape_of
from vixml.report.facts import STATED
from vixml.report.pages import load_reference, update_page
from vixml.text import duration, markdown, size

SCHEMA_VERSION = 1
BENCHMARK = Path("benchmarks/results/training_step-2threads.json")
REFERENCE = Path("results/reference/picto-summary.json")
REHEARSAL = Path("benchmarks/results/scale.json")


def head(plan: Plan, first: str) -> list[str]:
    """Return the columns of a plan."""
    return [first, "runs", "trained", plan.hardware.unit, "disk", "GPU mem.", "memory"]


def row(plan: Plan, group: Group) -> list[str]:
    """Return one line of a plan."""
    cost = plan.cost(group.runs)
    runs = str(len(group.runs)) + (f" of {group.named}" if group.named != len(group.runs) else "")
    on_gpu = plan.hardware.memory != float("inf")
    return [
        group.name,
        runs,
        str(plan.trainings(group.runs)),
        duration(cost.hours),
        size(cost.disk_bytes),
        size(cost.gpu_memory_bytes) if on_gpu else "–",
        size(cost.host_memory_bytes),
    ]


def total(plan: Plan) -> list[str]:
    """Return the last line of a plan: all runs, what they share once."""
    return row(plan, Group("all", tuple(plan.runs), len(plan.runs)))


def notes(plan: Plan) -> list[str]:
    """Return notes for the reader of the figures."""
    sentences = [
        f"Hours of {plan.hardware.name} ({plan.hardware.unit}); {plan.hardware.source}.",
        "Runs are counted per seed. What several runs share (a model, tokens, images, a training) counts once in each "
        "line, so the lines do not add up to `all`. GPU memory and memory are the largest of any stage; a checkpoint takes "
        f"up to {size(plan.total.scratch_bytes)} more disk while a model trains.",
    ]
    if plan.bounds:
        sentences.append(
            f"Texts of {', '.join(plan.bounds)} are counted at full length (`encoder.max_len`): operations and memory are "
            "upper bounds."
        )
    large = plan.too_large()
    if large:
        sentences.append(f"More than the memory of {plan.hardware.name}: {', '.join(large)}.")
    return sentences


def choice_row(choice: Choice) -> list[str]:
    """Return one line of a budget."""
    return [
        choice.group.name,
        duration(choice.alone.hours),
        duration(choice.added.hours),
        duration(choice.hours),
        "yes" if choice.fits else "alone" if choice.fits_alone else "no",
    ]


CHOICES = ["table", "alone", "adds", "in all", "fits"]


def show(plan: Plan, choices: Sequence[Choice], budget: str | None) -> None:
    """Print a plan on a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)

    def draw(titles: list[str], rows: list[list[str]]) -> None:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, title in enumerate(titles):
            table.add_column(title, justify="right" if index else "left", no_wrap=True)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)

    if choices:
        draw(CHOICES, [choice_row(choice) for choice in choices])
        chosen = [choice.group.name for choice in choices if choice.fits]
        alone = [choice.group.name for choice in choices if choice.fits_alone and not choice.fits]
        within = f"Within {budget}: {', '.join(chosen) if chosen else 'no table'}."
        console.print(within + (f" Each alone, instead: {', '.join(alone)}.\n" if alone else "\n"))
    else:
        draw(head(plan, "dataset"), [*(row(plan, group) for group in plan.targets), total(plan)])
        if plan.tables:
            draw(head(plan, "table"), [row(plan, group) for group in plan.tables])
    for sentence in notes(plan):
        console.print(sentence)


def as_json(plan: Plan, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return a plan for programs: hours, operations, bytes."""

    def group(one: Group) -> dict[str, Any]:
        facts = {"name": one.name, "runs": len(one.runs), "runs_named": one.named, "trained": plan.trainings(one.runs)}
        return facts | asdict(plan.cost(one.runs))

    hardware = {key: value for key, value in asdict(plan.hardware).items() if value != float("inf")}
    return {
        "schema_version": SCHEMA_VERSION,
        "config": plan.name,
        "hardware": hardware,
        "total": {"runs": len(plan.runs), "trained": plan.trainings(plan.runs)} | asdict(plan.total),
        "targets": [group(one) for one in plan.targets],
        "tables": [group(one) for one in plan.tables],
        "budget": [
            {"table": c.group.name, "alone": c.alone.hours, "adds": c.added.hours, "hours": c.hours}
            | {"fits": c.fits, "fits_alone": c.fits_alone}
            for c in choices
        ],
        "parts": {name: asdict(cost) for name, cost in plan.parts.items()},
        "upper_bounds": list(plan.bounds),
    }


def pages(plan: Plan, config_dir: Path | str) -> dict[str, str]:
    """Return the generated parts of docs/cost.md by their place."""
    titles = ["part", "time (share of the data set)", "rows at the largest", "growth", "memory"]
    host = [[what, f"{speed / 1e9:.1f}"] for what, speed in host_speed(REHEARSAL).items()]
    asked = markdown(head(plan, "dataset"), [*(row(plan, group) for group in plan.targets), total(plan)])
    tables = markdown(head(plan, "table"), [row(plan, group) for group in plan.tables])
    order = markdown(CHOICES[:-1], [choice_row(choice)[:-1] for choice in plan.choose(float("inf"))])
    times = markdown(
        ["what", "where", "known", "predicted", "predicted / known"],
        [[*cells, f"{ratio:.2f}"] for *cells, ratio in known(config_dir, REFERENCE)],
    )
    speeds = [
        [case, way, f"{flop / 1e9:.0f}"]
        for way in ("ours, bf16", "ours, fp32")
        for case, flop in sustained_here(config_dir, BENCHMARK, way).items()
    ]
    world = load_world(config_dir)
    sizes = []
    for name, model in world.text_models.items():
        counted, printed = shape_of(name, model).parameters, count(model.parameters)
        sizes.append([model.title, model.parameters, f"{counted / 1e6:,.1f}M", f"{counted / printed:.3f}"])
    return {
        "plan": "\n".join([asked, tables, order, *(f"- {sentence}" for sentence in notes(plan))]) + "\n",
        "known": "\n".join([times, markdown(["case", "way", "GFLOP/s per thread"], speeds)]),
        "rehearsal": "\n".join(
            [markdown(titles, rehearsed(REHEARSAL), {1}), markdown(["on the processor", "GFLOP/s"], host)]
        ),
        "parameters": markdown(["model", "Table 9", "counted", "counted / printed"], sizes),
    }


def plan(
    overlay: Path | None,
    *,
    base: Path = BASE,
    budget: str | None = None,
    device: Kind = "gpu",
    sustained: float | None = None,
    json_out: bool = False,
    write: Path | None = None,
    check: bool = False,
) -> None:
    """Print what a configuration will cost, and write it into a page.

    Raises:
        VixmlError: bad input; with ``check``, a page that is out of date.
    """
    workflow = read_workflow(overlay, base)
    hardware: Hardware = choose_hardware(device, None if sustained is None else sustained * 1e12)
    found = make_plan(workflow, hardware)
    choices = found.choose(hours(budget)) if budget is not None else []
    if budget is not None and not choices:
        raise VixmlError(
            "no table of this configuration to choose from", where=overlay or base, found="no planned runs"
        )
    if write is not None:
        contents = pages(found, workflow.config_dir)
        update_page(write, contents, "a page of predicted costs", check)
    if json_out:
        print(json.dumps(as_json(found, choices), indent=2))
    else:
        show(found, choices, budget)


# -- known times beside what the model of costs predicts for them -------------------------------------------------------


def sustained_here(config_dir: Path | str, benchmark: Path, way: str = "ours, bf16") -> dict[str, float]:
    """Return the operations per second and thread that the benchmark of a training step sustained, by case.

    Samples per second times the operations counted for one sample of the benchmark's configuration.
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
            found.append(("an image, siglip2", "paper", float(value), VISION["siglip2"].flop / gpu.encoder * 1e3, "ms"))
    for line in load_reference(reference)["rows"]:
        if line["hours"]:
            predicted = job(line["dataset"], line["run"]).step_flop / HARDWARE["cpu"].encoder / 60
            found.append((f"{line['run']}, {line['dataset']}", "here, one core", line["hours"] * 60, predicted, "min"))
    return [
        (what, where, f"{value:.3g} {unit}", f"{predicted:.3g} {unit}", predicted / value)
        for what, where, value, predicted, unit in found
    ]


def host_speed(rehearsal: Path) -> dict[str, float]:
    """Return the operations per second that a processor sustained in 2-means and centroids, at the largest size rehearsed."""
    measured = read_json(rehearsal)
    width, largest = measured["dim"], {name: part["measured"][-1] for name, part in measured["parts"].items()}
    mining, centroids = largest["mining"], largest["centroids"]
    return {
        "balanced 2-means": clustering_flop(mining["rows"], math.ceil(mining["rows"] / measured["group"]), width)
        / mining["seconds"],
        "centroids": 2.0 * centroids["rows"] * width / centroids["seconds"],
    }


def rehearsed(rehearsal: Path) -> list[list[str]]:
    """Return one line per part: what, time at each size, how it grows, memory at the largest size."""
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
            "a published time without a run",
            where="config/reported/other_facts.csv",
            found=item,
            hint="name its run in STATED of src/vixml/report/facts.py",
        )
    return STATED[item]
