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

Model = Annotated[Path, Option(help="Model folder, of `vixml pack`.")]


def pack(
    dataset: Dataset,
    run: Annotated[str | None, Argument(help="Run of that dataset; may be left out if one alone is finished.")] = None,
    out: Annotated[Path | None, Option(help="Folder to write; DATASET.model by default.")] = None,
    seed: Seed = 0,
    neighbours: Annotated[
        bool, Option(help="Include the training items, which name the voters behind a tag. They are training data.")
    ] = True,
    thumbnails: Annotated[
        bool, Option(help="Include small images of the training items, about 2 KB each, if the run reads images.")
    ] = True,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Write a trained run as one folder that tags new items anywhere.

    Holds everything that tagging needs: the whole vocabulary, language model,
    image projection, labels and their vectors, training items (with thumbnails),
    vision weights, a model card (README.md) and the hash of every file. It can be moved, and
    loading it runs no code. The run must have its index (`vixml build-index`).

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
    table: Annotated[
        list[Path],
        Argument(help="The table, or its parts; every kind that `vixml new` reads."),
    ],
    model: Model,
    out: Annotated[Path, Option(help="File to write: .csv, .jsonl or .parquet.")],
    k: Annotated[int, Option(min=1, max=1_000_000, help="Tags of an item.")] = 10,
    id: Annotated[str | None, Option(help="Column of the ids; by default that of the training table.")] = None,
    text: Annotated[
        str | None, Option(help="Columns of the text, joined by +; by default those of the training table.")
    ] = None,
    pictures: Annotated[
        str | None, Option(help="Column of picture paths; by default that of the training table, or `pictures`.")
    ] = None,
    pictures_in: Annotated[
        Path | None, Option(help="Folder that paths are relative to; by default that of the table.")
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
        Option(min=0, max=1, help="Write only tags of which this share is true, by items held out of training."),
    ] = None,
    unlike: Annotated[
        float | None,
        Option(
            min=0,
            max=1,
            help="Put aside items unlike all training items; this share of ordinary items may be taken for such, e.g. 0.01.",
        ),
    ] = None,
    probability: Annotated[bool, Option("--probability", help="Write a column `probability`.")] = False,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Tag every item of a table of any length.

    Takes CSV, TSV, JSON lines, JSON, Parquet and Excel, compressed or in parts,
    written as the training table was, or as is guessed and printed. Writes id,
    rank, label and score, one row per tag. A row that cannot be tagged is put
    aside in OUT.aside.csv with its reason, and counted. Memory does not grow
    with the table. Killed at any point, the same command resumes and ends with
    the same bytes.

    A score orders the labels of one item. What it is worth is known where 500
    items or more were held out of training: then --precision, --unlike and
    --probability work, and say what they mean.

    Example:

        vixml tag new.csv --model shop.model --out tags.csv --k 5
        vixml tag new.csv --model shop.model --out tags.csv --precision 0.8
        vixml tag 'parts/*.jsonl.gz' --model shop.model --out tags.parquet
    """
    from vixml.tagging.stream import Columns, Wanted, aside_of, tag_table
    from vixml.tagging.tagger import Tagger

    choose_device(device, threads)
    form = form_given(encoding, delimiter, quote, sheet, records, no_header)
    columns = Columns(id, text, pictures, char(separator), pictures_in, form)
    wanted = Wanted(name_by=labels_by, precision=precision, unlike=unlike, probability=probability)
    counts = tag_table(Tagger.load(model, device), table, out, k, columns, wanted)
    none = f"; {counts['no_tag']:,} of them have none of the precision" if counts.get("no_tag") else ""
    print(f"{out}: tags of {counts['tagged']:,} items{none}")
    if counts["aside"] or counts["faulty_pictures"]:
        without = f", {counts['faulty_pictures']:,} tagged without a picture" if counts["faulty_pictures"] else ""
        print(f"{aside_of(out)}: {counts['aside']:,} rows put aside{without}; the reasons are there")


def export(
    to: Annotated[
        Literal["sentence-transformers", "onnx", "faiss", "parquet", "hub"],
        Option(help="For which program."),
    ],
    model: Model,
    out: Annotated[str, Option(help="Folder to write; for hub, the repository OWNER/NAME.")],
    items: Annotated[
        bool | None, Option(help="faiss, parquet, hub: the training items, too. They are training data.")
    ] = None,
    form: Annotated[Literal["model", "sentence-transformers"], Option("--as", help="hub: what is pushed.")] = "model",
    public: Annotated[bool, Option("--public", help="hub: everybody may read the repository.")] = False,
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


def serve(
    model: Model,
    host: Annotated[str, Option(help="Address to listen on. Others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str | None, Option(envvar="VIXML_TOKEN", help="Requests must bring it (Authorization: Bearer).")
    ] = None,
    allow_urls: Annotated[
        bool, Option("--allow-urls", help="Fetch images from web addresses, public ones only.")
    ] = False,
    max_body: Annotated[int, Option(min=1, max=1024, help="MB of a request.")] = 16,
    max_items: Annotated[int, Option(min=1, max=4096, help="Items of a request, and images of a request.")] = 64,
    timeout: Annotated[float, Option(min=1, max=3600, help="Seconds of a request.")] = 30,
    queue: Annotated[
        int, Option(min=2, max=1_000_000, help="Items and images that wait; beyond, requests get 429.")
    ] = 512,
    threads: Annotated[
        int | None, Option(min=1, max=4096, help="Processor threads of the model; half the cores by default.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a model: a page to try it, and an API.

    / is the page, /docs the API, /healthz and /metrics are for operators;
    /v1/tags tags items, /v1/embeddings has the form of OpenAI's API. Listens on
    this machine only; with --host, set a token. Ctrl-C or SIGTERM stops it
    after the requests that are being answered. docs/serve.md explains more.

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
