"""Prompts: every template of Tables 6 and 11, both poolings, encoders and decoders, against a plain padded batch."""

from __future__ import annotations

import plain_encoder
import pytest
import torch
from tiny_models import DECODERS, IMAGE_DIM, gradients, make_items, write_bert, write_decoder, write_distilbert
from tiny_models import make_model as make_tiny_model
from torch.testing import assert_close

from vixml.errors import VixmlError
from vixml.models.prompt import Prompt, make_prompt

EOS = 59
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
LENGTHS = [3, 9, 1, 5, 5, 2]


def tokenize(pieces):
    """Give each word an id below the end token."""
    return [[3 + sum(map(ord, word)) % 50 for word in piece.split()] for piece in pieces]


def prompt_of(template, causal=True, **special):
    return make_prompt(template, tokenize, causal=causal, **{"eos": EOS} | special)


def make_model(folder, prompt, image_dim=IMAGE_DIM, **encoder):
    return make_tiny_model(folder, prompt, image_dim, encoder={"max_len": 12, **encoder}).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    found = {family: write_decoder(root / family, family) for family in DECODERS}
    return found | {"bert": write_bert(root / "bert"), "distilbert": write_distilbert(root / "distilbert")}


def check(folder, causal, template, counts, pooling):
    """Compare with the padded model, a batch and a batch of one; return both models and the batch's vectors."""
    prompt = prompt_of(template, causal, bos=[1] if causal else [])
    model, plain = make_model(folder, prompt, pooling=pooling), plain_encoder.load(folder)
    for rows in ([2], range(6)):
        items = make_items(LENGTHS, counts, prompt).take(list(rows))
        ours, expected = model.encode(items.pack()), plain_encoder.encode(plain, items, model.projection, pooling)
        assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    return model, plain, ours, expected


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


@pytest.mark.parametrize("name", ["qwen2", "llama"])
@pytest.mark.parametrize("template", [TABLE_6["T1+E+I2+V+EOS"], TABLE_6["I1+V+T2+E+EOS"]])
def test_gradients_equal_those_of_the_padded_model(folders, name, template):
    model, plain, ours, expected = check(folders[name], True, template, COUNTS["mixed"], "mean")
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    found = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    (expected * weight).sum().backward()
    theirs = {f"backbone.network.{name}": gradient for name, gradient in gradients(plain).items()} | gradients(model)
    assert found.keys() == theirs.keys()
    for name, gradient in found.items():
        assert_close(gradient, theirs[name], atol=3e-5, rtol=2e-4, msg=lambda m, n=name: n + m)


def test_leading_words_are_computed_once():
    items = make_items(LENGTHS, prompt=prompt_of(TABLE_6["T1+E+EOS"]))
    packed = items.pack()
    assert packed.prefix == 3 and len(packed.gather) == 3 + len(items.tokens.values) + len(items)
    # An encoder's words see the text behind them, so nothing is shared.
    assert make_items(LENGTHS, prompt=prompt_of(TABLE_6["T1+E+EOS"], causal=False)).pack().prefix == 0


@pytest.mark.parametrize("template", [TABLE_6["T1+E+EOS"], TABLE_6["I1+V+T2+E+EOS"]])
def test_filling_the_stream_up_changes_nothing(folders, template):
    """Also behind words that all sequences share."""
    items = make_items(LENGTHS, prompt=prompt_of(template))
    model, filled = make_model(folders["llama"], items.prompt, image_dim=None), items.pack(64)
    assert filled.prefix == len(items.prompt.leading) > 0 and len(filled.gather) % 64 == 0
    assert_close(model.encode(filled), model.encode(items.pack()), atol=1e-5, rtol=1e-5)


def test_an_item_without_text_has_a_vector_too(folders):
    items = make_items([0, 2], prompt=prompt_of("This product text {text}"))
    model, plain = make_model(folders["llama"], items.prompt, image_dim=None), plain_encoder.load(folders["llama"])
    assert_close(model.encode(items.pack()), plain_encoder.encode(plain, items), atol=1e-5, rtol=1e-5)


def test_words_keep_their_order_and_blanks_do_not_count():
    first = prompt_of("  This product text {text} and its image {images} {eos}", bos=[1], eos=2)
    t, i = tokenize(["This product text", "and its image"])
    assert first == prompt_of("This product text{text}and its image{images}{eos}", bos=[1], eos=2)
    assert first == Prompt(((1, *t), "text", tuple(i), "images", (2,)), causal=True)
    assert first.leading == (1, *t) and first.token_ids == (1, *t, *i, 2)


