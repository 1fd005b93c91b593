"""Lay sequences of text and image tokens end to end, so that nothing is ever computed on padding.

A batch is one stream of tokens, sequences ordered by length. Sequences of equal length are neighbours, so attention
sees them as one dense block per length: no mask, no padding, and a vector that cannot depend on what else is in the
batch (docs/deviations.md D6). Images of an item stand before its text (``V ⊕ E``, paper equation 3); an absent image takes
no place at all (D5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vixml.ragged import Ragged


@dataclass(frozen=True)
class Packed:
    """One stream of ``n_tokens`` places holding ``n`` sequences.

    Attributes:
        token_ids: (n_text,) int64, text tokens in stream order.
        image_rows: (n_images,) int64, rows of the image bank in stream order.
        gather: (n_tokens,) int64, for each place the row of ``[text tokens; images]`` that stands there.
        positions: (n_tokens,) int64, the token's place in its own sequence, images counted.
        blocks: (n_blocks, 3) int64 rows ``(first place, sequences, length)``: sequences of one length.
        restore: (n,) int64, where sequence i of the caller's order went in the stream's order.
    """

    token_ids: np.ndarray
    image_rows: np.ndarray
    gather: np.ndarray
    positions: np.ndarray
    blocks: np.ndarray
    restore: np.ndarray

    def __len__(self) -> int:
        return len(self.restore)


def pack(tokens: Ragged, images: Ragged | None = None) -> Packed:
    """Pack ``n`` sequences.

    Args:
        tokens: text tokens of each sequence, special tokens included.
        images: bank rows of each sequence, or None for text only.

    Returns:
        The stream. Sequences of equal length keep the caller's order.

    Raises:
        ValueError: a sequence with neither text nor image, or two lists of different length.

    Example:
        >>> p = pack(Ragged.from_rows([[5, 6, 7], [8]], 10), Ragged.from_rows([[], [2]], 3))
        >>> p.token_ids.tolist(), p.image_rows.tolist(), p.positions.tolist(), p.blocks.tolist()
        ([8, 5, 6, 7], [2], [0, 1, 0, 1, 2], [[0, 1, 2], [2, 1, 3]])
        >>> p.gather.tolist()  # place 0 is image 0, which stands after the four text tokens
        [4, 0, 1, 2, 3]
    """
    n = len(tokens)
    if images is not None and len(images) != n:
        raise ValueError(f"{n} texts but {len(images)} image lists")
    n_image = images.lengths if images is not None else np.zeros(n, dtype=np.int64)
    lengths = tokens.lengths + n_image
    if n and lengths.min() < 1:
        raise ValueError(f"sequence {int(lengths.argmin())} is empty")
    order = np.argsort(lengths, kind="stable")
    restore = np.empty(n, dtype=np.int64)
    restore[order] = np.arange(n)
    tokens = tokens.take(order)
    rows = images.take(order).values if images is not None else np.zeros(0, dtype=np.int32)
    n_image, lengths = n_image[order], lengths[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(starts[-1], dtype=np.int64) - np.repeat(starts[:-1], lengths)
    is_image = positions < np.repeat(n_image, lengths)
    gather = np.empty(starts[-1], dtype=np.int64)
    gather[~is_image] = np.arange(len(tokens.values))
    gather[is_image] = len(tokens.values) + np.arange(len(rows))
    distinct, first, count = np.unique(lengths, return_index=True, return_counts=True)
    blocks = np.stack([starts[first], count, distinct], axis=1).astype(np.int64)
    return Packed(tokens.values.astype(np.int64), rows.astype(np.int64), gather, positions, blocks, restore)
