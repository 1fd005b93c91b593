"""The prompt's little language: words, with ``{text}``, ``{images}`` and ``{eos}`` in their places."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

FIELDS = ("text", "images", "eos")
_PIECE = re.compile(r"\{([^{}]*)\}|([^{}]+)|([{}])")


@dataclass(frozen=True)
class Piece:
    """One piece of a template: a field, or words.

    Attributes:
        field: ``text``, ``images``, ``eos``, or None for words.
        words: the words, without the blanks at their ends; empty for a field.
    """

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
    for match in _PIECE.finditer(template):
        field, words, brace = match.groups()
        if brace is not None:
            raise ValueError(
                f"a brace without its partner at character {match.start() + 1} of the template {template!r}"
            )
        if field is None:
            if words.strip():
                pieces.append(Piece(None, words.strip()))
            continue
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.5)
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            hint = f"did you mean {{{near[0]}}}?" if near else f"known are {known}"
            raise ValueError(f"unknown field {{{field}}} in the template {template!r}: {hint}")
        if any(piece.field == field for piece in pieces):
            raise ValueError(f"the field {{{field}}} stands twice in the template {template!r}")
        pieces.append(Piece(field))
    if not any(piece.field == "text" for piece in pieces):
        raise ValueError(f"the template {template!r} has no {{text}}: say where the item's text stands")
    return tuple(pieces)


def has_field(template: str, field: str) -> bool:
    """Return whether a template has a field."""
    return any(piece.field == field for piece in parse_template(template))
