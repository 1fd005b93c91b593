"""Draw one svg as a square PNG, black on white, whatever the svg contains.

Svg files come from packages that we did not write, so what could reach outside or grow without bound is refused before
the renderer sees it: references that do not stay inside the document, entity declarations, files that are large or
deeply nested. The canvas has our size, not the file's.
"""

from __future__ import annotations

import io
import re
from xml.parsers import expat

# The largest icon of the packs used here takes 34 kB, holds 75 elements and is nested 8 deep; an honest drawing needs
# little more. The renderer recurses: 300 levels overflow its stack, which ends the process instead of raising an error,
# and each reference (`use`, a pattern inside a pattern) may add as many levels as the file is deep.
MAX_BYTES = 1 << 19
MAX_ELEMENTS = 2_000
MAX_LEVELS = 100
# Possessive, or backtracking would find a way around the '#'.
_OUTWARD = re.compile(r"url\(\s*+[\"']?+\s*+(?!#)|@import", re.IGNORECASE)


class Undrawable(Exception):
    """Say why an svg has no picture; the caller counts the reason."""


def is_svg(data: bytes) -> bool:
    """Return whether a file is text that begins as XML does; no bitmap format does."""
    return data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def draw(svg: bytes, size: int) -> bytes:
    """Return the drawing as PNG: ``size`` x ``size`` pixels, white background, ``currentColor`` black, shape kept.

    A drawing that is not square is centred. System fonts are not used: a picture must not depend on the machine.

    Args:
        svg: the file, UTF-8.
        size: side in pixels.

    Raises:
        Undrawable: broken, hostile, too large or empty; the reason has a few fixed beginnings, fit to be counted.

    Example:
        >>> draw(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path d="M0 0h2v1h-2z"/></svg>', 16)[:4]
        b'\\x89PNG'
    """
    import resvg_py

    text = re.sub("currentColor", "#000000", checked(svg), flags=re.IGNORECASE)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=text, width=size, height=size, background="#ffffff", skip_system_fonts=True
        )
    except ValueError as error:
        raise Undrawable(f"not an svg that can be drawn: {error}") from error
    except BaseException as error:
        # A panic inside the renderer is not an Exception; Ctrl-C must still pass.
        if type(error).__name__ != "PanicException":
            raise
        raise Undrawable(f"the renderer gave up: {error}") from error
    return squared(png, size)


def checked(svg: bytes) -> str:
    """Return the text of an svg that stays within itself and within bounds.

    Raises:
        Undrawable: see the module's head.
    """
    if len(svg) > MAX_BYTES:
        raise Undrawable(f"too large: {len(svg)} bytes")
    try:
        text = svg.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Undrawable("not UTF-8") from error
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.EntityDeclHandler, parser.CharacterDataHandler = reader.entity, reader.styles.append
    parser.ProcessingInstructionHandler = reader.instruction
    try:
        parser.Parse(text.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise Undrawable(f"not an svg that can be drawn: {error}") from error
    reader.look("".join(reader.styles))
    if reader.deepest * (1 + reader.references) > MAX_LEVELS:
        raise Undrawable(f"nested too deeply: {reader.deepest} levels, {reader.references} references")
    return text


class _Reader:
    """Follow an XML parser through an svg and stop it at what is not allowed."""

    def __init__(self) -> None:
        self.elements = self.depth = self.deepest = self.references = 0
        self.styles: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements, self.depth = self.elements + 1, self.depth + 1
        self.deepest = max(self.deepest, self.depth)
        if self.elements > MAX_ELEMENTS:
            raise Undrawable(f"too large: more than {MAX_ELEMENTS} elements")
        for key, value in attributes.items():
            if key.rpartition(":")[2].lower() == "href":
                # A list of what is allowed cannot be tricked by a scheme nobody thought of: '#name' stays inside.
                if not value.lstrip().startswith("#"):
                    raise Undrawable("refers to something outside itself")
                self.references += 1
            else:
                self.look(value)

    def look(self, value: str) -> None:
        """Judge an attribute or a style sheet; character references in it are resolved by now."""
        if _OUTWARD.search(value):
            raise Undrawable("refers to something outside itself")
        self.references += value.lower().count("url(")

    def end(self, name: str) -> None:
        self.depth -= 1

    def entity(self, *_: object) -> None:
        raise Undrawable("declares entities")

    def instruction(self, target: str, data: str) -> None:
        if target.lower() == "xml-stylesheet":
            raise Undrawable("refers to something outside itself")


def squared(png: bytes, size: int) -> bytes:
    """Return the picture centred on a white square (RGB PNG)."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as drawn:
        picture = drawn.convert("RGB")
    if picture.size != (size, size):
        canvas = Image.new("RGB", (size, size), "white")
        canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = canvas
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
