"""Packed encoding equals a padded batch through transformers' own model: vectors and gradients."""

from __future__ import annotations

import numpy as np
import plain_encoder
import pytest
import torch
from tiny_models import DECODERS, POSITIONS, VOCABULARY, random_lists, write_bert, write_decoder

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models import backbone as backbone_module
from vixml.models.backbone import Backbone
from vixml.models.packing import pack
from vixml.models.prompt import Prompt
from vixml.models.siamese import Siamese

N_IMAGES, IMAGE_DIM = 7, 11
# (text lengths, image counts): batch of one, one-token texts, no text at all, equal lengths, longer than the positions.
BATCHES = {
    "mixed": ([3, 9, 1, 5, 5, 2, 20], [0, 1, 0, 3, 2, 3, 1]),
    "batch-of-one": ([6], [2]),
    "one-token": ([1, 1, 1], [0, 0, 0]),
    "one-token-alone": ([1], [0]),
    "images-alone": ([0, 4, 0], [1, 0, 3]),
    "more-tokens-than-positions": ([10] * 12, [k % 4 for k in range(12)]),
}


def make_config(**changes):
    return RunConfig.model_validate({"prototype": {"heads": 4, "feedforward": 16, "free_vectors": 4}, **changes})


def make_model(folder, seed=0, image_dim=IMAGE_DIM, **changes):
    torch.manual_seed(seed)
    return Siamese(make_config(**changes), folder, n_labels=6, image_dim=image_dim)


def make_batch(name, seed=0):
    texts, counts = BATCHES[name]
    rng = np.random.default_rng(seed)
    tokens, images = random_lists(rng, texts, VOCABULARY), random_lists(rng, counts, N_IMAGES, low=0)
    embeddings = torch.from_numpy(rng.standard_normal((N_IMAGES, IMAGE_DIM)).astype(np.float32))
    return tokens, images, embeddings


def encode(model, tokens, images=None, embeddings=None, multiple=1):
    packed = pack(tokens, images, multiple=multiple)
    return model.encode(packed, embeddings[packed.image_rows] if embeddings is not None else None)


@pytest.mark.parametrize("name", BATCHES)
def test_equals_the_padded_model(tiny_bert, name):
    model, plain = make_model(tiny_bert).eval(), plain_encoder.load(tiny_bert)
    tokens, images, embeddings = make_batch(name)
    ours = encode(model, tokens, images, embeddings)
    expected = plain_encoder.encode(plain, tokens, images, model.projection, embeddings)
    assert ours.shape == (len(tokens), 32) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mixed", "one-token", "more-tokens-than-positions"])
def test_gradients_equal_those_of_the_padded_model(tiny_bert, name):
    model, plain = make_model(tiny_bert).eval(), plain_encoder.load(tiny_bert)
    tokens, images, embeddings = make_batch(name)
    weight = torch.randn(len(tokens), 32)
    (encode(model, tokens, images, embeddings) * weight).sum().backward()
    projection = torch.nn.Linear(IMAGE_DIM, 32)
    projection.load_state_dict(model.projection.state_dict())
    (plain_encoder.encode(plain, tokens, images, projection, embeddings) * weight).sum().backward()
    expected = dict(plain.named_parameters())
    compared = 0
    for parameter_name, parameter in model.backbone.network.named_parameters():
        if expected[parameter_name].grad is None and parameter.grad is None:
            continue
        # A token that stands alone reaches neither query nor key: no gradient here, zeros there.
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            ours, expected[parameter_name].grad, atol=2e-5, rtol=1e-4, msg=lambda m, p=parameter_name: p + m
        )
        compared += 1
    assert compared > 30
    if projection.weight.grad is not None:
        torch.testing.assert_close(model.projection.weight.grad, projection.weight.grad, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model.projection.bias.grad, projection.bias.grad, atol=2e-5, rtol=1e-4)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("multiple", [2, 7, 128])
