"""Prompts: every template of Tables 6 and 11, both poolings, encoders and decoders, against a plain padded batch."""

from __future__ import annotations

import numpy as np
import plain_encoder
import pytest
import torch
from tiny_models import DECODERS, VOCABULARY, random_lists, write_bert, write_decoder, write_distilbert

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.models.packing import pack
from vixml.models.prompt import Prompt, make_prompt
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged

N_IMAGES, IMAGE_DIM, EOS = 7, 11, 59
WORDS = ["This product text", "and its text", "This product image", "and its image", "means in one word:"]
TABLE_6 = {
    "E": "{text}",
    "T1+E": "This product text {text}",
    "T1+E+EOS": "This product text {text}{eos}",
    "V+E+EOS": "{images}{text}{eos}",
    "E+V+EOS": "{text}{images}{eos}",
    "I1+V+T2+E+EOS": "This product image {images} and its text {text}{eos}",
    "T1+E+I2+V+EOS": "This product text {text} and its image {images}{eos}",
}
TABLE_11 = {
    "sentence": "This sentence text {text}{eos}",
    "one word": "This product text {text} means in one word:{eos}",
    "description": "The description of a product is: {text}{eos}",
}
TEMPLATES = TABLE_6 | TABLE_11
COUNTS = {"none": [0] * 6, "mixed": [0, 1, 2, 3, 1, 0], "three": [3] * 6}


def tokenize(pieces):
    """Give each word an id of its own, below the end token."""
    return [[3 + sum(map(ord, word)) % 50 for word in piece.split()] for piece in pieces]


def make_model(folder, prompt, image_dim=IMAGE_DIM, **encoder):
    torch.manual_seed(0)
    config = RunConfig.model_validate(
        {"prototype": {"heads": 4, "feedforward": 16, "free_vectors": 4}, "encoder": {"max_len": 12, **encoder}}
    )
    return Siamese(config, folder, n_labels=6, image_dim=image_dim, prompt=prompt).eval()


def make_batch(counts, lengths=(3, 9, 1, 5, 5, 2), seed=0):
    rng = np.random.default_rng(seed)
    tokens = random_lists(rng, list(lengths), VOCABULARY)
    images = random_lists(rng, counts[: len(lengths)], N_IMAGES, low=0)
    embeddings = torch.from_numpy(rng.standard_normal((N_IMAGES, IMAGE_DIM)).astype(np.float32))
    return tokens, images, embeddings


def encode(model, tokens, images, embeddings, prompt):
    packed = pack(tokens, images, prompt)
    return model.encode(packed, embeddings[packed.image_rows])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    found = {family: write_decoder(root / family, family) for family in DECODERS}
    return found | {"bert": write_bert(root / "bert"), "distilbert": write_distilbert(root / "distilbert")}


def check(folder, causal, template, counts, pooling, gradients=False):
    prompt = make_prompt(template, tokenize, causal=causal, bos=[1] if causal else [], eos=EOS)
    model, plain = make_model(folder, prompt, pooling=pooling), plain_encoder.load(folder)
    tokens, images, embeddings = make_batch(counts)
    for rows in (np.arange(6), np.array([2])):  # the batch, and a batch of one
        ours = encode(model, tokens.take(rows), images.take(rows), embeddings, prompt)
        expected = plain_encoder.encode(
            plain, tokens.take(rows), images.take(rows), model.projection, embeddings, prompt.pieces, pooling
        )
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        if gradients:
            weight = torch.randn_like(ours)
            (ours * weight).sum().backward()
            own = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            model.zero_grad()
            (expected * weight).sum().backward()
            theirs = {f"backbone.network.{name}": p.grad for name, p in plain.named_parameters() if p.grad is not None}
            theirs |= {f"projection.{n}": p.grad for n, p in model.projection.named_parameters() if p.grad is not None}
            assert set(own) == set(theirs)
            for name, gradient in own.items():
                torch.testing.assert_close(gradient, theirs[name], atol=3e-5, rtol=2e-4, msg=lambda m, n=name: n + m)
            model.zero_grad()
            plain.zero_grad()


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_every_template_equals_the_padded_model(folders, template, pooling):
    for counts in COUNTS.values():
        check(folders["qwen2"], True, template, counts, pooling)


