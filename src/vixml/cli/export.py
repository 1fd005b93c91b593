"""The command ``vixml export``: a model for other programs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vixml.cli.models import Model
from vixml.errors import VixmlError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(export)


def export(
    to: Annotated[
        Literal["sentence-transformers", "onnx", "faiss", "parquet", "hub"],
        typer.Option(help="For which program.", show_default=False),
    ],
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write; for hub, the repository OWNER/NAME.", show_default=False)],
    items: Annotated[
        bool | None,
        typer.Option(help="faiss, parquet, hub: the training items, too. They are training data.", show_default=False),
    ] = None,
    form: Annotated[
        Literal["model", "sentence-transformers"], typer.Option("--as", help="hub: what is pushed.")
    ] = "model",
    public: Annotated[bool, typer.Option("--public", help="hub: everybody may read the repository.")] = False,
) -> None:
    """Write a model for other programs: verified, whole or not at all.

    sentence-transformers and onnx: the text encoder, whose vectors are the
    model's. faiss and parquet: the vectors of the labels with their ids and
    names. hub: the model folder, in a private repository. What an export lacks
    of the model is printed, and in its README.md. docs/export.md has the use of
    each.

    Example:

        vixml export --to sentence-transformers --model shop.model --out shop-encoder
        vixml export --to hub --model shop.model --out me/shop --items
    """
    if to != "hub" and (public or form != "model"):
        raise VixmlError("--as and --public belong to --to hub", where=f"--to {to}", hint="leave them out")
    if to == "hub":
        from vixml.tagging.exports.hub import push

        lines = push(model, out, form, items, public)
    else:
        from vixml.tagging.exports.export import export as go

        lines = go(model, to, out, bool(items))
    print("\n".join([f"{out}: {to}, from {model}", *(f"  {line}" for line in lines)]))