def test_the_first_token_in_front_of_each_piece():
    """As tokenizers of Llama and Gemma do it piece by piece, the text included; images are no piece of text."""
    t, i = tokenize(["This product text", "and its image"])

    def pieces(template, bos=(1,)):
        return prompt_of(template, bos=bos, eos=2, each_piece=True).pieces

    assert pieces("This product text {text} and its image {images}{eos}") == (
        (1, *t, 1), "text", (1, *i), "images", (1, 2)
    )  # fmt: skip
    assert pieces("{images}{text}{eos}") == ("images", (1,), "text", (1, 2))
    assert pieces("{text}") == ((1,), "text")
    assert pieces("{text} and its image{eos}") == ((1,), "text", (1, *i, 2)), "a suffix is one piece"
    template = "This product text {text}{eos}"
    assert pieces(template, bos=()) == prompt_of(template, eos=2).pieces, "Qwen has none"


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_a_text_at_a_fixed_position_equals_the_official_layout(folders, name):
    """Three image slots in every item, those without an image masked out, then the text; default position ids."""
    items = make_items(LENGTHS, COUNTS["mixed"], Prompt(image_positions=3))
    model, plain = make_model(folders[name], items.prompt), plain_encoder.load(folders[name])
    words = torch.zeros(6, 9, dtype=torch.int64)
    mask, slots = torch.zeros(6, 12, dtype=torch.int64), torch.zeros(6, 3, IMAGE_DIM)
    for i in range(6):
        text, images = torch.from_numpy(items.tokens.row(i)), torch.from_numpy(items.gather(items.images.row(i)))
        words[i, : len(text)], slots[i, : len(images)] = text, images
        mask[i, : len(images)] = mask[i, 3 : 3 + len(text)] = 1
    inputs = torch.cat([model.projection(slots), plain.get_input_embeddings()(words)], dim=1)
    hidden = plain(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
    expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    ours = model.encode(items.pack())
    assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    moving = model.encode(make_items(LENGTHS, COUNTS["mixed"]).pack())
    differ = (moving - ours).abs().amax(1) > 1e-4
    assert differ.tolist() == [count < 3 for count in COUNTS["mixed"]], "only where an image is missing"


def test_images_first_have_no_leading_words_without_a_first_token():
    assert prompt_of("{images}{text}{eos}").leading == ()
    assert prompt_of("{images}{text}{eos}", bos=[1]).leading == (1,)


def test_refuses_an_end_token_that_the_tokenizer_lacks():
    with pytest.raises(ValueError, match="names no end token"):
        prompt_of("{text}{eos}", eos=None)


def test_refuses_tokens_made_for_another_kind_of_model(folders):
    for name, prompt, found in (("qwen2", Prompt(), "bidirectional"), ("bert", Prompt(causal=True), "causal")):
        with pytest.raises(VixmlError, match="another kind of language model") as caught:
            make_model(folders[name], prompt)
        assert caught.value.found == found


def test_layers_beyond_the_first_are_left_out_and_the_norm_is_kept(folders):
    items = make_items(LENGTHS, prompt=prompt_of("{text}"))
    one, both = (make_model(folders["llama"], items.prompt, None, layers=n) for n in (1, None))
    plain = plain_encoder.load(folders["llama"])
    plain.layers = plain.layers[:1]
    expected = plain_encoder.encode(plain, items)
    assert_close(one.encode(items.pack()), expected, atol=1e-5, rtol=1e-5)
    assert (both.encode(items.pack()) - expected).abs().max() > 1e-2
    with pytest.raises(VixmlError, match="exceeds the language model's layers"):
        make_model(folders["llama"], items.prompt, None, layers=3)


def test_gradient_checkpointing_changes_no_gradient(folders):
    items, found = make_items(LENGTHS, prompt=prompt_of(TABLE_6["T1+E+EOS"])), []
    for on in (False, True):
        model = make_model(folders["qwen2"], items.prompt, None, gradient_checkpointing=on).train()
        model.encode(items.pack()).square().sum().backward()
        found.append([*gradients(model.backbone).values()])
    assert len(found[0]) == len(found[1]) > 10
    for a, b in zip(*found, strict=True):
        assert_close(a, b)
