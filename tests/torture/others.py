"""A hostile web server, and a table of images of all modes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from image_server import Server
from images_helpers import write_url_corpus
from PIL import Image

from vixml.config.registry import Fetch
from vixml.images.decode import Undrawable, draw_or_prepare
from vixml.images.fetch import fetch_images
from vixml.images.store import ImageStore

Works = Iterator[tuple[str, Callable[[Path], None]]]
GOOD = ("ok", "late", "busy", "flaky", "moved", "cookie", "svg", "cut")
BAD = ("gone", "down", "page", "text", "large", "endless", "bomb", "around", "port", "redirects", "file")
ODD = ("", "//host/x.png", "data:image/png;base64,AA", "http://host:99999/a", "ftp://x/y", "http://[::1", "\ufffd")
ODD += ("http://127.0.0.1:1/a",)


def web_cases(draw: random.Random, scratch: Path) -> Works:
    """Yield fetches from a server that misbehaves: every image that can be had is had, every other one has a reason."""
    while True:
        kinds = [draw.choice(GOOD + BAD) for _ in range(12)] + draw.sample(ODD[1:], 3)

        def work(folder: Path, kinds: list[str] = kinds) -> None:
            with Server() as server:
                names = [f"{kind}/{n}" if kind in GOOD + BAD else kind for n, kind in enumerate(kinds)]
                addresses = [
                    server.url(name) if kind in GOOD + BAD else kind for name, kind in zip(names, kinds, strict=True)
                ]
                corpus = write_url_corpus(folder / "corpus", [[address] for address in addresses])
                quick = {"backoff_seconds": 0.01, "timeout_seconds": 1, "attempts": 4}
                options = Fetch(**quick, allow_private=True, max_bytes=100_000)
                fetch_images(corpus, folder / "images", 16, 2, options, 1)
                store = ImageStore.open(folder / "images")
                server.shutdown()
            lost = [kinds[n] for n in store.missing if kinds[n] in GOOD]
            had = [kind for n, kind in enumerate(kinds) if n not in store.missing and kind not in GOOD]
            assert not lost and not had, f"lost: {lost}, had: {had}"

        yield f"{len(kinds)} addresses {draw.randrange(10**9)}", work


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F", "PA", "La", "RGBa")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def image_cases(draw: random.Random, scratch: Path) -> Works:
    """Yield images of one colour in every mode, format and orientation: that colour, or missing."""
    while True:
        for mode, form, turn in product(MODES, FORMATS, (1, 6)):
            colour, size = tuple(draw.randrange(256) for _ in range(3)), (draw.randrange(8, 80), draw.randrange(8, 80))

            def work(folder: Path, a: tuple = (mode, form, turn, colour, size)) -> None:
                _colour_is_kept(*a)

            yield f"{mode} {form} {turn} {size} {colour}", work


def _colour_is_kept(mode: str, form: str, turn: int, colour: tuple[int, ...], size: tuple[int, int]) -> None:
    plain = Image.new("RGB", size, colour)
    try:
        if mode == "I;16":
            image = Image.fromarray(np.full(size[::-1], 257 * colour[0], np.uint16))
        else:
            image = plain.quantize(4) if mode == "P" else plain.convert(mode, dither=Image.Dither.NONE)
        exif = Image.Exif()
        exif[0x0112] = turn
        written = io.BytesIO()
        image.save(written, form, exif=exif, quality=95)
    except (ValueError, OSError, KeyError):
        return  # Pillow writes no such file
    if mode == "I;16" and form not in ("PNG", "TIFF"):
        return  # of eight bits: Pillow cuts the values off when it writes
    middle = (size[0] // 2, size[1] // 2)
    expected = np.array((colour[0],) * 3 if mode == "I;16" else image.convert("RGB").getpixel(middle))
    if mode in ("I", "F"):  # of no depth that says what white is
        expected = None
    try:
        drawn = draw_or_prepare(written.getvalue(), 32)
    except (Undrawable, OSError, ValueError, SyntaxError):
        return
    with Image.open(io.BytesIO(drawn)) as found:
        pixels = np.asarray(found.convert("RGB")).astype(int)
    assert pixels.shape == (32, 32, 3)
    off = 0 if expected is None else np.abs(pixels[15:17, 15:17].mean(axis=(0, 1)) - expected).max()
    assert off < 12, f"{pixels[16, 16]} for {expected}"
