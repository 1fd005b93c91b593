"""Decode a stored picture to pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# A decoded photo is a few MB; a "decompression bomb" of 100 kB can be gigabytes.
MAX_PIXELS = 64_000_000


def decode_square(data: bytes, size: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
    """Return a picture as (size, size, 3) uint8, RGB; transparency becomes white.

    A picture of another size is shrunk or enlarged (by ``resample``) to fit and centred on white; its shape is kept.

    Raises:
        ValueError: more than 64 million pixels.
        OSError: not a picture (``PIL.UnidentifiedImageError``), or cut short.
    """
    try:
        # The store holds PNG; Pillow's other sixty readers need not see bytes from the network.
        opened = Image.open(io.BytesIO(data), formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels")
        picture = opened.convert("RGBA") if "transparency" in opened.info or opened.mode in ("RGBA", "LA") else opened
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
    if picture.size != (size, size):
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        canvas = Image.new("RGB", (size, size), "white")
        canvas.paste(picture.resize((width, height), resample), ((size - width) // 2, (size - height) // 2))
        picture = canvas
    return np.asarray(picture)
