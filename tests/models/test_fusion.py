"""Late fusion against a loop over items; centring; DEXA's vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import make_items, make_model
from torch.nn import functional as F
from torch.testing import assert_close

from vixml.config.run import LateFusion as Settings
from vixml.models.prompt import Prompt
from vixml.models.siamese import AuxiliaryVectors, LateFusionLayer

DIM = 8


@pytest.mark.parametrize("counts", [[0, 2, 1, 0, 3, 2], [0, 0], [3], [0]])
def test_late_fusion_equals_a_loop_over_items(counts):
    torch.manual_seed(0)
    fusion = LateFusionLayer(DIM, Settings(heads=2, feedforward=16)).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # a new layer's branches are zero
    text, images = torch.randn(len(counts), DIM), torch.randn(sum(counts), DIM)
    items = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ours = fusion(text, images, items)
    expected = [attend(fusion.layer, torch.cat([text[i, None], images[items == i]])) for i in range(len(counts))]
    assert_close(ours, torch.stack(expected), atol=1e-5, rtol=1e-5)


def attend(layer, x):
    """Restate one pre-norm layer with two heads over the rows of ``x``; return the mean."""
    q, k, v = (layer.norm1(x) @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).split(DIM, dim=1)
    heads = []
    for h in range(2):
        part = slice(h * DIM // 2, (h + 1) * DIM // 2)
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / (DIM // 2) ** 0.5, dim=1) @ v[:, part])
    x = x + layer.self_attn.out_proj(torch.cat(heads, dim=1))
    return (x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))).mean(dim=0)


def test_a_new_layer_gives_the_mean_of_text_and_images():
    fusion = LateFusionLayer(DIM, Settings(heads=2, feedforward=16)).eval()
    text, images = torch.randn(2, DIM), torch.randn(2, DIM)
    ours = fusion(text, images, torch.tensor([1, 1]))
    assert_close(ours, torch.stack([text[0], torch.cat([text[1:], images]).mean(dim=0)]))


LENGTHS, COUNTS = [3, 6, 1, 3], [0, 2, 1, 3]
LATE = {"fusion": "late", "late": {"heads": 2, "feedforward": 16}}


def encode(model, items):
    return model.encode(items.pack())


def test_a_late_model_encodes_text_and_images_apart(tiny_bert):
    items = make_items(LENGTHS, COUNTS, Prompt(late=True))
    model = make_model(tiny_bert, items.prompt, images=LATE).eval()
    imageless = replace(items, images=items.images.take([0] * 4))
    assert_close(F.normalize(encode(model, items), dim=1), F.normalize(encode(model, imageless), dim=1))
    torch.nn.init.normal_(model.projection.weight, std=0.1)  # from here on images count
    ours = encode(model, items)
    alone = make_model(tiny_bert).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("late.")})
    text = encode(alone, make_items(LENGTHS))
    vectors = torch.from_numpy(items.gather(items.images.values))
    expected = model.late(text, model.projection(vectors), torch.from_numpy(items.images.row_ids()))
    assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for i in range(len(items)):  # whatever else is in the batch
        assert_close(encode(model, items.take([i]))[0], ours[i], atol=1e-5, rtol=1e-5)
    assert_close(encode(model, items.take([0, 0]))[0], ours[0], atol=1e-5, rtol=1e-5)


def test_late_fusion_trains_all_its_parts(tiny_bert):
    items = make_items(LENGTHS, COUNTS, Prompt(late=True))
    model = make_model(tiny_bert, items.prompt, images=LATE).train()
    parts = {name: p for name, p in model.named_parameters() if name.startswith(("late.", "projection."))}
    with torch.no_grad():
        for parameter in parts.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encode(model, items).square().sum().backward()
    for name, parameter in parts.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_centring_subtracts_the_batch_mean_in_training_and_the_stored_one_after(tiny_bert):
    model = make_model(tiny_bert, encoder={"centre": True, "dropout": 0.0}).train()
    plain, items = make_model(tiny_bert, encoder={"dropout": 0.0}), make_items(LENGTHS, COUNTS)
    unit = F.normalize(encode(plain, items), dim=1)
    vectors = model.centred_vectors(encode(model, items))
    assert_close(vectors, unit - unit.mean(dim=0), atol=1e-5, rtol=1e-4)
    # The gradient passes through the mean: shifting all vectors alike changes nothing.
    (vectors.sum(dim=0) * torch.randn(32)).sum().backward()
    assert model.projection.weight.grad.abs().max() < 1e-5
    with torch.no_grad():
        second = model.centred_vectors(encode(model, items.take([0, 1])))
    means = [unit.mean(dim=0), unit[:2].mean(dim=0)]
    assert_close(second, unit[:2] - means[1], atol=1e-5, rtol=1e-4)
    model.refresh_centre()
    # Each item counts alike: four of the first batch, two of the second.
    assert_close(model.centre, (4 * means[0] + 2 * means[1]) / 6, atol=1e-6, rtol=1e-5)
    model.refresh_centre()  # nothing seen since: the stored mean stays
    after = model.centred_vectors(encode(model.eval(), items))
    assert_close(after, unit - model.centre, atol=1e-5, rtol=1e-4)


def test_auxiliary_vectors_equal_the_formula():
    torch.manual_seed(0)
    module, u, cluster = AuxiliaryVectors(DIM, 3), 5 * torch.randn(4, DIM), torch.tensor([2, 0, 2, 1])
    z = module(u, cluster)
    for i in range(4):
        total = u[i] / u[i].norm() + module.free.weight[cluster[i]]
        assert_close(z[i], total / total.norm())
