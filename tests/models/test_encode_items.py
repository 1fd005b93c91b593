"""Encoding a whole split: the same vectors however it is sliced."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import N_LABELS, make_items, make_model
from torch.testing import assert_close

import vixml.models.encode as encode_module
from vixml.models.encode import all_prototypes, encode_items, token_budget_slices


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 50))
def test_slices_cover_everything_within_the_budget(lengths, budget):
    slices = list(token_budget_slices(np.array(lengths, dtype=np.int64), budget))
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in slices:
        assert sum(lengths[part]) <= budget or part.stop - part.start == 1
    for a, b in itertools.pairwise(slices):
        assert sum(lengths[a]) + lengths[b.start] > budget, "a slice is as large as fits"


@pytest.fixture
def model(tiny_bert):
    return make_model(tiny_bert)


def test_encodes_without_dropout_in_the_callers_order(model, monkeypatch):
    rng = np.random.default_rng(0)
    items = make_items(rng.integers(1, 9, 20), rng.integers(0, 4, 20))
    expected = model.eval().encode(items.pack())
    model.train()
    counted = []
    whole = encode_items(model, items, "fp32", advance=counted.append)
    assert model.training, "the mode is restored"
    assert not whole.requires_grad and sum(counted) == 20
    assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setitem(encode_module.TOKENS_PER_BATCH, "cpu", 12)
    assert_close(encode_items(model, items, "fp32"), whole, atol=1e-5, rtol=1e-5)


def test_the_next_batch_is_assembled_before_waiting_for_the_device(model, monkeypatch):
    items = make_items([3] * 9, [1] * 9)
    seen, encode, cpu, gather = [], model.encode, torch.Tensor.cpu, items.gather
    monkeypatch.setitem(encode_module.TOKENS_PER_BATCH, "cpu", 12)
    monkeypatch.setattr(model, "encode", lambda packed: (seen.append("compute"), encode(packed))[1])
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (seen.append("wait"), cpu(tensor))[1])
    encode_items(model, replace(items, gather=lambda rows: (seen.append("gather"), gather(rows))[1]), "fp32")
    assert seen == ["gather", *["compute", "gather", "wait"] * 2, "compute", "wait"]


def test_prototypes_of_all_labels_in_pieces(model):
    model.cluster.copy_(torch.arange(N_LABELS) % 3)
    u = torch.randn(N_LABELS, 32)
    whole = all_prototypes(model.train(), u)
    assert model.training
    assert_close(all_prototypes(model, u, chunk=4), whole, atol=1e-5, rtol=1e-5)
    assert_close(whole, model.eval().prototype(u, torch.arange(N_LABELS)).detach(), atol=1e-5, rtol=1e-5)
    assert_close(all_prototypes(model, u[[1, 4]], labels=np.array([1, 4])), whole[[1, 4]], atol=1e-5, rtol=1e-5)
