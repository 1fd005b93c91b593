"""Every mode, depth, orientation and profile that cameras, scanners, phones and shops write: the right colours, or no image."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from images_helpers import encoded, pixels
from PIL import Image, ImageCms

from vixml.images.decode import FORMATS, MAX_PIXELS, TURNS, Undrawable, prepare

SIZE = 16


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


END = chunk(b"IEND", b"")


def png(bits: int, kind: int, samples: list[int], before: bytes = b"") -> bytes:
    """Return a PNG of 16 x 16 equal pixels."""
    if bits == 16:
        row = struct.pack(f">{len(samples)}H", *samples) * SIZE
    elif bits == 8:
        row = bytes(samples) * SIZE
    else:
        per_byte = 8 // bits
        row = bytes([sum(samples[0] << (bits * place) for place in range(per_byte))]) * (SIZE // per_byte)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, bits, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * SIZE))
    return b"\x89PNG\r\n\x1a\n" + head + before + body + END


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def key(*samples: int) -> bytes:
    """Return the chunk that makes one colour transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


PALETTE = chunk(b"PLTE", bytes([250, 0, 0, 0, 200, 0, 0, 0, 90]))
RED, GREY, WHITE = (200, 40, 40), (175, 175, 175), (255, 255, 255)
RED_16 = [value * 257 for value in RED]
SHOWN, BLACK = Image.new("RGB", (SIZE, SIZE), RED), Image.new("RGB", (SIZE, SIZE))

# name -> (file, the colour of its pixels)
TABLE = {
    "1 bit, black": (png(1, 0, [0]), (0, 0, 0)),
    "1 bit, white": (png(1, 0, [1]), WHITE),
    "1 bit, black is transparent": (png(1, 0, [0], key(0)), WHITE),
    "2 bits": (png(2, 0, [2]), (170, 170, 170)),
    "2 bits, transparent": (png(2, 0, [2], key(2)), WHITE),
    "2 bits, another is transparent": (png(2, 0, [1], key(2)), (85, 85, 85)),
    "4 bits": (png(4, 0, [11]), (187, 187, 187)),
    "4 bits, transparent": (png(4, 0, [11], key(11)), WHITE),
    "8 bits": (png(8, 0, [175]), GREY),
    "8 bits, transparent": (png(8, 0, [175], key(175)), WHITE),
    "16 bits": (png(16, 0, [175 * 257]), GREY),
    "16 bits, dark": (png(16, 0, [300]), (1, 1, 1)),
    "16 bits, transparent": (png(16, 0, [175 * 257], key(175 * 257)), WHITE),
    "16 bits, a similar grey is transparent": (png(16, 0, [175 * 257], key(175 * 257 + 1)), GREY),
    "16 bits with alpha": (png(16, 4, [175 * 257, 65535]), GREY),
    "16 bits, half transparent": (png(16, 4, [0, 32768]), (127, 127, 127)),
    "grey with alpha": (png(8, 4, [100, 51]), (224, 224, 224)),
    "colours": (png(8, 2, [*RED]), RED),
    "colours, transparent": (png(8, 2, [*RED], key(*RED)), WHITE),
    "colours of 16 bits": (png(16, 2, RED_16), RED),
    "colours of 16 bits, transparent": (png(16, 2, RED_16, key(*RED_16)), WHITE),
    "colours of 16 bits, another is transparent": (png(16, 2, RED_16, key(9999, 99, 9)), RED),
    "colours with alpha": (png(8, 6, [200, 40, 40, 0]), WHITE),
    "colours with alpha of 16 bits": (png(16, 6, [200 * 257, 40 * 257, 40 * 257, 65535]), RED),
    "palette": (png(8, 3, [1], PALETTE), (0, 200, 0)),
    "palette of 1 bit": (png(1, 3, [1], PALETTE), (0, 200, 0)),
    "palette of 2 bits": (png(2, 3, [2], PALETTE), (0, 0, 90)),
    "palette, transparent": (png(8, 3, [1], PALETTE + chunk(b"tRNS", b"\xff\x00")), WHITE),
    "palette, half transparent": (png(8, 3, [0], PALETTE + chunk(b"tRNS", b"\x80")), (252, 127, 127)),
    "GIF": (written(Image.new("RGB", (SIZE, SIZE), RED).convert("P", palette=Image.Palette.ADAPTIVE), "GIF"), RED),
    "GIF of several frames": (
        written(Image.new("L", (SIZE, SIZE), 175), "GIF", save_all=True, append_images=[Image.new("L", (SIZE, SIZE))]), GREY,
    ),
    "animated WebP": (written(SHOWN, "WEBP", lossless=True, save_all=True, append_images=[BLACK]), RED),
    "animated PNG": (written(SHOWN, "PNG", save_all=True, append_images=[BLACK]), RED),
    "WebP": (written(SHOWN, "WEBP", quality=95), RED),
    "WebP, transparent": (written(Image.new("RGBA", (SIZE, SIZE), (*RED, 0)), "WEBP", lossless=True, exact=True), WHITE),
    "JPEG": (written(SHOWN, "JPEG", quality=98), RED),
    "JPEG, grey": (written(Image.new("L", (SIZE, SIZE), 175), "JPEG"), GREY),
    "JPEG, progressive": (written(SHOWN, "JPEG", quality=98, progressive=True), RED),
    "JPEG, CMYK": (written(Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 55)), "JPEG", quality=98), (200, 0, 0)),
    "JPEG of two views": (written(SHOWN, "MPO", quality=98, save_all=True, append_images=[BLACK]), RED),
    "BMP": (written(SHOWN, "BMP"), RED),
    "BMP, 1 bit": (written(Image.new("1", (SIZE, SIZE), 1), "BMP"), WHITE),
    "BMP, palette": (written(Image.new("L", (SIZE, SIZE), 175), "BMP"), GREY),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_every_kind_of_image_has_the_right_colours(name):
    data, colour = TABLE[name]
    found = pixels(prepare(data, SIZE))
    assert prepare(Image.open(io.BytesIO(data)), SIZE) == prepare(data, SIZE)
    assert np.abs(found.astype(int) - colour).max() <= 2, found[0, 0]


