"""Lay sequences of prompt tokens, text and image tokens end to end, so that nothing is computed on padding.

A batch is one stream of tokens, with sequences ordered by length. Sequences of equal length are neighbours, so attention
sees one dense block per length: no mask, no padding, and a vector that cannot depend on the rest of the batch
(docs/deviations.md D6). A prompt gives the order of text, images and tokens of its own; an absent image takes no position (D5). In a
decoder the tokens in front of every sequence see only one another, so the stream holds them once, at its head, and every
sequence attends to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vixml.models.prompt import IMAGES, PLAIN, TEXT, Prompt
from vixml.ragged import Ragged


@dataclass(frozen=True)
class Packed:
    """One stream of ``n_tokens`` positions that holds ``n`` sequences.

    Attributes:
        token_ids: (n_ids,) int64, ids to embed: text tokens in stream order, then the prompt's tokens once.
        image_rows: (n_images,) int64, rows of the image embeddings: in stream order, or in the caller's for late fusion.
        image_items: (n_images,) int64, for late fusion the item of each image, in the caller's order; else None.
        gather: (n_tokens,) int64, for each position its row of ``[ids; images]``.
        position_ids: (n_tokens,) int64, the token's position in its sequence, counting prompt tokens and images; with
            ``Prompt.image_positions``, images in front of the text count as so many in every item.
        prefix: positions at the head of the stream that belong to every sequence.
        blocks: (n_blocks, 3) int64 rows ``(first position, sequences, length)``: sequences of one length, without prefix.
        restore: (n,) int64, where sequence i of the caller's order went in the stream's order. Sequences that only fill
            the stream up come last and are not restored.
        image_vectors: (n_images, image_dim) float16 vectors of ``image_rows``; None without images.
    """

    token_ids: np.ndarray
    image_rows: np.ndarray
    image_items: np.ndarray | None
    gather: np.ndarray
    position_ids: np.ndarray
    prefix: int
    blocks: np.ndarray
    restore: np.ndarray
    image_vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.restore)

    def pin_memory(self) -> Packed:
        """Return a copy whose arrays that a GPU reads are in pinned memory."""
        read = ("token_ids", "gather", "position_ids", "restore")
        vectors = None if self.image_vectors is None else self.image_vectors.pin_memory()
        return replace(self, **{name: pinned(getattr(self, name)) for name in read}, image_vectors=vectors)


def pinned(array: np.ndarray) -> np.ndarray:
    """Return a copy in pinned memory: from any other memory, even a non-blocking copy to a GPU waits for its stream."""
    return torch.from_numpy(array).pin_memory().numpy()


# Streams are filled up to a multiple of this. oneDNN compiles a kernel for every new shape: with a new number of tokens in
# every step, compiling took longer than the products (benchmarks/README.md). A GPU's tiles need multiples of 8.
MULTIPLE = 128


def pack_sequences(
    tokens: Ragged, images: Ragged | None = None, prompt: Prompt | None = None, multiple: int = 1
) -> Packed:
    """Pack ``n`` sequences into one stream; those of equal length keep the caller's order.

    Args:
        tokens: text tokens of each sequence.
        images: rows of the image embeddings of each sequence, or None for text only.
        prompt: how a sequence is laid out; None puts images before text, without a prompt.
        multiple: the stream is filled up to a multiple of this length, with sequences of one position that ``restore``
            leaves out.

    Raises:
        ValueError: a sequence with nothing in it, or two lists of different length.

    Example:
        >>> p = pack_sequences(Ragged.from_rows([[5, 6, 7], [8]], 10), Ragged.from_rows([[], [2]], 3))
        >>> p.token_ids.tolist(), p.image_rows.tolist(), p.position_ids.tolist(), p.blocks.tolist()
        ([8, 5, 6, 7], [2], [0, 1, 0, 1, 2], [[0, 1, 2], [2, 1, 3]])
        >>> p.gather.tolist()  # position 0 is image 0, which comes after the four ids
        [4, 0, 1, 2, 3]
        >>> p = pack_sequences(Ragged.from_rows([[5], [6, 7]], 10), None, Prompt(((1, 2), "text", (3,)), causal=True))
        >>> p.prefix, p.position_ids.tolist(), p.blocks.tolist()  # prompt tokens 1 and 2 occur once, at the head
        (2, [0, 1, 2, 3, 2, 3, 4], [[2, 1, 2], [4, 1, 3]])
        >>> p.token_ids[p.gather].tolist()
        [1, 2, 5, 3, 6, 7, 3]
    """
    prompt = prompt or PLAIN
    n = len(tokens)
    if images is not None and len(images) != n:
        raise ValueError(f"{n} texts but {len(images)} image lists")
    fused = images is not None and not prompt.late
    lists = {TEXT: tokens, IMAGES: images if fused else Ragged(np.zeros(0, np.int32), np.zeros(n + 1, np.int64), 0)}
    lengths = len(prompt.token_ids) + sum(lists[piece].lengths for piece in prompt.pieces if isinstance(piece, str))
    if n and lengths.min() < 1:
        raise ValueError(f"sequence {int(lengths.argmin())} is empty")
    # A sequence of nothing but leading tokens has no position beside a shared prefix: then nothing is shared.
    shared = len(prompt.leading) if not n or lengths.min() > len(prompt.leading) else 0
    order = np.argsort(lengths, kind="stable")
    restore = np.empty(n, dtype=np.int64)
    restore[order] = np.arange(n)
    lists = {piece: of_items.take(order) for piece, of_items in lists.items()}
    lengths = lengths[order] - shared
    starts = shared + np.concatenate([[0], np.cumsum(lengths)])
    filling = -int(starts[-1]) % multiple
    gather = np.zeros(starts[-1] + filling, dtype=np.int64)
    first_token = len(lists[TEXT].values)
    gather[:shared] = first_token + np.arange(shared)
    # Piece by piece, `position` walks along all sequences at once.
    position, word = starts[:-1], first_token + shared
    for piece in prompt.pieces[1:] if shared else prompt.pieces:
        if not isinstance(piece, str):
            for offset in range(len(piece)):
                gather[position + offset] = word + offset
            position, word = position + len(piece), word + len(piece)
            continue
        part, base = lists[piece], 0 if piece == TEXT else first_token + len(prompt.token_ids)
        inner = np.arange(len(part.values)) - np.repeat(part.offsets[:-1], part.lengths)
        gather[np.repeat(position, part.lengths) + inner] = base + np.arange(len(part.values))
        position = position + part.lengths
        if piece == IMAGES:
            behind_images = position
    position_ids = np.arange(len(gather), dtype=np.int64)
    position_ids[shared : starts[-1]] -= np.repeat(starts[:-1] - shared, lengths)
    if fused and prompt.image_positions and prompt.pieces.index(IMAGES) < prompt.pieces.index(TEXT):
        # Absent images move what follows: up by their number behind the images, and down where the next sequence starts.
        absent, steps = prompt.image_positions - lists[IMAGES].lengths, np.zeros(len(gather) + 1, dtype=np.int64)
        np.add.at(steps, behind_images, absent)
        np.add.at(steps, starts[1:], -absent)
        position_ids += steps[:-1].cumsum()
    position_ids[starts[-1] :] = shared
    distinct, first, count = np.unique(lengths, return_index=True, return_counts=True)
    blocks = np.stack([starts[first], count, distinct], axis=1).astype(np.int64)
    if filling:
        blocks = np.concatenate([blocks, [[starts[-1], filling, 1]]])
    ids = np.concatenate([lists[TEXT].values, np.asarray(prompt.token_ids, dtype=np.int64)]).astype(np.int64)
    late = images is not None and prompt.late
    rows, items = (images.values, images.row_ids()) if late else (lists[IMAGES].values, None)
    return Packed(ids, rows.astype(np.int64), items, gather, position_ids, shared, blocks, restore)


@dataclass(frozen=True)
class Sequences:
    """Items as the encoder reads them: text, images and prompt.

    Attributes:
        tokens: (n rows) text tokens.
        images: (n rows) rows of the image embeddings, or None for text only.
        gather: reads image vectors: rows of the image embeddings -> (n_images, image_dim) float16; needed with images.
    """

    tokens: Ragged
    images: Ragged | None = None
    prompt: Prompt = PLAIN
    gather: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens, words and images of each item, shared words left out: (n,) int64."""
        images = 0 if self.images is None else self.images.lengths
        return self.tokens.lengths + len(self.prompt.token_ids) - len(self.prompt.leading) + images

    def take(self, rows: np.ndarray) -> Sequences:
        """Return the items of ``rows``, (k,) int64, in that order."""
        images = None if self.images is None else self.images.take(rows)
        return replace(self, tokens=self.tokens.take(rows), images=images)

    def followed_by(self, other: Sequences) -> Sequences:
        """Return these items, then those of ``other``, with this prompt."""
        images = None if self.images is None or other.images is None else _concatenate(self.images, other.images)
        return replace(self, tokens=_concatenate(self.tokens, other.tokens), images=images)

    def pack(self, multiple: int = 1) -> Packed:
        """Return the items as one stream with their image vectors; arguments and errors are those of :func:`pack_sequences`."""
        packed = pack_sequences(self.tokens, self.images, self.prompt, multiple)
        if not len(packed.image_rows):
            return packed
        # A tensor: a process that assembles batches hands it over in shared memory.
        return replace(packed, image_vectors=torch.as_tensor(self.gather(packed.image_rows)))


def _concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Return the rows of ``first``, then those of ``second``."""
    return Ragged(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        max(first.n_cols, second.n_cols),
    )
