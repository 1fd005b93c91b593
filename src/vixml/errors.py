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
