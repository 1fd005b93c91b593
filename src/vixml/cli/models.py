"""Commands on a trained model: ``pack`` it as one folder, ``tag`` new items with it, ``export`` it, ``serve`` it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from vixml.cli.catalogue import Delimiter, Encoding, NoHeader, Quote, Records, Sheet, char, form_given
from vixml.cli.stages import CONFIG_DIR, RESULTS, ConfigDir, Dataset, Device, Results, Seed, Threads
from vixml.errors import VixmlError
from vixml.provenance import MANIFEST
from vixml.runtime import choose_device
from vixml.stages import find

if TYPE_CHECKING:
    from vixml.config.project import Project

Model = Annotated[Path, Option(help="Model folder, written by `vixml pack` or `vixml fit`.")]


def pack(
    dataset: Dataset,
    run: Annotated[str | None, Argument(help="Run of that dataset; may be omitted if only one is finished.")] = None,
    out: Annotated[Path | None, Option(help="Folder to write; DATASET.model by default.")] = None,
    seed: Seed = 0,
    neighbours: Annotated[
        bool,
        Option(help="Include the training items, which are shown as the voters behind a tag. They are training data."),
    ] = True,
    thumbnails: Annotated[
        bool, Option(help="Include small images of the training items, about 2 KB each, if the run reads images.")
    ] = True,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Write a trained run as one folder that tags new items anywhere.

    The folder contains everything that tagging needs: the whole vocabulary, the
    language model, the image projection, labels and their vectors, training
    items (with thumbnails), vision weights, a model card (README.md) and the
    hash of every file. It can be moved, and loading it runs no code. The run
    must have its index (`vixml build-index`).

    Example:

        vixml pack picto vixml-minilm-l3 --out picto.model
    """
    from vixml.config.project import Project

    project = Project(config_dir, results)
    run = run or _finished_run(project, dataset, seed)
    from vixml.tagging.pack import pack as go

    print(go(project, dataset, run, seed, out or Path(f"{dataset}.model"), neighbours, thumbnails))


def _finished_run(project: Project, dataset: str, seed: int) -> str:
    """Return the one run of a dataset that has an index."""
    project.dataset(dataset)
    found = [
        names["run"]
        for folder, names in find("build-index", project.results)
        if (names["dataset"], names["seed"]) == (dataset, str(seed)) and (folder / MANIFEST).exists()
    ]
    if len(found) != 1:
        raise VixmlError(
            "which run is meant cannot be told" if found else "no run of this dataset is finished",
            where=f"{project.results}, dataset {dataset}, seed {seed}",
            found=", ".join(found) or "no index",
            hint="name the run" if found else "train one; snakemake does so (README)",
        )
    return found[0]


