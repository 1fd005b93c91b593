"""A task that only word and image together solve: fusion learns it, text alone gets half, shuffled images lose it."""

from __future__ import annotations

import planted
import pytest
from torch.nn import functional as F

from vixml.models.encode import all_prototypes, encode_items
from vixml.models.inputs import open_inputs
from vixml.training.diagnostics import WatchedQueries, precision_at_1

STEPS = 40
CHANCE = 100 / (planted.WORDS * planted.KINDS)


def learn(task, folder, seed=0, **changes):
    """Train a few dozen steps; return P@1 on the *test* split by text vector ``u`` and, if it has one, prototype ``z``."""
    config = planted.make_config(
        optimizer={"lr": 5e-3, "lr_new": 5e-3},
        training={"epochs": 8, "batch_size": 32},
        **{"encoder": {"dropout": 0.0}, **changes},
    )
    training = planted.make_training(task, config, seed=seed)
    planted.train(training, folder)
    assert training.total_steps == STEPS
    data = open_inputs(task, config, seed)
    test, labels = (encode_items(training.model, data.sequences[split], "fp32") for split in ("test", "label"))
    queries = WatchedQueries(F.normalize(test, dim=1), data.corpus.labels("test"))
    scores = {"u": precision_at_1(queries, F.normalize(labels, dim=1))}
    if config.has_prototypes:
        scores["z"] = precision_at_1(queries, all_prototypes(training.model, labels))
    return scores


@pytest.fixture(scope="module")
def found(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "fused": learn(task, folder / "fused"),
        "text": learn(task, folder / "text", modality="text"),
        "shuffled": learn(task, folder / "shuffled", images={"control": "shuffled"}),
    }


@pytest.mark.parametrize("vector", ["u", "z"])
def test_image_and_text_beat_text_beats_chance(found, vector):
    assert found["fused"][vector] > 90
    assert 2 * CHANCE < found["text"][vector] < 65, "text alone cannot tell two labels apart"


@pytest.mark.parametrize("vector", ["u", "z"])
def test_shuffled_images_lose_the_gain(found, vector):
    assert found["shuffled"][vector] < 65


DECODER = {"dropout": 0.0, "train": "lora", "lora": {"r": 8, "alpha": 8}}
DECODER |= {"template": "{text}{images}{eos}", "centre": True}


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_decoder_with_adapters_learns_it_too(decoder_task, tmp_path, pooling):
    fused = learn(decoder_task, tmp_path / "fused", encoder={**DECODER, "pooling": pooling})
    assert fused["u"] > 90 and fused["z"] > 90


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "NGAME", "loss": {"margin_min": 0.3, "margin_max": 0.3}, "inference": {"labels_as": "u"}},
        {"method": "DEXA", "loss": {"margin_min": 0.3, "margin_max": 0.3}, "prototype": {"init": "zeros"}},
        {"method": "all-labels", "loss": {"text_weight": 0.5}},
        {"images": {"fusion": "late", "late": {"dropout": 0.0}}},
    ],
    ids=["NGAME", "DEXA", "all labels", "late fusion"],
)
def test_every_method_and_fusion_learns_it(task, tmp_path, changes):
    found = learn(task, tmp_path, **changes)
    assert all(score > 90 for score in found.values()), found
    assert set(found) == ({"u"} if changes.get("method") == "NGAME" else {"u", "z"})
