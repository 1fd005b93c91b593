"""Attention over packed sequences, registered as one of transformers' attention kernels.

Sequences of one length are a dense block, so nothing is padded and only a decoder's direction needs a mask. A GPU would
start some ten small kernels a block and layer, with thirty lengths in a batch: there a decoder's sequences of similar length
are rows, filled up to the longest behind their last token. What looks back only never sees that, so this needs no mask either.
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
from transformers import AttentionInterface

PACKED = "vixml_packed"
FILLED_UP = {"cuda"}  # devices on which a decoder's sequences are filled up
SIMILAR = 16  # lengths that share a multiple of this go together


@dataclass(frozen=True)
class Rows:
    """Sequences of similar length as rows of one length, words in front of all sequences included.

    Attributes:
        tokens: how many tokens of the stream they are.
        count: sequences.
        length: positions of a row.
        positions: (tokens,) int64, where each token stands among the ``count * length`` positions.
    """

    tokens: int
    count: int
    length: int
    positions: Tensor


def rows_of(blocks: Sequence[tuple[int, int, int]], prefix: int, device: torch.device) -> list[Rows]:
    """Put neighbouring blocks of similar length together.

    Args:
        blocks: as in :func:`packed_attention`.
        prefix: likewise.
        device: where attention is computed.

    Example:
        >>> [rows] = rows_of([(1, 2, 1), (3, 1, 3)], 1, torch.device("cpu"))
        >>> rows.count, rows.length, rows.positions.tolist()  # position 0 of each row is the shared word's
        (3, 4, [1, 5, 9, 10, 11])
    """
    found = []
    for _, group in groupby(blocks, key=lambda block: (block[2] - 1) // SIMILAR):
        lengths = np.concatenate([np.full(count, length) for _, count, length in group])
        length = prefix + int(lengths.max())
        starts = np.arange(len(lengths)) * length + prefix
        inner = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        positions = torch.from_numpy(np.repeat(starts, lengths) + inner)
        found.append(Rows(len(positions), len(lengths), length, positions.to(device, non_blocking=True)))
    return found


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
    """Attend within each packed sequence.

    Args:
        module: the attention layer; its ``is_causal`` decides the direction.
        query: (1, heads, n_tokens, head_dim); key and value may have fewer heads (grouped queries).
        key: (1, kv_heads, n_tokens, head_dim).
        value: (1, kv_heads, n_tokens, head_dim).
        attention_mask: ignored, there is nothing to mask.
        blocks: ``(first position, sequences, length)`` of each group of equally long sequences.
        prefix: positions at the head of the stream that every sequence looks back at (causal only).
        rows: the same sequences as :func:`rows_of` puts them together; used where tokens look back only.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores; None means ``head_dim ** -0.5``.

    Returns:
        (1, n_tokens, heads, head_dim), and None for the weights.
    """
    causal = is_causal(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Split, not slice: the gradient of a split is one concatenation, that of slices a sum of zero-filled streams.
    filled = rows if causal else None
    each = [count * length for _, count, length in blocks] if filled is None else [group.tokens for group in filled]
    sizes = [prefix] * bool(prefix) + each
    streams = [x[0].split(sizes, dim=1) for x in (query, key, value)]
    pieces = []
    if prefix:
        q, k, v = (parts[0].unsqueeze(0) for parts in streams)
        head_k, head_v = k, v
        pieces.append(attend(q, k, v, causal=True, scale=scale, dropout=dropout).transpose(1, 2).flatten(0, 1))
        streams = [parts[1:] for parts in streams]
    if filled is not None:
        for group, q, k, v in zip(filled, *streams, strict=True):
            shared = (head_k[0], head_v[0]) if prefix else (None, None)
            pieces.append(_attend_rows(group, q, k, v, *shared, scale=scale, dropout=dropout))
        return torch.cat(pieces).unsqueeze(0), None
    for (_, count, length), *parts in zip(blocks, *streams, strict=True):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        if prefix:
            # Each sequence sees the whole prefix, and of itself what stands before.
            k = torch.cat([head_k.expand(count, -1, -1, -1), k], dim=2)
            v = torch.cat([head_v.expand(count, -1, -1, -1), v], dim=2)
        if k.shape[2] == 1:
            # One token attends to itself alone with weight 1, whatever the scores.
            out = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        else:
            out = attend(q, k, v, causal=causal, scale=scale, dropout=dropout)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


def _attend_rows(
    rows: Rows, q: Tensor, k: Tensor, v: Tensor, head_k: Tensor | None, head_v: Tensor | None, **how: float
) -> Tensor:
    """Attend in rows: (heads, tokens, head_dim) -> (tokens, heads, head_dim); the heads are (kv_heads, prefix, head_dim)."""

    def fill_up(x: Tensor, head: Tensor | None) -> Tensor:
        # Copied to positions, not gathered from them: no token stands twice, so the gradient is a plain gather.
        blank = x.new_zeros(rows.count * rows.length, len(x), x.shape[2])
        filled = blank.index_copy(0, rows.positions, x.transpose(0, 1)).view(rows.count, rows.length, *blank.shape[1:])
        if head is not None:
            shared = head.transpose(0, 1).expand(rows.count, -1, -1, -1)
            filled = torch.cat([shared, filled[:, shared.shape[1] :]], dim=1)
        return filled.transpose(1, 2)

    # Queries of the shared words stay blank: nobody reads what they find.
    out = attend(fill_up(q, None), fill_up(k, head_k), fill_up(v, head_v), causal=True, **how)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, rows.positions)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float, dropout: float = 0.0) -> Tensor:
    """Attend densely.

    PyTorch's fused kernel everywhere but where a processor has to differentiate: there forward and backward take 1.5 to
    8.5 times as long as plain matrix products on short sequences (benchmarks/attention.py).

    Args:
        q: (n, heads, length, head_dim).
        k: (n, kv_heads, positions, head_dim), ``positions >= length``: the last ``length`` positions are those of the queries.
        v: likewise.
        causal: whether a query sees only the positions up to its own.
        scale: factor on the scores.
        dropout: probability of dropping a weight.

    Returns:
        (n, heads, length, head_dim).
    """
    (n, heads, length, dim), kv_heads, positions = q.shape, k.shape[1], k.shape[2]
    mask = None
    if causal and length > 1:
        mask = torch.ones(length, positions, dtype=torch.bool, device=q.device).tril(positions - length)
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        square = mask is not None and length == positions
        mask = None if square else mask
        if mask is not None and q.device.type != "cpu":
            # No fused kernel of a GPU takes both a mask and shared keys; copies of the keys are cheaper than going without.
            k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        grouped = k.shape[1] != heads
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=square, scale=scale, enable_gqa=grouped)
    # Heads that share a key are rows of one product. Scores in float32, as in the fused kernel: rounded to half precision
    # they would be off by a few hundredths.
    with torch.autocast("cpu", enabled=False):
        rows = (q.float() * scale).reshape(n, kv_heads, -1, dim)
        scores = (rows @ k.float().transpose(-1, -2)).view(n, kv_heads, -1, length, positions)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = F.dropout(torch.softmax(scores, dim=-1), dropout).to(v.dtype)
    return (weights.view(n, kv_heads, -1, positions) @ v).view(n, heads, length, dim)


def is_causal(module: nn.Module) -> bool:
    """Return whether an attention layer looks back only."""
    return bool(getattr(module, "is_causal", False))


# No mask function is registered beside it: where there is one, transformers looks in every forward pass of a decoder whether
# the position ids are those of packed sequences, and a GPU is waited for until it has the answer.
AttentionInterface.register(PACKED, packed_attention)