def tag(
    table: Annotated[list[Path], Argument(help="The table, or its parts, in any format that `vixml new` reads.")],
    model: Model,
    out: Annotated[Path, Option(help="File to write: .csv, .jsonl or .parquet.")],
    k: Annotated[int, Option(min=1, max=1_000_000, help="Number of tags per item.")] = 10,
    id: Annotated[str | None, Option(help="Column of the ids; by default that of the training table.")] = None,
    text: Annotated[
        str | None, Option(help="Columns of the text, joined by +; by default those of the training table.")
    ] = None,
    images: Annotated[
        str | None,
        Option(
            "--images", "--pictures", help="Column of image paths; by default that of the training table, or `images`."
        ),
    ] = None,
    image_folder: Annotated[
        Path | None,
        Option(
            "--image-folder", "--pictures-in", help="Folder that paths are relative to; by default that of the table."
        ),
    ] = None,
    separator: Annotated[
        str | None, Option(help="Separator of several paths in a cell; by default as in the training table, or `;`.")
    ] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    sheet: Sheet = None,
    records: Records = None,
    no_header: NoHeader = False,
    labels_by: Annotated[Literal["text", "id"], Option(help="Name labels by their text or by their id.")] = "text",
    precision: Annotated[
        float | None,
        Option(
            min=0, max=1, help="Write only tags of which this share is true, estimated on items held out of training."
        ),
    ] = None,
    unlike: Annotated[
        float | None,
        Option(
            min=0,
            max=1,
            help="Put aside items unlike all training items; the value is the share of ordinary items put aside by mistake, e.g. 0.01.",
        ),
    ] = None,
    probability: Annotated[bool, Option("--probability", help="Add a column `probability`.")] = False,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Tag every item of a table of any length.

    Reads CSV, TSV, JSON lines, JSON, Parquet and Excel, compressed or in parts,
    in the format of the training table, or else in a format that it guesses and
    prints. Writes id, rank, label and score, one row per tag. A row that cannot
    be tagged is written to OUT.aside.csv with the reason, and counted. Memory
    use does not grow with the table. If it is killed at any point, the same
    command resumes and produces the same bytes.

    A score only orders the labels of one item. If 500 items or more were held
    out of training, it can be turned into a probability: then --precision,
    --unlike and --probability work.

    Example:

        vixml tag new.csv --model shop.model --out tags.csv --k 5
        vixml tag new.csv --model shop.model --out tags.csv --precision 0.8
        vixml tag 'parts/*.jsonl.gz' --model shop.model --out tags.parquet
    """
    from vixml.tagging.stream import Columns, Wanted, aside_of, tag_table
    from vixml.tagging.tagger import Tagger

    choose_device(device, threads)
    form = form_given(no_header, encoding=encoding, delimiter=delimiter, quote=quote, sheet=sheet, records=records)
    columns = Columns(id, text, images, char(separator), image_folder, form)
    wanted = Wanted(name_by=labels_by, precision=precision, unlike=unlike, probability=probability)
    counts = tag_table(Tagger.load(model, device), table, out, k, columns, wanted)
    none = f"; {counts['no_tag']:,} of them have none of the precision" if counts.get("no_tag") else ""
    print(f"{out}: tags of {counts['tagged']:,} items{none}")
    if counts["aside"] or counts["faulty_images"]:
        without = f", {counts['faulty_images']:,} tagged without an image" if counts["faulty_images"] else ""
        print(f"{aside_of(out)}: {counts['aside']:,} rows put aside{without}; the reasons are there")


def export(
    to: Annotated[
        Literal["sentence-transformers", "onnx", "faiss", "parquet", "hub"], Option(help="Format of the export.")
    ],
    model: Model,
    out: Annotated[str, Option(help="Folder or file to write; for hub, the repository OWNER/NAME.")],
    items: Annotated[
        bool | None, Option(help="faiss, parquet, hub: include the training items. They are training data.")
    ] = None,
    form: Annotated[Literal["model", "sentence-transformers"], Option("--as", help="hub: what to push.")] = "model",
    public: Annotated[bool, Option("--public", help="hub: make the repository public.")] = False,
) -> None:
    """Export a model for other programs; the export is verified, and is written completely or not at all.

    sentence-transformers and onnx: the text encoder, which gives the same
    vectors as the model. faiss and parquet: the vectors of the labels with their
    ids and names. hub: the model folder, in a private repository. Parts of the
    model that an export lacks are printed and listed in its README.md.
    docs/export.md explains how to use each format.

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


def serve(
    model: Model,
    host: Annotated[
        str, Option(help="Address to listen on. Addresses other than loopback should have a token.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0: any free port.")] = 8000,
    token: Annotated[
        str | None, Option(envvar="VIXML_TOKEN", help="Token that requests must send (Authorization: Bearer).")
    ] = None,
    allow_urls: Annotated[
        bool, Option("--allow-urls", help="Fetch images from URLs, at public addresses only.")
    ] = False,
    max_body: Annotated[int, Option(min=1, max=1024, help="Maximum size of a request in MB.")] = 16,
    max_items: Annotated[
        int, Option(min=1, max=4096, help="Maximum number of items, and of images, per request.")
    ] = 64,
    timeout: Annotated[float, Option(min=1, max=3600, help="Maximum time of a request in seconds.")] = 30,
    queue: Annotated[
        int,
        Option(
            min=2, max=1_000_000, help="Maximum number of waiting items and images; further requests get status 429."
        ),
    ] = 512,
    threads: Annotated[
        int | None, Option(min=1, max=4096, help="Processor threads of the model; by default half the cores.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a model: a page to try it, and an API.

    / is the page, /docs describes the API, /healthz and /metrics are for
    operators. /v1/tags tags items; /v1/embeddings has the form of OpenAI's API.
    By default, the server listens on this machine only; if you set --host, set a
    token, too. Ctrl-C or SIGTERM stops it once it has answered open requests.
    See docs/serve.md.

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


COMMANDS = (pack, tag, export, serve)