def test_filling_the_stream_up_changes_nothing(tiny_bert, name, multiple):
    tokens, images, embeddings = make_batch(name)
    weight = torch.randn(len(tokens), 32)
    plain, filled = make_model(tiny_bert).eval(), make_model(tiny_bert).eval()
    assert len(pack(tokens, images, multiple=multiple).gather) % multiple == 0
    expected, ours = encode(plain, tokens, images, embeddings), encode(filled, tokens, images, embeddings, multiple)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    (expected * weight).sum().backward()
    (ours * weight).sum().backward()
    for parameter, gradient in gradients(plain).items():
        torch.testing.assert_close(filled.get_parameter(parameter).grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BATCHES)
def test_keeping_the_words_that_occur_changes_nothing(tiny_bert, name):
    tokens, images, embeddings = make_batch(name)
    weight = torch.randn(len(tokens), 32)
    whole, kept = make_model(tiny_bert).eval(), make_model(tiny_bert).eval()
    words = np.unique(np.append(tokens.values, VOCABULARY - 1)).astype(np.int64)
    kept.backbone.keep_tokens(words)
    table = kept.backbone.network.get_input_embeddings().weight
    assert table.shape == (len(words), 32) and kept.backbone.left_out == 32 * (VOCABULARY - len(words))
    expected, ours = encode(whole, tokens, images, embeddings), encode(kept, tokens, images, embeddings)
    assert torch.equal(ours, expected)
    (expected * weight).sum().backward()
    (ours * weight).sum().backward()
    all_rows = whole.backbone.network.get_input_embeddings().weight.grad
    if len(tokens.values):
        assert torch.equal(table.grad, all_rows[torch.from_numpy(words)])
    unused = np.setdiff1d(np.arange(VOCABULARY), words)
    assert not all_rows[torch.from_numpy(unused)].any(), "what was dropped had no gradient"
    with pytest.raises(IndexError):
        kept.backbone.embed_tokens(torch.from_numpy(unused[:1]))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_causal_decoders_equal_the_padded_model(tmp_path, family):
    folder = write_decoder(tmp_path, family)
    backbone, plain = Backbone(folder).eval(), plain_encoder.load(folder)
    tokens = random_lists(np.random.default_rng(3), [1, 7, 3, 7, 12, 2, 1, 30], VOCABULARY)
    packed = pack(tokens)
    weight = torch.randn(len(tokens), 32)
    stream = backbone.embed_tokens(torch.from_numpy(packed.token_ids))[torch.from_numpy(packed.gather)]
    ours = backbone(stream, torch.from_numpy(packed.position_ids), packed.blocks.tolist())[packed.restore]
    expected = plain_encoder.encode(plain, tokens)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, a), (_, b) in zip(backbone.network.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=1e-4, msg=lambda m, p=name: p + m)


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("family", DECODERS)
def test_filled_up_rows_equal_blocks(tmp_path, monkeypatch, family, prefix, train):
    """What a GPU does, on a processor: vectors and gradients of a decoder with and without words in front."""
    folder = write_decoder(tmp_path, family)
    tokens = random_lists(np.random.default_rng(3), [1, 7, 3, 7, 12, 2, 1, 35], VOCABULARY)
    prompt = Prompt((((5, 6),) if prefix else ()) + ("text", (3,)), causal=True)
    packed = pack(tokens, None, prompt, multiple=8)
    assert packed.prefix == prefix
    weight = torch.randn(len(tokens), 32)
    found = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(backbone_module, "FILLED_UP", devices)
        torch.manual_seed(0)
        model = Backbone(folder, make_config(encoder={"train": train, "lora": {"r": 4}}).encoder).eval()
        stream = model.embed_tokens(torch.from_numpy(packed.token_ids))[torch.from_numpy(packed.gather)].detach()
        stream.requires_grad_()
        vectors = model(stream, torch.from_numpy(packed.position_ids), packed.blocks.tolist(), packed.prefix)
        vectors = vectors[packed.restore]
        (vectors * weight).sum().backward()
        found.append([vectors.detach(), stream.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for blocks, rows in zip(*found, strict=True):
        torch.testing.assert_close(rows, blocks, atol=1e-5 * float(blocks.abs().max()), rtol=1e-4)


def test_items_without_images_have_their_text_vector(tiny_bert):
    model = make_model(tiny_bert).eval()
    tokens, images, embeddings = make_batch("mixed")
    fused, text = encode(model, tokens, images, embeddings), encode(model, tokens)
    without = images.lengths == 0
    torch.testing.assert_close(fused[without], text[without], atol=1e-6, rtol=1e-6)
    assert (fused[~without] - text[~without]).abs().amax(dim=1).min() > 1e-3


def test_a_vector_does_not_depend_on_the_batch(tiny_bert):
    model = make_model(tiny_bert).eval()
    tokens, images, embeddings = make_batch("mixed")
    together = encode(model, tokens, images, embeddings)
    for i in range(len(tokens)):
        alone = encode(model, tokens.take([i]), images.take([i]), embeddings)
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(len(tokens))
    shuffled = encode(model, tokens.take(order), images.take(order), embeddings)
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-5)


def test_the_order_of_images_counts(tiny_bert):
    """Images have positions of their own."""
    model = make_model(tiny_bert).eval()
    tokens, images, embeddings = make_batch("batch-of-one")
    images.values[:] = [1, 2]
    first = encode(model, tokens, images, embeddings)
    images.values[:] = [2, 1]
    assert (encode(model, tokens, images, embeddings) - first).abs().max() > 1e-4


def test_dropout_follows_the_mode_and_the_config(tiny_bert):
    tokens, images, embeddings = make_batch("mixed")
    model = make_model(tiny_bert).train()
    assert not torch.equal(encode(model, tokens, images, embeddings), encode(model, tokens, images, embeddings))
    model.eval()
    reference = encode(model, tokens, images, embeddings)
    assert torch.equal(encode(model, tokens, images, embeddings), reference)
    without = make_model(tiny_bert, encoder={"dropout": 0.0}).train()
    torch.testing.assert_close(encode(without, tokens, images, embeddings), reference, atol=1e-6, rtol=1e-6)


def test_attention_dropout_is_applied(tmp_path):
    folder = write_bert(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    tokens, images, embeddings = make_batch("mixed")
    model = make_model(folder).train()
    assert not torch.equal(encode(model, tokens, images, embeddings), encode(model, tokens, images, embeddings))


def test_a_frozen_encoder_stays_deterministic_and_has_no_gradients(tiny_bert):
    model = make_model(tiny_bert, encoder={"train": "frozen"}).train()
    tokens, images, embeddings = make_batch("mixed")
    vectors = encode(model, tokens, images, embeddings)
    assert torch.equal(vectors, encode(model, tokens, images, embeddings))
    vectors.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.projection.weight.grad.abs().sum() > 0


def test_refuses_texts_beyond_the_positions(tiny_bert):
    with pytest.raises(VixmlError, match="longer than the language model's positions") as caught:
        make_model(tiny_bert, encoder={"max_len": POSITIONS - 2})
    assert caught.value.found == POSITIONS + 1
    make_model(tiny_bert, encoder={"max_len": POSITIONS - 3})
    make_model(tiny_bert, encoder={"max_len": POSITIONS}, image_dim=None)


def test_refuses_images_for_a_text_model(tiny_bert):
    tokens, images, embeddings = make_batch("mixed")
    with pytest.raises(ValueError, match="text only"):
        encode(make_model(tiny_bert, image_dim=None), tokens, images, embeddings)


def test_refuses_a_folder_without_weights(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VixmlError, match="holds no weights"):
        Backbone(tmp_path)
