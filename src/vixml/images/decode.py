"""Untrusted files become square PNG images: bitmaps are decoded, drawings drawn; what cannot be read raises :class:`Undrawable`.

:mod:`vixml.images.workers` calls it in processes of limited time and memory, so it imports little.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from xml.parsers import expat

from PIL import Image, UnidentifiedImageError


class Undrawable(Exception):
    """The reason why a file gives no image; the caller counts it."""


def draw_or_prepare(file: bytes | str, size: int) -> bytes:
    """Return an svg drawn or a bitmap prepared, as PNG.

    Raises:
        Undrawable: ``file`` is the reason why there is none, or as :func:`draw` and :func:`prepare`.
    """
    if isinstance(file, str):
        raise Undrawable(file)
    return draw(file, size) if is_svg(file) else prepare(file, size)


# -- photographs ------------------------------------------------------------------------------------------------------

# Accepted formats and size: a small file may decode to more memory than the machine has.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 1 << 26


# What an EXIF orientation asks for; 1 is upright, other numbers mean nothing.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
ORIENTATION = 0x0112
# Modes of grey images; files of the formats above have the first.
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Rows composited at a time, so that a large transparent image is held twice, not five times.
STRIP = 256


def prepare(data: bytes | Image.Image, size: int) -> bytes:
    """Return an image as PNG of ``size`` x ``size`` pixels, in sRGB, upright, on white (docs/deviations.md D35).

    A smaller image is not enlarged but gets a wider margin. Of several frames, the first counts. An image that is open already
    gives what its file gives; its profile and EXIF data count, and integers are samples of 16 bits.

    Raises:
        Undrawable: not an image, cut short, or of too many pixels; the reason has a few fixed beginnings.

    Example:
        >>> written = io.BytesIO()
        >>> Image.new("RGB", (40, 20), "red").save(written, "JPEG")
        >>> Image.open(io.BytesIO(prepare(written.getvalue(), 16))).size
        (16, 16)
    """
    try:
        with warnings.catch_warnings():
            # The library warns of decompression bombs at a higher limit than ours below, and of damaged metadata.
            warnings.simplefilter("ignore")
            is_open = isinstance(data, Image.Image)
            with nullcontext(data) if is_open else Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.mode == "F":
                    raise Undrawable("not an image that can be read: floats of an unknown range; convert it to RGB")
                if opened.width * opened.height > MAX_PIXELS:
                    raise Undrawable(f"too large: {opened.width} x {opened.height} pixels")
                stored = str(opened.tile[0].args) if opened.format == "PNG" and opened.tile else opened.mode
                opened.load()
                turn, to_srgb = _turn(opened), _to_srgb(opened.info.get("icc_profile"), opened.mode)
                keep_ink = opened.mode == "CMYK" and to_srgb is not None
                image = opened.copy() if keep_ink else on_white(_eight_bits(opened, stored))
                image.thumbnail((size, size), Image.Resampling.LANCZOS)
                # After shrinking, where both are cheap.
                if to_srgb is not None:
                    image = to_srgb(image)
    except (Undrawable, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its message holds an address in memory, which varies
        raise Undrawable("not an image that can be read: of no known format") from error
    except Exception as error:  # whatever a parser of foreign data raises: AssertionError and IndexError were seen
        raise Undrawable(f"not an image that can be read: {str(error) or type(error).__name__}") from error
    return _as_png(centred(image.transpose(turn) if turn is not None else image, size))


def _turn(opened: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright; damaged EXIF data say nothing."""
    exif = Image.Exif()
    try:
        exif.load(opened.info.get("exif") or b"")
        return TURNS.get(exif.get(ORIENTATION, 1))
    except Exception:  # whatever a parser of foreign data raises
        return None


# Largest difference, of 255, between a profile's colours and sRGB's at which it counts as sRGB: rounding only.
SAME_COLOURS = 2


