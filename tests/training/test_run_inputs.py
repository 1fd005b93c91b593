"""The inputs of a run, and the stage `train` from folders to a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
from helpers import rows_of

from vixml.errors import VixmlError
from vixml.files import load_array, read_json, save_array, write_json
from vixml.models.inputs import open_inputs
from vixml.models.siamese import Siamese, build_model, load_model
from vixml.provenance import read_manifest
from vixml.ragged import Ragged
from vixml.training import train as stage_module
from vixml.training.train import validation_rows

UNTRAINED = {"method": "none", "training": {"epochs": 0}, "inference": {"labels_as": "u"}}


def copied(folder, target, stage, change):
    """Return a stage's folder like ``folder``, with ``change(copy)`` made."""

    def write(work: Path):
        shutil.copytree(folder, work, dirs_exist_ok=True)
        change(work)

    return planted.publish(target, stage, write)


def reopened(task, config, folder):
    """Return the model of a trained folder."""
    model = build_model(config, open_inputs(task, config, 0), 0)
    load_model(folder, model)
    return model


def test_images_are_cut_and_shuffled_for_every_split(task):
    plain = open_inputs(task, planted.make_config(images={"per_item": 2}), seed=0)
    assert max(plain.sequences["train"].images.lengths) == 2 and plain.image_dim == planted.IMAGE_DIM
    mixed = open_inputs(task, planted.make_config(images={"per_item": 2, "control": "shuffled"}), seed=0)
    for split, items in plain.sequences.items():
        before, after = rows_of(items.images), rows_of(mixed.sequences[split].images)
        assert sorted(after) == sorted(before), "the same lists"
        assert after != before, "of other items"


def test_text_reads_no_embeddings(task):
    data = open_inputs(replace(task, embeddings=None), planted.make_config(modality="text"), 0)
    assert data.image_dim is None
    assert all(items.images is None and items.gather is None for items in data.sequences.values())


@pytest.mark.parametrize("method", ["none", "PRIME"])
def test_an_untrained_run_is_centred_too(decoder_task, tmp_path, method):
    """A baseline must be measured as the trained run beside it."""
    encoder = {"train": "frozen", "centre": True, "template": "{text}{eos}"}
    config = planted.make_config(**UNTRAINED | {"method": method, "modality": "text", "encoder": encoder})
    out = planted.run_stage(decoder_task, config, tmp_path / "model")
    assert reopened(decoder_task, config, out).centre.norm() > 0.1


def test_an_untrained_dexa_has_its_clusters(task, tmp_path):
    config = planted.make_config(method="DEXA", prototype={"init": "zeros"}, training={"epochs": 0})
    model = reopened(task, config, planted.run_stage(task, config, tmp_path / "model"))
    assert len(model.cluster.unique()) > 1 and not model.prototypes.free.weight.any()


def shorter_tokens(task, folder):
    for split in ("train", "test", "label"):
        tokens = Ragged.load(task.tokens / split)
        tokens.take(np.arange(len(tokens) - (split == "test"))).save(folder / split)
    return replace(task, tokens=folder)


def other_tokenizer(task, folder):
    shutil.copytree(task.model_dir, folder)
    (folder / "tokenizer.json").write_text("{}")
    return replace(task, model_dir=folder)


@pytest.mark.parametrize(
    ("inputs", "changes", "message", "field", "text"),
    [
        (lambda task, _: replace(task, embeddings=None), {}, "needs image embeddings", "where", "--embeddings"),
        (None, {"images": {"per_item": 4}}, "exceeds the images available", "expected", "at most 3"),
        (None, {"images": {"vision": "siglip2"}}, "another vision encoder", "found", f"length {planted.IMAGE_DIM}"),
        (shorter_tokens, {}, "another corpus", "where", "/test"),
        (None, {"encoder": {"max_len": 3}}, "cut at another length", "found", "max_len 8"),
        (other_tokenizer, {}, "another tokenizer", "where", "/tokens"),
    ],
    ids=["no embeddings", "too many images", "other vision encoder", "other corpus", "other length", "other tokenizer"],
)
def test_inputs_that_do_not_belong_together(task, tmp_path, inputs, changes, message, field, text):
    given = task if inputs is None else inputs(task, tmp_path / "other")
    with pytest.raises(VixmlError, match=message) as caught:
        open_inputs(given, planted.make_config(**changes), 0)
    assert text in str(getattr(caught.value, field))


