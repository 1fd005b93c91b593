"""Attention over packed sequences, registered as one of transformers' attention kernels.

Sequences of one length are a dense block, so nothing is padded and only causal attention needs a mask. With thirty lengths
in a batch, a GPU would start some three hundred small kernels per layer. There a decoder's sequences of similar length are
rows, padded behind their last token to the longest: causal attention never sees the padding, so this needs no other mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.runtime import send

PACKED = "vixml_packed"
FILLED_UP = {"cuda"}  # devices on which a decoder's sequences are padded
SIMILAR = 16  # lengths up to the same multiple of this share rows


@dataclass(frozen=True)
class Rows:
    """Sequences of similar length as rows of one length, including the words in front of all sequences.

    Attributes:
        tokens: number of their tokens in the stream.
        count: number of sequences.
        length: positions of a row.
        positions: (tokens,) int64, each token's position among the ``count * length`` positions.
    """

    tokens: int
    count: int
    length: int
    positions: Tensor


def join_blocks(blocks: Sequence[tuple[int, int, int]], prefix: int, device: torch.device) -> list[Rows]:
    """Put neighbouring blocks of similar length together.

    Example:
        >>> [rows] = join_blocks([(1, 2, 1), (3, 1, 3)], 1, torch.device("cpu"))
        >>> rows.count, rows.length, rows.positions.tolist()  # position 0 of each row is that of the shared word
        (3, 4, [1, 5, 9, 10, 11])
    """
    found, indices = [], []
    for _, group in groupby(blocks, key=lambda block: (block[2] - 1) // SIMILAR):
        lengths = np.concatenate([np.full(count, length) for _, count, length in group])
        length = prefix + int(lengths.max())
        starts = np.arange(len(lengths)) * length + prefix
        inner = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        indices.append(np.repeat(starts, lengths) + inner)
        found.append((len(lengths), length))
    # One copy for all.
    sent = send(torch.from_numpy(np.concatenate(indices)), device).split([len(index) for index in indices])
    return [Rows(len(positions), *shape, positions) for shape, positions in zip(found, sent, strict=True)]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: Sequence[tuple[int, int, int]],
    prefix: int = 0,
    rows: Sequence[Rows] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each packed sequence; transformers calls this with its arguments and those of ``Backbone.forward``.

    Args:
        module: the attention layer, with ``is_causal``.
        query: (1, heads, n_tokens, head_dim); key and value may have fewer heads (grouped queries).
        key, value: (1, kv_heads, n_tokens, head_dim).
        attention_mask: ignored: there is no padding to mask.
        blocks: ``(first position, sequences, length)`` of each group of equally long sequences.
        prefix: positions at the head of the stream that every sequence attends to (causal only).
        rows: the same sequences from :func:`join_blocks`; used in causal attention.
        scaling: factor on the scores; None means ``head_dim ** -0.5``.

    Returns:
        (1, n_tokens, heads, head_dim), and None for the weights.
    """
    causal = is_causal(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The gradient of a split is one concatenation, that of slices a sum of zero-filled streams.
    padded = rows if causal else None
    each = [count * length for _, count, length in blocks] if padded is None else [group.tokens for group in padded]
    sizes = [prefix] * bool(prefix) + each
    streams = [x[0].split(sizes, dim=1) for x in (query, key, value)]
    pieces = []
    if prefix:
        q, k, v = (parts[0].unsqueeze(0) for parts in streams)
        head_k, head_v = k, v
        pieces.append(attend(q, k, v, causal=True, scale=scale, dropout=dropout).transpose(1, 2).flatten(0, 1))
        streams = [parts[1:] for parts in streams]
    if padded is not None:
        for group, q, k, v in zip(padded, *streams, strict=True):
            shared = (head_k[0], head_v[0]) if prefix else (None, None)
            pieces.append(_attend_rows(group, q, k, v, *shared, scale=scale, dropout=dropout))
        return torch.cat(pieces).unsqueeze(0), None
    for (_, count, length), *parts in zip(blocks, *streams, strict=True):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        if prefix:
            # Each token sees the whole prefix and the earlier tokens of its sequence.
            k = torch.cat([head_k.expand(count, -1, -1, -1), k], dim=2)
            v = torch.cat([head_v.expand(count, -1, -1, -1), v], dim=2)
        if k.shape[2] == 1:
            # A single token attends to itself with weight 1, whatever the scores.
            out = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        else:
            out = attend(q, k, v, causal=causal, scale=scale, dropout=dropout)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


def _attend_rows(
    rows: Rows, q: Tensor, k: Tensor, v: Tensor, head_k: Tensor | None, head_v: Tensor | None, **how: float
) -> Tensor:
    """Attend in rows: (heads, tokens, head_dim) -> (tokens, heads, head_dim); the heads are (kv_heads, prefix, head_dim)."""

    def pad(x: Tensor, head: Tensor | None) -> Tensor:
        # Copied to positions, not gathered from them: each token occurs once, so the gradient is a plain gather.
        blank = x.new_zeros(rows.count * rows.length, len(x), x.shape[2])
        padded = blank.index_copy(0, rows.positions, x.transpose(0, 1)).view(rows.count, rows.length, *blank.shape[1:])
        if head is not None:
            shared = head.transpose(0, 1).expand(rows.count, -1, -1, -1)
            padded = torch.cat([shared, padded[:, shared.shape[1] :]], dim=1)
        return padded.transpose(1, 2)

    # Queries of the shared words stay zero: their results are not read.
    out = attend(pad(q, None), pad(k, head_k), pad(v, head_v), causal=True, **how)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, rows.positions)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float, dropout: float = 0.0) -> Tensor:
    """Attend densely: (n, heads, length, head_dim).

    With PyTorch's fused kernel, except on a processor with gradients: there its forward and backward passes take 1.5 to 8.5
    times as long as plain matrix products on short sequences (benchmarks/attention.py).

    Args:
        q: (n, heads, length, head_dim).
        k, v: (n, kv_heads, positions, head_dim), ``positions >= length``; the queries are at the last ``length`` positions.
        causal: whether a query sees only its position and those before.
        scale: factor on the scores.
    """
    (n, heads, length, dim), kv_heads, positions = q.shape, k.shape[1], k.shape[2]
    mask = None
    if causal and length > 1:
        mask = torch.ones(length, positions, dtype=torch.bool, device=q.device).tril(positions - length)
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        square = mask is not None and length == positions
        mask = None if square else mask
        if mask is not None and q.device.type != "cpu":
            # No fused GPU kernel takes both a mask and shared keys; copying the keys is cheaper than not using one.
            k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        grouped = k.shape[1] != heads
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=square, scale=scale, enable_gqa=grouped)
    # Heads that share a key are rows of one product. Scores in float32, as in the fused kernel: in half precision their error
    # would be a few hundredths.
    with torch.autocast("cpu", enabled=False):
        rows = (q.float() * scale).reshape(n, kv_heads, -1, dim)
        scores = (rows @ k.float().transpose(-1, -2)).view(n, kv_heads, -1, length, positions)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = F.dropout(torch.softmax(scores, dim=-1), dropout).to(v.dtype)
    return (weights.view(n, kv_heads, -1, positions) @ v).view(n, heads, length, dim)


def is_causal(module: nn.Module) -> bool:
    """Return whether an attention layer is causal."""
    return bool(getattr(module, "is_causal", False))
