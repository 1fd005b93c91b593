"""A task that only word and picture together solve: fusion must learn it, text alone gets half, shuffling loses it."""

from __future__ import annotations

import planted
import pytest
from torch.nn import functional as F

from vixml.models.encode import all_prototypes, encode_items
from vixml.training.diagnostics import precision_at_1
from vixml.training.inputs import open_inputs
from vixml.training.optimizer import autocast

STEPS = 60
CHANCE = 100 / (planted.WORDS * planted.KINDS)


def learn(task, folder, seed=0, **changes):
    """Train a few dozen steps; return P@1 on the *test* split by text vector ``u`` and by prototype ``z``."""
    config = planted.make_config(
        encoder={"dropout": 0.0},
        optimizer={"lr": 5e-3, "lr_new": 5e-3},
        training={"epochs": 12, "batch_size": 32},
        **changes,
    )
    trainer = planted.make_trainer(task, config, folder, seed=seed)
    trainer.fit()
    assert trainer.total_steps == STEPS
    data = open_inputs(task, config, seed)

    def encode(split):
        return encode_items(
            trainer.model, data.tokens[split], data.images[split], data.gather, lambda: autocast("fp32", trainer.device)
        )

    queries, labels = F.normalize(encode("test"), dim=1), encode("label")
    truth = data.corpus.labels("test")
    return {
        "u": precision_at_1(queries, F.normalize(labels, dim=1), truth),
        "z": precision_at_1(queries, all_prototypes(trainer.model, labels), truth),
    }


@pytest.fixture(scope="module")
def found(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "fused": learn(task, folder / "fused"),
        "text": learn(task, folder / "text", modality="text"),
        "shuffled": learn(task, folder / "shuffled", images={"shuffle": True}),
    }


@pytest.mark.parametrize("vector", ["u", "z"])
def test_image_and_text_beat_text_beats_chance(found, vector):
    assert found["fused"][vector] > 90
    assert 2 * CHANCE < found["text"][vector] < 65, "text alone cannot tell two labels apart"


@pytest.mark.parametrize("vector", ["u", "z"])
def test_shuffled_images_lose_the_gain(found, vector):
    assert found["shuffled"][vector] < 65
