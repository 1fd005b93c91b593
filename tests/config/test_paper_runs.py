"""The paper's runs as configuration: the 71 trainings and nothing else, their printed figures, models that build."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import tiny_models
import torch
import yaml
from transformers import AutoConfig, AutoModel

from vixml.config.load import load_runs, load_workflow, load_world, merge
from vixml.config.run import RunConfig
from vixml.config.template import parse_template
from vixml.images.bank import ImageBank
from vixml.models.encode import encode_items
from vixml.models.prompt import Prompt, make_prompt
from vixml.reproduce.claims import PAPER, load_claims
from vixml.reproduce.cost import count
from vixml.training.batches import TrainingSet
from vixml.training.inputs import open_inputs
from vixml.training.loop import Trainer
from vixml.training.model_file import build_model
from vixml.training.optimizer import autocast

CONFIG = Path(__file__).resolve().parents[2] / "config"
WORLD, RUNS = load_world(CONFIG), load_runs(CONFIG)
FILES = sorted((CONFIG / "runs").glob("paper-*.yaml"))
WORKFLOW = load_workflow(
    {**yaml.safe_load((CONFIG / "config.yaml").read_text()), **yaml.safe_load((CONFIG / "paper.yaml").read_text())}
)
TARGETS = [(target.dataset, run, seed) for target in WORKFLOW.targets for run in target.runs for seed in target.seeds]
TRAININGS = [t for t in TARGETS if RUNS[t[:2]].training.epochs and RUNS[t[:2]].reuse is None]
# What the official code does where the paper says otherwise: these have no row in the paper.
VARIANTS = {"vixml-qwen2.5-3b--script-lr", "vixml-qwen2.5-7b--augmented-script", "vixml-distilbert--augmented-script"}

T1, T2 = "This product text", "and its text"
I1, I2 = "This product image", "and its image"
TABLE_6 = {
    "E": "{text}",
    "T1+E": f"{T1} {{text}}",
    "T1+E+EOS": f"{T1} {{text}}{{eos}}",
    "V+E+EOS": "{images}{text}{eos}",
    "E+V+EOS": "{text}{images}{eos}",
    "I1+V+T2+E+EOS": f"{I1} {{images}} {T2} {{text}}{{eos}}",
    "T1+E+I2+V+EOS": f"{T1} {{text}} {I2} {{images}}{{eos}}",
}
FUSION = {"": None, "early (ViXML)": "early", "late (MUFIN)": "late"}
ATTENTION = {model.title: model.attention for model in WORLD.text_models.values()}


# -- the 71 trainings ---------------------------------------------------------------------------------------------------


def training_runs() -> list[dict[str, str]]:
    with open(CONFIG / "reported" / "training_runs.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def template_of(row: dict[str, str]) -> str:
    """Return the template that a row of training_runs.csv means."""
    if row["prompt"] in TABLE_6:
        return TABLE_6[row["prompt"]]
    if "[text]" in row["prompt"]:
        return row["prompt"].replace("[text]", "{text}") + "{eos}"
    assert row["prompt"] == "default"
    if ATTENTION[row["backbone"]] == "bidirectional":
        return "{images}{text}"
    return TABLE_6["T1+E+I2+V+EOS" if row["n_images"] else "T1+E+EOS"]


def described(row: dict[str, str]) -> tuple:
    """Return what the paper says of one of its trainings."""
    return (
        row["dataset"],
        row["modality"],
        row["backbone"],
        row["base_method"],
        FUSION[row["fusion"]],
        row["vision_encoder"] or None,
        int(row["n_images"] or 0),
        template_of(row),
        {"mean": "mean", "last token": "last"}[row["pooling"]],
        int(row["seed_index"]),
        int(row["epochs"]),
        int(row["batch_size"]),
        float(row["lr"]),
        int(row["max_len"]),
    )


def configured(dataset: str, run: str, seed: int) -> tuple:
    """Return the same of a run of the configuration."""
    config = RUNS[dataset, run]
    images = config.images if config.uses_images else None
    return (
        dataset,
        config.modality,
        WORLD.text_models[config.encoder.model].title,
        config.method,
        images and images.fusion,
        images and WORLD.vision_models[images.vision].title,
        images.per_item if images else 0,
        config.encoder.template,
        config.encoder.pooling,
        seed + 1,
        config.training.epochs,
        config.training.batch_size,
        config.optimizer.lr,
        config.encoder.max_len,
    )


def our_run_of() -> dict[str, tuple[str, str, int]]:
    """Return the (dataset, run, seed) that repeats each of the paper's trainings."""
    ours = {configured(*training): training for training in TRAININGS if training[1] not in VARIANTS}
    return {row["run"]: ours[described(row)] for row in training_runs()}


