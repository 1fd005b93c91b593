"""Draw one svg as a square PNG, black on white, whatever the svg contains.

Svg files come from packages that we did not write, so what could reach outside or grow without bound is refused before
the renderer sees it: references that do not stay inside the document, entity declarations, oversized files. The
renderer itself caps elements, and the canvas has our size, not the file's.
"""

from __future__ import annotations

import io
import re

# The largest icon of the packs used here takes 34 kB; an honest drawing does not need more.
MAX_BYTES = 1 << 19
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)")
_REFERENCE = re.compile(r"\bhref\s*=\s*(?:\"\s*([^\"]*)|'\s*([^']*))", re.IGNORECASE)
_URL = re.compile(r"url\(\s*[\"']?\s*(?!#)", re.IGNORECASE)
_FORBIDDEN = (
    ("<!entity", "declares entities"),
    ("@import", "imports a style sheet"),
    ("<?xml-stylesheet", "names a style sheet"),
)


class Undrawable(Exception):
    """Say why an svg has no picture; the caller counts the reason."""


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

    text = checked(svg)
    text = re.sub("currentColor", "#000000", text, flags=re.IGNORECASE)
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
    """Return the text of an svg that stays within itself.

    Raises:
        Undrawable: see the module's head.
    """
    if len(svg) > MAX_BYTES:
        raise Undrawable(f"too large: {len(svg)} bytes")
    try:
        text = svg.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Undrawable("not UTF-8") from error
    declared = _XML_DECLARATION.match(text)
    if declared and declared.group(1).lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise Undrawable(f"not UTF-8 but {declared.group(1)}")
    lower = text.lower()
    for mark, reason in _FORBIDDEN:
        if mark in lower:
            raise Undrawable(reason)
    # A list of what is allowed cannot be tricked by a scheme nobody thought of: only '#name' stays inside.
    for match in _REFERENCE.finditer(text):
        target = match.group(1) if match.group(1) is not None else match.group(2)
        if not target.startswith("#"):
            raise Undrawable("refers to something outside itself")
    if _URL.search(text):
        raise Undrawable("refers to something outside itself")
    return text


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
