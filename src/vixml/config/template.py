"""The language of prompts: words, with ``{text}``, ``{images}`` and ``{eos}`` in their places."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

FIELDS = ("text", "images", "eos")


@dataclass(frozen=True)
class Piece:
    """One piece of a template: a field (an entry of :data:`FIELDS`), or words without the blanks at their ends."""

    field: str | None
    words: str = ""


def parse_template(template: str) -> tuple[Piece, ...]:
    """Return the pieces of a template in order.

    Blanks between a piece of words and its neighbours are dropped, as in the paper's prompts, whose pieces are
    tokenized alone (docs/deviations.md D14).

    Raises:
        ValueError: no ``{text}``, a field twice, an unknown field (with the nearest spelling), or a stray brace.

    Example:
        >>> [piece.field or piece.words for piece in parse_template("This product text {text}{eos}")]
        ['This product text', 'text', 'eos']
    """
    pieces: list[Piece] = []
    for match in re.finditer(r"\{([^{}]*)\}|([^{}]+)|[{}]", template):
        field, words = match.groups()
        if field in FIELDS:
            if any(piece.field == field for piece in pieces):
                raise ValueError(f"the field {{{field}}} occurs twice in the template {template!r}")
            pieces.append(Piece(field))
        elif field is not None:
            near = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.5)
            hint = f"did you mean {{{near[0]}}}?" if near else "known are {text}, {images}, {eos}"
            raise ValueError(f"unknown field {{{field}}} in the template {template!r}: {hint}")
        elif words is None:
            at = match.start() + 1
            raise ValueError(f"a brace without its partner at character {at} of the template {template!r}")
        elif words.strip():
            pieces.append(Piece(None, words.strip()))
    if not any(piece.field == "text" for piece in pieces):
        raise ValueError(f"the template {template!r} has no {{text}}: add it where the item's text belongs")
    return tuple(pieces)


def has_field(template: str, field: str) -> bool:
    """Return whether a template has a field."""
    return any(piece.field == field for piece in parse_template(template))
