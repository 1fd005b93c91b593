"""Lay sequences of words, text and image tokens end to end, so that nothing is ever computed on padding.

A batch is one stream of tokens, sequences ordered by length. Sequences of equal length are neighbours, so attention
sees them as one dense block per length: no mask, no padding, and a vector that cannot depend on what else is in the
batch (docs/deviations.md D6). A prompt says where text, images and words stand; an absent image takes no position at all
(D5). In a decoder the words in front of every sequence see only one another, so they stand once at the head of the
stream, and every sequence looks back at them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vixml.models.prompt import IMAGES, PLAIN, TEXT, Prompt
from vixml.ragged import Ragged


@dataclass(frozen=True)
class Packed:
    """One stream of ``n_tokens`` positions holding ``n`` sequences.

    Attributes:
        token_ids: (n_ids,) int64, ids to embed: text tokens in stream order, then the prompt's words once.
        image_rows: (n_images,) int64, rows of the image embeddings: in stream order, or in the caller's for late fusion.
        image_items: (n_images,) int64, for late fusion the item of each image, in the caller's order; else None.
        gather: (n_tokens,) int64, for each position the row of ``[ids; images]`` that stands there.
        position_ids: (n_tokens,) int64, the token's position in its own sequence, words and images counted; with
            ``Prompt.image_positions``, images in front of the text count as so many in every item.
        prefix: positions at the head of the stream that belong to every sequence.
        blocks: (n_blocks, 3) int64 rows ``(first position, sequences, length)``: sequences of one length, without prefix.
        restore: (n,) int64, where sequence i of the caller's order went in the stream's order. Sequences that only fill
            the stream up stand last, and nobody asks for them.
    """

    token_ids: np.ndarray
    image_rows: np.ndarray
    image_items: np.ndarray | None
    gather: np.ndarray
    position_ids: np.ndarray
    prefix: int
    blocks: np.ndarray
    restore: np.ndarray

    def __len__(self) -> int:
        return len(self.restore)

    def pin_memory(self) -> Packed:
        """Move all that a GPU fetches where it can do so without the processor's help."""
        fetched = ("token_ids", "gather", "position_ids", "restore")
        return replace(self, **{name: pinned(getattr(self, name)) for name in fetched})


def pinned(array: np.ndarray) -> np.ndarray:
    """Return a copy in pinned memory: before a copy from any other the driver waits for the stream, however it is asked."""
    return torch.from_numpy(array).pin_memory().numpy()


# Streams are filled up to a multiple of this. oneDNN compiles a kernel for every new shape: with a new number of tokens
# each step that took longer than the products themselves (benchmarks/README.md), and a GPU's tiles want multiples of 8.
MULTIPLE = 128


