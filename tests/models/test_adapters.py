"""LoRA: only adapters train, all linear layers have one, and they save, load and merge to the same vectors."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora as peft_lora
from tiny_models import DECODERS, make_items, make_model, write_bert, write_decoder
from torch import nn
from torch.testing import assert_close

from vixml.errors import VixmlError
from vixml.models.adapters import AdaptedLinear, AdaptedProduct
from vixml.models.prompt import PLAIN, Prompt
from vixml.models.siamese import load_model, save_model

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
PROMPT = Prompt(((1, 2), "text", (3,)), causal=True)


def make(folder, prompt=PROMPT, seed=0, **encoder):
    settings = {"max_len": 12, "train": "lora", "lora": {"r": 4, "alpha": 8}, **encoder}
    return make_model(folder, prompt, None, seed=seed, modality="text", encoder=settings)


def randomise(model, seed=5):
    """Make the second matrix of every adapter random: a new adapter's is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


PACKED = make_items([3, 5, 1, 5], prompt=PROMPT).pack()


def vectors(model):
    with torch.no_grad():
        return model.eval().encode(PACKED)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("family", DECODERS)
def test_every_projection_has_an_adapter_and_nothing_else_trains(tmp_path, family):
    model = make(write_decoder(tmp_path, family))
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert adapted == PROJECTIONS
    linear = [name for name, m in model.backbone.named_modules() if isinstance(m, nn.Linear) and "lora_" not in name]
    assert len(trained) == 2 * len(linear), "two matrices a linear layer"
    model.train().encode(PACKED).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.backbone.parameters())


def test_an_encoder_may_have_adapters_too(tmp_path):
    model = make(write_bert(tmp_path), PLAIN)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 2 * 6


def test_a_new_adapter_changes_nothing(decoder):
    assert_close(vectors(make(decoder)), vectors(make(decoder, train="full")))


@pytest.mark.parametrize("stabilised", [True, False])
def test_scale_and_merge(decoder, stabilised):
    """The adapted layer is W + s B A, with s = alpha / sqrt(r) when rank-stabilised; merging gives the same vectors."""
    model = make(decoder, lora={"r": 4, "alpha": 8, "rank_stabilised": stabilised})
    randomise(model)
    adapted = vectors(model)
    by_hand = make(decoder, train="full")
    scale = 8 / (math.sqrt(4) if stabilised else 4)
    plain = dict(by_hand.backbone.network.named_modules())
    with torch.no_grad():
        for name, module in model.backbone.network.named_modules():
            if hasattr(module, "lora_A"):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                plain[name.removeprefix("base_model.model.")].weight += scale * b @ a
    assert_close(adapted, vectors(by_hand), atol=1e-5, rtol=1e-5)
    model.backbone.network = model.backbone.network.merge_and_unload()
    assert_close(vectors(model), adapted, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())


def layer_and_twin(bias, dtype):
    """Return an adapted layer, and peft's with the same tensors."""
    torch.manual_seed(0)
    made = []
    for kind in (AdaptedLinear, peft_lora.Linear):
        base = nn.Linear(7, 5, bias=bias).to(dtype).requires_grad_(False)
        settings = LoraConfig(r=3, lora_alpha=4, use_rslora=True)
        made.append(kind(base, "default", config=settings, r=3, lora_alpha=4))
        nn.init.normal_(made[-1].lora_B["default"].weight)
    made[1].load_state_dict(made[0].state_dict())
    return made


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 7), (1, 6, 7), (7,)])
def test_the_adapted_product_is_that_of_its_layers(bias, shape, half):
    ours, plain = layer_and_twin(bias, torch.bfloat16 if half else torch.float32)
    x = torch.randn(shape)
    weight = torch.randn(*shape[:-1], 5)
    found = []
    for layer in (ours, plain):
        entering = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = layer(entering)
        (y.float() * weight).sum().backward()
        learned = [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
        assert layer.get_base_layer().weight.grad is None
        found.append([y.detach(), entering.grad, *learned])
    assert [t.dtype for t in found[0]] == [t.dtype for t in found[1]]
    for one, other in zip(*found, strict=True):
        near = {"atol": 0.1, "rtol": 0.05} if half else {"atol": 1e-5, "rtol": 1e-5}
        assert_close(one, other, **near)


def test_the_adapted_product_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    x, bias, weight, a, b = (torch.randn(s, dtype=torch.float64) for s in ((4, 7), (5,), (5, 7), (3, 7), (5, 3)))
    inputs = [t.requires_grad_() for t in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: AdaptedProduct.apply(x, bias, 0.7, weight, a, b), inputs)


def test_dropout_is_left_to_peft(decoder):
    """With dropout two passes differ, without they do not; merged and disabled layers are tested by their vectors."""
    for dropout, same in ((0.5, False), (0.0, True)):
        model = make(decoder, lora={"r": 4, "dropout": dropout})
        randomise(model)
        with torch.no_grad():
            assert torch.equal(model.train().encode(PACKED), model.encode(PACKED)) == same


def test_only_what_was_learned_is_saved_and_it_loads_to_the_same_vectors(decoder, tmp_path):
    model = make(decoder)
    randomise(model)
    save_model(tmp_path, model)
    assert all("lora_" in name for name in model.learned_state() if name.startswith("backbone."))
    fresh = make(decoder, seed=1)
    assert not torch.equal(vectors(fresh), vectors(model))
    load_model(tmp_path, fresh)
    assert torch.equal(vectors(fresh), vectors(model))


def test_refuses_the_weights_of_another_model(decoder, tmp_path):
    save_model(tmp_path, make(decoder))
    for other in ({"lora": {"r": 2}}, {"train": "full"}, {"train": "frozen"}):
        with pytest.raises(VixmlError, match="belong to another model") as caught:
            load_model(tmp_path, make(decoder, **other))
        assert "model.safetensors: backbone." in str(caught.value.where)


def test_frozen_weights_may_be_in_half_precision(decoder):
    model = make(decoder, weights="bfloat16")
    frozen = {p.dtype for p in model.backbone.parameters() if not p.requires_grad}
    trained = {p.dtype for p in model.backbone.parameters() if p.requires_grad}
    assert frozen == {torch.bfloat16} and trained == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine = torch.cosine_similarity(vectors(model), vectors(make(decoder)))
    assert cosine.min() > 0.995
