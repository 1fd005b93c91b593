"""Keep labels of a drawing apart."""

from __future__ import annotations

from collections.abc import Sequence


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights moved apart to at least ``gap``, in the same order, so that labels do not overlap.

    Example:
        >>> spread([1.0, 1.0, 5.0], gap=1.0)
        [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[list[int], float]] = []
    for index in order:
        groups.append(([index], heights[index]))
        # A group's labels stand around its mean height; groups that touch become one.
        while len(groups) > 1:
            (lower, low), (upper, high) = groups[-2:]
            if high - low >= gap * (len(lower) + len(upper)) / 2:
                break
            members = lower + upper
            groups[-2:] = [(members, sum(heights[i] for i in members) / len(members))]
    placed = [0.0] * len(heights)
    for members, middle in groups:
        for rank, index in enumerate(members):
            placed[index] = middle + gap * (rank - (len(members) - 1) / 2)
    return placed


def wrapped(words: str, letters: int) -> str:
    """Return words broken into lines of about ``letters``, none of them empty and no word broken.

    Example:
        >>> wrapped("This product text", 12)
        'This product\\ntext'
    """
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + 1 + len(word) <= letters:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