def pack(tokens: Ragged, images: Ragged | None = None, prompt: Prompt | None = None, multiple: int = 1) -> Packed:
    """Pack ``n`` sequences.

    Args:
        tokens: text tokens of each sequence.
        images: rows of the image embeddings of each sequence, or None for text only.
        prompt: how a sequence is laid out; None puts images before text, without words.
        multiple: the stream is filled up to a multiple of so many positions, with sequences of one position that ``restore``
            does not name.

    Returns:
        The stream. Sequences of equal length keep the caller's order.

    Raises:
        ValueError: a sequence with nothing in it, or two lists of different length.

    Example:
        >>> p = pack(Ragged.from_rows([[5, 6, 7], [8]], 10), Ragged.from_rows([[], [2]], 3))
        >>> p.token_ids.tolist(), p.image_rows.tolist(), p.position_ids.tolist(), p.blocks.tolist()
        ([8, 5, 6, 7], [2], [0, 1, 0, 1, 2], [[0, 1, 2], [2, 1, 3]])
        >>> p.gather.tolist()  # position 0 is image 0, which stands after the four text tokens
        [4, 0, 1, 2, 3]
        >>> p = pack(Ragged.from_rows([[5], [6, 7]], 10), None, Prompt(((1, 2), "text", (3,)), causal=True))
        >>> p.prefix, p.position_ids.tolist(), p.blocks.tolist()  # words 1 and 2 stand once, at the head
        (2, [0, 1, 2, 3, 2, 3, 4], [[2, 1, 2], [4, 1, 3]])
        >>> p.token_ids[p.gather].tolist()
        [1, 2, 5, 3, 6, 7, 3]
    """
    prompt = prompt or PLAIN
    n = len(tokens)
    if images is not None and len(images) != n:
        raise ValueError(f"{n} texts but {len(images)} image lists")
    inside = images if images is not None and not prompt.late else None
    own = {TEXT: tokens.lengths, IMAGES: inside.lengths if inside is not None else np.zeros(n, dtype=np.int64)}
    shared = len(prompt.leading)
    lengths = sum(own[piece] if isinstance(piece, str) else len(piece) for piece in prompt.pieces) + np.zeros(
        n, dtype=np.int64
    )
    if n and lengths.min() < 1:
        raise ValueError(f"sequence {int(lengths.argmin())} is empty")
    if n and lengths.min() <= shared:
        shared = 0  # a sequence of nothing but leading words has no position of its own beside a shared prefix
    order = np.argsort(lengths, kind="stable")
    restore = np.empty(n, dtype=np.int64)
    restore[order] = np.arange(n)
    text = tokens.take(order)
    image_lists = inside.take(order) if inside is not None else None
    rows = image_lists.values if image_lists is not None else np.zeros(0, dtype=np.int32)
    lengths = lengths[order] - shared
    starts = shared + np.concatenate([[0], np.cumsum(lengths)])
    filling = -int(starts[-1]) % multiple
    gather = np.zeros(starts[-1] + filling, dtype=np.int64)
    first_word = len(text.values)
    gather[:shared] = first_word + np.arange(shared)
    # Piece by piece, `position` walks along every sequence at once.
    position, word = starts[:-1] - shared, first_word
    for piece in prompt.pieces:
        if not isinstance(piece, str):
            skip = shared if word == first_word and piece is prompt.pieces[0] else 0
            for offset in range(skip, len(piece)):
                gather[position + offset] = word + offset
            position, word = position + len(piece), word + len(piece)
            continue
        part = text if piece == TEXT else image_lists
        if part is not None:
            base = 0 if piece == TEXT else first_word + len(prompt.words)
            inner = np.arange(len(part.values)) - np.repeat(part.offsets[:-1], part.lengths)
            gather[np.repeat(position, part.lengths) + inner] = base + np.arange(len(part.values))
            position = position + part.lengths
        if piece == IMAGES:
            behind_images = position
    position_ids = np.arange(len(gather), dtype=np.int64)
    position_ids[shared : starts[-1]] -= np.repeat(starts[:-1] - shared, lengths)
    if image_lists is not None and prompt.image_positions and prompt.pieces.index(IMAGES) < prompt.pieces.index(TEXT):
        left_out = np.zeros(
            len(gather) + 1, dtype=np.int64
        )  # steps up behind the images, and down where the next starts
        np.add.at(left_out, behind_images, prompt.image_positions - image_lists.lengths)
        np.add.at(left_out, starts[1:], image_lists.lengths - prompt.image_positions)
        position_ids += left_out[:-1].cumsum()
    position_ids[starts[-1] :] = shared
    distinct, first, count = np.unique(lengths, return_index=True, return_counts=True)
    blocks = np.stack([starts[first], count, distinct], axis=1).astype(np.int64)
    if filling:
        blocks = np.concatenate([blocks, [[starts[-1], filling, 1]]])
    ids = np.concatenate([text.values, np.asarray(prompt.words, dtype=np.int64)]).astype(np.int64)
    items = None
    if images is not None and prompt.late:
        rows, items = images.values, images.row_ids()
    return Packed(ids, rows.astype(np.int64), items, gather, position_ids, shared, blocks, restore)
