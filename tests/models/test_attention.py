"""Attention with and without gradients, against a double loop over queries and heads."""

from __future__ import annotations

import math

import pytest
import torch

from vixml.models.attention import attend, packed_attention


def by_hand(q, k, v, causal, scale):
    """Return (n, heads, length, head_dim), one query of one head at a time, in float64."""
    (n, heads, length, _), positions = q.shape, k.shape[2]
    out = torch.zeros_like(q, dtype=torch.float64)
    for item in range(n):
        for head in range(heads):
            shared = head * k.shape[1] // heads
            for position in range(length):
                seen = positions - length + position + 1 if causal else positions
                keys, values = k[item, shared, :seen].double(), v[item, shared, :seen].double()
                weights = torch.softmax(keys @ q[item, head, position].double() * scale, dim=0)
                out[item, head, position] = weights @ values
    return out


def draw(heads, kv_heads, length, positions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, heads, length, 8), (3, kv_heads, positions, 8), (3, kv_heads, positions, 8)]
    return [torch.randn(size, generator=generator, requires_grad=True) for size in sizes]


SHAPES = [(4, 4, 5, 5), (6, 2, 5, 5), (6, 2, 3, 7), (4, 1, 1, 6)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("learning", [True, False])
def test_against_the_double_loop(shape, causal, learning):
    q, k, v = draw(*shape)
    expected = by_hand(q, k, v, causal, 0.3)
    with torch.set_grad_enabled(learning):
        found = attend(q, k, v, causal=causal, scale=0.3)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    if learning:
        probe = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        ours = torch.autograd.grad((found * probe).sum(), (q, k, v))
        theirs = torch.autograd.grad((expected * probe).sum(), (q, k, v))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learning", [True, False])
def test_each_sequence_of_a_stream_attends_to_itself_alone(learning):
    sizes = [(3, 1), (19, 4), (8, 4), (1, 5), (2, 16), (2, 33)]
    blocks = [(sum(count * length for count, length in sizes[:n]), *size) for n, size in enumerate(sizes)]
    total = sum(count * length for count, length in sizes)
    q, k, v = torch.randn(3, 1, 2, total, 8, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(learning):
        found, _ = packed_attention(torch.nn.Module(), q, k, v, None, blocks=blocks, scaling=0.3)
    for first, count, length in blocks:
        for start in range(first, first + count * length, length):
            own = slice(start, start + length)
            expected = by_hand(q[:, :, own], k[:, :, own], v[:, :, own], False, 0.3)
            torch.testing.assert_close(found[:, own].transpose(1, 2).double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_keep_their_precision_beside_half_precision_inputs(shape):
    """Large scores: rounded to bf16, neighbours of a sharp softmax would change positions."""
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in draw(*shape))
    scale = 20 / math.sqrt(8)
    found = attend(q, k, v, causal=True, scale=scale)
    error = (found.double() - by_hand(q, k, v, True, scale)).abs().max()
    assert error < 2**-6, "as near as one rounding of weights and outputs leaves it"


@pytest.mark.parametrize("shape", SHAPES)
def test_off_the_processor_keys_are_copied_only_beside_a_mask(shape):
    """Needs no GPU: 'meta' tensors have shapes and no values."""
    q, k, v = (x.detach().to("meta") for x in draw(*shape))
    assert attend(q, k, v, causal=True, scale=0.3).shape == q.shape
