"""What a run opens, and the stage `train` from folders to a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import planted
import pytest
import torch

from vixml.config.registry import Propensity
from vixml.errors import VixmlError
from vixml.files import load_array, read_json, save_array, write_json
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import Siamese, build_model, load_model
from vixml.provenance import read_manifest
from vixml.ragged import Ragged
from vixml.training import train as stage_module
from vixml.training.train import train, validation_rows

CPU = torch.device("cpu")


def test_images_are_cut_and_shuffled_for_every_split(task):
    own = open_inputs(task, planted.make_config(images={"per_item": 2}), seed=0)
    assert max(own.images["train"].lengths) == 2 and own.image_dim == planted.IMAGE_DIM
    mixed = open_inputs(task, planted.make_config(images={"per_item": 2, "control": "shuffled"}), seed=0)
    for split, lists in own.images.items():
        before = sorted(tuple(lists.row(i)) for i in range(len(lists)))
        after = [tuple(mixed.images[split].row(i)) for i in range(len(lists))]
        assert sorted(after) == before, "the same lists"
        assert all(tuple(lists.row(i)) != after[i] for i in range(len(lists))), "and none stays where it was"


def test_text_reads_no_embeddings(task):
    data = open_inputs(
        RunInputs(task.corpus, task.tokens, None, task.model_dir), planted.make_config(modality="text"), 0
    )
    assert data.gather is None and data.image_dim is None and set(data.images.values()) == {None}


def test_images_without_embeddings_are_an_error(task):
    with pytest.raises(VixmlError, match="needs image embeddings"):
        open_inputs(RunInputs(task.corpus, task.tokens, None, task.model_dir), planted.make_config(), 0)


@pytest.mark.parametrize("method", ["none", "PRIME"])
def test_an_untrained_run_is_centred_too(decoder_task, tmp_path, method):
    """A yardstick must be measured as the trained run beside it is."""
    config = planted.make_config(
        method=method,
        modality="text",
        encoder={"train": "frozen", "centre": True, "template": "{text}{eos}"},
        training={"epochs": 0},
        inference={"labels_as": "u"},
    )
    train("planted", "run", 0, config, Propensity(), decoder_task, tmp_path / "model", CPU)
    prompt = open_inputs(decoder_task, config, 0).prompts["train"]
    model = build_model(config, decoder_task.model_dir, planted.WORDS * planted.KINDS, None, 0, prompt)
    load_model(tmp_path / "model", model)
    assert model.centre.norm() > 0.1


def test_an_untrained_dexa_has_its_clusters(task, tmp_path):
    config = planted.make_config(method="DEXA", prototype={"init": "zeros"}, training={"epochs": 0})
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "model", CPU)
    vocabulary = open_inputs(task, config, 0).vocabulary()
    model = build_model(
        config, task.model_dir, planted.WORDS * planted.KINDS, planted.IMAGE_DIM, 0, vocabulary=vocabulary
    )
    load_model(tmp_path / "model", model)
    assert len(model.cluster.unique()) > 1 and not model.prototypes.free.weight.any()


def test_more_images_than_there_are_is_an_error(task):
    with pytest.raises(VixmlError, match="more images per item") as caught:
        open_inputs(task, planted.make_config(images={"per_item": 4}), 0)
    assert caught.value.found == 4 and "at most 3" in caught.value.expected


def test_embeddings_with_lists_of_its_own_says_what_an_item_has(task, tmp_path):
    def write(folder: Path):
        shutil.copytree(task.embeddings, folder, dirs_exist_ok=True)
        header = read_json(folder / "embeddings.json")
        for split in ("train", "test", "label"):
            n = len(Ragged.load(task.corpus / f"{split}_images"))
            Ragged.from_rows([[item % 7] for item in range(n)], header["n_images"]).save(folder / f"{split}_images")
        write_json(folder / "embeddings.json", header | {"lists": "own"})

    embeddings = planted.publish(tmp_path / "embeddings", "import-vectors", write)
    inputs = RunInputs(task.corpus, task.tokens, embeddings, task.model_dir)
    found = open_inputs(inputs, planted.make_config(images={"per_item": 1}), 0)
    assert found.images["test"].values[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    with pytest.raises(VixmlError, match="more images per item") as caught:
        open_inputs(inputs, planted.make_config(images={"per_item": 2}), 0)
    assert str(embeddings) in caught.value.expected and "published_vectors: false" in caught.value.hint


def test_embeddings_of_another_vision_encoder_is_an_error(task):
    with pytest.raises(VixmlError, match="another vision encoder") as caught:
        open_inputs(task, planted.make_config(images={"vision": "siglip2"}), 0)
    assert f"vectors of length {planted.IMAGE_DIM}" in caught.value.found


def test_embeddings_of_another_dimension_does_not_fit_a_trained_model(task, tmp_path):
    config = planted.make_config(training={"epochs": 0})
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "model", CPU)
    wider = build_model(
        config,
        task.model_dir,
        planted.WORDS * planted.KINDS,
        planted.IMAGE_DIM + 1,
        0,
        vocabulary=open_inputs(task, config, 0).vocabulary(),
    )
    with pytest.raises(VixmlError, match="belong to another model") as caught:
        load_model(tmp_path / "model", wider)
    assert "projection.weight" in str(caught.value.where) and caught.value.found == (32, planted.IMAGE_DIM)


def test_a_model_of_a_corpus_with_other_words_is_refused(task, tmp_path):
    config = planted.make_config(training={"epochs": 0})
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "model", CPU)
    vocabulary = open_inputs(task, config, 0).vocabulary()
    n_labels, image_dim = planted.WORDS * planted.KINDS, planted.IMAGE_DIM
    load_model(tmp_path / "model", build_model(config, task.model_dir, n_labels, image_dim, 0, vocabulary=vocabulary))
    other = np.sort(np.append(vocabulary[1:], np.setdiff1d(np.arange(vocabulary.max()), vocabulary)[0]))
    with pytest.raises(VixmlError, match="a corpus with another vocabulary"):
        load_model(tmp_path / "model", build_model(config, task.model_dir, n_labels, image_dim, 0, vocabulary=other))


def test_prompts_follow_the_template_and_the_tokens(decoder_task):
    config = planted.make_config(encoder={"template": "{text}{images}{eos}"})
    prompt = open_inputs(decoder_task, config, 0).prompts["train"]
    assert prompt.pieces == ((planted.START,), "text", "images", (planted.END,)) and prompt.causal and not prompt.late
    late = planted.make_config(encoder={"template": "{text}{eos}"}, images={"fusion": "late"})
    assert open_inputs(decoder_task, late, 0).prompts["label"].late


def test_labels_may_have_a_prompt_of_their_own(decoder_task):
    config = planted.make_config(
        modality="text",
        method="none",
        encoder={"template": "{text}{eos}", "label_template": "{text}"},
        training={"epochs": 0},
        inference={"labels_as": "u"},
    )
    prompts = open_inputs(decoder_task, config, 0).prompts
    assert prompts["test"].pieces == ((planted.START,), "text", (planted.END,))
    assert prompts["label"].pieces == ((planted.START,), "text")


def test_tokens_of_another_corpus_are_an_error(task, tmp_path):
    for split in ("train", "test", "label"):
        tokens = Ragged.load(task.tokens / split)
        rows = np.arange(len(tokens) - (split == "test"))
        tokens.take(rows).save(tmp_path / split)
    with pytest.raises(VixmlError, match="another corpus") as caught:
        open_inputs(RunInputs(task.corpus, tmp_path, task.embeddings, task.model_dir), planted.make_config(), 0)
    assert caught.value.where == tmp_path / "test"


def test_tokens_cut_longer_than_the_run_asks_are_an_error(task):
    with pytest.raises(VixmlError, match="cut at another length"):
        open_inputs(task, planted.make_config(encoder={"max_len": 3}), 0)


def test_tokens_of_another_tokenizer_are_an_error(task, tmp_path):
    shutil.copytree(task.model_dir, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(VixmlError, match="another tokenizer") as caught:
        open_inputs(RunInputs(task.corpus, task.tokens, task.embeddings, tmp_path / "model"), planted.make_config(), 0)
    assert caught.value.where == task.tokens


def test_an_item_with_nothing_in_it_is_named(decoder_task, tmp_path):
    shutil.copytree(decoder_task.tokens, tmp_path / "tokens")
    tokens = Ragged.load(tmp_path / "tokens" / "label")
    rows = [tokens.row(i).tolist() for i in range(len(tokens))]
    rows[3] = []
    shutil.rmtree(tmp_path / "tokens" / "label")
    emptied = Ragged.from_rows(rows, tokens.n_cols)
    # Without a first token of the tokenizer's, the template's words are all that stands beside a text.
    header = tokens.header | {"bos_ids": []}
    Ragged(emptied.values, emptied.offsets, emptied.n_cols, header).save(tmp_path / "tokens" / "label")
    train_tokens = Ragged.load(tmp_path / "tokens" / "train")
    shutil.rmtree(tmp_path / "tokens" / "train")
    Ragged(train_tokens.values, train_tokens.offsets, train_tokens.n_cols, header).save(tmp_path / "tokens" / "train")
    inputs = RunInputs(decoder_task.corpus, tmp_path / "tokens", None, decoder_task.model_dir)
    with pytest.raises(VixmlError, match="nothing that could be encoded") as caught:
        open_inputs(inputs, planted.make_config(modality="text", encoder={"template": "{text}"}), 0)
    assert str(caught.value.where).endswith("label, row 3")
    open_inputs(inputs, planted.make_config(modality="text", encoder={"template": "{text}{eos}"}), 0)


def test_validation_rows_are_a_share_of_train_and_the_same_for_every_run():
    rows = validation_rows(200, 0.1)
    assert len(rows) == 20 and (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < 200
    np.testing.assert_array_equal(rows, validation_rows(200, 0.1))
    assert len(validation_rows(200, 0.0)) == 0
    assert set(rows) <= set(validation_rows(200, 0.3)), "a larger share holds a smaller one"


def test_a_vector_that_is_no_number_stops_the_training_and_leaves_nothing(task, tmp_path):
    def write(folder: Path):
        shutil.copytree(task.embeddings, folder, dirs_exist_ok=True)
        vectors = np.load(folder / "vectors.npy")
        vectors[7, 3] = np.nan
        save_array(folder / "vectors.npy", vectors)

    embeddings = planted.publish(tmp_path / "embeddings", "embed-images", write)
    inputs = RunInputs(task.corpus, task.tokens, embeddings, task.model_dir)
    with pytest.raises(VixmlError, match="not finite") as caught:
        train("planted", "run", 0, planted.make_config(), Propensity(), inputs, tmp_path / "run" / "model", CPU)
    assert caught.value.where == f"{embeddings / 'vectors.npy'}, row 7"
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "model"
    train("planted", "run", 0, planted.make_config(), Propensity(), task, out, CPU)
    return out


def test_the_folder_of_a_trained_run(trained, task):
    assert {p.name for p in trained.iterdir()} == {
        "manifest.json", "model.safetensors", "training.json", "log.jsonl", "validation_rows.npy",
    }  # fmt: skip
    assert [p.name for p in trained.parent.iterdir()] == ["model"], "the checkpoint is gone"
    record = read_json(trained / "training.json")
    n_held = len(load_array(trained / "validation_rows.npy"))
    assert record["n_train"] + n_held == len(open_inputs(task, planted.make_config(), 0).tokens["train"])
    assert record["steps"] == 3 * -(-record["n_train"] // 32) and record["precision"] == "fp32"
    # Embeddings of words that occur nowhere belong to the language model, and are not trained.
    vocabulary = open_inputs(task, planted.make_config(), 0).vocabulary()
    size, dim = read_json(task.model_dir / "config.json")["vocab_size"], 32
    assert record["parameters"] - record["trained_parameters"] == (size - len(vocabulary)) * dim > 0
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2] and lines[-1] == record["last_epoch"]
    manifest = read_manifest(trained)
    assert set(manifest["inputs"]) == {"corpus", "tokens", "embeddings", "model_dir"}
    assert manifest["config"]["seed"] == 0 and manifest["config"]["training"]["epochs"] == 3


def test_the_optimizer_is_made_where_the_model_is_trained(task, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(Siamese, "to", lambda model, device: order.append("model moved"))
    new_state = stage_module.new_state
    monkeypatch.setattr(stage_module, "new_state", lambda training: order.append("state") or new_state(training))
    config = planted.make_config(training={"epochs": 0})
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "model", CPU)
    assert order == ["model moved", "state"], "the scaler of fp16 asks which device it is"


def test_held_out_queries_reach_no_step(task, tmp_path, trained):
    """Labels of held-out queries changed: the same bytes come out, so nothing of them was learnt."""
    corpus = tmp_path / "corpus"
    held = load_array(trained / "validation_rows.npy")

    def write(folder: Path):
        shutil.copytree(task.corpus, folder, dirs_exist_ok=True)
        labels = Ragged.load(folder / "train_labels", mmap=False)
        labels.values[held] = (labels.values[held] + 1) % labels.n_cols  # one label each
        labels.save(folder / "train_labels")

    planted.publish(corpus, "build-corpus", write)
    inputs = RunInputs(corpus, task.tokens, task.embeddings, task.model_dir)
    config = planted.make_config(training={"positives": "uniform"})
    for name, given in (("a", task), ("b", inputs)):
        train("planted", "run", 0, config, Propensity(), given, tmp_path / name / "model", CPU)
    a, b = (tmp_path / name / "model" / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 0}},
        {"method": "none", "training": {"epochs": 0}, "inference": {"labels_as": "u"}},
        {
            "method": "none",
            "modality": "text",
            "encoder": {"train": "frozen"},
            "training": {"epochs": 0},
            "inference": {"labels_as": "u"},
        },
    ],
    ids=["untrained", "no-prototypes", "nothing-to-learn"],
)
def test_no_epochs_keep_the_checkpoints_encoder(task, tmp_path, changes):
    config = planted.make_config(**changes)
    train("planted", "run", 0, config, Propensity(), task, tmp_path / "model", CPU)
    assert (tmp_path / "model" / "log.jsonl").read_text() == ""
    image_dim = planted.IMAGE_DIM if config.uses_images else None
    vocabulary = open_inputs(task, config, 0).vocabulary()
    model = build_model(config, task.model_dir, planted.WORDS * planted.KINDS, image_dim, 0, vocabulary=vocabulary)
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    load_model(tmp_path / "model", model)
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, before[name]), name
