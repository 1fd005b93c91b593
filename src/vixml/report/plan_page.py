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
from vixml.plan.assumptions import HARDWARE, VISION, Kind
from vixml.plan.cost import Cost, PlannedRun, count, train_cost
from vixml.plan.plan import BASE, Group, Plan, PlannedTable, choose_hardware, hours, make_plan, read_workflow
from vixml.plan.shapes import clustering_flop, shape_of
from vixml.report.pages import load_reference, update_page
from vixml.text import duration, markdown, plain, size

SCHEMA_VERSION = 1
BENCHMARK = Path("benchmarks/results/training_step-2threads.json")
REFERENCE = Path("results/reference/picto-summary.json")
REHEARSAL = Path("benchmarks/results/scale.json")
Lines = tuple[list[str], list[list[str]]]  # titles, rows


def plan(
    overlay: Path | None,
    *,
    budget: str | None = None,
    device: Kind = "gpu",
    sustained: float | None = None,
    json_out: bool = False,
    write: Path | None = None,
    check: bool = False,
) -> None:
    """Run the command ``vixml plan``.

    Raises:
        VixmlError: bad input; with ``check``, a page that is out of date.
    """
    workflow = read_workflow(overlay, BASE)
    hardware = choose_hardware(device, None if sustained is None else sustained * 1e12)
    # A page must not depend on what is in this folder of results.
    found = make_plan(workflow, hardware, Path(workflow.results) if write is None else None)
    choices = found.choose(hours(budget)) if budget is not None else []
    if budget is not None and not choices:
        raise VixmlError("this configuration makes no table", where=overlay or BASE, found="no planned runs")
    if write is not None:
        update_page(write, pages(found, workflow.config_dir), "a page of predicted costs", check)
    if json_out:
        print(json.dumps(as_json(found, choices), indent=2))
    else:
        show(found, choices, budget)


def costs(plan: Plan, first: str, groups: Sequence[Group]) -> Lines:
    """Return one line per dataset or table, and for datasets one with all runs; shared parts count once."""
    if first == "dataset":
        groups = [*groups, Group("all", tuple(plan.runs), len(plan.runs))]
    rows = []
    for group in groups:
        cost, n = plan.cost(group.runs), len(group.runs)
        rows.append([
            group.name,
            f"{n} of {group.named}" if group.named != n else str(n),
            str(plan.trainings(group.runs)),
            duration(cost.hours),
            size(cost.disk_bytes),
            size(cost.gpu_memory_bytes) if plan.hardware.memory != float("inf") else "–",
            size(cost.host_memory_bytes),
        ])  # fmt: skip
    return [first, "runs", "trained", plan.hardware.unit, "disk", "GPU mem.", "memory"], rows


def by_run(plan: Plan) -> Lines:
    """Return one line per run that all datasets have: its own hours on each, and the largest memory.

    A run that reuses a model costs its search.
    """
    shared = dict.fromkeys(run for _, run, _ in plan.runs)
    for group in plan.targets:
        shared = {run: None for run in shared if run in {name for _, name, _ in group.runs}}
    rows = []
    for run in shared:
        of_dataset = [
            sum((cost for part, cost in plan.parts.items() if part.split("/")[1:3] == [group.name, run]), Cost())
            for group in plan.targets
        ]
        largest = sum(of_dataset, Cost())
        memory = [size(largest.gpu_memory_bytes), size(largest.host_memory_bytes)]
        rows.append([run, *(duration(cost.hours) for cost in of_dataset), *memory])
    return ["run", *(group.name for group in plan.targets), "GPU mem.", "memory"], rows


def purchases(choices: Sequence[PlannedTable]) -> Lines:
    """Return one line per table, in the order in which a budget buys them."""
    rows = [
        [c.table, *map(duration, (c.alone, c.adds, c.hours)), "yes" if c.fits else "alone" if c.fits_alone else "no"]
        for c in choices
    ]
    return ["table", "alone", "adds", "in all", "fits"], rows


def notes(plan: Plan) -> list[str]:
    """Return the sentences that explain the figures."""
    found = [
        f"Hours of {plan.hardware.name} ({plan.hardware.unit}); {plan.hardware.source}.",
        "Runs are counted per seed. What several runs share (a model, tokens, images, a training) counts once in each "
        "line, so the lines do not add up to `all`. GPU memory and main memory are those of the largest stage. While a model "
        f"trains, its checkpoint takes up to {size(plan.total.scratch_bytes)} of additional disk space.",
    ]
    if plan.bounds:
        found.append(
            f"Texts of {', '.join(plan.bounds)} are counted at full length (`encoder.max_len`): operations and memory are "
            "upper bounds."
        )
    if plan.uncounted:
        found.append(
            f"GPU memory of {len(plan.uncounted)} trainings is not counted on the real step but follows from a formula, which "
            f"may be up to a fifth too low (late fusion: two thirds): {', '.join(plan.uncounted[:4])}"
            f"{', ...' if len(plan.uncounted) > 4 else ''}. `python -m vixml.plan.count_memory` counts those of config/."
        )
    if large := plan.too_large():
        found.append(f"More than the memory of {plan.hardware.name}: {', '.join(large)}.")
    return found


