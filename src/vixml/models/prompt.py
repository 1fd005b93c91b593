"""A template with its words as token ids: what stands in every sequence beside an item's own text and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vixml.config.template import parse_template

TEXT, IMAGES = "text", "images"


@dataclass(frozen=True)
class Prompt:
    """How a sequence is laid out.

    Attributes:
        pieces: in order, ``"text"``, ``"images"`` or the ids of words.
        causal: True for a decoder: a token sees only what stands before it, so that the words in front of every sequence
            are computed once for a whole batch.
        late: True for late fusion: images stay outside the sequence.
        image_positions: positions that images in front of the text take in every item, whether it has so many or not
            (``encoder.text_position: fixed``); 0: one per image.

    Example:
        >>> prompt = Prompt(((7, 8), "text", (9,)), causal=True)
        >>> prompt.words, prompt.leading
        ((7, 8, 9), (7, 8))
    """

    pieces: tuple[str | tuple[int, ...], ...] = (IMAGES, TEXT)
    causal: bool = False
    late: bool = False
    image_positions: int = 0

    @cached_property
    def words(self) -> tuple[int, ...]:
        """Return the ids of all words, in order."""
        return tuple(number for piece in self.pieces if not isinstance(piece, str) for number in piece)

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Return the ids that stand in front of every sequence and see nothing else; none in an encoder."""
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
    late: bool = False,
    each_piece: bool = False,
    image_positions: int = 0,
) -> Prompt:
    """Return a template's prompt.

    Args:
        template: as in the configuration (:func:`vixml.config.template.parse_template`).
        tokenize: pieces of words -> their ids, without special tokens.
        causal: see :class:`Prompt`.
        bos: what the tokenizer puts in front of any text, if anything; it stands first, before all pieces.
        eos: id of ``{eos}``.
        late: see :class:`Prompt`.
        each_piece: put ``bos`` in front of each piece, the text included, not only of the whole (docs/deviations.md D14).
        image_positions: see :class:`Prompt`.

    Raises:
        ValueError: the template is malformed, or has ``{eos}`` where the tokenizer has no such token.

    Example:
        >>> make_prompt("a {text}{eos}", lambda words: [[5]], causal=True, bos=[1], eos=2).pieces
        ((1, 5), 'text', (2,))
    """
    parsed = parse_template(template)
    ids = iter(tokenize([piece.words for piece in parsed if piece.field is None]))
    # Words side by side, `{eos}` among them, are one piece; first the pieces, then what the tokenizer adds.
    pieces: list[str | tuple[int, ...]] = []
    for piece in parsed:
        if piece.field == "eos":
            if eos is None:
                raise ValueError(f"the template {template!r} has {{eos}}, but the tokenizer names no end token")
            found: str | tuple[int, ...] = (eos,)
        elif piece.field is None:
            found = tuple(next(ids))
        else:
            found = piece.field
        if not isinstance(found, str) and pieces and not isinstance(pieces[-1], str):
            pieces[-1] = (*pieces[-1], *found)
        else:
            pieces.append(found)
    added: list[str | tuple[int, ...]] = []
    for position, found in enumerate(pieces):
        own = tuple(bos) if (found != IMAGES if each_piece else position == 0) else ()
        if not isinstance(found, str):
            added.append((*own, *found))
        elif own and added and not isinstance(added[-1], str):
            added[-1] = (*added[-1], *own)
            added.append(found)
        else:
            added += [own, found]
    return Prompt(tuple(piece for piece in added if piece), causal, late, image_positions)
