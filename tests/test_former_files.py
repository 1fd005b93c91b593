"""A stage that is run again with fewer files: nothing reads those of its former result, left over or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corpus_data import CorpusData, Items
from result_files import png
from transformers import BertConfig, BertModel

from vixml.data.corpus import URL, URLS, Corpus, table_writer
from vixml.errors import VixmlError
from vixml.evaluation.predictions import load_predictions
from vixml.files import save_array
from vixml.images.store import ImageStore, write_store
from vixml.models.backbone import Backbone
from vixml.provenance import MANIFEST, stage
from vixml.ragged import Ragged

SMALL = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def write_corpus(folder, *, filters=False, urls=False):
    rows, none = Ragged.from_rows([[0], [1]], n_cols=2), Ragged.from_rows([[], []], n_cols=0)
    items = {split: Items.of(["a", "b"]) for split in ("train", "test", "label")}
    labels, images = {split: rows for split in ("train", "test")}, dict.fromkeys(items, none)
    with stage(folder, "build-corpus", config={}, inputs={}) as work:
        CorpusData(items, labels, [], [], images, labels if filters else {}).write(work)
        if urls:
            with table_writer(work / URLS, URL) as append:
                append("train", 0, 0, "http://host/a.png", 0)


@pytest.fixture(params=["all by the stage", "by Snakemake first", "left over"])
def again(request, tmp_path, monkeypatch):
    """Return how a folder is written again: over the old one, after Snakemake removed its manifest, or by a version that leaves files."""

    def write(folder, function, *arguments, **options):
        if request.param == "by Snakemake first":
            (folder / MANIFEST).unlink()
        if request.param == "left over":
            monkeypatch.setattr("vixml.provenance._remove", lambda out, name: None)
        function(folder, *arguments, **options)
        return request.param == "left over"

    return write


def test_a_corpus_with_a_filter_then_without(tmp_path, again):
    write_corpus(tmp_path / "corpus", filters=True)
    assert Corpus.load(tmp_path / "corpus", filter_required=True).filter("test") is not None
    left = again(tmp_path / "corpus", write_corpus)
    assert (tmp_path / "corpus" / "filter_test").exists() == left
    assert Corpus.load(tmp_path / "corpus").filter("test") is None
    with pytest.raises(VixmlError, match="filter"):
        Corpus.load(tmp_path / "corpus", filter_required=True)


def test_a_catalogue_with_addresses_then_with_paths(tmp_path, again):
    from vixml.data.archive import SourceReader
    from vixml.images.fetch import fetch_images
    from vixml.images.render import render_images

    write_corpus(tmp_path / "corpus", urls=True)
    with pytest.raises(VixmlError, match="by URL"):
        render_images(tmp_path / "corpus", SourceReader(tmp_path, {}), 32, 1, tmp_path / "images")
    again(tmp_path / "corpus", write_corpus)
    render_images(tmp_path / "corpus", SourceReader(tmp_path, {}), 32, 1, tmp_path / "images")
    with pytest.raises(VixmlError, match="does not name"):
        fetch_images(tmp_path / "corpus", tmp_path / "images", 32, 1, None)


def write_model(folder, seed, shards):
    torch.manual_seed(seed)
    network = BertModel(BertConfig(**SMALL), add_pooling_layer=False)
    with stage(folder, "prepare-model", config={"seed": seed}, inputs={}) as work:
        network.save_pretrained(work, max_shard_size=1000 if shards else "1GB")
        assert (work / "model.safetensors").exists() != shards
    return network.state_dict()


def test_a_model_from_a_wheel_then_in_shards(tmp_path, again):
    write_model(tmp_path / "model", 0, shards=False)
    new = {}
    left = again(tmp_path / "model", lambda folder: new.update(write_model(folder, 1, shards=True)))
    if left:  # transformers would open the old file
        with pytest.raises(VixmlError, match="did not write"):
            Backbone(tmp_path / "model")
        return
    found = Backbone(tmp_path / "model").network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in new.items())


def test_predictions_of_held_out_queries_then_of_test(tmp_path, again):
    def write(folder, rows):
        with stage(folder, "predict", config={}, inputs={}) as work:
            save_array(work / "labels.npy", np.zeros((2, 1), dtype=np.int32))
            save_array(work / "scores.npy", np.zeros((2, 1), dtype=np.float32))
            if rows:
                save_array(work / "rows.npy", np.array([3, 4]))

    write(tmp_path / "predictions", rows=True)
    again(tmp_path / "predictions", write, rows=False)
    assert load_predictions(tmp_path / "predictions", 2, 1).rows is None


def test_a_store_with_more_shards_then_with_fewer(tmp_path, again):
    def write(folder, shards):
        with stage(folder, "render-images", config={}, inputs={}) as work:
            write_store(work, [(i, str(i), png(i)) for i in range(4)], 4, shards)

    write(tmp_path / "images", 3)
    left = again(tmp_path / "images", write, 1)
    assert len(list((tmp_path / "images").glob("shard-*"))) == (3 if left else 1)
    assert [image for image, _, _ in ImageStore.open(tmp_path / "images")] == [0, 1, 2, 3]
