"""Prepare one photograph or sprite: RGB, shrunk to fit a square, centred on white (the paper's preparation)."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from vixml.images.svg import Undrawable

# What is opened, and how large: a small file may unfold to more memory than there is.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 1 << 26


def prepare(data: bytes, size: int) -> bytes:
    """Return a picture as PNG of ``size`` x ``size`` pixels; a smaller one keeps its size and gets a wider margin.

    Args:
        data: the file.
        size: side in pixels.

    Raises:
        Undrawable: not a picture, cut short, or of too many pixels; the reason has a few fixed beginnings.

    Example:
        >>> written = io.BytesIO()
        >>> Image.new("RGB", (40, 20), "red").save(written, "JPEG")
        >>> Image.open(io.BytesIO(prepare(written.getvalue(), 16))).size
        (16, 16)
    """
    try:
        with warnings.catch_warnings():
            # The library warns of a bomb at its own limit; ours, below, is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise Undrawable(f"too large: {opened.width} x {opened.height} pixels")
                picture = _on_white(opened)
    except UnidentifiedImageError as error:  # its message holds an address in memory, another one every time
        raise Undrawable("not a picture that can be read: of no known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Undrawable(f"not a picture that can be read: {error}") from error
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    written = io.BytesIO()
    canvas.save(written, "PNG")
    return written.getvalue()


def _on_white(opened: Image.Image) -> Image.Image:
    """Return an opened picture as RGB, white where it is transparent."""
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    layer = opened.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")
