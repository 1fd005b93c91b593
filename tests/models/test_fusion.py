"""Late fusion against a loop over items; centring; DEXA's vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, random_lists
from torch.nn import functional as F

from vixml.config.run import LateFusion as Settings
from vixml.config.run import RunConfig
from vixml.models.packing import pack
from vixml.models.prompt import Prompt
from vixml.models.siamese import AuxiliaryVectors, LateFusion, Siamese

DIM = 8


@pytest.mark.parametrize("counts", [[0, 2, 1, 0, 3, 2], [0, 0], [3], [0]])
def test_late_fusion_equals_a_loop_over_items(counts):
    torch.manual_seed(0)
    fusion = LateFusion(DIM, Settings(heads=2, feedforward=16)).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # a new layer's branches are zero
    text, images = torch.randn(len(counts), DIM), torch.randn(sum(counts), DIM)
    items = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ours = fusion(text, images, items)
    expected = torch.stack(
        [attend(fusion.layer, torch.cat([text[i, None], images[items == i]])) for i in range(len(counts))]
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


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
    fusion = LateFusion(DIM, Settings(heads=2, feedforward=16)).eval()
    text, images = torch.randn(2, DIM), torch.randn(2, DIM)
    ours = fusion(text, images, torch.tensor([1, 1]))
    torch.testing.assert_close(ours, torch.stack([text[0], torch.cat([text[1:], images]).mean(dim=0)]))


def make(folder, **changes):
    torch.manual_seed(0)
    config = RunConfig.model_validate(
        {"prototype": {"heads": 4, "feedforward": 16, "free_vectors": 4}, "encoder": {"max_len": 12}} | changes
    )
    late = config.images.fusion == "late"
    return Siamese(config, folder, 6, 11, Prompt(late=late))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    tokens, images = random_lists(rng, [3, 6, 1, 3], VOCABULARY), random_lists(rng, [0, 2, 1, 3], 7, low=0)
    return tokens, images, torch.from_numpy(rng.standard_normal((7, 11)).astype(np.float32))


def encode(model, tokens, images, embeddings):
    packed = pack(tokens, images, Prompt(late=model.late is not None))
    return model.encode(packed, embeddings[packed.image_rows])


def test_a_late_model_encodes_text_and_images_apart(tiny_bert):
    model = make(tiny_bert, images={"fusion": "late", "late": {"heads": 2, "feedforward": 16}}).eval()
    tokens, images, embeddings = batch()
    start = F.normalize(encode(model, tokens, images, embeddings), dim=1)
    torch.testing.assert_close(start, F.normalize(encode(model, tokens, images.take([0] * 4), embeddings), dim=1))
    with torch.no_grad():  # from here on images count
        torch.nn.init.normal_(model.projection.weight, std=0.1)
    ours = encode(model, tokens, images, embeddings)
    alone = make(tiny_bert).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("late.")})
    text = alone.encode(pack(tokens))
    items = torch.from_numpy(images.row_ids())
    expected = model.late(text, model.projection(embeddings[images.values.astype(np.int64)]), items)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for i in range(len(tokens)):  # whatever else is in the batch
        torch.testing.assert_close(
            encode(model, tokens.take([i]), images.take([i]), embeddings)[0], ours[i], atol=1e-5, rtol=1e-5
        )
    nothing = images.take([0, 0])
    torch.testing.assert_close(
        encode(model, tokens.take([0, 0]), nothing, embeddings)[0], ours[0], atol=1e-5, rtol=1e-5
    )


def test_late_fusion_trains_all_its_parts(tiny_bert):
    model = make(tiny_bert, images={"fusion": "late"}).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("late.", "projection.")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    encode(model, *batch()).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("late.", "projection.")):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_centring_subtracts_the_batch_mean_in_training_and_the_stored_one_after(tiny_bert):
    model = make(tiny_bert, encoder={"max_len": 12, "centre": True, "dropout": 0.0}).train()
    plain = make(tiny_bert, encoder={"max_len": 12, "dropout": 0.0})
    tokens, images, embeddings = batch()
    unit = F.normalize(encode(plain, tokens, images, embeddings), dim=1)
    vectors = model.centred_vectors(encode(model, tokens, images, embeddings))
    torch.testing.assert_close(vectors, unit - unit.mean(dim=0), atol=1e-5, rtol=1e-4)
    # The gradient goes through the mean: raising all vectors alike changes nothing.
    (vectors.sum(dim=0) * torch.randn(32)).sum().backward()
    assert model.projection.weight.grad.abs().max() < 1e-5
    with torch.no_grad():
        second = model.centred_vectors(encode(model, tokens.take([0, 1]), images.take([0, 1]), embeddings))
    means = [unit.mean(dim=0), unit[:2].mean(dim=0)]
    torch.testing.assert_close(second, unit[:2] - means[1], atol=1e-5, rtol=1e-4)
    model.refresh_centre()
    # Each item counts alike: four of the first batch, two of the second.
    torch.testing.assert_close(model.centre, (4 * means[0] + 2 * means[1]) / 6, atol=1e-6, rtol=1e-5)
    model.refresh_centre()  # nothing seen since: the stored mean stays
    after = model.centred_vectors(encode(model.eval(), tokens, images, embeddings))
    torch.testing.assert_close(after, unit - model.centre, atol=1e-5, rtol=1e-4)


def test_auxiliary_vectors_equal_the_formula():
    torch.manual_seed(0)
    module, u, cluster = AuxiliaryVectors(DIM, 3), 5 * torch.randn(4, DIM), torch.tensor([2, 0, 2, 1])
    z = module(u, cluster)
    for i in range(4):
        total = u[i] / u[i].norm() + module.free.weight[cluster[i]]
        torch.testing.assert_close(z[i], total / total.norm())
