"""The paper's runs as configuration: the 71 trainings and nothing else, their printed figures."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from paper_config import CONFIG, RUNS, TARGETS, TRAININGS, WORKFLOW, WORLD

from vixml.config.load import read_yaml
from vixml.config.published import PAPER, load_published, read_csv

FILES = sorted((CONFIG / "runs").glob("paper-*.yaml"))
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
    return [row for _, row in read_csv(CONFIG / "reported" / "training_runs.csv")]


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
    texts = (row["dataset"], row["modality"], row["backbone"], row["base_method"], template_of(row))
    images = (FUSION[row["fusion"]], row["vision_encoder"] or None, int(row["n_images"] or 0))
    numbers = tuple(int(row[key]) for key in ("seed_index", "epochs", "batch_size", "max_len"))
    return texts, images, numbers, float(row["lr"]), {"mean": "mean", "last token": "last"}[row["pooling"]]


def configured(dataset: str, run: str, seed: int) -> tuple:
    """Return the same of a run of the configuration."""
    config = RUNS[dataset, run]
    encoder, training, images = config.encoder, config.training, config.images
    texts = (dataset, config.modality, WORLD.text_models[encoder.model].title, config.method, encoder.template)
    vision = (images.fusion, WORLD.vision_models[images.vision].title, images.per_item)
    numbers = (seed + 1, training.epochs, training.batch_size, encoder.max_len)
    return texts, vision if config.uses_images else (None, None, 0), numbers, config.optimizer.lr, encoder.pooling


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
    names = {(family["dataset"], run) for family in map(read_yaml, FILES) for run in family["runs"]}
    assert {target[:2] for target in TARGETS} == names
    assert {run for _, run in names} >= VARIANTS
    assert len({t for t in TARGETS if t[1].endswith("--augmented")}) == 16


def test_every_run_of_the_paper_has_the_official_form():
    """All keys of the form, one by one; config/presets/official.yaml is where they are set."""
    form = read_yaml(CONFIG / "presets" / "official.yaml")
    assert form == {
        "encoder": {"first_token": "each-piece", "text_position": "fixed"},
        "prototype": {"last_centroids": "encoded"},
        "loss": {
            "ties": "half", "weight_gradient": True, "draws": "per-term", "regulariser_negatives": "z",
            "regulariser_gradient": "both", "regulariser_halves": "mean",
        },
        "mining": {"cluster": "end", "groups": "power-of-two"},
        "optimizer": {"warmup_from": "zero", "weight_decay_on": "all-but-layernorm"},
        "training": {"label_copies": "kept"},
    }  # fmt: skip
    for dataset, run, _ in TARGETS:
        config = RUNS[dataset, run].model_dump()
        for section, keys in form.items():
            if config[section] is not None:  # an embedder off the shelf is not mined
                assert keys.items() <= config[section].items(), (dataset, run)


@pytest.mark.parametrize("table", WORKFLOW.tables)
def test_a_run_is_called_as_the_tables_call_it(table):
    shape = read_yaml(CONFIG / "tables" / f"{table}.yaml")
    if shape.get("layout") == "facts":
        named = {run for claim in shape.get("claims", ()) for run in claim.get("runs", ())}
        assert named <= {run for _, run, _ in TARGETS}
        return
    blocks = shape["blocks"]
    named = {line["run"] for block in blocks for line in block["rows"] if "run" in line}
    assert named and named <= {run for _, run, _ in TARGETS}


def test_what_the_paper_says_of_all_runs_holds_for_each():
    rows = read_csv(CONFIG / "reported" / "hyperparameters.csv")
    stated = {row["name"]: row["value"] for _, row in rows if row["scope"] != "-"}
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
    dataset = read_yaml(path)["dataset"]
    for command in re.findall(r"results/runs/(\S+)/seed0/", header):
        assert tuple(command.split("/")) in RUNS and command.startswith(dataset)


def expected(path: Path) -> dict[tuple[str, str, int, str], str]:
    """Return the figures of a header: (dataset, run, seed, metric) -> as printed."""
    table = re.search(r"^# EXPECTED +(.*?)^# HARDWARE", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    titles, *lines = table.splitlines()
    metrics, dataset = titles.split()[1:], read_yaml(path)["dataset"]
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
    for claim in load_published(CONFIG):
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