def test_the_configuration_trains_the_papers_71_runs_and_nothing_else():
    ours = [configured(*training) for training in TRAININGS if training[1] not in VARIANTS]
    theirs = [described(row) for row in training_runs()]
    assert len(theirs) == 71 and max(Counter(theirs).values()) == 1
    assert Counter(ours) == Counter(theirs)


def test_every_run_of_the_files_is_asked_for_once():
    assert max(Counter(TARGETS).values()) == 1
    names = {(family["dataset"], run) for family in map(read, FILES) for run in family["runs"]}
    assert {target[:2] for target in TARGETS} == names
    assert {run for _, run in names} >= VARIANTS
    assert len({t for t in TARGETS if t[1].endswith("--augmented")}) == 16


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", WORKFLOW.tables)
def test_a_run_is_called_as_the_tables_call_it(table):
    blocks = read(CONFIG / "tables" / f"{table}.yaml")["blocks"]
    named = {line["run"] for block in blocks for line in block["rows"] if "run" in line}
    assert named and named <= {run for _, run, _ in TARGETS}


def test_what_the_paper_says_of_all_runs_holds_for_each():
    with open(CONFIG / "reported" / "hyperparameters.csv", encoding="utf-8", newline="") as stream:
        stated = {row["name"]: row["value"] for row in csv.DictReader(stream) if row["scope"] != "-"}
    new = "lr of image projection, free vectors, label prototype network ({})"
    for dataset, run, _ in TRAININGS:
        config = RUNS[dataset, run]
        causal = WORLD.text_models[config.encoder.model].attention == "causal"
        if run not in VARIANTS:
            assert config.optimizer.lr_new == float(stated[new.format("decoders" if causal else "encoders")])
        assert config.optimizer.eps == float(stated["AdamW eps"])
        assert config.optimizer.clip_norm == (1.0 if causal else None)
        assert config.training.precision == ("bf16" if causal else "fp16")
        assert config.training.validation == 0
        assert config.prototype.free_vectors == 65536 and config.prototype.heads == 8
        assert config.encoder.train == ("lora" if causal else "full")
        assert (config.encoder.lora.r, config.encoder.lora.alpha, config.encoder.lora.dropout) == (256, 256, 0)
        assert config.inference.labels_as == ("u" if config.method == "NGAME" else "z")
    for dataset, run, _ in TARGETS:
        if run.endswith("--augmented"):
            inference = RUNS[dataset, run].inference
            assert (inference.label_weight, inference.temperature) == (0.9, 0.05)
            assert (inference.retrieved_labels, inference.retrieved_queries) == (100, 100)


# -- headers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_header_says_rows_figures_hardware_cost_and_command(path):
    header = path.read_text(encoding="utf-8").split("\ndataset:")[0]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    for part in ("TABLE ROWS", "EXPECTED", "HARDWARE", "COST", "COMMAND"):
        assert re.search(rf"^# {part} +\S", header, re.MULTILINE), f"no {part}"
    dataset = read(path)["dataset"]
    for command in re.findall(r"results/runs/(\S+)/seed0/", header):
        assert tuple(command.split("/")) in RUNS and command.startswith(dataset)