def test_published_item_lists_replace_those_of_the_corpus(task, tmp_path):
    def change(folder):
        header = read_json(folder / "embeddings.json")
        for split in ("train", "test", "label"):
            n = len(Ragged.load(task.corpus / f"{split}_images"))
            Ragged.from_rows([[item % 7] for item in range(n)], header["n_images"]).save(folder / f"{split}_images")
        write_json(folder / "embeddings.json", header | {"lists": "own"})

    inputs = replace(task, embeddings=copied(task.embeddings, tmp_path / "embeddings", "import-vectors", change))
    found = open_inputs(inputs, planted.make_config(images={"per_item": 1}), 0)
    assert found.sequences["test"].images.values[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    with pytest.raises(VixmlError, match="exceeds the images available") as caught:
        open_inputs(inputs, planted.make_config(images={"per_item": 2}), 0)
    assert str(inputs.embeddings) in caught.value.expected and "published_vectors: false" in caught.value.hint


def test_a_trained_model_fits_its_inputs_only(task, tmp_path):
    config = planted.make_config(training={"epochs": 0})
    out = planted.run_stage(task, config, tmp_path / "model")
    data = open_inputs(task, config, 0)
    load_model(out, build_model(config, data, 0))
    with pytest.raises(VixmlError, match="belong to another model") as caught:
        load_model(out, build_model(config, replace(data, image_dim=planted.IMAGE_DIM + 1), 0))
    assert "projection.weight" in str(caught.value.where) and caught.value.found == (32, planted.IMAGE_DIM)
    other = build_model(config, data, 0)
    other.backbone.row_of = other.backbone.row_of.roll(1)  # as many tokens, but others
    with pytest.raises(VixmlError, match="a corpus with another vocabulary"):
        load_model(out, other)


def test_prompts_follow_the_template_and_the_tokens(decoder_task):
    def prompts(**changes):
        opened = open_inputs(decoder_task, planted.make_config(**changes), 0)
        return {split: items.prompt for split, items in opened.sequences.items()}

    prompt = prompts(encoder={"template": "{text}{images}{eos}"})["train"]
    assert prompt.pieces == ((planted.START,), "text", "images", (planted.END,)) and prompt.causal and not prompt.late
    assert prompts(encoder={"template": "{text}{eos}"}, images={"fusion": "late"})["label"].late
    found = prompts(**UNTRAINED, modality="text", encoder={"template": "{text}{eos}", "label_template": "{text}"})
    assert found["test"].pieces == ((planted.START,), "text", (planted.END,))
    assert found["label"].pieces == ((planted.START,), "text")


def test_an_empty_item_is_named(decoder_task, tmp_path):
    tokens = tmp_path / "tokens"
    for split in ("train", "test", "label"):
        lists = Ragged.load(decoder_task.tokens / split)
        rows = [[] if (split, i) == ("label", 3) else lists.row(i) for i in range(len(lists))]
        # Without the tokenizer's first token, the template's words are all that a sequence has beside its text.
        Ragged.from_rows(rows, lists.n_cols, **lists.header | {"bos_ids": []}).save(tokens / split)
    inputs = replace(decoder_task, tokens=tokens, embeddings=None)
    with pytest.raises(VixmlError, match="nothing to encode") as caught:
        open_inputs(inputs, planted.make_config(modality="text", encoder={"template": "{text}"}), 0)
    assert str(caught.value.where).endswith("label, row 3")
    open_inputs(inputs, planted.make_config(modality="text", encoder={"template": "{text}{eos}"}), 0)


def test_validation_rows_are_a_share_of_train_and_the_same_for_every_run():
    rows = validation_rows(200, 0.1)
    assert len(rows) == 20 and (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < 200
    np.testing.assert_array_equal(rows, validation_rows(200, 0.1))
    assert len(validation_rows(200, 0.0)) == 0
    assert set(rows) <= set(validation_rows(200, 0.3)), "a larger share includes a smaller one"


@pytest.mark.parametrize(("n", "share"), [(200, 0.1), (500, 0.2), (1003, 0.25), (7, 1 / 3)])
def test_splits_follow_each_other_without_a_query_in_common(n, share):
    splits = [validation_rows(n, share, split) for split in range(round(1 / share))]
    rows = np.concatenate(splits)
    assert len({len(split) for split in splits}) == 1 and (n - len(rows) < len(splits[0]) or len(rows) > n)
    # Each query once, and of the last split some again if shares were rounded up.
    assert len(np.unique(rows)) == min(len(rows), n)
    assert len(validation_rows(n, share, 2**32 - 1)) == len(splits[0]) and not len(validation_rows(0, share, 3))


def test_a_vector_that_is_not_finite_stops_the_training_and_leaves_nothing(task, tmp_path):
    def change(folder):
        vectors = np.load(folder / "vectors.npy")
        vectors[7, 3] = np.nan
        save_array(folder / "vectors.npy", vectors)

    inputs = replace(task, embeddings=copied(task.embeddings, tmp_path / "embeddings", "embed-images", change))
    with pytest.raises(VixmlError, match="not finite") as caught:
        planted.run_stage(inputs, planted.make_config(), tmp_path / "run" / "model")
    assert caught.value.where == f"{inputs.embeddings / 'vectors.npy'}, row 7"
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    return planted.run_stage(task, planted.make_config(), tmp_path_factory.mktemp("trained") / "model")


def test_the_folder_of_a_trained_run(trained, task):
    assert {p.name for p in trained.iterdir()} == {
        "manifest.json", "model.safetensors", "training.json", "log.jsonl", "validation_rows.npy",
    }  # fmt: skip
    assert {p.name for p in trained.parent.iterdir()} == {"model", ".model-files"}, "the checkpoint is deleted"
    record, data = read_json(trained / "training.json"), open_inputs(task, planted.make_config(), 0)
    n_held = len(load_array(trained / "validation_rows.npy"))
    assert record["n_train"] + n_held == len(data.sequences["train"])
    assert record["steps"] == 3 * -(-record["n_train"] // 32) and record["precision"] == "fp32"
    # Embeddings of tokens that never occur belong to the language model, and are not trained.
    size, dim = read_json(task.model_dir / "config.json")["vocab_size"], 32
    assert record["parameters"] - record["trained_parameters"] == (size - len(data.vocabulary())) * dim > 0
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2] and lines[-1] == record["last_epoch"]
    manifest = read_manifest(trained)
    assert set(manifest["inputs"]) == {"corpus", "tokens", "embeddings", "model_dir"}
    assert manifest["config"]["seed"] == 0 and manifest["config"]["training"]["epochs"] == 3
    assert manifest["facts"].keys() == {"precision", "device", "kernels", "last_epoch"}


def test_the_optimizer_is_made_where_the_model_is_trained(task, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(Siamese, "to", lambda model, device: order.append("model moved"))
    new_state = stage_module.new_state
    monkeypatch.setattr(stage_module, "new_state", lambda training: order.append("state") or new_state(training))
    planted.run_stage(task, planted.make_config(training={"epochs": 0}), tmp_path / "model")
    assert order == ["model moved", "state"], "the scaler of fp16 asks which device it is"


def test_held_out_queries_reach_no_step(task, tmp_path, trained):
    """With other labels of the held-out queries, the same bytes come out."""

    def change(folder):
        held = load_array(trained / "validation_rows.npy")
        labels = Ragged.load(folder / "train_labels", mmap=False)
        labels.values[held] = (labels.values[held] + 1) % labels.n_cols  # one label each
        labels.save(folder / "train_labels")

    other = replace(task, corpus=copied(task.corpus, tmp_path / "corpus", "build-corpus", change))
    config = planted.make_config(training={"positives": "uniform"})
    a, b = (planted.run_stage(given, config, tmp_path / n / "model") for n, given in (("a", task), ("b", other)))
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"training": {"epochs": 0}}, UNTRAINED, UNTRAINED | {"modality": "text", "encoder": {"train": "frozen"}}],
    ids=["untrained", "no prototypes", "nothing to learn"],
)
def test_no_epochs_keep_the_checkpoints_encoder(task, tmp_path, changes):
    config = planted.make_config(**changes)
    out = planted.run_stage(task, config, tmp_path / "model")
    assert (out / "log.jsonl").read_text() == ""
    fresh = dict(build_model(config, open_inputs(task, config, 0), 0).backbone.named_parameters())
    for name, parameter in reopened(task, config, out).backbone.named_parameters():
        assert parameter.equal(fresh[name]), name