@pytest.mark.parametrize("name", [*DECODERS, "bert", "distilbert"])
def test_every_architecture_equals_the_padded_model(folders, name):
    for template in (TABLE_6["T1+E+I2+V+EOS"], TABLE_6["V+E+EOS"]):
        for pooling in ("mean", "last"):
            check(folders[name], name in DECODERS, template, COUNTS["mixed"], pooling)


@pytest.mark.parametrize("template", [TABLE_6["T1+E+I2+V+EOS"], TABLE_6["I1+V+T2+E+EOS"]])
def test_gradients_equal_those_of_the_padded_model(folders, template):
    check(folders["llama"], True, template, COUNTS["mixed"], "mean", gradients=True)


def test_leading_words_are_computed_once(folders):
    prompt = make_prompt(TABLE_6["T1+E+EOS"], tokenize, causal=True, eos=EOS)
    tokens, _, _ = make_batch(COUNTS["none"])
    packed = pack(tokens, None, prompt)
    assert packed.prefix == 3 and len(packed.gather) == 3 + len(tokens.values) + len(tokens)
    # An encoder's words see the text behind them, so nothing is shared.
    assert pack(tokens, None, make_prompt(TABLE_6["T1+E+EOS"], tokenize, causal=False, eos=EOS)).prefix == 0


@pytest.mark.parametrize("template", [TABLE_6["T1+E+EOS"], TABLE_6["I1+V+T2+E+EOS"]])
def test_filling_the_stream_up_changes_nothing(folders, template):
    """Also behind words that stand once for all sequences."""
    prompt = make_prompt(template, tokenize, causal=True, eos=EOS)
    tokens, _, _ = make_batch(COUNTS["none"])
    model = make_model(folders["llama"], prompt, image_dim=None).eval()
    filled = pack(tokens, None, prompt, multiple=64)
    assert filled.prefix == len(prompt.leading) > 0 and len(filled.gather) % 64 == 0
    torch.testing.assert_close(model.encode(filled), model.encode(pack(tokens, None, prompt)), atol=1e-5, rtol=1e-5)


def test_an_item_without_text_has_a_vector_too(folders):
    prompt = make_prompt("This product text {text}", tokenize, causal=True)
    tokens = Ragged.from_rows([[], [5, 6]], VOCABULARY)
    model, plain = make_model(folders["llama"], prompt, image_dim=None), plain_encoder.load(folders["llama"])
    expected = plain_encoder.encode(plain, tokens, pieces=prompt.pieces)
    torch.testing.assert_close(model.encode(pack(tokens, None, prompt)), expected, atol=1e-5, rtol=1e-5)


def test_a_vector_does_not_depend_on_the_batch(folders):
    for name, causal in (("qwen2", True), ("bert", False)):
        prompt = make_prompt(TABLE_6["T1+E+I2+V+EOS"], tokenize, causal=causal, eos=EOS)
        model = make_model(folders[name], prompt)
        tokens, images, embeddings = make_batch(COUNTS["mixed"])
        together = encode(model, tokens, images, embeddings, prompt)
        for i in range(len(tokens)):
            alone = encode(model, tokens.take([i]), images.take([i]), embeddings, prompt)
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


def test_words_stand_in_their_order_and_blanks_do_not_count():
    first = make_prompt(
        "  This product text {text} and its image {images} {eos}", tokenize, causal=True, bos=[1], eos=2
    )
    again = make_prompt("This product text{text}and its image{images}{eos}", tokenize, causal=True, bos=[1], eos=2)
    t, i = tokenize(["This product text", "and its image"])
    assert first == again == Prompt(((1, *t), "text", tuple(i), "images", (2,)), causal=True)
    assert first.leading == (1, *t) and first.words == (1, *t, *i, 2)