def expected(path: Path) -> dict[tuple[str, str, int, str], str]:
    """Return the figures of a header: (dataset, run, seed, metric) -> as printed."""
    table = re.search(r"^# EXPECTED +(.*?)^# HARDWARE", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    titles, *lines = table.splitlines()
    metrics, dataset = titles.split()[1:], read(path)["dataset"]
    found = {}
    for line in lines:
        run, *rest = line.removeprefix("#").split()
        seed = int(rest[1]) - 1 if rest[0] == "seed" else 0
        values = rest[-len(metrics) :]
        assert len(rest) == len(metrics) + (2 if rest[0] == "seed" else 0), line
        for metric, value in zip(metrics, values, strict=True):
            if value != "-":
                key = (dataset, run, seed, metric)
                assert key not in found, line
                found[key] = value
    return found


def published() -> dict[tuple[str, str, int, str], str]:
    """Return the paper's own cells as :func:`expected` names them."""
    off_the_shelf = {
        config.row.label: (dataset, run)
        for (dataset, run), config in RUNS.items()
        if config.method == "none" and not WORLD.datasets[dataset].stand_in
    }
    ours, found = our_run_of(), {}
    for claim in load_claims(CONFIG):
        if claim.source != PAPER:
            continue
        if claim.run is not None:
            dataset, run, seed = ours[claim.run]
            run += "--augmented" * (claim.row["inference"] == "retrieval-augmented")
        elif claim.row["trained_by_paper"] == "off-the-shelf" and claim.row["backbone"] in off_the_shelf:
            (dataset, run), seed = off_the_shelf[claim.row["backbone"]], 0
        else:
            continue  # other authors' numbers; MoCa, which no run repeats
        assert dataset == claim.dataset
        key = (dataset, run, seed, claim.metric)
        assert found.setdefault(key, claim.printed) == claim.printed
    return found


def test_the_headers_hold_the_papers_figures_and_all_of_them():
    ours = {key: value for path in FILES for key, value in expected(path).items()}
    theirs = published()
    assert ours == theirs
    with_figures = {key[:3] for key in ours}
    assert {target for target in TARGETS if target[1] not in VARIANTS} == with_figures


# -- models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, model in WORLD.text_models.items() if model.kind == "hub"])
def test_an_architecture_has_the_parameters_that_table_9_prints(name):
    model = WORLD.text_models[name]
    config = AutoConfig.for_model(**model.architecture)
    extra = {"add_pooling_layer": True} if config.model_type == "bert" else {}
    with torch.device("meta"):
        network = AutoModel.from_config(config, **extra)
    found = sum(parameter.numel() for parameter in network.parameters())
    if model.architecture.get("tie_word_embeddings") is False:
        found += config.vocab_size * config.hidden_size  # the output matrix
    if name == "gemma-3-4b":
        found += 417e6  # the vision tower and its projection, which are not read
    assert config.hidden_size == model.hidden_size
    assert found == pytest.approx(count(model.parameters), rel=0.006)


# What costs, cut; all else as published.
SMALL = {
    "vocab_size": tiny_models.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SMALL_DECODER = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
SMALL_OF = {
    "bert": SMALL,
    "distilbert": {"vocab_size": tiny_models.VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "qwen2": SMALL_DECODER,
    "qwen3": SMALL_DECODER,
    "llama": SMALL_DECODER,
    "gemma3_text": {**SMALL_DECODER, "layer_types": ["sliding_attention", "full_attention"]},
}


def model_type(config: RunConfig) -> str:
    return WORLD.text_models[config.encoder.model].architecture.get("model_type", "bert")


def kind_of(dataset: str, run: str) -> tuple[str, ...]:
    """Return what tells a run's code path from another's; the rest is sizes and numbers."""
    config = RUNS[dataset, run]
    shape = "+".join(piece.field or "words" for piece in parse_template(config.encoder.template))
    fusion = config.images.fusion if config.uses_images else "text"
    return (model_type(config), config.method, fusion, shape, config.encoder.pooling, config.encoder.train)


KINDS: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
for _dataset, _run, _ in TARGETS:
    if RUNS[_dataset, _run].reuse is None and (_dataset, _run) not in KINDS[kind_of(_dataset, _run)]:
        KINDS[kind_of(_dataset, _run)].append((_dataset, _run))


def test_the_kinds_cover_every_training():
    assert {training[:2] for training in TRAININGS} <= {run for runs in KINDS.values() for run in runs}


@pytest.fixture(autouse=True)
def _quiet_on_one_thread(monkeypatch):
    monkeypatch.setenv("VIXML_PROGRESS", "0")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A planted data set; the language model's folder is filled in by each test."""
    return planted.write_task(tmp_path_factory.mktemp("planted"), Path("unused"))


def write_small(folder: Path, config: RunConfig) -> Path:
    """Write a run's language model, small and with random weights."""
    torch.manual_seed(0)
    architecture = {"model_type": "bert", **WORLD.text_models[config.encoder.model].architecture}
    small = AutoConfig.for_model(**architecture | SMALL_OF[architecture["model_type"]])
    AutoModel.from_config(small).save_pretrained(folder)
    return folder


def shrink(config: RunConfig, vision: str) -> RunConfig:
    """Return a run with two steps of a small batch; what makes its kind stays."""
    small = {
        "encoder": {"max_len": 8, "lora": {"r": 4, "alpha": 4}, "kernels": "plain"},  # fused kernels need a GPU
        "images": {"vision": vision, "per_item": min(config.images.per_item, 3)},
        "prototype": {"feedforward": 32, "free_vectors": 4},
        "mining": None,  # begins at a later epoch
        "optimizer": {"warmup_steps": 0},
        "training": {"epochs": min(config.training.epochs, 1), "batch_size": 72, "checkpoint_minutes": 1e6},
    }
    if config.training.precision == "fp16":
        small["training"]["precision"] = "fp32"  # half precision is for GPUs
    return RunConfig.model_validate(merge(config.model_dump(), small))


def small_prompt(config: RunConfig, template: str) -> Prompt:
    """Return a prompt whose words have numbers of the small vocabulary."""
    causal = WORLD.text_models[config.encoder.model].attention == "causal"
    return make_prompt(
        template,
        lambda pieces: [[50 + i % 10 for i in range(len(piece.split()))] for piece in pieces],
        causal=causal,
        bos=[4] if model_type(config) in {"llama", "gemma3_text"} else [],
        eos=3,
        late=config.uses_images and config.images.fusion == "late",
    )


@pytest.mark.parametrize("runs", KINDS.values(), ids=["-".join(kind).replace(" ", "") for kind in KINDS])
def test_a_model_builds_from_its_architecture_and_trains_two_steps(runs, task, tmp_path):
    config = shrink(RUNS[runs[0]], ImageBank.open(task.bank).vision)
    model_dir = write_small(tmp_path / "model", config)
    # The planted texts are token ids already, so no tokenizer is asked: the prompt is put in place here.
    plain = merge(config.model_dump(), {"encoder": {"template": "{images}{text}", "label_template": None}})
    data = open_inputs(task, RunConfig.model_validate(plain), seed=0)
    truth = data.corpus.labels("train")
    prompt = small_prompt(config, config.encoder.template)
    model = build_model(config, model_dir, truth.n_cols, data.image_dim, 0, prompt)

    assert (model.projection is not None) == config.uses_images
    assert (model.late is not None) == (config.uses_images and config.images.fusion == "late")
    assert (model.prototypes is not None) == config.has_prototypes

    if not config.training.epochs:
        labels = small_prompt(config, config.encoder.label_template or config.encoder.template)
        vectors = encode_items(
            model, data.tokens["label"], data.images["label"], data.gather,
            lambda: autocast(config.training.precision, torch.device("cpu")), prompt=labels,
        )  # fmt: skip
        assert vectors.shape == (truth.n_cols, 32) and torch.isfinite(vectors).all()
        return

    training_set = TrainingSet(
        data.tokens["train"], data.tokens["label"], data.images["train"], data.images["label"], truth,
        np.arange(144), np.ones(truth.n_cols), prompt,
    )  # fmt: skip
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    trainer = Trainer(
        config, model, training_set, np.arange(144, 160), data.gather, config.training.precision, 0,
        tmp_path / "checkpoint", "one identity", lambda report: None, lambda n, loss: None, lambda sentence: None,
    )  # fmt: skip
    trainer.fit()
    assert [report["steps"] for report in trainer.history] == [2]
    after = dict(model.named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert all(torch.isfinite(parameter).all() for parameter in after.values())
    assert not held & moved and (config.encoder.train == "full") == (not held)
    assert any(name.startswith("backbone.") for name in moved)
    for part, there in (("projection", config.uses_images), ("late", model.late), ("prototypes", model.prototypes)):
        assert not there or any(name.startswith(f"{part}.") for name in moved), part
