"""The command that serves a model folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vixml.cli.stages import Device
from vixml.errors import VixmlError
from vixml.runtime import choose_device


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(serve)


def serve(
    model: Annotated[Path, typer.Option(help="Model folder, of `vixml pack`.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on. Others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="VIXML_TOKEN", help="Requests must bring it (Authorization: Bearer).", show_default=False),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from web addresses, public ones only.")
    ] = False,
    max_body: Annotated[int, typer.Option(min=1, max=1024, help="MB of a request.")] = 16,
    max_items: Annotated[int, typer.Option(min=1, max=4096, help="Items of a request, and images of a request.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds of a request.")] = 30,
    queue: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Items and images that wait; beyond, requests get 429.")
    ] = 512,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Processor threads of the model; half the cores by default.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a model: a page to try it, and an API.

    / is the page, /docs the API, /healthz and /metrics are for operators;
    /v1/tags tags items, /v1/embeddings has the form of OpenAI's API. Listens on
    this machine only; with --host, set a token. Ctrl-C or SIGTERM stops it
    after the requests that are being answered. Needs `pip install vixml[serve]`.

    Example:

        vixml serve --model shop.model --port 8000
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        what, hint = "the server's libraries are not installed", "pip install 'vixml[serve]'"
        raise VixmlError(what, where="vixml serve", found=f"no {error.name}", hint=hint) from error
    from vixml.serving.limits import Limits
    from vixml.serving.server import address_of, bind, make_server

    limits = Limits(body=max_body << 20, items=max_items, images=max_items, seconds=timeout, queue=queue)
    limits = replace(limits, idle=min(limits.idle, timeout))
    with bind(host, port) as listener:
        from vixml.tagging.tagger import Tagger

        guessed = threads is None
        threads = threads or max(1, (os.cpu_count() or 1) // 2)
        choose_device(device, threads)
        tagger = Tagger.load(model, device)
        server = make_server(tagger, listener, limits, token=token, allow_urls=allow_urls)
        used = f"{threads} thread{'s' * (threads > 1)}" + " (--threads changes it)" * guessed
        size = f"{len(tagger.labels):,} labels, {tagger.device.type}, {used}"
        server.ready = f"{address_of(listener)} serves {size}; Ctrl-C stops it"
        server.run(sockets=[listener])
    print("stopped")