def test_the_first_token_in_front_of_each_piece():
    """As tokenizers of Llama and Gemma do it piece by piece, the text included; images are no piece of text."""
    t, i = tokenize(["This product text", "and its image"])

    def pieces(template, **changes):
        return make_prompt(template, tokenize, causal=True, bos=[1], eos=2, each_piece=True, **changes).pieces

    assert pieces("This product text {text} and its image {images}{eos}") == (
        (1, *t, 1), "text", (1, *i), "images", (1, 2)
    )  # fmt: skip
    assert pieces("{images}{text}{eos}") == ("images", (1,), "text", (1, 2))
    assert pieces("{text}") == ((1,), "text")
    assert pieces("{text} and its image{eos}") == ((1,), "text", (1, *i, 2)), "a suffix is one piece"
    without = make_prompt("This product text {text}{eos}", tokenize, causal=True, eos=2, each_piece=True)
    assert without == make_prompt("This product text {text}{eos}", tokenize, causal=True, eos=2), "Qwen has none"


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_a_text_at_a_fixed_position_equals_the_official_layout(folders, name):
    """Three image slots in every item, those without an image masked out, then the text; default position ids."""
    prompt = Prompt(image_positions=3)
    model, plain = make_model(folders[name], prompt), plain_encoder.load(folders[name])
    tokens, images, embeddings = make_batch(COUNTS["mixed"])
    words = torch.zeros(6, 9, dtype=torch.int64)
    mask, slots = torch.zeros(6, 12, dtype=torch.int64), torch.zeros(6, 3, IMAGE_DIM)
    for i in range(6):
        words[i, : len(tokens.row(i))] = torch.from_numpy(tokens.row(i))
        slots[i, : len(images.row(i))] = embeddings[images.row(i)]
        mask[i, : len(images.row(i))] = 1
        mask[i, 3 : 3 + len(tokens.row(i))] = 1
    inputs = torch.cat([model.projection(slots), plain.get_input_embeddings()(words)], dim=1)
    hidden = plain(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
    expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    ours = encode(model, tokens, images, embeddings, prompt)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    own = encode(model, tokens, images, embeddings, Prompt())
    differ = (own - ours).abs().amax(1) > 1e-4
    assert differ.tolist() == [count < 3 for count in COUNTS["mixed"]], "only where an image is missing"


def test_images_first_have_no_leading_words_without_a_first_token():
    assert make_prompt("{images}{text}{eos}", tokenize, causal=True, eos=2).leading == ()
    assert make_prompt("{images}{text}{eos}", tokenize, causal=True, bos=[1], eos=2).leading == (1,)


def test_refuses_an_end_token_that_the_tokenizer_lacks():
    with pytest.raises(ValueError, match="names no end token"):
        make_prompt("{text}{eos}", tokenize, causal=True)


def test_refuses_tokens_made_for_another_kind_of_model(folders):
    with pytest.raises(VixmlError, match="another kind of language model") as caught:
        make_model(folders["qwen2"], Prompt())
    assert caught.value.found == "bidirectional"
    with pytest.raises(VixmlError, match="another kind of language model"):
        make_model(folders["bert"], Prompt(causal=True))


def test_layers_beyond_the_first_are_left_out_and_the_norm_is_kept(folders):
    prompt = make_prompt("{text}", tokenize, causal=True)
    one, both = (make_model(folders["llama"], prompt, None, layers=n) for n in (1, None))
    plain = plain_encoder.load(folders["llama"])
    plain.layers = plain.layers[:1]
    tokens, _, _ = make_batch(COUNTS["none"])
    expected = plain_encoder.encode(plain, tokens, pieces=prompt.pieces)
    torch.testing.assert_close(one.encode(pack(tokens, None, prompt)), expected, atol=1e-5, rtol=1e-5)
    assert (both.encode(pack(tokens, None, prompt)) - expected).abs().max() > 1e-2
    with pytest.raises(VixmlError, match="more layers are wanted"):
        make_model(folders["llama"], prompt, None, layers=3)


def test_gradient_checkpointing_changes_no_gradient(folders):
    prompt = make_prompt(TABLE_6["T1+E+EOS"], tokenize, causal=True, eos=EOS)
    tokens, _, _ = make_batch(COUNTS["none"])
    grads = []
    for on in (False, True):
        model = make_model(folders["qwen2"], prompt, None, gradient_checkpointing=on).train()
        model.encode(pack(tokens, None, prompt)).square().sum().backward()
        grads.append([p.grad for p in model.backbone.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 10
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
