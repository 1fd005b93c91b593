"""Prompts: a template with its words as token ids, which every sequence has beside an item's text and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vixml.config.template import parse_template

TEXT, IMAGES = "text", "images"


@dataclass(frozen=True)
class Prompt:
    """Layout of a sequence.

    Attributes:
        pieces: in order, ``"text"``, ``"images"`` or the ids of words.
        causal: True for a decoder: a token sees only the tokens before it, so the words in front of every sequence are
            computed once for a whole batch.
        late: True for late fusion: images are not in the sequence.
        image_positions: positions that images in front of the text take in every item, whatever its number of images
            (``encoder.text_position: fixed``); 0: one per image.

    Example:
        >>> prompt = Prompt(((7, 8), "text", (9,)), causal=True)
        >>> prompt.token_ids, prompt.leading
        ((7, 8, 9), (7, 8))
    """

    pieces: tuple[str | tuple[int, ...], ...] = (IMAGES, TEXT)
    causal: bool = False
    late: bool = False
    image_positions: int = 0

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        """Return the ids of all tokens, in order."""
        return tuple(number for piece in self.pieces if not isinstance(piece, str) for number in piece)

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Return the ids in front of every sequence, which see nothing else; none in an encoder."""
        first = self.pieces[0]
        return first if self.causal and not isinstance(first, str) else ()


PLAIN = Prompt()  # an encoder's: images, then text (paper equation 3)


def make_prompt(
    template: str,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    *,
    causal: bool,
    bos: Sequence[int] = (),
    eos: int | None = None,
    each_piece: bool = False,
) -> Prompt:
    """Return a template's prompt.

    Args:
        template: as in the configuration (:func:`vixml.config.template.parse_template`).
        tokenize: pieces of words -> their ids, without special tokens.
        bos: ids that the tokenizer puts in front of any text, if any; they come first, before all pieces.
        each_piece: put ``bos`` in front of each piece, the text included, not only of the whole (docs/deviations.md D14).

    Raises:
        ValueError: the template is malformed, or has ``{eos}`` and the tokenizer has no such token.

    Example:
        >>> make_prompt("a {text}{eos}", lambda words: [[5]], causal=True, bos=[1], eos=2).pieces
        ((1, 5), 'text', (2,))
    """
    parsed = parse_template(template)
    if eos is None and any(piece.field == "eos" for piece in parsed):
        raise ValueError(f"the template {template!r} has {{eos}}, but the tokenizer names no end token")
    ids = iter(tokenize([piece.words for piece in parsed if piece.field is None]))
    found: list[str | tuple[int, ...]] = []
    for piece in parsed:
        words = (eos,) if piece.field == "eos" else tuple(next(ids)) if piece.field is None else piece.field
        found.append(words)
    pieces: list[str | tuple[int, ...]] = []
    for position, piece in enumerate(_joined(found)):
        if piece != IMAGES if each_piece else position == 0:
            pieces.append(tuple(bos))
        pieces.append(piece)
    return Prompt(tuple(piece for piece in _joined(pieces) if piece), causal)


def _joined(pieces: Sequence[str | tuple[int, ...]]) -> list[str | tuple[int, ...]]:
    """Return the pieces with neighbouring words, ``{eos}`` among them, as one piece."""
    joined: list[str | tuple[int, ...]] = []
    for piece in pieces:
        if joined and not isinstance(piece, str) and not isinstance(joined[-1], str):
            joined[-1] = (*joined[-1], *piece)
        else:
            joined.append(piece)
    return joined
