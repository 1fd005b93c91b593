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
    from vixml.config.document import Section, document, sections
    from vixml.reproduce.specs import FigureSpec, TableSpec

    parts = sections()
    parts += [
        Section.of("tables", "Shape of a table", "`config/tables/*.yaml`. Numbers never stand there.", TableSpec),
        Section.of("figures", "Shape of a figure", "`config/figures/*.yaml`.", FigureSpec),
    ]
    changed = document(root, parts, check=check)
    print("\n".join(map(str, changed)) if changed else "nothing to change")
