"""Verbs ``plan`` and ``reproduction``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("plan")(plan)
    app.command("reproduction")(reproduction)


def reproduction(
    write: Annotated[Path, typer.Option(help="The page.")] = Path("docs/reproduction.md"),
    check: Annotated[bool, typer.Option(help="Change nothing; fail if the page is out of date.")] = False,
    config_dir: Annotated[
        Path, typer.Option(help="Folder of tables/, reported/, runs/, datasets.yaml and models.yaml.")
    ] = Path("config"),
) -> None:
    """Write the tables of docs/reproduction.md: what of the paper is here, what PICTO shows, what the rest would take.

    Reads committed files only: the tables' shapes, the published numbers, the
    registry and results/reference. Run it after any of them changed.

    Example:

        vixml reproduction

        vixml reproduction --check
    """
    from vixml.report.pages import reproduction as run

    run(config_dir, write, check)


def plan(
    config: Annotated[
        Path | None,
        typer.Option(help="An overlay, as Snakemake's --configfile; without it, config/config.yaml alone."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Say which tables fit into so much time, e.g. 24h, 90min or 2d.")
    ] = None,
    device: Annotated[
        Literal["gpu", "cpu"], typer.Option(help="Hours of one H100, or of one core of the processor measured.")
    ] = "gpu",
    sustained: Annotated[
        float | None,
        typer.Option(help="TFLOP/s that training and encoding sustain on your machine, instead of what is assumed."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, part by part.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Put the figures into this page, between its markers, as in docs/cost.md.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Change nothing; fail if the page of --write is out of date.")] = False,
) -> None:
    """Print what a configuration will cost before anything runs: hours, disk, memory, by dataset and by table.

    Operations and bytes are counted from the configuration and the networks'
    sizes; hours follow from a stated speed (docs/cost.md). What runs share is
    counted once. Nothing is fetched, read or started.

    Example:

        vixml plan --config config/paper.yaml

        vixml plan --config config/paper.yaml --budget 24h

        vixml plan --device cpu
    """
    from vixml.report.plan_page import plan as run

    run(
        config, budget=budget, device=device, sustained=sustained, json_out=json, write=write, check=check
    )  # fmt: skip
