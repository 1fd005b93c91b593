"""Preparing photographs and sprites: what comes out, and what is refused."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from images_helpers import encoded, pixels
from PIL import Image

from vixml.images.render import MAX_PIXELS, Undrawable, is_svg, prepare


def test_an_image_fits_the_square_and_keeps_its_aspect_ratio():
    made = pixels(prepare(encoded(Image.new("RGB", (400, 100), (200, 0, 0))), 64))
    assert made.shape == (64, 64, 3)
    red = (made == (200, 0, 0)).all(-1)
    assert red[24:40].all() and red.sum() == 16 * 64 and (made[~red] == 255).all()


def test_a_small_image_is_not_enlarged():
    made = pixels(prepare(encoded(Image.new("RGB", (8, 8), "black")), 16))
    assert (made[4:12, 4:12] == 0).all() and (made == 0).all(-1).sum() == 64


def test_transparency_becomes_white():
    sprite = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    sprite.putpixel((3, 3), (0, 0, 255, 255))
    palette = sprite.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.info["transparency"] = palette.getpixel((0, 0))
    for image in (sprite, sprite.convert("LA").convert("RGBA")):
        made = pixels(prepare(encoded(image), 16))
        assert (made[0, 0] == 255).all() and not (made[3, 3] == 255).all()
    made = pixels(prepare(encoded(palette, transparency=palette.info["transparency"]), 16))
    assert (made[0, 0] == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_is_read(kind, mode):
    written = io.BytesIO()
    Image.new(mode, (20, 20), 0).save(written, kind)
    assert not is_svg(written.getvalue())
    assert pixels(prepare(written.getvalue(), 20)).max() <= 8


def test_preparing_is_deterministic():
    image = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 70, 3), dtype=np.uint8)))
    assert prepare(image, 48) == prepare(image, 48)


def bomb() -> bytes:
    """Return a small file that says it has more pixels than allowed."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    side = int(MAX_PIXELS**0.5) + 1
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"plain text", "not an image"),
        (encoded(Image.effect_noise((90, 90), 50))[:2000], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (bomb(), "too large"),
    ],
)
def test_a_file_that_is_not_an_image_gives_a_stable_reason(data, reason):
    found = []
    for _ in range(2):
        with pytest.raises(Undrawable, match=reason) as caught:
            prepare(data, 16)
        found.append(str(caught.value))
    assert found[0] == found[1]
