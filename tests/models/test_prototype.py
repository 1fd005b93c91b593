"""The prototype network against plain matrix algebra, and its inputs in Siamese."""

from __future__ import annotations

import plain_prototype
import pytest
import torch
from tiny_models import N_LABELS, make_model
from torch.nn import functional as F

from vixml.config.run import Prototype
from vixml.models.siamese import PrototypeNetwork

DIM, HEADS, N = 16, 4, 9


def make_network(dropout=0.0):
    torch.manual_seed(0)
    network = PrototypeNetwork(DIM, 3, Prototype(heads=HEADS, feedforward=24, dropout=dropout))
    with torch.no_grad():  # norms and biases start at one and zero: move them, so that each counts
        for parameter in network.layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    u, centroid = (torch.randn(N, DIM, generator=generator).requires_grad_() for _ in range(2))
    return u, torch.tensor([0, 2, 1, 0, 0, 2, 2, 1, 0]), centroid


def test_equals_matrix_algebra_values_and_gradients():
    network = make_network().train()
    u, cluster, centroid = make_inputs()
    weights = dict(network.named_parameters())
    inputs = [u, centroid, *weights.values()]
    towards = torch.randn(N, DIM)
    ours = network(u, cluster, centroid)
    expected = plain_prototype.prototypes(weights, HEADS, u, cluster, centroid)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(N))
    ours_gradients = torch.autograd.grad((ours * towards).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * towards).sum(), inputs)
    for a, b in zip(ours_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_inference_takes_another_kernel_and_gives_the_same():
    network = make_network(dropout=0.1).eval()
    u, cluster, centroid = make_inputs()
    expected = plain_prototype.prototypes(dict(network.named_parameters()), HEADS, u, cluster, centroid)
    with torch.no_grad():
        torch.testing.assert_close(network(u, cluster, centroid), expected.detach(), atol=1e-5, rtol=1e-4)


def test_one_label_alone():
    network = make_network().eval()
    u, cluster, centroid = make_inputs()
    torch.testing.assert_close(network(u[:1], cluster[:1], centroid[:1]), network(u, cluster, centroid)[:1])


def test_dropout_in_training_only():
    network = make_network(dropout=0.1)
    inputs = make_inputs()
    assert not torch.equal(network.train()(*inputs), network(*inputs))
    assert torch.equal(network.eval()(*inputs), network(*inputs))


@pytest.fixture
def siamese(tiny_bert):
    model = make_model(tiny_bert, image_dim=None).eval()
    model.cluster.copy_(torch.tensor([0, 1, 2, 1, 0, 3]))
    model.centroid.copy_(torch.randn(N_LABELS, 32))
    model.has_centroid.copy_(torch.tensor([True, False, True, True, False, True]))
    return model


def test_a_label_without_queries_takes_its_text_vector_for_a_centroid(siamese):
    labels = torch.tensor([1, 0, 4, 3])
    u = 7 * torch.randn(4, 32)  # not unit vectors, and not normalised before they enter
    centroid = torch.where(siamese.has_centroid[labels][:, None], siamese.centroid[labels], F.normalize(u, dim=1))
    assert torch.equal(centroid[1], siamese.centroid[0]) and centroid[0].norm() == pytest.approx(1)
    assert torch.equal(siamese.prototype(u, labels), siamese.prototypes(u, siamese.cluster[labels], centroid))


def test_centroids_are_constants_to_the_gradient(siamese):
    u = torch.randn(2, 32, requires_grad=True)
    siamese.prototype(u, torch.tensor([0, 2])).sum().backward()
    assert not siamese.centroid.requires_grad and u.grad is not None
    assert siamese.prototypes.free.weight.grad[1].abs().sum() == 0, "cluster 1 is not in the batch"


def test_free_vectors_are_no_more_than_labels(tiny_bert):
    assert make_model(tiny_bert, prototype={"heads": 4}).prototypes.free.num_embeddings == N_LABELS


def test_a_run_without_prototypes_has_an_error(tiny_bert):
    model = make_model(tiny_bert, method="none", training={"epochs": 0}, inference={"labels_as": "u"})
    with pytest.raises(ValueError, match="this run has no prototypes"):
        model.prototype(torch.randn(1, 32), torch.tensor([0]))