def show(plan: Plan, choices: Sequence[PlannedTable], budget: str | None) -> None:
    """Print a plan on a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)

    def draw(titles: list[str], rows: list[list[str]]) -> None:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, title in enumerate(titles):
            table.add_column(title, justify="right" if index else "left", no_wrap=True)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)

    if choices:
        draw(*purchases(choices))
        chosen = ", ".join(choice.table for choice in choices if choice.fits) or "no table"
        alone = ", ".join(choice.table for choice in choices if choice.fits_alone and not choice.fits)
        console.print(f"Within {budget}: {chosen}." + (f" Each alone, instead: {alone}.\n" if alone else "\n"))
    else:
        draw(*costs(plan, "dataset", plan.targets))
        if plan.tables:
            draw(*costs(plan, "table", plan.tables))
    for sentence in notes(plan):
        console.print(sentence)


def as_json(plan: Plan, choices: Sequence[PlannedTable]) -> dict[str, Any]:
    """Return a plan for programs: hours, operations, bytes."""

    def group(one: Group) -> dict[str, Any]:
        about = {"name": one.name, "runs": len(one.runs), "runs_named": one.named, "trained": plan.trainings(one.runs)}
        return about | asdict(plan.cost(one.runs))

    return {
        "schema_version": SCHEMA_VERSION,
        "config": plan.name,
        "hardware": {key: value for key, value in asdict(plan.hardware).items() if value != float("inf")},
        "total": {"runs": len(plan.runs), "trained": plan.trainings(plan.runs)} | asdict(plan.total),
        "targets": [group(one) for one in plan.targets],
        "tables": [group(one) for one in plan.tables],
        "budget": [asdict(choice) for choice in choices],
        "parts": {name: asdict(cost) for name, cost in plan.parts.items()},
        "upper_bounds": list(plan.bounds),
    }  # fmt: skip


def pages(plan: Plan, config_dir: Path | str) -> dict[str, str]:
    """Return the generated parts of docs/cost.md by the name of their markers; of the plan itself, that of its configuration.

    A configuration of one table has a line for each run in place of its tables.
    """
    asked = [markdown(*costs(plan, "dataset", plan.targets))]
    if len(plan.tables) > 1:
        titles, rows = purchases(plan.choose(float("inf")))
        order = markdown(titles[:-1], [cells[:-1] for cells in rows])
        asked += [markdown(*costs(plan, "table", plan.tables)), order]
    else:
        asked.append(markdown(*by_run(plan)))
    times = markdown(
        ["what", "where", "known", "predicted", "predicted / known"],
        [[*cells, f"{ratio:.2f}"] for *cells, ratio in known(config_dir, REFERENCE)],
    )
    speeds = [
        [case, way, f"{flop / 1e9:.0f}"]
        for way in ("ours, bf16", "ours, fp32")
        for case, flop in sustained_here(config_dir, BENCHMARK, way).items()
    ]
    parts = ["part", "time (share of the dataset)", "rows at the largest size", "growth", "memory"]
    host = [[what, f"{speed / 1e9:.1f}"] for what, speed in host_speed(REHEARSAL).items()]
    sizes = []
    for name, model in load_world(config_dir).text_models.items():
        counted, printed = shape_of(name, model).parameters, count(model.parameters)
        figures = [f"{counted / 1e6:,.1f}M", f"{counted / printed:.3f}"]
        sizes.append([plain(model.title), plain(model.parameters), *figures])
    return {
        f"plan-{plan.name}": "\n".join([*asked, *(f"- {sentence}" for sentence in notes(plan))]) + "\n",
        "known": "\n".join([times, markdown(["case", "way", "GFLOP/s per thread"], speeds)]),
        "rehearsal": "\n".join(
            [markdown(parts, rehearsed(REHEARSAL), {1}), markdown(["on the processor", "GFLOP/s"], host)]
        ),
        "parameters": markdown(["model", "Table 9", "counted", "counted / printed"], sizes),
    }


# -- known times beside predicted ones -------------------------------------------------------


def sustained_here(config_dir: Path | str, benchmark: Path, way: str = "ours, bf16") -> dict[str, float]:
    """Return the operations per second and thread that the benchmark of a training step sustained, by case.

    These are samples per second times the operations counted per sample of the benchmark's configuration.
    """
    world, measured = load_world(config_dir), read_json(benchmark)
    found = {}
    for case, modality in (("text", "text"), ("images", "text+image")):
        settings = {"modality": modality, "prototype": {"free_vectors": 2048}, "mining": None}
        settings |= {"training": {"batch_size": measured["batch_size"], "epochs": 1}}
        job = PlannedRun.of(world, "picto", RunConfig.model_validate(settings))
        speed = measured["cases"][case]["samples_per_second"][way]["median"]
        found[case] = speed * job.step_flop / job.trained_queries / measured["machine"]["threads"]
    return found


def known(config_dir: Path | str, reference: Path) -> list[tuple[str, str, str, str, float]]:
    """Return (what, where, known, predicted, predicted / known) of every known time.

    The paper's training times are compared with the whole stage, ours with the training steps alone, because they leave
    out set-up and diagnostics. A latency is compared with one forward pass.
    """
    world, runs, gpu = load_world(config_dir), load_runs(config_dir), HARDWARE["gpu"]

    def job(dataset: str, run: str) -> PlannedRun:
        return PlannedRun.of(world, dataset, runs[dataset, run])

    found = []
    for _, line in read_csv(Path(config_dir) / "reported" / "other_facts.csv"):
        topic, value = line["topic"], line["value"]
        if (topic, line["unit"]) in {("training time", "h"), ("Figure 2", "h")}:
            dataset, run = _run_of(line)
            published = float(value.split()[-1])
            predicted = train_cost(job(dataset, run), gpu).hours
            where = "paper: at most, the end of Figure 2's axis" if topic == "Figure 2" else "paper"
            found.append((f"{run}, {dataset}", where, published, predicted, "h"))
        elif topic == "latency per query":
            dataset, run = _run_of(line)
            one = job(dataset, run)
            predicted = one.encode(one.query) / one.speed(gpu) * 1e3
            found.append((f"a query, {run}", "paper", float(value), predicted, "ms"))
        elif topic == "latency per image":
            predicted = VISION["siglip2"].flop / gpu.speed(1152) * 1e3
            found.append(("an image, siglip2", "paper", float(value), predicted, "ms"))
    for line in load_reference(reference)["rows"]:
        if line["hours"]:
            one = job(line["dataset"], line["run"])
            predicted = one.step_flop / one.speed(HARDWARE["cpu"]) / 60
            found.append((f"{line['run']}, {line['dataset']}", "here, one core", line["hours"] * 60, predicted, "min"))
    return [
        (what, where, f"{value:.3g} {unit}", f"{predicted:.3g} {unit}", predicted / value)
        for what, where, value, predicted, unit in found
    ]


def host_speed(rehearsal: Path) -> dict[str, float]:
    """Return the operations per second that a processor sustained in 2-means and centroids, at the largest size."""
    measured = read_json(rehearsal)
    width = measured["dim"]
    mining, centroids = (measured["parts"][name]["measured"][-1] for name in ("mining", "centroids"))
    clustered = clustering_flop(mining["rows"], math.ceil(mining["rows"] / measured["group"]), width)
    return {
        "balanced 2-means": clustered / mining["seconds"],
        "centroids": 2.0 * centroids["rows"] * width / centroids["seconds"],
    }


def rehearsed(rehearsal: Path) -> list[list[str]]:
    """Return one line per part: name, time at each size, rows, growth of time, memory at the largest size."""
    lines = []
    for part in read_json(rehearsal)["parts"].values():
        sizes, last = part["measured"], part["measured"][-1]
        shares = ["all" if one["size"] == 1 else f"1/{1 / one['size']:.0f}" for one in sizes]
        times = ", ".join(f"{one['seconds']:.3g} s ({share})" for one, share in zip(sizes, shares, strict=True))
        memory = f"{last['peak_mb'] / 1024:.1f} GB"
        lines.append([part["words"], times, f"{last['rows']:,}", f"{part['growth']:.2f}", memory])
    return lines


def _run_of(fact: dict[str, str]) -> tuple[str, str]:
    if not fact["run"]:
        what, hint = "a published time without a run", "name our run in its columns `dataset` and `run`"
        raise VixmlError(what, where="config/reported/other_facts.csv", found=fact["item"], hint=hint)
    return fact["dataset"], fact["run"]
