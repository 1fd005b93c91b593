"""Verbs ``predict`` and ``score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

CONFIG_DIR = typer.Option(help="Folder of datasets.yaml, models.yaml and runs/.")
OUT = typer.Option(help="Folder to publish; it is complete when it holds manifest.json.")
DATASET = typer.Option(help="Entry of datasets.yaml.")
RUN = typer.Option(help="Run of that dataset, from config/runs/.")
SEED = typer.Option(help="The run's seed.")
SPLIT = typer.Option(help="test, or validation: training queries that the run held out, for tuning.")
CORPUS = typer.Option(help="`vixml build-corpus` wrote it.")
Split = Literal["test", "validation"]


def register(app: typer.Typer) -> None:
    """Add this room's verbs to the command line."""
    app.command("predict")(predict)
    app.command("score")(score)


def predict(
    dataset: Annotated[str, DATASET],
    run: Annotated[str, RUN],
    corpus: Annotated[Path, CORPUS],
    out: Annotated[Path, OUT],
    seed: Annotated[int, SEED] = 0,
    split: Annotated[Split, SPLIT] = "test",
    index: Annotated[
        Path | None,
        typer.Option(
            help="`vixml build-index` wrote it, for this run or for the run that it reuses; popularity needs none."
        ),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="`vixml embed-images` wrote it; needed with inference.image_weight only.")
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="The model folder of this run, or of the run that it reuses, which names the held-out queries; needed "
            "for validation only."
        ),
    ] = None,
    memory_mb: Annotated[
        int,
        typer.Option(
            min=16,
            help="Bound for temporary tables in MiB (a GPU takes 8192 of its own); the result does not depend on it.",
        ),
    ] = 512,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Rank labels for every query: search, retrieval-augmented inference, voting or popularity, as the run says.

    Reads the corpus and, but for popularity, the run's index; a run with `reuse`
    has none and takes the --index of the run that it names. The search is exact.
    Retrieval-augmented inference searches labels and training queries, and adds
    the votes of the latter for their labels. Writes labels.npy (the top labels,
    best first, -1 where there are no more) and scores.npy. Pairs of the dataset's
    reciprocal-pair filter are left out, and others take their place.

    Example:

        vixml predict --dataset picto --run text-minilm-l3 --seed 0 \
            --corpus results/data/picto/corpus \
            --index results/runs/picto/text-minilm-l3/seed0/index \
            --out results/runs/picto/text-minilm-l3/seed0/test/predictions
    """
    from vixml.config.load import get_run

    config = get_run(config_dir, dataset, run)  # before the seconds that torch takes to import
    from vixml.retrieval.predict import PredictInputs
    from vixml.retrieval.predict import predict as go
    from vixml.runtime import choose_device

    inputs = PredictInputs(corpus, index, bank, trained)
    go(dataset, run, seed, config, split, inputs, out, choose_device(device, threads), memory_mb)


def score(
    dataset: Annotated[str, DATASET],
    run: Annotated[str, RUN],
    corpus: Annotated[Path, CORPUS],
    predictions: Annotated[Path, typer.Option(help="`vixml predict` wrote it.")],
    out: Annotated[Path, OUT],
    seed: Annotated[int, SEED] = 0,
    split: Annotated[Split, SPLIT] = "test",
    ks: Annotated[str, typer.Option(help="k of P, nDCG, PSP and PSnDCG.")] = "1,3,5",
    deep_ks: Annotated[str, typer.Option(help="k of R, hit, MAP and MRR.")] = "1,3,5,10,50,100",
    config_dir: Annotated[Path, CONFIG_DIR] = Path("config"),
) -> None:
    r"""Score predictions: P, nDCG, PSP, PSnDCG, R, hit, MAP and MRR at k, in percent.

    Reads predictions and the true labels of the corpus. Writes scores.json.
    Beside the metrics it says what they were counted on (queries, filtered pairs)
    and where P@1 and P@5 come from: rare or frequent labels, with or without a
    picture.

    Example:

        vixml score --dataset picto --run popularity --seed 0 \
            --corpus results/data/picto/corpus \
            --predictions results/runs/picto/popularity/seed0/test/predictions \
            --out results/runs/picto/popularity/seed0/test/score
    """
    from vixml.config.load import load_world, unknown_key
    from vixml.evaluation.score import score as go

    world = load_world(config_dir)
    if dataset not in world.datasets:
        raise unknown_key(dataset, sorted(world.datasets), f"{config_dir / 'datasets.yaml'}: datasets")
    go(
        corpus,
        predictions,
        world.datasets[dataset],
        dataset,
        run,
        seed,
        split,
        out,
        ks=_numbers(ks, "--ks"),
        deep_ks=_numbers(deep_ks, "--deep-ks"),
    )


def _numbers(text: str, option: str) -> list[int]:
    from vixml.errors import VixmlError

    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise VixmlError(
            "not a list of numbers", where=option, found=repr(text), expected="numbers with commas, e.g. 1,3,5"
        ) from error
