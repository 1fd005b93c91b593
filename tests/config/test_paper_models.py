"""The paper's runs, and ours on its data, as models: the parameters that Table 9 prints; one of each kind, small, trains two steps."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import tiny_models
import torch
from paper_config import BEYOND, CONFIG, RUNS, TARGETS, TRAININGS, WORLD
from transformers import AutoConfig, AutoModel

from vixml.config.load import merge
from vixml.config.run import RunConfig
from vixml.config.template import parse_template
from vixml.images.embeddings import ImageEmbeddings
from vixml.models.encode import encode_items
from vixml.models.inputs import open_inputs
from vixml.models.prompt import Prompt, make_prompt
from vixml.models.siamese import Siamese
from vixml.plan.cost import count
from vixml.progress import Quiet
from vixml.training.batches import TrainingSet
from vixml.training.checkpoint import Checkpoint
from vixml.training.train import Training, TrainingView, fit, new_state


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
    assert found - (417e6 if name == "gemma-3-4b" else 0) == model.n_parameters


# What costs, cut; all else as published.
SMALL = {key: value for key, value in tiny_models.SMALL.items() if key != "max_position_embeddings"}
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
for _dataset, _run, *_ in [*TARGETS, *BEYOND]:
    if RUNS[_dataset, _run].reuse is None and (_dataset, _run) not in KINDS[kind_of(_dataset, _run)]:
        KINDS[kind_of(_dataset, _run)].append((_dataset, _run))


def test_the_kinds_cover_every_training():
    assert {training[:2] for training in TRAININGS} <= {run for runs in KINDS.values() for run in runs}


def test_what_the_runs_ask_for_is_in_the_environment_of_a_gpu():
    """`kernels: liger` stood in 49 targets, and no environment had liger-kernel."""
    asking = {run for run in TARGETS if RUNS[run[:2]].encoder.kernels == "liger"}
    assert asking
    pins = (CONFIG.parent / "envs/gpu.yaml").read_text()
    extra = tomllib.loads((CONFIG.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    assert "- liger-kernel==" in pins and any(text.startswith("liger-kernel>=") for text in extra)
    # The families that liger-kernel 0.8 knows, of those that ask for it.
    assert {model_type(RUNS[run[:2]]) for run in asking} <= {"qwen2", "qwen3", "llama", "gemma3_text"}


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
        "encoder": {"max_len": 8, "lora": {"r": 4, "alpha": 4}},
        "images": {"vision": vision, "per_item": min(config.images.per_item, 3)},
        "prototype": {"feedforward": 32, "free_vectors": 4},
        "loss": {"sampled_labels": config.loss.sampled_labels and 4},
        "mining": None,  # begins at a later epoch
        "optimizer": {"warmup_steps": 0},
        "training": {"epochs": min(config.training.epochs, 1), "batch_size": 16, "checkpoint_minutes": 1e6},
    }
    if config.training.precision == "fp16":
        small["training"]["precision"] = "fp32"  # half precision is for GPUs
    return RunConfig.model_validate(merge(config.model_dump(), small))


def small_prompt(config: RunConfig, template: str) -> Prompt:
    """Return a prompt whose words have numbers of the small vocabulary."""
    causal = WORLD.text_models[config.encoder.model].attention == "causal"
    bos = [4] if model_type(config) in {"llama", "gemma3_text"} else []

    def numbers(pieces: list[str]) -> list[list[int]]:
        return [[50 + i % 10 for i in range(len(piece.split()))] for piece in pieces]

    made = make_prompt(template, numbers, causal=causal, bos=bos, eos=3)
    return replace(made, late=config.uses_images and config.images.fusion == "late")


@pytest.mark.parametrize("runs", KINDS.values(), ids=["-".join(kind).replace(" ", "") for kind in KINDS])
def test_a_model_builds_from_its_architecture_and_trains_two_steps(runs, task, tmp_path):
    config = shrink(RUNS[runs[0]], ImageEmbeddings.open(task.embeddings).vision)
    model_dir = write_small(tmp_path / "model", config)
    # The planted texts are token ids already, so no tokenizer is asked: the prompt is put in place here.
    plain = merge(config.model_dump(), {"encoder": {"template": "{images}{text}", "label_template": None}})
    data = open_inputs(task, RunConfig.model_validate(plain), seed=0)
    truth = data.corpus.labels("train")
    prompt = small_prompt(config, config.encoder.template)
    queries, labels = (replace(data.sequences[split], prompt=prompt) for split in ("train", "label"))
    model = Siamese(config, model_dir, truth.n_cols, data.image_dim, prompt)

    assert (model.projection is not None) == config.uses_images
    assert (model.late is not None) == (config.uses_images and config.images.fusion == "late")
    assert (model.prototypes is not None) == (config.method in ("PRIME", "DEXA"))
    assert (model.vectors is not None) == (config.method == "all-labels")

    if not config.training.epochs:
        template = config.encoder.label_template or config.encoder.template
        labels = replace(labels, prompt=small_prompt(config, template))
        vectors = encode_items(model, labels, config.training.precision)
        assert vectors.shape == (truth.n_cols, 32) and torch.isfinite(vectors).all()
        return

    kept = np.arange(48)
    training_set = TrainingSet(queries.take(kept), labels, truth.take(kept), kept[:32], np.ones(truth.n_cols))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    training = Training(config, model, training_set, kept[32:], config.training.precision, 0)
    state = new_state(training)
    fit(training, state, Checkpoint(tmp_path, {}, 1e6), TrainingView(Quiet(), "run", 1))
    assert [report["steps"] for report in state.history] == [2]
    after = dict(model.named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert all(torch.isfinite(parameter).all() for parameter in after.values())
    assert not held & moved and (config.encoder.train == "full") == (not held)
    assert any(name.startswith("backbone.") for name in moved)
    for part in ("projection", "late", "prototypes", "vectors"):
        assert getattr(model, part) is None or any(name.split(".")[0] == part for name in moved), part
