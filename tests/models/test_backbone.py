"""Packed encoding equals a padded batch through transformers' own model: vectors and gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plain_encoder
import pytest
import torch
from tiny_models import (
    DECODERS,
    IMAGE_DIM,
    POSITIONS,
    VOCABULARY,
    gradients,
    make_config,
    make_items,
    make_model,
    write_bert,
    write_decoder,
)  # fmt: skip
from torch.testing import assert_close

from vixml.errors import VixmlError
from vixml.models import backbone as backbone_module
from vixml.models.backbone import Backbone
from vixml.models.prompt import Prompt

# (text lengths, image counts): batch of one, one-token texts, no text at all, equal lengths, longer than the positions.
BATCHES = {
    "mixed": ([3, 9, 1, 5, 5, 2, 20], [0, 1, 0, 3, 2, 3, 1]),
    "batch-of-one": ([6], [2]),
    "one-token": ([1, 1, 1], [0, 0, 0]),
    "one-token-alone": ([1], [0]),
    "images-alone": ([0, 4, 0], [1, 0, 3]),
    "more-tokens-than-positions": ([10] * 12, [k % 4 for k in range(12)]),
}
MIXED = make_items(*BATCHES["mixed"])


def encode(model, items, multiple=1):
    return model.encode(items.pack(multiple))


def backward(vectors, weight):
    (vectors * weight).sum().backward()


@pytest.mark.parametrize("name", BATCHES)
def test_equals_the_padded_model(tiny_bert, name):
    model, plain, items = make_model(tiny_bert).eval(), plain_encoder.load(tiny_bert), make_items(*BATCHES[name])
    ours = encode(model, items)
    assert ours.shape == (len(items), 32) and ours.dtype == torch.float32
    assert_close(ours, plain_encoder.encode(plain, items, model.projection), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mixed", "one-token", "more-tokens-than-positions"])
def test_gradients_equal_those_of_the_padded_model(tiny_bert, name):
    model, plain, items = make_model(tiny_bert).eval(), plain_encoder.load(tiny_bert), make_items(*BATCHES[name])
    weight, projection = torch.randn(len(items), 32), torch.nn.Linear(IMAGE_DIM, 32)
    backward(encode(model, items), weight)
    projection.load_state_dict(model.projection.state_dict())
    backward(plain_encoder.encode(plain, items, projection), weight)
    found, expected = gradients(model), {f"backbone.network.{name}": g for name, g in gradients(plain).items()}
    expected |= {f"projection.{name}": g for name, g in gradients(projection).items()}
    assert found.keys() <= expected.keys() and len(expected) > 30
    for name, gradient in expected.items():
        # A token that is alone in its sequence reaches neither query nor key: no gradient here, zeros there.
        ours = found.get(name, torch.zeros_like(gradient))
        assert_close(ours, gradient, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("multiple", [2, 7, 128])
def test_filling_the_stream_up_changes_nothing(tiny_bert, name, multiple):
    items, weight = make_items(*BATCHES[name]), torch.randn(len(BATCHES[name][0]), 32)
    plain, filled = make_model(tiny_bert).eval(), make_model(tiny_bert).eval()
    assert len(items.pack(multiple).gather) % multiple == 0
    expected, ours = encode(plain, items), encode(filled, items, multiple)
    assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    backward(expected, weight)
    backward(ours, weight)
    for parameter, gradient in gradients(plain).items():
        assert_close(filled.get_parameter(parameter).grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BATCHES)
def test_keeping_the_tokens_that_occur_changes_nothing(tiny_bert, name):
    items, weight = make_items(*BATCHES[name]), torch.randn(len(BATCHES[name][0]), 32)
    whole, kept = make_model(tiny_bert).eval(), make_model(tiny_bert).eval()
    used = np.unique(np.append(items.tokens.values, VOCABULARY - 1)).astype(np.int64)
    kept.backbone.keep_tokens(used)
    table = kept.backbone.network.get_input_embeddings().weight
    assert table.shape == (len(used), 32) and kept.backbone.left_out == 32 * (VOCABULARY - len(used))
    expected, ours = encode(whole, items), encode(kept, items)
    assert torch.equal(ours, expected)
    backward(expected, weight)
    backward(ours, weight)
    all_rows = whole.backbone.network.get_input_embeddings().weight.grad
    if len(items.tokens.values):
        assert torch.equal(table.grad, all_rows[torch.from_numpy(used)])
    unused = torch.from_numpy(np.setdiff1d(np.arange(VOCABULARY), used))
    assert not all_rows[unused].any(), "dropped embeddings had no gradient"
    with pytest.raises(IndexError):
        kept.backbone.embed_tokens(unused[:1])


def run(backbone, packed):
    """Return the vectors of a stream, and the stream, a leaf."""
    stream = backbone.embed_tokens(torch.from_numpy(packed.token_ids))[torch.from_numpy(packed.gather)]
    if not backbone.training:
        stream = stream.detach().requires_grad_()
    vectors = backbone(stream, torch.from_numpy(packed.position_ids), packed.blocks.tolist(), packed.prefix)
    return vectors[packed.restore], stream


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("family", DECODERS)
def test_filled_up_rows_equal_blocks(tmp_path, monkeypatch, family, prefix, train):
    """The way of a GPU, on a processor: vectors and gradients of a decoder with and without words in front."""
    folder = write_decoder(tmp_path, family)
    prompt = Prompt((((5, 6),) if prefix else ()) + ("text", (3,)), causal=True)
    packed = make_items([1, 7, 3, 7, 12, 2, 1, 35], prompt=prompt, seed=3).pack(8)
    assert packed.prefix == prefix
    weight, found = torch.randn(8, 32), []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(backbone_module, "FILLED_UP", devices)
        torch.manual_seed(0)
        model = Backbone(folder, make_config(encoder={"train": train, "lora": {"r": 4}}).encoder).eval()
        vectors, stream = run(model, packed)
        backward(vectors, weight)
        found.append([vectors.detach(), stream.grad, *gradients(model).values()])
    assert len(found[0]) == len(found[1]) > 10
    for blocks, rows in zip(*found, strict=True):
        assert_close(rows, blocks, atol=1e-5 * float(blocks.abs().max()), rtol=1e-4)


def test_items_without_images_have_their_text_vector(tiny_bert):
    model = make_model(tiny_bert).eval()
    fused, text = encode(model, MIXED), encode(model, replace(MIXED, images=None))
    without = MIXED.images.lengths == 0
    assert_close(fused[without], text[without], atol=1e-6, rtol=1e-6)
    assert (fused[~without] - text[~without]).abs().amax(dim=1).min() > 1e-3


def test_a_vector_does_not_depend_on_the_batch(tiny_bert):
    model = make_model(tiny_bert).eval()
    together = encode(model, MIXED)
    for i in range(len(MIXED)):
        assert_close(encode(model, MIXED.take([i]))[0], together[i], atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(len(MIXED))
    assert_close(encode(model, MIXED.take(order)), together[order], atol=1e-5, rtol=1e-5)


def test_the_order_of_images_counts(tiny_bert):
    """Each image has a position."""
    model, items = make_model(tiny_bert).eval(), make_items(*BATCHES["batch-of-one"])
    items.images.values[:] = [1, 2]
    first = encode(model, items)
    items.images.values[:] = [2, 1]
    assert (encode(model, items) - first).abs().max() > 1e-4


def test_dropout_follows_the_mode_and_the_config(tiny_bert):
    model = make_model(tiny_bert).train()
    assert not torch.equal(encode(model, MIXED), encode(model, MIXED))
    model.eval()
    reference = encode(model, MIXED)
    assert torch.equal(encode(model, MIXED), reference)
    without = make_model(tiny_bert, encoder={"dropout": 0.0}).train()
    assert_close(encode(without, MIXED), reference, atol=1e-6, rtol=1e-6)


def test_attention_dropout_is_applied(tmp_path):
    model = make_model(write_bert(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)).train()
    assert not torch.equal(encode(model, MIXED), encode(model, MIXED))


def test_a_frozen_encoder_stays_deterministic_and_has_no_gradients(tiny_bert):
    model = make_model(tiny_bert, encoder={"train": "frozen"}).train()
    vectors = encode(model, MIXED)
    assert torch.equal(vectors, encode(model, MIXED))
    vectors.sum().backward()
    assert not gradients(model.backbone) and model.projection.weight.grad.abs().sum() > 0


def test_refuses_texts_beyond_the_positions(tiny_bert):
    with pytest.raises(VixmlError, match="longer than the language model's positions") as caught:
        make_model(tiny_bert, encoder={"max_len": POSITIONS - 2})
    assert caught.value.found == POSITIONS + 1
    make_model(tiny_bert, encoder={"max_len": POSITIONS - 3})
    make_model(tiny_bert, encoder={"max_len": POSITIONS}, image_dim=None)


def test_refuses_images_for_a_text_model(tiny_bert):
    with pytest.raises(ValueError, match="text only"):
        encode(make_model(tiny_bert, image_dim=None), MIXED)


def test_refuses_a_folder_without_weights(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VixmlError, match="no weights"):
        Backbone(tmp_path)
