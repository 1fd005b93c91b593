"""Verb ``document-config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this room's verb to the command line."""
    app.command("document-config")(document_config)


def document_config(
    root: Annotated[Path, typer.Option(help="The repository.")] = Path("."),
    check: Annotated[bool, typer.Option(help="Change nothing; fail if a file is out of date.")] = False,
) -> None:
    """Write docs/config.md and config/schemas/ from the config models.

    Run it after a change of the models in src/vixml/config; a test fails until
    then.

    Example:

        vixml document-config --check
    """
    from vixml.config.document import Section, document, either, sections
    from vixml.config.tables import Comparisons, DrawingSpec, FactsSpec, FigureSpec, TableSpec

    parts = sections()
    # A file of config/tables or config/figures is of either of two kinds, so both parts of the page share one schema.
    shapes = [TableSpec.model_json_schema(), FactsSpec.model_json_schema()]
    kinds = [FigureSpec.model_json_schema(), DrawingSpec.model_json_schema()]
    table, figure = either(*shapes), either(*kinds)
    parts += [
        Section(
            "tables",
            "Layout of a table",
            "`config/tables/*.yaml` and `config/summaries/*.yaml`. They contain no numbers.",
            table,
            shapes[0],
        ),
        Section("tables", "Layout of a table of facts", "`config/tables/*.yaml`, `layout: facts`.", table, shapes[1]),
        Section("figures", "Layout of a figure", "`config/figures/*.yaml`, without `kind`.", figure, kinds[0]),
        Section("figures", "A drawing", "`config/figures/*.yaml`, `kind: drawing`.", figure, kinds[1]),
        Section.of(
            "comparisons",
            "Claims as differences of two runs",
            "`config/reported/comparisons.yaml`, the rows of docs/reproduction.md.",
            Comparisons,
        ),
    ]
    changed = document(root, parts, check=check)
    print("\n".join(map(str, changed)) if changed else "nothing to change")
