"""Verbs ``prepare-model``, ``train``, ``build-index`` and ``measure-latency``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from vixml.config.run import RunConfig
    from vixml.models.inputs import RunInputs

CONFIG_DIR = typer.Option(help="Folder of datasets.yaml, models.yaml and runs/.")
OUT = typer.Option(help="Folder to publish; it is complete when it holds manifest.json.")
DATASET = typer.Option(help="Entry of datasets.yaml.")
RUN = typer.Option(help="Run of that dataset, from config/runs/.")
SEED = typer.Option(help="Everything random is drawn from it; same seed, same bytes (on one processor).")
CORPUS = typer.Option(help="`vixml build-corpus` wrote it.")
TOKENS = typer.Option(help="`vixml tokenize` wrote it.")
BANK = typer.Option(help="`vixml embed-images` wrote it; needed by runs with images only.")
MODEL_DIR = typer.Option(help="Language model; `vixml prepare-model` wrote it.")
THREADS = typer.Option(min=1, help="Processor threads. On small models two jobs of 1 beat one of 2.")
DEVICE = typer.Option(help="auto (a GPU if there is one), cpu or cuda.")


def register(app: typer.Typer) -> None:
    """Add this room's verbs to the command line."""
    app.command("prepare-model")(prepare_model)
    app.command("train")(train)
    app.command("build-index")(build_index)
    app.command("measure-latency")(measure_latency)


