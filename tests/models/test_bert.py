"""BERT without transformers computes what transformers computes; anything else is left to transformers."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_items, make_model, write_bert, write_distilbert

from vixml.config.run import Encoder
from vixml.files import read_json, write_json
from vixml.models.backbone import Backbone
from vixml.models.bert import Bert

TEXTS = [1, 7, 3, 7, 12, 2, 1, 30]


@pytest.mark.parametrize("train", ["full", "frozen"])
def test_vectors_and_parameters_are_those_of_transformers(tmp_path, train):
    folder = write_bert(tmp_path / "bert", type_vocab_size=3, layer_norm_eps=1e-5)
    items = make_items(TEXTS, [0, 1, 2, 0, 3, 1, 0, 2])
    models = [make_model(folder, encoder={"train": train}).eval() for _ in range(2)]
    models[1].backbone = Backbone(folder, Encoder(train=train), lean=True).eval()
    assert isinstance(models[1].backbone.network, Bert)
    with torch.no_grad():
        expected, found = (model.encode(items.pack(128)) for model in models)
    assert torch.equal(found, expected)
    assert [*models[1].state_dict()] == [*models[0].state_dict()]
    assert [*models[1].learned_state()] == [*models[0].learned_state()]


@pytest.mark.parametrize("change", [{"hidden_act": "gelu_new"}, {"is_decoder": True}, None])
def test_another_network_is_left_to_transformers(tmp_path, change):
    folder = write_distilbert(tmp_path) if change is None else write_bert(tmp_path)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | (change or {}))
    assert not isinstance(Backbone(folder, lean=True).network, Bert)