@pytest.mark.parametrize(("image", "colour"), [
    (Image.new("I", (SIZE, SIZE), 175 * 257), GREY), (Image.new("I;16B", (SIZE, SIZE), 175 * 257), GREY), (SHOWN.convert("HSV"), RED),
    (SHOWN.quantize().convert("PA"), RED), (SHOWN.convert("RGBA").convert("RGBa"), RED), (SHOWN.convert("YCbCr"), RED),
], ids=lambda value: getattr(value, "mode", ""))  # fmt: skip
def test_an_open_image_of_a_mode_that_no_file_has_is_read_as_what_it_shows(image, colour):
    mode = image.mode
    assert np.abs(pixels(prepare(image, SIZE)).astype(int) - colour).max() <= 2
    assert image.mode == mode and image.size == (SIZE, SIZE)


def test_an_open_image_of_floats_is_refused():
    with pytest.raises(Undrawable, match="floats of an unknown range"):
        prepare(Image.new("F", (SIZE, SIZE), 0.5), SIZE)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "AVIF", "JPEG2000", "PPM", "TGA", "PCX", "ICNS", "DDS"])
def test_other_formats_are_missing(kind):
    with pytest.raises(Undrawable, match="of no known format"):
        prepare(written(Image.new("RGB", (SIZE, SIZE)), kind), SIZE)
    assert kind not in FORMATS


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (png(8, 3, [1]), "AssertionError"),
        (png(8, 2, [*RED]).replace(END, chunk(b"iCCP", b"") + END), "index out of range"),
    ],
    ids=["no palette", "an empty profile behind the pixels"],
)
def test_a_malformed_png_is_missing_with_a_reason(broken, reason):
    with pytest.raises(Undrawable, match=f"not an image that can be read: .*{reason}"):
        prepare(broken, SIZE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_is_obeyed(orientation, kind):
    """A camera turned on its side writes its pixels as they come, and says so."""
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste((0, 0, 0), (0, 0, 16, 8))
    turned = upright
    if orientation in TURNS:
        left, right = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
        turned = upright.transpose({left: right, right: left}.get(TURNS[orientation], TURNS[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(prepare(written(turned, kind, exif=exif, quality=98), 32))
    assert np.abs(found.astype(int) - pixels(prepare(encoded(upright), 32))).max() <= 12


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0" + b"\xff" * 40, b"nonsense"]
)
def test_damaged_exif_data_are_ignored(exif):
    image = Image.new("RGB", (SIZE, SIZE), RED)
    assert np.abs(pixels(prepare(written(image, "JPEG", exif=exif, quality=98), SIZE)).astype(int) - RED).max() <= 2


def profile(primaries: tuple = (), white: tuple = (0.3127, 0.3290)) -> bytes:
    """Return an ICC profile with these primaries (x, y of red, green, blue) and gamma 2.2 (ICC.1:2010, as an RGB monitor)."""
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T
    d65 = np.array([white[0] / white[1], 1.0, (1 - sum(white)) / white[1]])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ d65)) @ bradford
    columns = (adapt @ (xyz * np.linalg.solve(xyz, d65))).T

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(79), b"wtpt": d50}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True))
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        data = value if isinstance(value, bytes) else b"XYZ " + bytes(4) + b"".join(map(number, value))
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(number, d50))
    return head.ljust(128, b"\0") + table + body