def prepare_model(
    model: Annotated[str, typer.Option(help="Language model, an entry of models.yaml.")],
    raw: Annotated[Path, typer.Option(help="Folder of downloaded files (`vixml download`).")],
    out: Annotated[Path, OUT],
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Make a folder that AutoModel and AutoTokenizer read, from downloaded files or the model hub.

    Reads the weights and the tokenizer that models.yaml names, each checked
    against its SHA-256. A model of the hub is fetched, unless its files were
    placed by hand in hub/ORGANISATION--NAME below the raw folder; manifest.json
    keeps the revision. Weights are checked tensor by tensor against the
    architecture. Nothing inside the downloaded files is run.

    Example:

        vixml prepare-model --model minilm-l3 --raw results/raw \
            --out results/models/minilm-l3
    """
    from vixml.cli.data import verify_raw
    from vixml.config.load import load_world, unknown_key
    from vixml.models.weights import prepare_model as run

    world = load_world(config_dir)
    if model not in world.text_models:
        raise unknown_key(model, sorted(world.text_models), f"{config_dir / 'models.yaml'}: text_models")
    entry = world.text_models[model]
    verify_raw(world, [entry.weights, entry.tokenizer], raw)
    run(model, entry, world.sources, raw, out)


def train(
    dataset: Annotated[str, DATASET],
    run: Annotated[str, RUN],
    corpus: Annotated[Path, CORPUS],
    tokens: Annotated[Path, TOKENS],
    model_dir: Annotated[Path, MODEL_DIR],
    out: Annotated[Path, OUT],
    seed: Annotated[int, SEED] = 0,
    bank: Annotated[Path | None, BANK] = None,
    threads: Annotated[int, THREADS] = 1,
    device: Annotated[str, DEVICE] = "auto",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Train one run: the encoder, the image projection, the prototype network and the free vectors.

    Reads corpus, tokens, language model and, with images, the image bank. Shows
    loss, samples per second and time left. Writes model.safetensors,
    training.json and log.jsonl, which keeps every loss term and the diagnostics
    of each epoch. Interrupted at any point, the same command goes on from
    checkpoint/ beside the model and ends with the same bytes as an uninterrupted
    run. The last epoch is the result: test data selects nothing. Several
    processes, each with a GPU if there are any, share every batch when started
    as `torchrun --standalone --nproc-per-node 4 -m vixml train ...`.

    Example:

        vixml train --dataset picto --run vixml-minilm-l3 --seed 0 \
            --corpus results/data/picto/corpus \
            --tokens results/data/picto/tokens/minilm-l3-32 \
            --bank results/data/picto/bank/efficientnet-lite0 \
            --model-dir results/models/minilm-l3 \
            --out results/runs/picto/vixml-minilm-l3/seed0/model
    """
    config, inputs, where = _open(config_dir, dataset, run, corpus, tokens, bank, model_dir, threads, device)
    from vixml.config.load import load_world
    from vixml.training.train import train as go

    go(dataset, run, seed, config, load_world(config_dir).datasets[dataset].propensity, inputs, out, where)


def build_index(
    dataset: Annotated[str, DATASET],
    run: Annotated[str, RUN],
    corpus: Annotated[Path, CORPUS],
    tokens: Annotated[Path, TOKENS],
    model_dir: Annotated[Path, MODEL_DIR],
    trained: Annotated[Path, typer.Option(help="The run's model folder; `vixml train` wrote it.")],
    out: Annotated[Path, OUT],
    seed: Annotated[int, SEED] = 0,
    bank: Annotated[Path | None, BANK] = None,
    threads: Annotated[int, THREADS] = 1,
    device: Annotated[str, DEVICE] = "auto",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Encode every query and label of a trained run: what search and voting read.

    Reads what `vixml train` read, and the model that it wrote. Writes unit
    vectors: train.npy, test.npy, label_u.npy (text vectors) and label_z.npy
    (prototypes).

    Example:

        vixml build-index --dataset picto --run text-minilm-l3 --seed 0 \
            --corpus results/data/picto/corpus \
            --tokens results/data/picto/tokens/minilm-l3-32 \
            --model-dir results/models/minilm-l3 \
            --trained results/runs/picto/text-minilm-l3/seed0/model \
            --out results/runs/picto/text-minilm-l3/seed0/index
    """
    config, inputs, where = _open(config_dir, dataset, run, corpus, tokens, bank, model_dir, threads, device)
    from vixml.retrieval.index import build_index as go

    go(dataset, run, seed, config, inputs, trained, out, where)


def measure_latency(
    dataset: Annotated[str, DATASET],
    run: Annotated[str, RUN],
    corpus: Annotated[Path, CORPUS],
    tokens: Annotated[Path, TOKENS],
    model_dir: Annotated[Path, MODEL_DIR],
    trained: Annotated[Path, typer.Option(help="The run's model folder; `vixml train` wrote it.")],
    index: Annotated[Path, typer.Option(help="Its vectors; `vixml build-index` wrote them.")],
    out: Annotated[Path, OUT],
    seed: Annotated[int, SEED] = 0,
    bank: Annotated[Path | None, BANK] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries of a batch.")] = 256,
    threads: Annotated[int, THREADS] = 1,
    device: Annotated[str, DEVICE] = "auto",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Measure what a query takes of a trained run: tokenise, encode (alone, in a batch), search.

    Milliseconds a query, median and quartiles, after a warm-up; on a machine that
    does nothing else. Writes latency.json. `vixml make-tables --latency` shows it
    beside the paper's (appendix G).

    Example:

        vixml measure-latency --dataset picto --run text-minilm-l3 --seed 0 \
            --corpus results/data/picto/corpus \
            --tokens results/data/picto/tokens/minilm-l3-32 \
            --model-dir results/models/minilm-l3 \
            --trained results/runs/picto/text-minilm-l3/seed0/model \
            --index results/runs/picto/text-minilm-l3/seed0/index \
            --out results/runs/picto/text-minilm-l3/seed0/latency
    """
    config, inputs, where = _open(config_dir, dataset, run, corpus, tokens, bank, model_dir, threads, device)
    from vixml.retrieval.latency import measure_latency as go

    go(dataset, run, seed, config, inputs, trained, index, out, where, batch_size)


def _open(
    config_dir: Path,
    dataset: str,
    run: str,
    corpus: Path,
    tokens: Path,
    bank: Path | None,
    model_dir: Path,
    threads: int,
    device: str,
) -> tuple[RunConfig, RunInputs, torch.device]:
    from vixml.config.load import get_run
    from vixml.errors import VixmlError

    config = get_run(config_dir, dataset, run)  # before the seconds that torch takes to import
    if config.reuse is not None:
        raise VixmlError(
            "this run has no model of its own",
            where=f"--run {run}",
            found=f"it reuses that of {config.reuse}",
            hint=f"pass --run {config.reuse}; `vixml predict --run {run}` reads what it leaves",
        )
    from vixml.models.inputs import RunInputs
    from vixml.runtime import choose_device

    inputs = RunInputs(corpus, tokens, bank if config.uses_images else None, model_dir)
    return config, inputs, choose_device(device, threads)
