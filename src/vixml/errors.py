"""The one error that bad input raises, and how it is shown."""

from __future__ import annotations


class VixmlError(Exception):
    """Report bad input: what went wrong, where, what was found, what was expected and what to do.

    Args:
        what: one sentence, no trailing full stop, e.g. ``"the download does not match its checksum"``.
        where: file, ``file:line`` or configuration key.
        found: what was there.
        expected: what should have been there.
        hint: the next step for the reader, an imperative sentence.

    Example:
        >>> print(VixmlError("unknown key", where="config/runs/picto.yaml: epoch", hint="did you mean 'epochs'?"))
        unknown key
          where:    config/runs/picto.yaml: epoch
          what now: did you mean 'epochs'?
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.expected, self.hint = what, where, found, expected, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for name, value in (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("what now", self.hint),
        ):
            if value is not None:
                lines.append(f"  {name + ':':<9} {value}")
        return "\n".join(lines)


def expect_equal(found: object, expected: object, what: str, *, where: object, hint: str | None = None) -> None:
    """Check that two values are equal.

    Args:
        found: a value, or a text such as ``"3 images"``.
        expected: its expected value.
        what, where, hint: of the error, as in :class:`VixmlError`.

    Raises:
        VixmlError: they differ.
    """
    if found != expected:
        raise VixmlError(what, where=where, found=found, expected=expected, hint=hint)


def expect_index(index: int, n: int, what: str, *, where: object, hint: str | None = None) -> None:
    """Check that ``0 <= index < n``.

    Raises:
        VixmlError: it is not; the rest is as in :func:`expect_equal`.
    """
    if not 0 <= index < n:
        raise VixmlError(what, where=where, found=index, expected=f"0 to {n - 1}", hint=hint)
