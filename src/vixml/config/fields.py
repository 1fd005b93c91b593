"""Names of a text's fields, as they are written: they decide every text, so digests cover this module, unlike the rest of ``config``."""

from __future__ import annotations


def fields_of(text: str) -> tuple[str, ...]:
    """Return the names in ``title + content``, in order."""
    return tuple(part.strip() for part in text.split("+"))