# Adobe RGB (1998): (x, y) of the primaries, white point D65.
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def from_adobe(colour: tuple[int, ...]) -> np.ndarray:
    """Return a colour of Adobe RGB in sRGB, by the published matrices of both."""
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    to_srgb = [[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]]
    light = np.clip(np.array(to_srgb) @ (np.array(to_xyz) @ (np.array(colour) / 255) ** 2.2), 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("colour", [(100, 150, 60), (200, 180, 170), (255, 255, 255), (40, 40, 40)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_wide_colour_space_becomes_srgb(colour, kind):
    file = written(Image.new("RGB", (SIZE, SIZE), colour), kind, icc_profile=profile(ADOBE), quality=99)
    found = pixels(prepare(file, SIZE))
    assert prepare(Image.open(io.BytesIO(file)), SIZE) == prepare(file, SIZE)
    assert np.abs(found - from_adobe(colour)).max() <= 4, (found[0, 0], from_adobe(colour))


def test_transparency_and_orientation_go_with_a_profile():
    image = Image.new("RGBA", (SIZE, SIZE // 2), (100, 150, 60, 255))
    image.paste((0, 0, 0, 0), (0, 0, SIZE // 2, SIZE // 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = pixels(prepare(encoded(image, icc_profile=profile(ADOBE), exif=exif), SIZE)).astype(int)
    assert (found[0] == 255).all() and np.abs(found[-2, SIZE // 2] - from_adobe((100, 150, 60))).max() <= 4


def test_srgb_and_unfit_or_damaged_profiles_change_nothing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    expected = prepare(encoded(image), 24)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for one in (srgb, lab, b"nonsense", profile(ADOBE)[:200], b"\0" * 128):
        assert prepare(encoded(image, icc_profile=one), 24) == expected


def test_large_transparent_images_are_composited_as_small_ones():
    noise = np.random.default_rng(0).integers(0, 256, (700, 30, 4), dtype=np.uint8)
    layer = Image.fromarray(noise)
    whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert prepare(encoded(layer), 64) == prepare(encoded(whole), 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_file_that_is_cut_short_is_missing(kind):
    data = written(Image.effect_noise((64, 64), 60), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(Undrawable, match="not an image"):
            prepare(data[: int(share * len(data))], SIZE)


def test_the_limit_of_pixels_is_checked_before_decoding():
    with pytest.raises(Undrawable, match="too large"):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", MAX_PIXELS, 2, 8, 0, 0, 0, 0))
        prepare(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b""), SIZE)
