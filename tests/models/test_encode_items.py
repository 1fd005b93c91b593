"""Encoding a whole split: the same vectors however it is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VOCABULARY, random_lists

import vixml.models.encode as encode_module
from vixml.config.run import RunConfig
from vixml.models.encode import all_prototypes, encode_items, token_budget_slices
from vixml.models.packing import pack
from vixml.models.siamese import Siamese
from vixml.runtime import autocast


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 50))
def test_slices_cover_everything_within_the_budget(lengths, budget):
    slices = list(token_budget_slices(np.array(lengths, dtype=np.int64), budget))
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in slices:
        assert sum(lengths[part]) <= budget or part.stop - part.start == 1
    for a, b in itertools.pairwise(slices):
        assert sum(lengths[a]) + lengths[b.start] > budget, "a slice holds all that fits"


@pytest.fixture
def model(tiny_bert):
    torch.manual_seed(0)
    config = RunConfig.model_validate({"prototype": {"heads": 4, "feedforward": 16, "free_vectors": 3}})
    return Siamese(config, tiny_bert, n_labels=20, image_dim=6)


def fp32():
    return autocast("fp32", torch.device("cpu"))


def test_encodes_without_dropout_in_the_callers_order(model, monkeypatch):
    rng = np.random.default_rng(0)
    tokens = random_lists(rng, rng.integers(1, 9, 20).tolist(), VOCABULARY)
    images = random_lists(rng, rng.integers(0, 4, 20).tolist(), 8, low=0)
    embeddings = rng.standard_normal((8, 6)).astype(np.float32)
    packed = pack(tokens, images)
    expected = model.eval().encode(packed, embeddings[packed.image_rows])
    model.train()
    told = []
    whole = encode_items(model, tokens, images, lambda rows: embeddings[rows], fp32, told.append)
    assert model.training, "the mode is given back"
    assert not whole.requires_grad and sum(told) == 20
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setitem(encode_module.TOKENS_PER_BATCH, "cpu", 12)
    cut = encode_items(model, tokens, images, lambda rows: embeddings[rows], fp32)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)


def test_a_device_is_waited_for_only_once_the_next_batch_lies_ready(model, monkeypatch):
    rng = np.random.default_rng(0)
    tokens = random_lists(rng, [3] * 9, VOCABULARY)
    images = random_lists(rng, [1] * 9, 8, low=0)
    seen, encode, cpu = [], model.encode, torch.Tensor.cpu
    monkeypatch.setitem(encode_module.TOKENS_PER_BATCH, "cpu", 12)
    monkeypatch.setattr(model, "encode", lambda *given: (seen.append("compute"), encode(*given))[1])
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (seen.append("wait"), cpu(tensor))[1])

    def gather(rows):
        seen.append("gather")
        return np.zeros((len(rows), 6), np.float32)

    encode_items(model, tokens, images, gather, fp32)
    assert seen == ["gather", *["compute", "gather", "wait"] * 2, "compute", "wait"]


def test_prototypes_of_all_labels_in_pieces(model):
    model.cluster.copy_(torch.arange(20) % 3)
    u = torch.randn(20, 32)
    model.train()
    whole = all_prototypes(model, u)
    assert model.training
    torch.testing.assert_close(all_prototypes(model, u, chunk=7), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, model.eval().prototype(u, torch.arange(20)).detach(), atol=1e-5, rtol=1e-5)