@lru_cache(8)
def _to_srgb(profile: bytes | None, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return what converts an RGB image (of mode CMYK: that image) from an ICC profile to sRGB.

    None where nothing needs converting, or where the profile is damaged or belongs to images of another kind.
    """
    if not profile:
        return None
    from PIL import ImageChops, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        grey = mode in ("1", "L", "LA", *SIXTEEN_BITS)
        allowed = ("CMYK",) if mode == "CMYK" else ("RGB", "GRAY") if grey else ("RGB",)
        if space not in allowed:
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, "L" if space == "GRAY" else space, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None

    def convert(image: Image.Image) -> Image.Image:
        return transform.apply(image.getchannel(0) if space == "GRAY" else image)

    if space != "CMYK":
        colours = b"".join(bytes((value,) * 3) for value in range(256))
        if space == "RGB":
            steps = range(0, 256, 51)
            colours += b"".join(bytes((r, g, b)) for r in steps for g in steps for b in steps)
        known = Image.frombytes("RGB", (len(colours) // 3, 1), colours)
        if max(high for _, high in ImageChops.difference(known, convert(known)).getextrema()) <= SAME_COLOURS:
            return None
    return convert


def _eight_bits(opened: Image.Image, stored: str) -> Image.Image:
    """Return an image whose samples and transparent colour have 8 bits; of 16, the upper 8 count, as they do in RGB.

    ``stored``: how a PNG stores a pixel, e.g. ``L;4``.
    """
    key = opened.info.get("transparency")
    if opened.mode in SIXTEEN_BITS:
        import numpy as np  # rarely needed

        samples = np.asarray(opened).clip(0, 0xFFFF)
        image = Image.fromarray((samples >> 8).astype(np.uint8))
        if key is not None:
            image.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
        return image
    if key is not None and stored in ("L;2", "L;4"):
        opened.info["transparency"] = key * (85 if stored == "L;2" else 17)
    elif key is not None and stored == "RGB;16B":
        opened.info["transparency"] = tuple(value >> 8 for value in key)
    return opened


def on_white(opened: Image.Image) -> Image.Image:
    """Return an opened image as RGB, white where it is transparent."""
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    image = Image.new("RGB", opened.size)
    for top in range(0, opened.height, STRIP):
        layer = opened.crop((0, top, opened.width, min(top + STRIP, opened.height))).convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        image.paste(Image.alpha_composite(ground, layer).convert("RGB"), (0, top))
    return image


# -- drawings ---------------------------------------------------------------------------------------------------------

# The largest icon of the packs used here takes 34 kB, holds 75 elements and is nested 8 deep; a harmless drawing needs
# little more. The renderer recurses: 300 levels overflow its stack, which ends the process instead of raising an error,
# and each reference (`use`, a pattern inside a pattern) may add as many levels as the file is deep.
MAX_BYTES = 1 << 19
MAX_ELEMENTS = 2_000
MAX_LEVELS = 100
# Possessive, or backtracking would find a way around the '#'.
_OUTWARD = re.compile(r"url\(\s*+[\"']?+\s*+(?!#)|@import", re.IGNORECASE)


def is_svg(data: bytes) -> bool:
    """Return whether a file begins like XML; no bitmap format does."""
    return data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def draw(svg: bytes, size: int) -> bytes:
    """Return the drawing as PNG: ``size`` x ``size`` pixels, white background, black ``currentColor``, aspect ratio kept.

    A drawing that is not square is centred. System fonts are not used: an image must not depend on the machine.

    Raises:
        Undrawable: broken, hostile, too large or empty; the reason has a few fixed beginnings, suitable for counting.

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
    with Image.open(io.BytesIO(png)) as drawn:
        return _as_png(centred(drawn.convert("RGB"), size))


def checked(svg: bytes) -> str:
    """Return the text of an svg that has no outside references and is within the limits.

    Raises:
        Undrawable: as :func:`draw`.
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
    reader.check("".join(reader.styles))
    if reader.deepest * (1 + reader.references) > MAX_LEVELS:
        raise Undrawable(f"nested too deeply: {reader.deepest} levels, {reader.references} references")
    return text


class _Reader:
    """Handlers of an XML parser that raise at the first thing that is not allowed."""

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
                # Only '#name' is allowed: a list of forbidden schemes would be incomplete.
                if not value.lstrip().startswith("#"):
                    raise Undrawable("refers to something outside itself")
                self.references += 1
            else:
                self.check(value)

    def check(self, value: str) -> None:
        """Check an attribute or a style sheet, with character references resolved."""
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


def centred(image: Image.Image, size: int) -> Image.Image:
    """Return an RGB image centred on a white square."""
    if image.size == (size, size):
        return image
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def _as_png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", icc_profile=None)  # the pixels are sRGB, whatever the file said of its own
    return written.getvalue()
